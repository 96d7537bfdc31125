"""Columns of tables that are the outcome itself, which a model must not see: `warn_of_outcomes`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healnet.data.checks import shorten
from healnet.data.modalities.modality import Modality
from healnet.data.modalities.table import Table
from healnet.survival.target import SurvivalTarget

__all__ = ["is_outcome_name", "warn_of_outcomes"]

# TCGA's, cBioPortal's, Xena's and GDC's names: OS_MONTHS, PFI.time, DSS, vital_status, days_to_death, Overall Survival.
_NAME = re.compile(
    r"surviv|censor|vital.?status|days.to.(death|last)|(^|[^a-z])(dead|death|deceased|(os|dss|dfs|dfi|pfs|pfi|efs|rfs)"
    r"([ ._](status|months|days|years|time|event))?)$",
    re.IGNORECASE,
)
# Below these numbers of patients and of events a column may agree with the outcome by chance.
_PATIENTS, _EVENTS = 20, 5
_COLUMNS = 256  # looked at together: a table of 200,000 is never copied whole
_SAME = 0.9999  # correlation; months with one digit have more with the days that they were made of


def is_outcome_name(name: str) -> bool:
    """True for the name of a follow-up time or status.

    Example:
        >>> [is_outcome_name(name) for name in ("OS_MONTHS", "PFI.time", "Vital Status", "age", "POS", "OS9")]
        [True, True, True, False, False, False]
    """
    return _NAME.search(name) is not None


def warn_of_outcomes(modalities: Mapping[str, Modality], target: SurvivalTarget | None) -> None:
    """Warn of columns that equal the event or its opposite, or that rise in a straight line with the time.

    Args:
        modalities: Modalities by name, of which tables are looked at.
        target: Outcomes of the patients; None if there are none.

    Warns:
        UserWarning: Such columns, by modality and name.
    """
    for name, modality in modalities.items():
        if target is not None and isinstance(modality, Table):
            found = _outcomes(modality, target)
            if len(found):
                warnings.warn(
                    f"modality {name!r}: column {shorten(found)} is the follow-up time or the event itself: leave it out, "
                    "or the model reads the outcome",
                    UserWarning,
                    stacklevel=3,  # the caller of Cohort
                )


def _outcomes(table: Table, target: SurvivalTarget) -> pd.Index:
    has = ~table.missing()
    time, event = target.time[has], target.event[has]
    events = int(event.sum())
    if len(time) < _PATIENTS:
        return table.columns[:0]
    outcomes = np.stack((time, event.astype(np.float64)))
    same = np.zeros(len(table.columns), dtype=np.bool_)
    for start in range(0, len(same), _COLUMNS):
        part = slice(start, start + _COLUMNS)
        with_time, with_event = _correlation(table.values[has, part], outcomes)
        same[part] = with_time > _SAME
        if min(events, len(time) - events) >= _EVENTS:
            same[part] |= np.abs(with_event) > _SAME
    return table.columns[same]


def _correlation(values: NDArray[np.float64], outcomes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation of each outcome (j, n) with each column (n, f): (j, f); 0 for columns with gaps or without spread."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        a = values - values.mean(axis=0)
        b = outcomes - outcomes.mean(axis=1, keepdims=True)
        spread = np.einsum("nf,nf->f", a, a) * np.square(b).sum(axis=1, keepdims=True)
        found = (b @ a) / np.sqrt(spread)
    return np.asarray(np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0))
