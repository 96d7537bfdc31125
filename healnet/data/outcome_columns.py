"""Columns of tables that tell the outcome, which a model must not see: `warn_of_outcomes`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healnet._warnings import warn
from healnet.data.checks import shorten
from healnet.data.labels import Labels
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
# Below these numbers of patients and of either class a column may agree with the outcome by chance.
_PATIENTS, _CLASS = 20, 5
_COLUMNS = 256  # looked at together: a table of 200,000 is never copied whole
# Rank correlation, or 2 AUC - 1. What is measured at the diagnosis has about 0.5 at most; days written as months with one
# digit have 0.999 with the days.
_SAME = 0.99
_NAMED = 0.6  # the same of a column whose name is that of an outcome: progression and death go together less closely
_PAIRS = 512  # pairs of patients by which columns are chosen that are looked at whole
_MAYBE = 0.7  # of the pairs' signs, in which a correlation of 0.99 is about 0.94


def is_outcome_name(name: str) -> bool:
    """True for the name of a follow-up time or status.

    Example:
        >>> [is_outcome_name(name) for name in ("OS_MONTHS", "PFI.time", "Vital Status", "age", "POS", "OS9")]
        [True, True, True, False, False, False]
    """
    return _NAME.search(name) is not None


@dataclass(frozen=True)
class _Known:
    """What a column must not tell: numbers of the patients, or two classes, with the patients of whom it is not known.

    Attributes:
        values: (n,) numbers, NaN where not known; 0 and 1 of classes.
        classes: Whether there are just two.
    """

    values: NDArray[np.float64]
    classes: bool

    def agreement(self, column: NDArray[np.float64]) -> float:
        """Rank correlation of a column (n,) with the numbers, or 2 AUC - 1 of the classes, over the cells that are there."""
        from scipy.stats import rankdata

        both = ~np.isnan(column) & ~np.isnan(self.values)
        x, y = column[both], self.values[both]
        smaller = min(np.sum(y == 0), np.sum(y == 1)) if self.classes else 0
        if len(x) < _PATIENTS or (self.classes and smaller < _CLASS):
            return 0.0
        rank = rankdata(x)
        if self.classes:
            ones = int(y.sum())
            below = rank[y == 1].sum() - ones * (ones + 1) / 2
            return float(2 * below / (ones * (len(y) - ones)) - 1)
        other = rankdata(y)
        spread = rank.std() * other.std()
        return float(np.mean((rank - rank.mean()) * (other - other.mean())) / spread) if spread > 0 else 0.0

    def gaps(self, missing: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Correlation of two classes with who lacks a column, of (n, f) columns: (f,); 0 of numbers."""
        known = ~np.isnan(self.values)
        y, m = self.values[known], missing[known].astype(np.float64)
        if not self.classes or min(np.sum(y == 0), np.sum(y == 1)) < _CLASS or len(y) < _PATIENTS:
            return np.zeros(missing.shape[1])
        spread = y.std() * m.std(axis=0)
        covered = (y - y.mean()) @ m / len(y)
        return np.divide(covered, spread, out=np.zeros(len(spread)), where=spread > 0)

    def pairs(self, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Pairs of patients, the second with the larger number; none where all have the same."""
        known = np.flatnonzero(~np.isnan(self.values))
        if not len(known):
            return known, known
        one, other = (rng.choice(known, 4 * _PAIRS) for _ in range(2))
        if self.classes and len(known[self.values[known] == 1]) and len(known[self.values[known] == 0]):
            one, other = (rng.choice(known[self.values[known] == k], _PAIRS) for k in (0, 1))
        ordered = self.values[one] < self.values[other]
        return one[ordered][:_PAIRS], other[ordered][:_PAIRS]


def warn_of_outcomes(
    modalities: Mapping[str, Modality], target: SurvivalTarget | None, labels: Labels | None = None
) -> None:
    """Warn of columns that tell the event, the time or a label, and of modalities that patients with the event alone have.

    A column tells it by its values, over the cells that are there, if it orders the patients as the time, the event or the
    label does; by its gaps, if it is filled for patients with the event alone, or for those without; and by its name and
    less close an order. Gaps that go with a label are common: a center that measures more, for example.

    Args:
        modalities: Modalities by name. Of tables the columns are looked at, of all who has them.
        target: Outcomes of the patients; None if there are none.
        labels: Labels of the patients; None if there are none.

    Warns:
        UserWarning: Such columns and modalities, by name.
    """
    outcomes, of_labels = _of_target(target), _of_labels(labels)
    for name, modality in modalities.items():
        missing = modality.missing()
        if any(abs(known.gaps(missing[:, None])[0]) > _SAME for known in outcomes):
            warn(
                f"modality {name!r}: patients with the event alone have it, or those without: leave it out, or the model "
                "reads the outcome"
            )
        if not isinstance(modality, Table):
            continue
        by_value, by_gap = _columns(modality.values, ~missing, modality.columns, outcomes)
        if by_value.any():
            warn(
                f"modality {name!r}: column {shorten(modality.columns[by_value])} is the follow-up time or the event "
                "itself: leave it out, or the model reads the outcome"
            )
        if by_gap.any():
            warn(
                f"modality {name!r}: column {shorten(modality.columns[by_gap])} is filled for patients with the event "
                "alone, or for those without: leave it out, or the model reads the outcome"
            )
        for what, known in of_labels.items():
            by_value, _ = _columns(modality.values, ~missing, modality.columns, known)
            if by_value.any():
                warn(
                    f"modality {name!r}: column {shorten(modality.columns[by_value])} is {what} itself: leave it out, or "
                    "the model reads it"
                )


def _of_target(target: SurvivalTarget | None) -> list[_Known]:
    if target is None:
        return []
    return [_Known(target.time, classes=False), _Known(target.event.astype(np.float64), classes=True)]


def _of_labels(labels: Labels | None) -> dict[str, list[_Known]]:
    """Numbers as they are; of classes their order, and each class against the others."""
    found: dict[str, list[_Known]] = {}
    for name, column in () if labels is None else labels.frame.items():
        if not isinstance(column.dtype, pd.CategoricalDtype):
            found[f"label {name!r}"] = [_Known(column.to_numpy(np.float64), classes=False)]
            continue
        codes = column.cat.codes.to_numpy(np.float64)
        unknown, count = codes < 0, len(column.cat.categories)
        each = [np.where(unknown, np.nan, codes == code) for code in range(count if count > 2 else 1)]
        found[f"label {name!r}"] = [
            _Known(np.where(unknown, np.nan, codes), classes=False),
            *(_Known(one.astype(np.float64), classes=True) for one in each),
        ]
    return found


def _columns(
    values: NDArray[np.float64], has: NDArray[np.bool_], names: pd.Index, every: list[_Known]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which columns tell any of these by their values, and which by their gaps alone, (f,) each."""
    by_value, by_gap = (np.zeros(values.shape[1], dtype=np.bool_) for _ in range(2))
    if has.sum() < _PATIENTS:
        return by_value, by_gap
    rng = np.random.default_rng(0)
    named = np.array([is_outcome_name(str(name)) for name in names])
    for known in every:
        known = _Known(np.where(has, known.values, np.nan), known.classes)
        one, other = known.pairs(rng)
        for start in range(0, values.shape[1], _COLUMNS):
            part = slice(start, start + _COLUMNS)
            block = values[:, part]
            signs = np.sign(block[other] - block[one])
            there = (~np.isnan(signs)).sum(axis=0)
            share = np.abs(np.nansum(signs, axis=0)) / np.maximum(there, 1)
            gappy = np.isnan(block.sum(axis=0))
            # Few pairs tell little of a column with few cells.
            for at in np.flatnonzero((share > _MAYBE) | (gappy & (there < _PATIENTS)) | named[part]):
                limit = _NAMED if named[start + at] else _SAME
                by_value[start + at] |= abs(known.agreement(block[:, at])) > limit
            if gappy.any() and known.classes:
                found = np.abs(known.gaps(np.isnan(block[:, gappy]) & has[:, None]))
                by_gap[np.flatnonzero(gappy) + start] |= found > np.where(named[part][gappy], _NAMED, _SAME)
    return by_value, by_gap & ~by_value
