"""Reads times and events as clinical tables write them: numbers, text, and words for what is not known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from healnet.survival._checks import Floats

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_events", "read_outcomes"]

# In lower case. GDC's files write '-- and "not reported"; cBioPortal's and TCGA's put such words in brackets.
_UNKNOWN = {"", "na", "n/a", "nan", "none", "null", "--", "'--", "unknown", "not reported", "not available"}
_BRACKETS = re.compile(r"\[(?!\s*[-+.\d]).*\]", re.DOTALL)
# cBioPortal's statuses carry their number: "1:DECEASED", "0:DiseaseFree", "0:ALIVE OR DEAD TUMOR FREE".
_NUMBERED = re.compile(r"([01])(\.0*)?(\s*:.*)?", re.DOTALL)
_EVENT = {"dead", "deceased", "died", "event", "true", "yes", "recurred", "progressed", "recurred/progressed"}
_NO_EVENT = {"alive", "living", "censored", "false", "no", "no event", "diseasefree", "disease free"}
_STATE = re.compile(r"vital", re.IGNORECASE)  # of patients, of which either may be the 1
_OPPOSITE = re.compile(r"censor|alive|living|surviv(ed|or)", re.IGNORECASE)


def read_outcomes(table: pd.DataFrame, time: str | tuple[str, str], event: str) -> tuple[Floats, Floats]:
    """Return times and events, (n,) each, NaN where not known.

    Args:
        table: One patient per row.
        time: Column of times, or the two columns of the times of the event and of the last follow-up, as GDC's tables have
            them: the first holds for patients with the event, the second for those without.
        event: Column of events.

    Raises:
        ValueError: No such column, a value that cannot be read, a patient without the event who has a time of it.
    """
    events = read_events(table, event)
    if isinstance(time, str):
        return _times(table, time), events
    happened, followed = time
    times = _times(table, happened)
    wrong = np.flatnonzero((events == 0) & ~np.isnan(times))
    if len(wrong):
        raise ValueError(
            f"expected {happened!r} of patients with the event alone, got {times[wrong[0]]:g} for patient "
            f"{table.index[wrong[0]]!r}, whose {event!r} says that it was not observed ({len(wrong)} of {len(table)} are so)"
        )
    return np.where(events == 1, times, _times(table, followed)), events


def _times(table: pd.DataFrame, name: str) -> Floats:
    return np.array([_time(value, name, row) for row, value in _column(table, name)], dtype=np.float64)


def read_events(table: pd.DataFrame, name: str) -> Floats:
    """Return the events of a column, (n,): 1 = observed, 0 = censored, NaN = not known.

    Raises:
        ValueError: No such column, a name that says the opposite, a value that cannot be read.
    """
    if _OPPOSITE.search(name):
        raise ValueError(
            f"expected an event column in which 1 is the event, got {name!r}, whose name says the opposite: if it is 1 for "
            "patients who did not have the event, take SurvivalTarget.from_censorship; if not, rename it"
        )
    return np.array([_event(value, name, row) for row, value in _column(table, name)], dtype=np.float64)


def _column(table: pd.DataFrame, name: str) -> list[tuple[Any, Any]]:
    if list(table.columns).count(name) != 1:
        others = ", ".join(map(str, table.columns[:20])) + (", ..." if len(table.columns) > 20 else "")
        raise ValueError(f"expected one column {name!r}, got {list(table.columns).count(name)} in {others}")
    return list(zip(table.index.tolist(), table[name].astype(object).tolist(), strict=True))


def _time(value: Any, name: str, row: Any) -> float:
    if _unknown(value):
        return np.nan
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected a number in {name!r}, got {value!r} for patient {row!r}") from error


def _event(value: Any, name: str, row: Any) -> float:
    if _unknown(value):
        return np.nan
    text = str(value).strip().lower()
    numbered = _NUMBERED.fullmatch(text)
    if numbered and not numbered[3] and _STATE.search(name):
        raise ValueError(
            f"expected words as Dead and Alive in {name!r}, got {value!r} for patient {row!r}: which number is dead? "
            f"Say it in a column of your own, as frame['event'] = frame[{name!r}] == 1 where 1 is dead"
        )
    if numbered:
        return float(numbered[1])
    if text in _EVENT | _NO_EVENT:
        return float(text in _EVENT)
    raise ValueError(
        f"expected 0 or 1, bool, text that begins with '0:' or '1:', or a word as Dead and Alive in {name!r}, "
        f"got {value!r} for patient {row!r}"
    )


def _unknown(value: Any) -> bool:
    if isinstance(value, str):
        text = value.strip().lower()
        return text in _UNKNOWN or _BRACKETS.fullmatch(text) is not None
    import pandas as pd

    return bool(pd.isna(value))
