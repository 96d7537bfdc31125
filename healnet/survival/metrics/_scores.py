"""Each metric as one number, from scikit-survival, or `Undefined` with the reason.

Risks come as their ranks, which are whole numbers: scikit-survival counts risks no further apart than 1e-8 as tied.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from healnet.survival._checks import Floats
from healnet.survival.metrics.calibration import calibration_groups, d_calibration
from healnet.survival.target import SurvivalTarget

__all__ = [
    "Undefined",
    "auc",
    "brier",
    "calibration_error",
    "d_calibration_p",
    "harrell",
    "integrated_brier",
    "mean_auc",
    "own_survival",
    "uno",
]


class Undefined(ValueError):
    """A metric has no value on these patients; the message says why."""


def harrell(rank: Floats, target: SurvivalTarget) -> float:
    """Harrell's C of ranks of the risks."""
    _need_pairs(target, np.inf)
    from sksurv.metrics import concordance_index_censored

    return float(concordance_index_censored(target.event, target.time, rank)[0])


def uno(rank: Floats, target: SurvivalTarget, train: SurvivalTarget, tau: float) -> float:
    """Uno's C for events before tau, weighted by the inverse probability of censoring in `train`."""
    _need_train(train, tau)
    _need_pairs(target, tau)
    return float(_weighted("concordance_index_ipcw", train, target, rank, tau=tau)[0])


def auc(rank: Floats, target: SurvivalTarget, train: SurvivalTarget, time: float) -> float:
    """Cumulative/dynamic AUC at one time: events by then against all patients followed beyond."""
    _need_both_outcomes(target, train, time)
    seen = _events_until(time, _clipped(target, train))
    return float(_weighted("cumulative_dynamic_auc", train, seen, rank, [time])[1])


def mean_auc(rank: Floats, target: SurvivalTarget, train: SurvivalTarget, times: Floats) -> float:
    """AUC averaged over the times, weighted by the events between them (Lambert and Chevret 2016)."""
    if len(times) < 2:
        raise Undefined("a mean over time needs at least two times")
    for time in times:
        _need_both_outcomes(target, train, time)
    seen = _events_until(times[-1], _clipped(target, train))
    return float(_weighted("cumulative_dynamic_auc", train, seen, rank, times)[1])


def brier(survival: Floats, target: SurvivalTarget, train: SurvivalTarget, time: float) -> float:
    """Brier score at one time of the predicted probabilities (n,) to survive it."""
    _need_follow_up(target, train, time)
    return float(_weighted("brier_score", train, _clipped(target, train), survival[:, None], [time])[1][0])


def integrated_brier(survival: Floats, target: SurvivalTarget, train: SurvivalTarget, times: Floats) -> float:
    """Brier score of (n, t) probabilities, integrated over the times by trapezoids, over their span."""
    if len(times) < 2:
        raise Undefined("an integral needs at least two times")
    for time in times:
        _need_follow_up(target, train, time)
    return float(_weighted("integrated_brier_score", train, _clipped(target, train), survival, times))


def calibration_error(survival: Floats, target: SurvivalTarget, time: float) -> float:
    """Mean absolute difference of predicted and Kaplan-Meier risk at one time, over groups of about ten patients."""
    if not len(target):
        raise Undefined("no test patients")
    error = calibration_groups(
        survival, target, time, num_groups=int(np.clip(len(target) // 10, 1, 10))
    ).error
    if np.isnan(error):
        raise Undefined(f"a group of patients was not followed until {time:g}")
    return error


def d_calibration_p(own: Floats, target: SurvivalTarget) -> float:
    """The p-value of the D-calibration of S at the patients' own times."""
    if len(own) < 50:
        raise Undefined(f"{len(own)} patients are fewer than 5 per decile: no chi-squared distribution")
    return d_calibration(own, target).p_value


def own_survival(times: Floats, survival: Floats, target: SurvivalTarget) -> Floats:
    """S of each patient at their own time from curves on a grid: linear in between, S(0) = 1, constant beyond."""
    knots = np.concatenate([[0.0], times[times > 0]])
    curves = np.concatenate([np.ones((len(survival), 1)), survival[:, times > 0]], axis=1)
    return np.array([np.interp(t, knots, curve) for t, curve in zip(target.time, curves, strict=True)])


def _need_pairs(target: SurvivalTarget, tau: float) -> None:
    early = target.event & (target.time < tau)
    if not early.any():
        raise Undefined("no events" if tau == np.inf else f"no events before tau = {tau:g}")
    first = target.time[early].min()
    if not ((target.time > first) | ((target.time == first) & ~target.event)).any():
        raise Undefined("no comparable pair: no patient was followed beyond the first event")


def _need_train(train: SurvivalTarget, time: float) -> None:
    if not len(train):
        raise Undefined("no training patients to estimate the censoring from")
    if time > train.time.max():
        raise Undefined(f"{time:g} is beyond the last training time {train.time.max():g}")


def _need_follow_up(target: SurvivalTarget, train: SurvivalTarget, time: float) -> None:
    if not len(target):
        raise Undefined("no test patients")
    _need_train(train, time)
    first, last = target.time.min(), min(target.time.max(), train.time.max())
    if not first <= time < last:
        raise Undefined(f"{time:g} is outside the follow-up [{first:g}, {last:g}) of the patients")


def _need_both_outcomes(target: SurvivalTarget, train: SurvivalTarget, time: float) -> None:
    if not (target.event & (target.time <= time)).any():
        raise Undefined(f"no events by {time:g}")
    if not (target.time > time).any():
        raise Undefined(f"no patient was followed beyond {time:g}")
    _need_follow_up(target, train, time)


def _clipped(target: SurvivalTarget, train: SurvivalTarget) -> SurvivalTarget:
    """Follow-up cut at the end of the training follow-up, where the censoring is no longer known.

    No value at an earlier time changes; without it, scikit-survival refuses test patients who were followed
    longer.
    """
    last = train.time.max()
    return SurvivalTarget.unchecked(np.minimum(target.time, last), target.event & (target.time <= last))


def _events_until(time: float, target: SurvivalTarget) -> SurvivalTarget:
    """Without the events after the last time at which an AUC is taken, where these patients are controls.

    scikit-survival weighs all events, and refuses all times because of one at which G is 0, as it often is at the very last.
    """
    return SurvivalTarget.unchecked(target.time, target.event & (target.time <= time))


def _weighted(name: str, train: SurvivalTarget, target: SurvivalTarget, *args: Any, **kwargs: Any) -> Any:
    from sksurv import metrics

    try:
        return getattr(metrics, name)(train.to_structured(), target.to_structured(), *args, **kwargs)
    except ValueError as error:  # shapes were checked: what is left is about the censoring distribution
        raise Undefined(f"scikit-survival: {error}") from error
