"""Tests whether predicted probabilities are as large as they should be: over all times, and at one horizon."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from healnet.survival._checks import Floats, Index, as_array, check_least, check_probabilities
from healnet.survival._order import check_order
from healnet.survival.nonparametric import kaplan_meier
from healnet.survival.target import SurvivalTarget

__all__ = ["Calibration", "DCalibration", "calibration_groups", "d_calibration"]


class DCalibration(NamedTuple):
    """The result of `d_calibration`: the statistic, its p, and the number of patients in each interval of S."""

    chi2: float
    p_value: float
    counts: Floats


def d_calibration(survival: ArrayLike, target: SurvivalTarget, num_bins: int = 10) -> DCalibration:
    r"""Test whether predicted survival at the patients' own times is spread evenly over [0, 1].

    For a calibrated model $S_i(T_i)$ of an event is uniform. A patient censored at $s = S_i(c_i)$ would have
    come to lie anywhere in [0, s], so their one count is spread evenly over it: (upper - lower) / s to each
    interval below s, (s - lower) / s to the one that holds it. Then Pearson's $\chi^2$ against n / k in each
    of the k intervals, with k - 1 degrees of freedom (Haider, Hoehn, Davis and Greiner 2020, JMLR 21:85, sec.
    3.5 and app. B).

    p is uniform for calibrated models of uncensored patients. Spread mass is smoother than whole patients, so
    under censoring p is larger than that: the test then misses some miscalibration but accuses no model
    falsely.

    Args:
        survival: Predicted S of each patient at their own time, as `curve.at(target.time[:, None])` gives it.
        target: The same patients' follow-up.
        num_bins: Number of intervals, k.

    Shape:
        survival: (n,) or (n, 1)

    Raises:
        ValueError: No patients, lengths that differ, probabilities outside [0, 1], fewer than two intervals, a Series of
            patients in another order than the target's own.

    Example:
        >>> target = SurvivalTarget([9, 7, 4, 1], [True, True, True, False])
        >>> result = d_calibration([0.1, 0.3, 0.6, 1.0], target, num_bins=2)
        >>> result.counts.tolist()
        [2.5, 1.5]
    """
    from scipy.stats import chi2 as law

    check_order(survival, target, "survival")
    s, seen = check_probabilities(survival, (len(target),)), target.event
    check_least("num_bins", num_bins, 2)
    check_least("number of patients", len(s), 1)
    lower = np.arange(num_bins) / num_bins
    # A probability that was a limit stays one, also in float32.
    precision = np.result_type(as_array(survival).dtype, np.float16)
    limits = lower.astype(min(precision, np.dtype(np.float64), key=lambda kind: kind.itemsize))
    own = np.searchsorted(limits.astype(np.float64), s, side="right") - 1
    whole = np.zeros((len(s), num_bins))
    whole[np.arange(len(s)), own] = 1
    width = np.clip(s[:, None] - lower, 0, 1 / num_bins)  # what of each interval lies below s
    spread = np.divide(width, s[:, None], out=whole.copy(), where=s[:, None] > 0)
    counts = np.where(seen[:, None], whole, spread).sum(axis=0)
    expected = len(s) / num_bins
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    return DCalibration(chi2, float(law.sf(chi2, num_bins - 1)), counts)


class Calibration(NamedTuple):
    """Groups of patients by predicted risk at a horizon, from the lowest; the result of `calibration_groups`.

    Shape:
        predicted: (g,) mean predicted probability of the event by the horizon.
        observed: (g,) one minus Kaplan-Meier at the horizon; NaN where the group's follow-up ends before it.
        low, high: (g,) its confidence limits.
        size: (g,) patients.
    """

    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats
    size: Index

    @property
    def error(self) -> float:
        """The mean absolute difference of predicted and observed, over patients; NaN where a group is undefined."""
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.size))


def calibration_groups(
    survival: ArrayLike, target: SurvivalTarget, time: float, num_groups: int = 10, confidence: float = 0.95
) -> Calibration:
    """Compare predicted with observed probabilities of the event by a horizon, in groups of equal size.

    Patients are grouped by quantiles of the predicted probability (patients with the same prediction stay
    together); observed is one minus the Kaplan-Meier estimate of the group (D'Agostino and Nam 2003).

    Args:
        survival: Predicted S of each patient at the horizon.
        target: The same patients' follow-up.
        time: Horizon, in the unit of the target's times.
        num_groups: Largest number of groups; fewer where predictions tie.
        confidence: Confidence of the limits of the observed share.

    Shape:
        survival: (n,) or (n, 1)

    Raises:
        ValueError: No patients, lengths that differ, probabilities outside [0, 1], no groups, a Series of patients in
            another order than the target's own.

    Example:
        >>> target = SurvivalTarget([5, 9, 1, 2], [False, False, True, True])
        >>> result = calibration_groups([0.9, 0.9, 0.2, 0.2], target, time=3, num_groups=2)
        >>> result.predicted.round(3).tolist(), result.observed.tolist()
        ([0.1, 0.8], [0.0, 1.0])
    """
    check_order(survival, target, "survival")
    s = check_probabilities(survival, (len(target),))
    check_least("num_groups", num_groups, 1)
    check_least("number of patients", len(s), 1)
    risk = 1 - s
    inner = np.unique(np.quantile(risk, np.linspace(0, 1, num_groups + 1)[1:-1]))
    group = np.unique(np.searchsorted(inner, risk, side="left"), return_inverse=True)[1]
    rows = []
    for g in range(group.max() + 1):
        inside = group == g
        estimate = kaplan_meier(target[inside], confidence)
        low, high = estimate.band_at(time)
        rows.append((risk[inside].mean(), 1 - estimate.at(time), 1 - high, 1 - low))
    predicted, observed, low, high = (
        np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)
    )
    return Calibration(predicted, observed, low, high, np.bincount(group))
