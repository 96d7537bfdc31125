"""Warnings where new patients look as if they were measured in other units than those of training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from healnet._warnings import warn
from healnet.data import Cohort, Standardizer

__all__ = ["warn_of_features", "warn_of_times", "warn_of_units"]

# Standardized values of other patients have a median size of 0.7 and a mean square of 1; those of another hospital
# some more. Raw counts where logarithms were seen, or the reverse, are off by far more than these.
_FAR, _FLAT = 2.0, 0.1
_FAR_OF_FEW = 5.0  # a single tumor with many copy numbers changed is 2 or 3 away
_CELLS, _PATIENTS = 20, 10  # below these a median, and a spread, may be so by chance
# Of single features, in tables that are read one by one: an age in days is 1800 or more away, and a median of other patients
# below 1; below 10 patients one with a rare disease may be far, but not all of them by so much.
_NARROW, _FAR_FEATURE, _FAR_FEATURE_OF_FEW = 64, 5.0, 20.0

# Curves are often drawn to the end of follow-up, after the last event; units of time differ by 7 or more.
_BEYOND = 5.0


def warn_of_units(cohort: Cohort) -> list[str]:
    """Warn of tables whose values are far from those of training, or hardly differ between patients.

    Args:
        cohort: New patients, standardized by the training patients.

    Warns:
        UserWarning: More than half of a modality's values lie over 2 standard deviations (5 below 10 patients) from the
            training mean; or, from 10 patients on, their spread is under a tenth of the training patients'. Fewer than 20
            values never warn.

    Returns:
        The tables that were warned of.
    """
    warned = []
    for name in cohort.tables:
        values = cohort.table(name).dropna(how="all").to_numpy()
        known = values[~np.isnan(values)]
        if known.size < _CELLS:
            continue
        median = float(np.median(np.abs(known)))
        spread = _spread(values)
        if median > (_FAR if len(values) >= _PATIENTS else _FAR_OF_FEW):
            how = f"half of the values are {median:.3g} or more standard deviations from the mean of training"
        elif len(values) >= _PATIENTS and spread < _FLAT and _most_vary(values):
            how = f"values differ between patients {spread:.2g} times as much as in training"
        else:
            continue
        warn(
            f"modality {name!r}: {how}: are they in other units, or transformed otherwise (logarithms, z-scores)?"
        )
        warned.append(name)
    return warned


def warn_of_features(cohort: Cohort, tables: Iterable[str], scaler: Standardizer) -> None:
    """Warn of single features of narrow tables whose values are far from those of training.

    Args:
        cohort: New patients, as they were read.
        tables: Names of the tables to look at.
        scaler: Standardizer fitted on the training patients. What it clips counts as it is here.

    Warns:
        UserWarning: From 10 patients on, the median of a feature is 5 or more standard deviations from the training mean; of
            fewer patients, each is 20 or more. Tables of more than 64 features, and values of 0 and 1 alone, never warn.
    """
    for name in tables:
        if len(cohort.modality(name).columns) > _NARROW:  # type: ignore[attr-defined]  # a table has columns
            continue
        statistics = scaler.raw_statistics(name)
        centers, scales = statistics["center"], statistics["scale"]
        far = []
        table = cohort.table(name)
        for column in map(str, table):
            known = table[column].dropna().to_numpy()
            center, scale = float(centers[column]), float(scales[column])
            # A rare mutation is far from the mean of many patients who lack it.
            if not len(known) or np.isnan(center) or np.isin(known, (0, 1)).all():
                continue
            sizes = np.abs(known - center) / scale
            many = len(known) >= _PATIENTS
            if (
                (abs(np.median(known) - center) / scale >= _FAR_FEATURE)
                if many
                else (sizes.min() >= _FAR_FEATURE_OF_FEW)
            ):
                far.append(f"{column} (median {np.median(known):.4g}, {center:.4g} in training)")
        if far:
            warn(
                f"modality {name!r}: values of {', '.join(far[:3])}"
                + (f" and {len(far) - 3} more features" if len(far) > 3 else "")
                + " are far from those of training: are they in other units, or coded otherwise?"
            )


def warn_of_times(times: NDArray[np.float64], first: float, last: float) -> None:
    """Warn of times that say nothing: all before the first event of training, or some far after the last.

    Args:
        times: (t,) at which curves are wanted.
        first: First event time of training.
        last: Last event time, or the end of the last time bin.
    """
    if len(times) and (times.max() < first or times.max() > _BEYOND * last):
        warn(
            f"times go from {times.min():g} to {times.max():g}, and training saw events from {first:g} to {last:g}: curves "
            "are flat outside; are the times in the unit of training?"
        )


def _most_vary(values: NDArray[np.float64]) -> bool:
    """False for rare mutations in few patients, whose columns are all 0."""
    shown = values[:, ~np.isnan(values).all(axis=0)]
    return bool((np.nanmax(shown, axis=0) > np.nanmin(shown, axis=0)).mean() > 0.5)


def _spread(values: NDArray[np.float64]) -> float:
    """Root mean square deviation from the columns' means."""
    gaps = np.isnan(values)
    cells = np.maximum((~gaps).sum(axis=0), 1)
    mean = np.where(gaps, 0.0, values).sum(axis=0) / cells
    return float(np.sqrt(np.square(np.where(gaps, 0.0, values - mean)).sum() / max((~gaps).sum(), 1)))
