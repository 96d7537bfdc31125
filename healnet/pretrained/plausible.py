"""Warnings where new patients look as if they were measured in other units than those of training."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from healnet.data import Cohort

__all__ = ["warn_of_times", "warn_of_units"]

# Standardized values of other patients have a median size of 0.7 and a mean square of 1; those of another hospital
# some more. Raw counts where logarithms were seen, or the reverse, are off by far more than these.
_FAR, _FLAT = 2.0, 0.1
_FAR_OF_FEW = 5.0  # a single tumor with many copy numbers changed is 2 or 3 away
_CELLS, _PATIENTS = 20, 10  # below these a median, and a spread, may be so by chance


def warn_of_units(cohort: Cohort) -> None:
    """Warn of tables whose values are far from those of training, or hardly differ between patients.

    Args:
        cohort: New patients, standardized by the training patients.

    Warns:
        UserWarning: More than half of a modality's values lie over 2 standard deviations (5 below 10 patients) from the
            training mean; or, from 10 patients on, their spread is under a tenth of the training patients'. Fewer than 20
            values never warn.
    """
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
        warnings.warn(
            f"modality {name!r}: {how}: are they in other units, or transformed otherwise (logarithms, z-scores)?",
            UserWarning,
            stacklevel=4,  # the caller of predict
        )


def warn_of_times(times: NDArray[np.float64], first: float, last: float) -> None:
    """Warn of times that say nothing: all before the first event of training, or some after the last.

    Args:
        times: (t,) at which curves are wanted.
        first: First event time of training.
        last: Last event time, or the end of the last time bin.
    """
    if len(times) and (times.max() < first or times.max() > last):
        warnings.warn(
            f"times go from {times.min():g} to {times.max():g}, and training saw events from {first:g} to {last:g}: curves "
            "are flat outside; are the times in the unit of training?",
            UserWarning,
            stacklevel=3,  # the caller of survival
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
