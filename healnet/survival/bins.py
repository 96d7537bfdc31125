"""Time bins, fitted on training patients only: `TimeBins`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["TimeBins"]


@dataclass(frozen=True, eq=False)
class TimeBins:
    """k consecutive time bins, bin j holding the times in [edges[j], edges[j + 1]), and their edges.

    `TimeBins.fit` gives fitted bins; `TimeBins(edges)` takes edges that are given; `TimeBins()` has none yet
    and refuses to transform. A value: it never changes, compares by its edges, pickles, and goes through JSON
    by `to_dict` and `from_dict`.

    Args:
        edges: (k + 1,) strictly increasing, from 0 on. The last is the nominal end of the last bin.

    Raises:
        ValueError: fewer than two edges, edges that do not increase or do not begin at 0.

    Example:
        >>> bins = TimeBins.fit([1, 2, 3, 4, 5, 6, 7, 8], [True] * 8, num_bins=4)
        >>> bins
        TimeBins(edges=[0, 2.75, 4.5, 6.25, 8])
        >>> bins.transform([0.0, 2.75, 4.0, 99.0])
        array([0, 1, 1, 3])
    """

    edges: NDArray[np.float64] | None

    def __init__(self, edges: ArrayLike | None = None) -> None:
        object.__setattr__(self, "edges", None if edges is None else _checked(edges))

    @classmethod
    def fit(cls, time: ArrayLike | Tensor, event: ArrayLike | Tensor, num_bins: int = 4) -> TimeBins:
        """Bins between the quantiles of the *event* times, so that each bin holds about as many events.

        Args:
            time: (n,) follow-up times of the training patients.
            event: (n,) bool, True = the event was observed.
            num_bins: k.

        Raises:
            ValueError: no events, or too few distinct event times for so many bins.
        """
        times, seen = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
        event_times = times[seen]
        if num_bins < 1:
            raise ValueError(f"num_bins must be at least 1, got {num_bins}")
        if not len(event_times):
            raise ValueError("no events to take quantiles of: TimeBins.fit needs at least one observed event")
        inner = np.quantile(event_times, np.linspace(0, 1, num_bins + 1)[1:-1])
        edges = np.concatenate([[0.0], inner, [times.max()]])
        held = np.histogram(event_times, edges)[0] if (np.diff(edges) > 0).all() else np.zeros(num_bins)
        if not held.all():
            distinct = len(np.unique(event_times))
            raise ValueError(
                f"cannot cut {len(event_times)} events with {distinct} distinct times into {num_bins} "
                f"bins that each hold one: the quantile edges are {_listed(edges)}; ask for fewer bins"
            )
        return cls(edges)

    @property
    def num_bins(self) -> int:
        """The number of bins, k.

        Raises:
            ValueError: not fitted.
        """
        return len(self._fitted()) - 1

    @overload
    def transform(self, time: Tensor) -> Tensor: ...
    @overload
    def transform(self, time: Sequence[float] | NDArray[Any]) -> NDArray[np.int64]: ...
    def transform(self, time: Tensor | Sequence[float] | NDArray[Any]) -> Tensor | NDArray[np.int64]:
        """The bin of each time, 0..k-1; times beyond the last edge belong to the last bin.

        Shape:
            time: any; a tensor gives an int64 tensor on its device, anything else an int64 array.

        Raises:
            ValueError: not fitted; a time that is negative or NaN.
        """
        inner = self._fitted()[1:-1]
        if isinstance(time, Tensor):
            if not bool((time >= 0).all()):
                raise ValueError("time must be >= 0 and not NaN")
            exact = time if time.is_floating_point() else time.double()
            # Compared in float64, so that a float32 time equal to an edge falls where the edge's own time
            # falls.
            return torch.bucketize(exact.double(), torch.from_numpy(inner.copy()).to(time.device), right=True)
        times = np.asarray(time, dtype=np.float64)
        if not (times >= 0).all():
            raise ValueError("time must be >= 0 and not NaN")
        return np.searchsorted(inner, times, side="right").astype(np.int64)

    def to_dict(self) -> dict[str, list[float]]:
        """Plain lists and floats, for JSON or a checkpoint.

        Raises:
            ValueError: not fitted.
        """
        return {"edges": self._fitted().tolist()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Sequence[float]]) -> TimeBins:
        """The bins that `to_dict` wrote."""
        return cls(state["edges"])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TimeBins):
            return NotImplemented
        if self.edges is None or other.edges is None:
            return self.edges is other.edges
        return np.array_equal(self.edges, other.edges)

    def __hash__(self) -> int:
        return hash(None if self.edges is None else self.edges.tobytes())

    def __repr__(self) -> str:
        return "TimeBins()" if self.edges is None else f"TimeBins(edges={_listed(self.edges)})"

    def _fitted(self) -> NDArray[np.float64]:
        if self.edges is None:
            raise ValueError(
                "these TimeBins are not fitted: use TimeBins.fit(time, event, num_bins), which returns "
                "fitted bins, or TimeBins(edges)"
            )
        return self.edges


def _checked(edges: ArrayLike) -> NDArray[np.float64]:
    checked = np.array(edges, dtype=np.float64)
    if checked.ndim != 1 or len(checked) < 2:
        raise ValueError(f"edges must be a list of at least two times, got shape {checked.shape}")
    if checked[0] != 0 or not np.isfinite(checked).all() or not (np.diff(checked) > 0).all():
        raise ValueError(f"edges must be finite and increase strictly from 0, got {_listed(checked)}")
    checked.flags.writeable = False
    return checked


def _listed(edges: NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{edge:g}" for edge in edges) + "]"
