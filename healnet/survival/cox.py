"""Cox's partial likelihood from raw log hazards, exact under ties, in O(n log n)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from healnet.survival._inputs import ArrayOrTensor, as_event, as_vector, exact, outputs_1d, reduce
from healnet.survival._riskset import risk_set_logsumexp

__all__ = ["cox_nll"]


def cox_nll(
    log_hazard: Tensor,
    time: ArrayOrTensor,
    event: ArrayOrTensor,
    ties: str = "efron",
    strata: ArrayOrTensor | None = None,
    weights: ArrayOrTensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Negative log partial likelihood of Cox's proportional-hazards model (Cox 1972).

    With log hazards $\eta$, D(t) the d events at time t, R(t) everybody with a time >= t (censored at t
    included) and A(.) the sum of $w \exp \eta$ over a set, an event i at t contributes $w_i$ times

    - "breslow": $\log A(R) - \eta_i$ (Breslow 1974);
    - "efron": $\frac{1}{d} \sum_{l=0}^{d-1} \log(A(R) - \frac{l}{d} A(D)) - \eta_i$ (Efron 1977); with
      weights, as in R's survival and lifelines.

    Computed in float64 in log space: $A(R) - \frac{l}{d} A(D)$ is never a difference but the sum of the
    others at risk and (1 - l/d) A(D), so it holds at any |log hazard|, and adding a constant to all log
    hazards changes nothing. The order of the rows does not matter. Time O(n log n), no loop over patients or
    events.

    Args:
        log_hazard: (b,) or (b, 1) raw model outputs.
        time: (b,) follow-up times.
        event: (b,) bool, True = the event was observed.
        ties: "efron" or "breslow".
        strata: (b,) any numbers; patients are at risk together only within a stratum.
        weights: (b,) > 0, a weight per patient.
        reduction: "mean" per event (per unit of event weight), "sum", or "none": (b,) with the term of each
            event in its row and zero in the rows of censored patients.

    Shape:
        returns: a scalar, or (b,) for "none"; float32 for half precision, else of log_hazard's type. Without
            events it is zero, joined to the graph.

    Raises:
        ValueError: other shapes, NaN times, labels other than 0 and 1, weights that are not positive, another
            name of ties or reduction.

    Example:
        >>> log_hazard = torch.tensor([1.0, 0.5, -0.3])
        >>> cox_nll(log_hazard, torch.tensor([1, 1, 2]), torch.tensor([False, True, True]), reduction="sum")
        tensor(1.1308)
    """
    if ties not in ("efron", "breslow"):
        raise ValueError(f"ties must be 'efron' or 'breslow', got {ties!r}")
    eta = outputs_1d(log_hazard, "log_hazard")
    seen = as_event(event, eta)
    times = as_vector(time, "time", eta)
    stratum = None if strata is None else as_vector(strata, "strata", eta)
    weight = None if weights is None else as_vector(weights, "weights", eta)
    if bool(torch.isnan(times).any()):
        raise ValueError("time must not be NaN")
    if weight is not None and not bool((weight > 0).all()):
        raise ValueError("weights must be positive; leave a patient out instead of giving a weight of zero")
    # A running sum over a million patients outgrows float32: log A would grow by less than its last place.
    precise = exact(eta)
    weight = torch.ones_like(precise) if weight is None else weight.to(precise.dtype)
    terms = _event_terms(precise, times, seen, ties == "efron", stratum, weight)
    count = (weight * seen).sum()
    # Without events the sum is a zero that still depends on the log hazards, so backward gives zeros.
    return reduce(terms, reduction, torch.where(count > 0, count, 1)).to(eta.dtype)


def _event_terms(
    eta: Tensor, time: Tensor, event: Tensor, efron: bool, strata: Tensor | None, weight: Tensor
) -> Tensor:
    """(b,) w_i (log A - eta_i), averaged over the tied events' denominators, at events; zero elsewhere."""
    order = _sorted(time, event, strata)
    eta_sorted, event_sorted, weight_sorted = eta[order], event[order], weight[order]
    x = eta_sorted + weight_sorted.log()
    start = None if strata is None else _first_rows(_runs(strata[order]))
    log_at_risk = risk_set_logsumexp(x, start)

    rows = event_sorted.nonzero().squeeze(1)  # of the e events, tied ones side by side
    tie, size = _tied(time[order][rows], None if strata is None else strata[order][rows])
    first = size.cumsum(0) - size  # the first event of each tie, among the events
    log_tied = _group_logsumexp(x[rows], tie, len(size))

    # Before the first tied event come all others at risk: later times, and those censored at this time.
    before = rows[first] - 1
    alone = before < (0 if start is None else start[rows[first]])
    log_others = log_at_risk[before.clamp(min=0)]

    # log(A(others) + f A(tied)) with f = 1 (Breslow), or (d - l)/d for the l-th of d tied events (Efron)
    rank = torch.arange(len(rows), device=eta.device) - first[tie]
    share = ((size[tie] - rank).to(eta.dtype) / size[tie]).log() if efron else torch.zeros_like(x[rows])
    tied = log_tied[tie] + share
    others = torch.where(alone[tie], tied.detach(), log_others[tie])
    log_sum = torch.where(alone[tie], tied, tied - F.logsigmoid(tied - others))

    mean_log_sum = torch.zeros_like(log_tied).index_add(0, tie, log_sum) / size
    terms = weight_sorted[rows] * (mean_log_sum[tie] - eta_sorted[rows])
    return torch.zeros_like(eta).index_add(0, order[rows], terms)


def _sorted(time: Tensor, event: Tensor, strata: Tensor | None) -> Tensor:
    """Rows by stratum, then from the latest time to the earliest, then censored before events."""
    order = torch.cat([(~event).nonzero().squeeze(1), event.nonzero().squeeze(1)])
    order = order[torch.sort(time[order], descending=True, stable=True).indices]
    return order if strata is None else order[torch.sort(strata[order], stable=True).indices]


def _runs(values: Tensor) -> Tensor:
    """0, 0, 1, 1, 1, 2: which run of equal neighbours each row belongs to."""
    runs: Tensor = torch.unique_consecutive(values, return_inverse=True)[1]
    return runs


def _first_rows(runs: Tensor) -> Tensor:
    """The first row of each row's run."""
    size = torch.bincount(runs)
    return (size.cumsum(0) - size).index_select(0, runs)


def _tied(time: Tensor, strata: Tensor | None) -> tuple[Tensor, Tensor]:
    """For sorted events: which tie each belongs to, and how many events each tie has."""
    changes = time[1:] != time[:-1]
    if strata is not None:
        changes = changes | (strata[1:] != strata[:-1])
    tie = F.pad(changes.long().cumsum(0), (1, 0)) if len(time) else time.new_zeros(0, dtype=torch.long)
    return tie, torch.bincount(tie)


def _group_logsumexp(x: Tensor, group: Tensor, num_groups: int) -> Tensor:
    peak = x.new_full((num_groups,), -torch.inf).scatter_reduce(0, group, x.detach(), "amax")
    total = x.new_zeros(num_groups).index_add(0, group, (x - peak[group]).exp())
    return peak + total.log()
