r"""The running log-sum-exp over risk sets, differentiable any number of times.

With rows sorted so that everyone at risk at row i is a row j <= i of the same stratum:

    y_i = log sum_{j <= i} exp(x_j)          (the log of a risk set's total hazard)

Its derivative is a softmax average, P(u)_i = sum_{j <= i} u_j exp(x_j - y_i), and the transpose of that is
Q(g)_j = sum_{i >= j} g_i exp(x_j - y_i). Each is the derivative of the other, so two autograd functions close
the chain. torch.logcumsumexp has no strata, and its second derivative is NaN where a gradient is zero, which
in a Cox loss is most rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["risk_set_logsumexp"]


def risk_set_logsumexp(x: Tensor, start: Tensor | None = None) -> Tensor:
    """y_i = log of the sum of exp(x_j) over start_i <= j <= i.

    Shape:
        x: (n,)
        start: (n,) int64, the first row of each row's stratum; None = all rows are one stratum.
        returns: (n,)
    """
    stop = None if start is None else _ends(start)
    y: Tensor = _LogSumExp.apply(x, start, stop)  # type: ignore[no-untyped-call]
    return y


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, start: Tensor | None, stop: Tensor | None) -> Tensor:
        y = _scan(x, start)
        ctx.save_for_backward(x, y, start, stop)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, y, start, stop = ctx.saved_tensors
        return _transposed(grads[0], x, y, start, stop), None, None


class _Mean(torch.autograd.Function):
    """P(u)_i = sum_{j <= i} u_j exp(x_j - y_i)."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, x: Tensor, y: Tensor, start: Tensor | None, stop: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(u, x, y, start, stop)
        return _signed(u, lambda log_u: _scan(log_u + x, start) - y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        u, x, y, start, stop = ctx.saved_tensors
        (v,) = grads
        back = _transposed(v, x, y, start, stop)
        return back, u * back, -v * _mean(u, x, y, start, stop), None, None


class _Transposed(torch.autograd.Function):
    """Q(g)_j = sum_{i >= j} g_i exp(x_j - y_i)."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, y: Tensor, start: Tensor | None, stop: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(g, x, y, start, stop)
        return _signed(g, lambda log_g: _scan((log_g - y).flip(0), stop).flip(0) + x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        g, x, y, start, stop = ctx.saved_tensors
        (v,) = grads
        mean = _mean(v, x, y, start, stop)
        return mean, v * _transposed(g, x, y, start, stop), -g * mean, None, None


def _mean(u: Tensor, x: Tensor, y: Tensor, start: Tensor | None, stop: Tensor | None) -> Tensor:
    result: Tensor = _Mean.apply(u, x, y, start, stop)  # type: ignore[no-untyped-call]
    return result


def _transposed(g: Tensor, x: Tensor, y: Tensor, start: Tensor | None, stop: Tensor | None) -> Tensor:
    result: Tensor = _Transposed.apply(g, x, y, start, stop)  # type: ignore[no-untyped-call]
    return result


def _signed(values: Tensor, log_sum: Callable[[Tensor], Tensor]) -> Tensor:
    """A sum of signed values as the difference of two sums in log space, so that no exponential overflows."""
    magnitude = values.abs().log()
    minus_infinity = magnitude.new_full((), -torch.inf)
    total = log_sum(torch.where(values > 0, magnitude, minus_infinity)).exp()
    if bool((values < 0).any()):
        total = total - log_sum(torch.where(values < 0, magnitude, minus_infinity)).exp()
    return total


def _scan(x: Tensor, start: Tensor | None) -> Tensor:
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


def _ends(start: Tensor) -> Tensor:
    """`start` of the same strata when the rows are read from the last to the first."""
    _, counts = torch.unique_consecutive(start, return_counts=True)
    flipped = counts.flip(0)
    return torch.repeat_interleave(flipped.cumsum(0) - flipped, flipped)
