"""Ranks of risks, all that metrics of order read: what may count as a tie is decided here alone."""

from __future__ import annotations

import numpy as np

from healnet.survival._checks import Floats

__all__ = ["TIED", "ranks"]

# Eight units in the last place of float32: equal patients differ by so much where batches of other sizes round otherwise.
TIED = 2.0**-20


def ranks(risk: Floats) -> Floats:
    """Return the rank of each risk, 0 for the smallest, the same for risks that float32 cannot tell apart, (n,).

    A risk ties with the smallest of its group where they differ by no more than `TIED` of the larger of the two in size.
    That is relative to neighbors: one large risk does not tie the small ones, however small they are, and a chain of close
    risks is no wider than its first tie. So metrics of ranks agree for a risk and for a monotone function of it, but where
    that moves neighbors across the limit.

    Example:
        >>> ranks(np.array([1e9, 2e-9, 1e-9, 1e-9 + 1e-16])).tolist()
        [2.0, 1.0, 0.0, 0.0]
    """
    order = np.argsort(risk, kind="stable")
    ascending = risk[order]
    reach = TIED * np.maximum(np.abs(ascending[1:]), np.abs(ascending[:-1]))
    begins = np.append(True, ascending[1:] - ascending[:-1] > reach)[: len(risk)]
    # Within a run of close neighbors a group ends where the first of it is too far away.
    close = np.flatnonzero(~begins)
    first = 0
    for at in close.tolist():
        if begins[at - 1]:
            first = at - 1
        low, high = ascending[first], ascending[at]
        if high - low > TIED * max(abs(low), abs(high)):
            begins[at], first = True, at
    result = np.empty(len(risk))
    result[order] = np.cumsum(begins) - 1
    return result
