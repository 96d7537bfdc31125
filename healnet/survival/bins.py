"""Time bins, fitted on training patients only: `TimeBins`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from healnet.survival._checks import (
    as_array,
    check_choice,
    check_labels,
    check_least,
    check_nonnegative,
    check_times,
)
from healnet.survival._order import check_same_order
from healnet.survival.target import SurvivalTarget

__all__ = ["TimeBins"]


@dataclass(frozen=True, eq=False)
class TimeBins:
    """Consecutive time bins; bin j of k holds the times in [edges[j], edges[j + 1]).

    `TimeBins.fit` finds the edges; `TimeBins(edges)` takes edges that are given. Bins never change, compare by their
    edges, pickle, and go through JSON by `to_dict` and `from_dict`.

    How ends and ties are treated here, in MCAT's `dataset_survival.py` and in pycox's `LabTransDiscreteTime`:

    ====================  =========================  =========================  ============================
    .                     here                       MCAT                       pycox
    ====================  =========================  =========================  ============================
    outputs for           k bins                     k bins                     k points, the first at 0
    placed by             quantiles of the training  quantiles of event times   equal steps, or quantiles of
                          patients' event times, or  of the *whole* cohort      Kaplan-Meier
                          equal steps
    first and last edge   0, largest time            smallest time - eps,       0, largest time
                                                     largest time + eps
    event at an edge      the bin that begins there  the bin that begins there  that point; between points,
                                                                                the later one
    censored              the bin that holds it      the bin that holds it      the last point survived
    at time 0             bin 0                      bin 0                      point 0
    beyond the last edge  the last bin               no label (NaN)             censored at the last point
    quantiles that tie    ValueError                 ValueError (pandas)        fewer points and a warning
    ====================  =========================  =========================  ============================

    So labels are MCAT's for the same edges, wherever MCAT gives one. A censored patient is credited with the
    whole of the bin they left in, as in MCAT; where that matters, take more bins.

    Args:
        edges: Edges of the bins, (k + 1,), strictly increasing from 0 on. The last is the nominal end of the last bin.

    Raises:
        ValueError: Fewer than two edges, edges that do not increase, are not finite or do not begin at 0.

    Example:
        >>> bins = TimeBins.fit([1, 2, 3, 4, 5, 6, 7, 8], [True] * 8, num_bins=4)
        >>> bins
        TimeBins(edges=[0, 2.75, 4.5, 6.25, 8])
        >>> bins.transform([0.0, 2.75, 4.0, 99.0])
        array([0, 1, 1, 3])
    """

    edges: NDArray[np.float64]

    def __init__(self, edges: ArrayLike) -> None:
        object.__setattr__(self, "edges", _checked(edges))

    @classmethod
    def fit(cls, time: ArrayLike, event: ArrayLike, num_bins: int = 4, method: str = "quantile") -> TimeBins:
        """Fit bins to the follow-up of the *training* patients, from 0 to their largest time.

        Args:
            time: Follow-up times of the training patients, (n,).
            event: Events of the training patients, (n,), True = observed.
            num_bins: Number of bins, k.
            method: Placing of the edges: "quantile", between quantiles of the *event* times, so that each bin holds about
                as many events; or "uniform", bins of equal width.

        Raises:
            ValueError: Wrong times or labels, Series in different orders, no events, too few distinct event times for so
                many bins, no bins, another method.
        """
        check_same_order(time, event, "time and event")
        target = SurvivalTarget.unchecked(check_times(time), check_labels(event, "event"))
        check_least("num_bins", num_bins, 1)
        check_choice("method", method, ("quantile", "uniform"))
        last = float(target.time.max(initial=0))
        if method == "uniform":
            if last == 0:
                raise ValueError("expected a time above 0 for uniform bins, got none")
            return cls(np.linspace(0, last, num_bins + 1))
        seen = target.time[target.event]
        if not len(seen):
            raise ValueError("expected at least one observed event for quantile bins, got none")
        inner = _snapped(np.quantile(seen, np.linspace(0, 1, num_bins + 1)[1:-1]), seen)
        edges = np.concatenate([[0.0], inner, [last]])
        increasing = bool((np.diff(edges) > 0).all())
        if not increasing or not np.histogram(seen, edges)[0].all():
            raise ValueError(
                f"expected events that fill {num_bins} quantile bins, got {len(seen)} at {len(np.unique(seen))} distinct "
                f"times and edges {_listed(edges)}; take fewer bins, uniform bins, or give edges"
            )
        return cls(edges)

    @property
    def num_bins(self) -> int:
        """The number of bins, k."""
        return len(self.edges) - 1

    @overload
    def transform(self, time: Tensor) -> Tensor: ...
    @overload
    def transform(self, time: Sequence[float] | NDArray[Any]) -> NDArray[np.int64]: ...
    def transform(self, time: Tensor | Sequence[float] | NDArray[Any]) -> Tensor | NDArray[np.int64]:
        """Return the bin of each time, 0..k-1; times beyond the last edge belong to the last bin.

        A float32 tensor or array is compared with edges rounded to float32, so that a time that was an edge stays one.

        Shape:
            time: any; a tensor gives an int64 tensor on its device, anything else an int64 array.

        Raises:
            ValueError: A time that is negative or NaN.
        """
        inner = self.edges[1:-1]
        if not isinstance(time, Tensor):
            given = as_array(time)
            times = check_nonnegative(np.asarray(given, dtype=np.float64))
            if given.dtype in (np.float16, np.float32):
                inner = inner.astype(given.dtype).astype(np.float64)
            return np.searchsorted(inner, times, side="right").astype(np.int64)
        check_nonnegative(time)
        precise = time if time.dtype in (torch.float32, torch.float64) else time.double()
        edges = torch.tensor(inner, dtype=precise.dtype, device=time.device)
        return torch.bucketize(precise, edges, right=True)

    def to_dict(self) -> dict[str, list[float]]:
        """Return plain lists and floats, for JSON or a checkpoint."""
        return {"edges": self.edges.tolist()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Sequence[float]]) -> TimeBins:
        """Return the bins that `to_dict` wrote."""
        return cls(state["edges"])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TimeBins):
            return NotImplemented
        return np.array_equal(self.edges, other.edges)

    def __hash__(self) -> int:
        return hash(self.edges.tobytes())

    def __repr__(self) -> str:
        return f"TimeBins(edges={_listed(self.edges)})"


def _snapped(edges: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges that are a time but for the rounding of their interpolation, as that time: an event there begins its bin."""
    ascending = np.unique(times)
    after = np.searchsorted(ascending, edges).clip(0, len(ascending) - 1)
    near = np.stack((ascending[(after - 1).clip(0)], ascending[after]))
    nearest = np.where(edges - near[0] <= near[1] - edges, near[0], near[1])
    return np.where(np.abs(edges - nearest) <= 1e-12 * nearest, nearest, edges)


def _checked(edges: ArrayLike) -> NDArray[np.float64]:
    checked = np.array(as_array(edges), dtype=np.float64)
    if checked.ndim != 1 or len(checked) < 2:
        raise ValueError(f"expected edges of at least two times, got shape {checked.shape}")
    if checked[0] != 0 or not np.isfinite(checked).all() or not (np.diff(checked) > 0).all():
        raise ValueError(
            f"expected edges that are finite and increase strictly from 0, got {_listed(checked)}"
        )
    checked.flags.writeable = False
    return checked


def _listed(edges: NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{edge:g}" for edge in edges) + "]"
