"""Who was followed for how long, and whether the event was seen: `SurvivalTarget`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from healnet.survival._checks import check_labels, check_times

__all__ = ["SurvivalTarget"]

# The smallest cohort in which one patient is no more than 5%: below it a share says nothing about a flipped
# sign.
_WARN_FROM = 20


@dataclass(frozen=True, eq=False)
class SurvivalTarget:
    """Follow-up times and event indicators of n patients, checked once, read-only afterwards.

    `event` has scikit-survival's sign: **True = the event was observed**. Tables with MCAT's `censorship`
    (1 = *not* observed) go through `from_censorship`, so that the sign is turned in one place and by name.

    Indexing with a slice, an integer array or a bool mask gives the target of those patients; so does an
    integer (one patient, length 1).

    Args:
        time: (n,) finite, >= 0, in any unit. float64 inside.
        event: (n,) bool, or numbers that are exactly 0 or 1.

    Raises:
        ValueError: axes other than one, lengths that differ, a time that is negative, infinite or NaN, a
            label other than bool or {0, 1}.

    Warns:
        UserWarning: from 20 patients on, when more than 95% or fewer than 1% are events; most often this is
            censorship given as event. Parts taken by indexing do not warn again.

    Example:
        >>> target = SurvivalTarget([5.0, 3.0, 8.0], [True, False, True])
        >>> target[target.time > 4]
        SurvivalTarget(2 patients, 2 events, time 5 to 8)
        >>> SurvivalTarget.from_censorship([5.0, 3.0, 8.0], [0, 1, 0]).event.tolist()
        [True, False, True]
    """

    time: NDArray[np.float64]
    event: NDArray[np.bool_]

    def __init__(self, time: ArrayLike, event: ArrayLike) -> None:
        self._fill(check_times(time), check_labels(event, "event"))
        self._warn_about_share()

    @classmethod
    def from_censorship(cls, time: ArrayLike, censorship: ArrayLike) -> SurvivalTarget:
        """From labels that say who was *censored*, as MCAT's and SurvPath's: 1 = the event was not seen.

        Raises:
            ValueError: as the constructor, with the label called `censorship`.
        """
        target = cls.unchecked(check_times(time), ~check_labels(censorship, "censorship"))
        target._warn_about_share()
        return target

    @classmethod
    def unchecked(cls, time: NDArray[np.float64], event: NDArray[np.bool_]) -> SurvivalTarget:
        """From arrays known to be right, (n,) float64 and bool, as a part of a target: no warning."""
        part = object.__new__(cls)
        part._fill(time, event)
        return part

    def to_structured(self) -> NDArray[np.void]:
        """scikit-survival's structured array: (n,) with the fields `event` (bool) and `time` (float64)."""
        structured = np.empty(len(self), dtype=[("event", bool), ("time", np.float64)])
        structured["event"] = self.event
        structured["time"] = self.time
        return structured

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, index: Any) -> SurvivalTarget:
        return self.unchecked(np.atleast_1d(self.time[index]), np.atleast_1d(self.event[index]))

    def __iter__(self) -> Iterator[SurvivalTarget]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SurvivalTarget):
            return NotImplemented
        return np.array_equal(self.time, other.time) and np.array_equal(self.event, other.event)

    __hash__ = None  # type: ignore[assignment]  # equal by content, so two equal targets must not hash apart

    def __repr__(self) -> str:
        span = f", time {self.time.min():g} to {self.time.max():g}" if len(self) else ""
        return f"SurvivalTarget({len(self)} patients, {int(self.event.sum())} events{span})"

    def _fill(self, time: NDArray[np.float64], event: NDArray[np.bool_]) -> None:
        if len(time) != len(event):
            raise ValueError(
                f"expected time and event of one length, got {len(time)} times and {len(event)} events"
            )
        time, event = time.copy(), event.copy()  # the caller's arrays stay writable and cannot change ours
        time.flags.writeable = event.flags.writeable = False
        object.__setattr__(self, "time", time)
        object.__setattr__(self, "event", event)

    def _warn_about_share(self) -> None:
        if len(self) < _WARN_FROM:
            return
        share = float(self.event.mean())
        if share > 0.95 or share < 0.01:
            warnings.warn(
                f"{int(self.event.sum())} of {len(self)} patients ({share:.1%}) have an observed event: is "
                "`event` True where the event was seen? A censorship column (1 = not seen) belongs in "
                "SurvivalTarget.from_censorship.",
                UserWarning,
                stacklevel=3,  # whoever called the constructor or from_censorship
            )
