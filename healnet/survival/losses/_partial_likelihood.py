r"""The terms of Cox's partial likelihood and their gradient, in log space and O(n log n).

Rows are sorted by stratum, then from the latest time to the earliest, then censored before events, so that all patients at
risk with row i, but for ties, is a row j <= i of its stratum. With x = log w + η, R(i) = log Σ_{j <= i} exp(x_j),
T = log Σ exp(x) over the d tied events, O = R at the last row before them, and f_l = 1 (Breslow) or (d - l) / d (Efron),

    term_i = w_i ((1/d) Σ_l log(exp(O) + f_l exp(T)) - η_i).

Sizes in between depend on the data, so `torch.compile` takes each pass as one operator; the backward one works the terms
out again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["partial_likelihood_terms"]


def partial_likelihood_terms(
    eta: Tensor, time: Tensor, event: Tensor, efron: bool, strata: Tensor | None, weight: Tensor
) -> Tensor:
    """Return w_i (log A - eta_i), averaged over the tied events' denominators, at events and zero elsewhere, (b,).

    Shape:
        eta, time, event, strata, weight: (b,)
    """
    arguments = eta, time, event, efron, strata, weight
    if torch.compiler.is_compiling():
        compiled: Tensor = _compiled_terms(*arguments)
        return compiled
    terms: Tensor = _Terms.apply(*arguments)  # type: ignore[no-untyped-call]
    return terms


class _Solved(NamedTuple):
    """Values of the forward pass that the gradient needs, for n sorted rows, e events and t ties."""

    order: Tensor  # (n,) where each sorted row stands in the caller's order
    start: Tensor | None  # (n,) first row of each row's stratum
    x: Tensor  # (n,) log w + η
    log_at_risk: Tensor  # (n,) R
    rows: Tensor  # (e,) sorted rows of the events, tied ones side by side
    tie: Tensor  # (e,) number of the event's tie
    size: Tensor  # (t,) d
    before: Tensor  # (t,) last row before the tied events; another stratum's or -1 where they are alone
    log_tied: Tensor  # (t,) T
    log_others: Tensor  # (t,) O, -inf where they are alone
    log_part: Tensor  # (e,) log f_l + T
    log_sum: Tensor  # (e,) log(exp(O) + f_l exp(T))
    weight: Tensor  # (e,)


def _solve(
    eta: Tensor, time: Tensor, event: Tensor, efron: bool, strata: Tensor | None, weight: Tensor
) -> tuple[Tensor, _Solved]:
    order = _sorted(time, event, strata)
    x = (eta + weight.log())[order]
    start = None if strata is None else _first_rows(strata[order])
    log_at_risk = _scan(x, start)

    rows = event[order].nonzero().squeeze(1)
    tie, size = _tied(time[order][rows], None if strata is None else strata[order][rows])
    first = size.cumsum(0) - size  # the first event of each tie, among the events
    log_tied = _group_logsumexp(x[rows], tie, len(size))
    # Before the first tied event come all others at risk: later times, and those censored at this time.
    before = rows[first] - 1
    alone = before < (0 if start is None else start[rows[first]])
    log_others = torch.where(alone, -torch.inf, log_at_risk[before.clamp(min=0)])

    rank = torch.arange(len(rows), device=eta.device) - first[tie]
    share = ((size[tie] - rank).to(eta.dtype) / size[tie]).log() if efron else torch.zeros_like(x[rows])
    log_part = log_tied[tie] + share
    log_sum = torch.logaddexp(log_part, log_others[tie])
    mean = _group_sum(log_sum, tie, size) / size
    own = order[rows]
    terms = torch.zeros_like(eta).index_copy(0, own, weight[own] * (mean[tie] - eta[own]))
    solved = _Solved(
        order,
        start,
        x,
        log_at_risk,
        rows,
        tie,
        size,
        before,
        log_tied,
        log_others,
        log_part,
        log_sum,
        weight[own],
    )
    return terms, solved


def _gradient(grad: Tensor, s: _Solved) -> Tensor:
    """Return the gradient in eta from the gradient in the terms, (n,)."""
    own = grad[s.order[s.rows]] * s.weight  # (e,)
    pull = _group_sum(own, s.tie, s.size) / s.size  # (t,) on each log(exp(O) + f exp(T)) of a tie
    on_tied = pull * _group_sum((s.log_part - s.log_sum).exp(), s.tie, s.size)
    on_others = pull * _group_sum((s.log_others[s.tie] - s.log_sum).exp(), s.tie, s.size)
    on_risk = torch.zeros_like(s.x).index_add(0, s.before.clamp(min=0), on_others)  # zero where alone
    on_x = _scan_backward(on_risk, s.x, s.log_at_risk, s.start)
    on_x.index_add_(0, s.rows, on_tied[s.tie] * (s.x[s.rows] - s.log_tied[s.tie]).exp() - own)
    return torch.empty_like(on_x).index_copy(0, s.order, on_x)


class _Terms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        terms, solved = _solve(*arguments)
        ctx.save_for_backward(*solved)
        return terms

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Without the refusal a second derivative would silently lack the part through eta.
        if torch.is_grad_enabled():
            raise RuntimeError("expected create_graph=False: Cox's loss has no second derivative here")
        return _gradient(grads[0], _Solved(*ctx.saved_tensors)), *[None] * 5


_ARGUMENTS = "Tensor eta, Tensor time, Tensor event, bool efron, Tensor? strata, Tensor weight"


@torch.library.custom_op("healnet::cox_terms", mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor")
def _compiled_terms(
    eta: Tensor, time: Tensor, event: Tensor, efron: bool, strata: Tensor | None, weight: Tensor
) -> Tensor:
    return _solve(eta, time, event, efron, strata, weight)[0]


@torch.library.custom_op(
    "healnet::cox_terms_backward", mutates_args=(), schema=f"(Tensor grad, {_ARGUMENTS}) -> Tensor"
)
def _compiled_gradient(
    grad: Tensor,
    eta: Tensor,
    time: Tensor,
    event: Tensor,
    efron: bool,
    strata: Tensor | None,
    weight: Tensor,
) -> Tensor:
    return _gradient(grad, _solve(eta, time, event, efron, strata, weight)[1])


@_compiled_terms.register_fake
@_compiled_gradient.register_fake
def _(first: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(first)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    eta, time, event, ctx.efron, strata, weight = inputs
    ctx.save_for_backward(eta, time, event, strata, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    eta, time, event, strata, weight = ctx.saved_tensors
    return _compiled_gradient(grad, eta, time, event, ctx.efron, strata, weight), *[None] * 5


_compiled_terms.register_autograd(_backward, setup_context=_save)


def _sorted(time: Tensor, event: Tensor, strata: Tensor | None) -> Tensor:
    """Rows by stratum, then from the latest time to the earliest, then censored before events."""
    order = torch.cat([(~event).nonzero().squeeze(1), event.nonzero().squeeze(1)])
    order = order[torch.sort(time[order], descending=True, stable=True).indices]
    return order if strata is None else order[torch.sort(strata[order], stable=True).indices]


def _first_rows(values: Tensor) -> Tensor:
    """The first row of each row's run of equal neighbors."""
    _, runs, size = torch.unique_consecutive(values, return_inverse=True, return_counts=True)
    return (size.cumsum(0) - size)[runs]


def _tied(time: Tensor, strata: Tensor | None) -> tuple[Tensor, Tensor]:
    """Number the ties of sorted events: the tie of each event, (e,), and the number of events of each tie, (t,)."""
    changes = time[1:] != time[:-1]
    if strata is not None:
        changes = changes | (strata[1:] != strata[:-1])
    tie = pad(changes.long().cumsum(0), (1, 0)) if len(time) else time.new_zeros(0, dtype=torch.long)
    return tie, torch.bincount(tie)


def _group_sum(values: Tensor, group: Tensor, like: Tensor) -> Tensor:
    return values.new_zeros(len(like)).index_add(0, group, values)


def _group_logsumexp(x: Tensor, group: Tensor, num_groups: int) -> Tensor:
    peak = x.new_full((num_groups,), -torch.inf).scatter_reduce(0, group, x, "amax")
    return peak + _group_sum((x - peak[group]).exp(), group, peak).log()


def _scan(x: Tensor, start: Tensor | None) -> Tensor:
    """y_i = log of the sum of exp(x_j) over start_i <= j <= i."""
    if start is None:
        return torch.logcumsumexp(x, dim=0)
    # Doubling (Hillis and Steele 1986): after the pass of reach r, each row sums the 2r rows that end in it.
    y = x
    length = torch.arange(len(x), device=x.device) - start
    longest, reach = int(length.max()) if len(x) else 0, 1
    while reach <= longest:
        joined = torch.logaddexp(y[reach:], y[:-reach])
        y = torch.cat([y[:reach], torch.where(length[reach:] >= reach, joined, y[reach:])])
        reach *= 2
    return y


def _scan_backward(grad: Tensor, x: Tensor, y: Tensor, start: Tensor | None) -> Tensor:
    """sum_{i >= j} grad_i exp(x_j - y_i): positive and negative parts apart, in logarithms, so that nothing overflows."""
    if start is not None:  # of the rows read from the last to the first
        start = _first_rows(start.flip(0))

    def transposed(part: Tensor) -> Tensor:
        return (_scan((part.log() - y).flip(0), start).flip(0) + x).exp()

    positive = transposed(grad.clamp(min=0))
    return positive - transposed((-grad).clamp(min=0)) if bool((grad < 0).any()) else positive
