"""Follow-up times and events, the labels of survival analysis: `SurvivalTarget`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from healnet._warnings import warn
from healnet.survival._checks import check_labels, check_times
from healnet.survival._order import check_same_order, patient_ids
from healnet.survival._outcomes import read_outcomes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SurvivalTarget"]

# The smallest cohort in which one patient is no more than 5%: below it a share says nothing about a flipped
# sign.
_WARN_FROM = 20


@dataclass(frozen=True, eq=False)
class SurvivalTarget:
    """Follow-up times and event indicators of n patients, checked once, read-only afterwards.

    `event` has scikit-survival's sign: **True = the event was observed**. Tables with MCAT's `censorship`
    (1 = *not* observed) go through `from_censorship`, so that the sign is turned in one place and by name; clinical tables
    of cBioPortal, UCSC Xena and GDC through `from_frame`.

    Indexing with a slice, an integer array or a bool mask gives the target of those patients; so does an
    integer (one patient, length 1).

    Args:
        time: Follow-up times, finite, >= 0, in any unit; float64 inside.
        event: Events as bool, or numbers that are exactly 0 or 1.

    Attributes:
        patients: (n,) ids of the patients, where `from_frame` found text as the table's index, or whole numbers other than
            0, 1, 2, ... of the rows; None otherwise. A `Cohort` compares them with its own.

    Shape:
        time, event: (n,) or (n, 1)

    Raises:
        ValueError: Other shapes, lengths that differ, Series in different orders of patients, a time that is negative,
            infinite or NaN, a label other than bool or {0, 1}.

    Warns:
        UserWarning: From 20 patients on, when more than 95% or fewer than 1% are events; most often this is
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
    patients: NDArray[np.object_] | None = None

    def __init__(self, time: ArrayLike, event: ArrayLike) -> None:
        check_same_order(time, event, "time and event")
        self._fill(check_times(time), check_labels(event, "event"))
        self._warn_about_share()

    @classmethod
    def from_censorship(cls, time: ArrayLike, censorship: ArrayLike) -> SurvivalTarget:
        """Take labels that say who was *censored*, as MCAT's and SurvPath's: 1 = the event was not seen.

        Raises:
            ValueError: As the constructor, with the label called `censorship`.
        """
        check_same_order(time, censorship, "time and censorship")
        target = cls.unchecked(check_times(time), ~check_labels(censorship, "censorship"))
        target._warn_about_share()
        return target

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        time: str | tuple[str, str] = "OS.time",
        event: str = "OS",
        scale: float = 1.0,
    ) -> SurvivalTarget:
        """Read the outcomes of a clinical table, one patient per row, in the order of the rows.

        Events may be bool, 0/1, text with its number in front (cBioPortal's "1:DECEASED", "0:LIVING") or a word (GDC's
        "Dead", "Alive"). NaN, empty cells, "[Not Available]", "not reported" and the like are not known, and patients
        without both time and event must be left out first: the table of the others is
        ``frame[SurvivalTarget.has_outcome(frame, time, event)]``, so that it and the target stay in one order.

        Args:
            frame: Table, indexed by patient.
            time: Name of the column of times; the default is UCSC Xena's. Or the two columns of the time of the event and of
                the last follow-up, of which GDC's tables fill the one that holds.
            event: Name of the column of events.
            scale: Factor of the times: 12 / 365.25 turns days into months.

        Raises:
            ValueError: A column that is not there, an event column whose name says the opposite ("censorship"), a value
                that cannot be read, patients without an outcome (named), a time that is negative, a patient without the
                event who has a time of it, a scale that is not > 0.

        Example:
            >>> import pandas as pd
            >>> table = pd.DataFrame({"OS_MONTHS": [44.5, 12.1], "OS_STATUS": ["1:DECEASED", "0:LIVING"]})
            >>> SurvivalTarget.from_frame(table, "OS_MONTHS", "OS_STATUS")
            SurvivalTarget(2 patients, 1 events, time 12.1 to 44.5)
            >>> columns = {"days_to_death": [90, None], "days_to_last_follow_up": [None, 365]}
            >>> table = pd.DataFrame({"vital_status": ["Dead", "Alive"], **columns})
            >>> SurvivalTarget.from_frame(table, ("days_to_death", "days_to_last_follow_up"), "vital_status")
            SurvivalTarget(2 patients, 1 events, time 90 to 365)
        """
        if not 0 < scale < np.inf:
            raise ValueError(f"expected scale > 0, got {scale}")
        times, events = read_outcomes(frame, time, event)
        lost = np.flatnonzero(np.isnan(times) | np.isnan(events))
        if len(lost):
            names = ", ".join(repr(frame.index[i]) for i in lost[:3]) + (", ..." if len(lost) > 3 else "")
            wanted = (
                f"{time!r} and {event!r} of every patient"
                if isinstance(time, str)
                else f"{event!r} of every patient, {time[0]!r} of those with the event and {time[1]!r} of the others"
            )
            raise ValueError(
                f"expected {wanted}, got {len(lost)} of {len(frame)} without ({names}); "
                f"leave them out with frame[SurvivalTarget.has_outcome(frame, {time!r}, {event!r})]"
            )
        wrong = np.flatnonzero((times < 0) | np.isinf(times))
        if len(wrong):
            raise ValueError(
                f"expected times that are finite and >= 0, got {times[wrong[0]]:g} for patient "
                f"{frame.index[wrong[0]]!r} ({len(wrong)} of {len(frame)} are wrong)"
            )
        target = cls.unchecked(times * scale, events.astype(np.bool_), patient_ids(frame.index))
        target._warn_about_share()
        return target

    @staticmethod
    def has_outcome(
        frame: pd.DataFrame, time: str | tuple[str, str] = "OS.time", event: str = "OS"
    ) -> NDArray[np.bool_]:
        """Return which patients of a table have both time and event, (n,), as `from_frame` reads them.

        Raises:
            ValueError: As `from_frame`, but for patients without an outcome and times that are negative.
        """
        times, events = read_outcomes(frame, time, event)
        known: NDArray[np.bool_] = ~np.isnan(times) & ~np.isnan(events)
        return known

    @classmethod
    def from_structured(cls, array: NDArray[np.void]) -> SurvivalTarget:
        """Take a structured array as scikit-survival's functions do: a bool field, the event, and a field of numbers.

        Raises:
            ValueError: Another type of array, a wrong time.

        Example:
            >>> from sksurv.util import Surv
            >>> SurvivalTarget.from_structured(Surv.from_arrays([True, False], [5.0, 3.0]))
            SurvivalTarget(2 patients, 1 events, time 3 to 5)
        """
        names = sorted(array.dtype.names or (), key=lambda name: array.dtype[name] != np.bool_)  # event first
        if len(names) != 2 or [array.dtype[name] == np.bool_ for name in names] != [True, False]:
            raise ValueError(
                f"expected a structured array of one bool field and one of numbers, got {array.dtype}"
            )
        target = cls.unchecked(check_times(array[names[1]]), array[names[0]].astype(np.bool_))
        target._warn_about_share()
        return target

    @classmethod
    def unchecked(
        cls,
        time: NDArray[np.float64],
        event: NDArray[np.bool_],
        patients: NDArray[np.object_] | None = None,
    ) -> SurvivalTarget:
        """Take arrays known to be right, (n,) float64, bool and ids, as parts of a target are; never warns."""
        part = object.__new__(cls)
        part._fill(time, event, patients)
        return part

    def censored_at(self, horizon: float) -> SurvivalTarget:
        """Return the outcomes as a study that ended at the horizon would have them: who is followed longer is censored then.

        An event exactly at the horizon counts.

        Args:
            horizon: Time in the unit of the times.

        Raises:
            ValueError: A horizon that is not > 0 and finite.

        Example:
            >>> SurvivalTarget([12.0, 60.0, 90.0], [False, True, True]).censored_at(60).to_structured().tolist()
            [(False, 12.0), (True, 60.0), (False, 60.0)]
        """
        if not 0 < horizon < np.inf:
            raise ValueError(f"expected a finite horizon > 0, got {horizon}")
        event: NDArray[np.bool_] = self.event & (self.time <= horizon)
        return self.unchecked(np.minimum(self.time, horizon), event, self.patients)

    def first_other(self, patients: NDArray[np.object_]) -> int | None:
        """Return the first position at which ids differ from the target's own; None if they are the same.

        None, too, where they cannot be compared: the target does not know its patients, or none of the ids is among them; of
        numbers, which may be those of rows, not all.

        Args:
            patients: (n,) ids.

        Example:
            >>> import pandas as pd
            >>> target = SurvivalTarget.from_frame(pd.DataFrame({"OS.time": [5, 8], "OS": [1, 0]}, index=["p1", "p2"]))
            >>> target.first_other(np.array(["p2", "p1"], dtype=object))
            0
        """
        if self.patients is None or len(patients) != len(self.patients):
            return None
        own, given = self.patients.astype(str), patients.astype(str)
        differ = np.flatnonzero(own != given)
        if not len(differ):
            return None
        shared = np.isin(given, own)
        same = shared.any() if isinstance(self.patients[0], str) else shared.all()
        return int(differ[0]) if same else None

    def to_structured(self) -> NDArray[np.void]:
        """Return scikit-survival's structured array: (n,) with the fields `event` (bool) and `time` (float64)."""
        structured = np.empty(len(self), dtype=[("event", bool), ("time", np.float64)])
        structured["event"] = self.event
        structured["time"] = self.time
        return structured

    def without_patients(self) -> SurvivalTarget:
        """The same outcomes without ids, of which nothing is compared."""
        return self.unchecked(self.time, self.event)

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        # Each item is a target again, so NumPy would look for numbers in it without end.
        raise ValueError(
            "expected an array of numbers, got a SurvivalTarget; pass its `time` or `event`, or `to_structured()` to "
            "scikit-survival"
        )

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, index: Any) -> SurvivalTarget:
        patients = None if self.patients is None else np.atleast_1d(self.patients[index])
        return self.unchecked(np.atleast_1d(self.time[index]), np.atleast_1d(self.event[index]), patients)

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

    def _fill(
        self,
        time: NDArray[np.float64],
        event: NDArray[np.bool_],
        patients: NDArray[np.object_] | None = None,
    ) -> None:
        if len(time) != len(event):
            raise ValueError(
                f"expected time and event of one length, got {len(time)} times and {len(event)} events"
            )
        time, event = time.copy(), event.copy()  # the caller's arrays stay writable and cannot change ours
        time.flags.writeable = event.flags.writeable = False
        object.__setattr__(self, "time", time)
        object.__setattr__(self, "event", event)
        if patients is not None:
            patients = patients.copy()
            patients.flags.writeable = False
        object.__setattr__(self, "patients", patients)

    def _warn_about_share(self) -> None:
        if len(self) < _WARN_FROM:
            return
        share = float(self.event.mean())
        if share > 0.95 or share < 0.01:
            warn(
                f"{int(self.event.sum())} of {len(self)} patients ({share:.1%}) have an observed event: is "
                "`event` True where the event was seen? A censorship column (1 = not seen) belongs in "
                "SurvivalTarget.from_censorship."
            )
