"""The Kaplan-Meier estimate and the log-rank test, which need no model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from healnet.survival._checks import Floats, as_array, check_least, check_nonnegative, column
from healnet.survival._order import check_order
from healnet.survival.target import SurvivalTarget

__all__ = ["KaplanMeier", "group_labels", "kaplan_meier", "logrank_p"]


class KaplanMeier(NamedTuple):
    """A step function: from time[i] on, S is survival[i], within [low[i], high[i]]; time[0] = 0, S = 1 there.

    Shape:
        time, survival, low, high: (m,) one row per distinct time, 0 included.
    """

    time: Floats
    survival: Floats
    low: Floats
    high: Floats

    def at(self, times: ArrayLike) -> Floats:
        """Return S at any times (t,); NaN beyond the last follow-up, unless all patients had the event by then.

        Raises:
            ValueError: A time that is negative or NaN.
        """
        return self._read(self.survival, times)

    def band_at(self, times: ArrayLike) -> tuple[Floats, Floats]:
        """Return the confidence limits at any times, as `at`."""
        return self._read(self.low, times), self._read(self.high, times)

    def _read(self, steps: Floats, times: ArrayLike) -> Floats:
        points = check_nonnegative(np.asarray(as_array(times), dtype=np.float64))
        values = steps[np.searchsorted(self.time, points, side="right") - 1]
        return np.where((points <= self.time[-1]) | (self.survival[-1] == 0), values, np.nan)


def kaplan_meier(target: SurvivalTarget, confidence: float = 0.95) -> KaplanMeier:
    """Compute Kaplan and Meier's estimate with log-log confidence limits.

    scikit-survival's `kaplan_meier_estimator`, from time 0 on.

    Raises:
        ValueError: No patients.

    Example:
        >>> kaplan_meier(SurvivalTarget([1, 2, 3, 4], [True, False, True, False])).survival.tolist()
        [1.0, 0.75, 0.75, 0.375, 0.375]
    """
    check_least("number of patients", len(target), 1)
    from sksurv.nonparametric import kaplan_meier_estimator

    time, survival, band = kaplan_meier_estimator(
        target.event, target.time, conf_level=confidence, conf_type="log-log"
    )
    if time[0] == 0:
        return KaplanMeier(time, survival, band[0], band[1])
    start = np.ones(1)
    return KaplanMeier(np.append(0.0, time), *(np.append(start, steps) for steps in (survival, *band)))


def group_labels(groups: ArrayLike, target: SurvivalTarget) -> NDArray[np.str_]:
    """Return the group of each patient as text.

    Raises:
        ValueError: Another shape than (n,), a patient without a group (None, NaN), whom a group of their own would hide, a
            Series of patients in another order than the target's own.
    """
    check_order(groups, target, "groups")
    # As objects: numpy would turn a list of text and NaN into text.
    given = (
        as_array(groups).astype(object) if isinstance(groups, Tensor) else np.asarray(groups, dtype=object)
    )
    shape, given, n = given.shape, column(given), len(target)
    if given.shape != (n,):
        raise ValueError(f"expected groups of shape ({n},) or ({n}, 1), one value per patient, got {shape}")
    labels: NDArray[np.str_] = given.astype(str)
    missing = [
        i
        for i, label in enumerate(given.tolist())
        if not isinstance(label, str) and labels[i] in ("None", "nan", "<NA>", "NaT")
    ]
    if missing:
        raise ValueError(
            f"expected a group for every patient, got {labels[missing[0]]} at position {missing[0]} "
            f"({len(missing)} of {n} are missing)"
        )
    return labels


def logrank_p(groups: ArrayLike, target: SurvivalTarget) -> float:
    """Compute the p-value of the log-rank test that all groups share one survival curve.

    scikit-survival's `compare_survival`, without groups that have no patient at risk at any event, as in R's
    `survdiff`; 1 where only one group is left. The groups must have been known before follow-up, as the arms of a trial are.
    For halves by out-of-fold risks p is too small, because the models of the folds were fitted on each other's
    patients.

    Args:
        groups: Group of each patient, of any type.
        target: The same patients' follow-up.

    Shape:
        groups: (n,) or (n, 1)

    Raises:
        ValueError: A group missing for some (None, NaN), groups of patients in another order, fewer than two groups, no
            events.

    Example:
        >>> target = SurvivalTarget([1, 2, 3, 4, 5, 6], [True] * 6)
        >>> round(logrank_p(["old", "old", "old", "young", "young", "young"], target), 4)
        0.0246
    """
    distinct, codes = np.unique(group_labels(groups, target), return_inverse=True)
    if len(distinct) < 2:
        raise ValueError(f"expected at least two groups for a log-rank test, got {len(distinct)}")
    if not target.event.any():
        raise ValueError("expected at least one event for a log-rank test, got none")
    from sksurv.compare import compare_survival

    ever = np.unique(codes[target.time >= target.time[target.event].min()])
    if len(ever) < 2:
        return 1.0
    inside = np.isin(codes, ever)  # the others would make the matrix of covariances singular
    target, codes = target[inside], codes[inside]
    return float(compare_survival(target.to_structured(), codes)[1])
