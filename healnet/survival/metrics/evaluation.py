"""Metrics of predicted risks and survival curves: `concordance` and `evaluate`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from healnet._warnings import warn
from healnet.survival._checks import (
    Floats,
    Index,
    as_array,
    check_inside,
    check_least,
    check_probabilities,
    check_risk,
)
from healnet.survival._order import check_columns, check_order
from healnet.survival.baseline import BreslowBaseline
from healnet.survival.curve import SurvivalCurve
from healnet.survival.metrics import _scores as scores
from healnet.survival.metrics._ranks import ranks
from healnet.survival.target import SurvivalTarget

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["concordance", "evaluate"]


def concordance(risk: ArrayLike, target: SurvivalTarget) -> float:
    """Compute Harrell's C, the share of comparable pairs in which the earlier event has the larger risk.

    Tied risks count half (Harrell et al. 1996; scikit-survival's `concordance_index_censored`). Only the order of risks
    counts. Risks that differ by less than a millionth of themselves are tied, for equal patients differ by as much where a
    network in float32 gets them in other batches.

    Args:
        risk: Predicted risk, larger = worse.
        target: The same patients' follow-up.

    Shape:
        risk: (n,) or (n, 1)

    Returns:
        C in [0, 1]; NaN, with a UserWarning that says why, where it is undefined.

    Raises:
        ValueError: Arguments in another order, lengths that differ, a risk that is not finite, a Series or DataFrame of
            patients in another order than the target's own.

    Example:
        >>> concordance([3.0, 1.0, 2.0], SurvivalTarget([1, 3, 2], [True, False, True]))
        1.0
    """
    rank = ranks(check_risk(risk, target))
    try:
        return scores.harrell(rank, target)
    except scores.Undefined as reason:
        warn(f"Harrell's C is undefined: {reason}")
        return math.nan


def evaluate(
    risk: ArrayLike | None,
    target: SurvivalTarget,
    train_target: SurvivalTarget,
    *,
    survival: ArrayLike | SurvivalCurve | BreslowBaseline | None = None,
    times: ArrayLike | None = None,
    tau: float | None = None,
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute every metric that the predictions allow, one row each.

    ===================  ================================================================================
    harrell_c            Harrell's C, as `concordance`
    uno_c                Uno's C for events before tau, which `time` states (Uno et al. 2011)
    auc, mean_auc        cumulative/dynamic AUC at each time; its mean (Lambert and Chevret 2016)
    brier,               Brier score at each time (Graf et al. 1999);
    integrated_brier     its integral over the times, divided by their span
    calibration_error    mean |predicted - Kaplan-Meier| risk at each time, in up to ten groups of patients
    d_calibration_p      p of `d_calibration`: small = the curves are not calibrated
    ===================  ================================================================================

    C and AUC know risks by their order alone, and tie what `concordance` ties.
    All but the calibrations are scikit-survival's; the probability G of not being censored that weighs them is
    estimated on `train_target`, right-continuous: patients censored at t lower G(t).

    AUC and Brier score at t: a patient with the event at exactly t has had it; one censored at exactly t was not followed
    beyond t, so they are no control, and weigh 0 in the Brier score like all who were censored before.

    Args:
        risk: Predicted risk, larger = worse, for the rows down to mean_auc; None leaves them out.
        target: Follow-up of the n patients that were predicted.
        train_target: Follow-up of the patients that the model was fitted on.
        survival: Predicted survival, for the rows from brier on: S(t | patient) at `times`, a `SurvivalCurve` of the
            patients, or the `BreslowBaseline` of a Cox model whose log hazards `risk` holds.
        times: Increasing times. Without an array of survival they may be left out: the quartiles of the patients'
            event times. The integral is a sum over these times, so give a fine grid where its value counts.
        tau: Time before which Uno's C counts events; the last time that both cohorts reach if left out.
        bootstrap: Number of times to draw the patients with replacement for an interval; 0 for none. The model and
            the training patients are taken as they are. A draw repeats patients, which makes groups less even: it
            moves calibration_error up and d_calibration_p down.
        confidence: Confidence of the percentile interval.
        seed: Random seed of the bootstrap.

    Shape:
        risk: (n,) or (n, 1)
        survival: (n, t)
        times: (t,)

    Returns:
        Columns metric, time, value, low, high, note. Where a metric is undefined its value is NaN and its
        note says why; where it is undefined in some draws, the note says in how many.

    Raises:
        ValueError: Neither risk nor survival, an array `survival` without `times`, a `BreslowBaseline` without risk,
            shapes that do not fit, patients or columns of a DataFrame in another order, a confidence outside (0, 1).

    Example:
        >>> target = SurvivalTarget([1, 2, 3, 4], [True, True, False, True])
        >>> table = evaluate([3.0, 4.0, 2.0, 1.0], target, target, times=[2.0, 9.0])
        >>> table.loc[table["metric"] == "auc", ["time", "value", "note"]].values.tolist()
        [[2.0, 1.0, ''], [9.0, nan, 'no patient was followed beyond 9']]
    """
    import pandas as pd

    if risk is None and survival is None:
        raise ValueError("expected risk, survival or both, got neither")
    check_least("bootstrap", bootstrap, 0)
    check_inside("confidence", confidence)
    risks = None if risk is None else check_risk(risk, target)
    on_grid = survival is not None and not isinstance(survival, (SurvivalCurve, BreslowBaseline))
    grid = _grid(times, target, needed=on_grid)
    rows: list[_Row] = []
    if risks is not None:
        rows += _risk_rows(risks, target, train_target, grid, tau)
    if survival is not None:
        rows += _survival_rows(_curves(survival, risks, target, grid), target, train_target, grid)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(target), size=(bootstrap, len(target))) if len(target) else None
    table = [_filled(row, len(target), draws, confidence) for row in rows]
    return pd.DataFrame(table, columns=["metric", "time", "value", "low", "high", "note"])


class _Row(NamedTuple):
    metric: str
    time: float
    of: Callable[[Index], float]  # the metric of the test patients at these positions


def _risk_rows(
    risk: Floats, test: SurvivalTarget, train: SurvivalTarget, grid: Floats, tau: float | None
) -> list[_Row]:
    if tau is not None and not tau > 0:
        raise ValueError(f"expected tau > 0, got {tau}")
    rank = ranks(risk)
    end = float(min(train.time.max(initial=0), test.time.max(initial=0))) if tau is None else float(tau)
    return [
        _Row("harrell_c", math.nan, lambda i: scores.harrell(rank[i], test[i])),
        _Row("uno_c", end, lambda i: scores.uno(rank[i], test[i], train, end)),
        *(_Row("auc", time, partial(_auc, rank, test, train, time)) for time in grid.tolist()),
        _Row("mean_auc", math.nan, lambda i: scores.mean_auc(rank[i], test[i], train, grid)),
    ]


class _Curves(NamedTuple):
    """Survival (n, t) on the grid, (n,) at each patient's own time, and as far as the curve is known there."""

    grid: Floats
    own: Floats
    known: SurvivalTarget


def _curves(
    survival: ArrayLike | SurvivalCurve | BreslowBaseline,
    risk: Floats | None,
    target: SurvivalTarget,
    grid: Floats,
) -> _Curves:
    if isinstance(survival, SurvivalCurve):
        if len(survival) != len(target):
            raise ValueError(
                f"expected survival of {len(target)} patients, as the target, got {len(survival)}"
            )
        s, own = (survival.at(t).detach().double().cpu().numpy() for t in (grid, target.time[:, None]))
        return _Curves(s, own[:, 0], _cut(target, survival.last_time))
    if isinstance(survival, BreslowBaseline):
        if risk is None:
            raise ValueError(
                "expected risk, the log hazards of the patients, beside a BreslowBaseline, got None"
            )
        s, own = (survival.survival(risk, t).numpy() for t in (grid, target.time[:, None]))
        return _Curves(s, own[:, 0], _cut(target, survival.last_time))
    check_order(survival, target, "survival")
    check_columns(survival, grid)
    s = check_probabilities(survival, (len(target), len(grid)))
    return _Curves(s, scores.own_survival(grid, s, target), _cut(target, max(grid, default=0.0)))


def _cut(target: SurvivalTarget, last: float) -> SurvivalTarget:
    """Events beyond the last time of a curve are censored there: of S then it is known that it lies below."""
    return SurvivalTarget.unchecked(target.time, target.event & (target.time <= last))


def _survival_rows(curves: _Curves, test: SurvivalTarget, train: SurvivalTarget, grid: Floats) -> list[_Row]:
    s, own, known = curves
    return [
        *(
            _Row("brier", time, partial(_brier, s[:, j], test, train, time))
            for j, time in enumerate(grid.tolist())
        ),
        _Row("integrated_brier", math.nan, lambda i: scores.integrated_brier(s[i], test[i], train, grid)),
        *(
            _Row("calibration_error", time, partial(_calibration_error, s[:, j], test, time))
            for j, time in enumerate(grid.tolist())
        ),
        _Row("d_calibration_p", math.nan, lambda i: scores.d_calibration_p(own[i], known[i])),
    ]


def _auc(rank: Floats, test: SurvivalTarget, train: SurvivalTarget, time: float, i: Index) -> float:
    return scores.auc(rank[i], test[i], train, time)


def _brier(survival: Floats, test: SurvivalTarget, train: SurvivalTarget, time: float, i: Index) -> float:
    return scores.brier(survival[i], test[i], train, time)


def _calibration_error(survival: Floats, test: SurvivalTarget, time: float, i: Index) -> float:
    return scores.calibration_error(survival[i], test[i], time)


def _grid(times: ArrayLike | None, test: SurvivalTarget, needed: bool) -> Floats:
    if times is None:
        if needed:
            raise ValueError("expected times, one for each column of survival, got None")
        seen = test.time[test.event]
        return np.unique(np.quantile(seen, [0.25, 0.5, 0.75])) if len(seen) else np.zeros(0)
    grid = np.atleast_1d(np.asarray(as_array(times), dtype=np.float64))
    if grid.ndim != 1 or not (np.diff(grid) > 0).all() or not (grid >= 0).all():
        raise ValueError(f"expected times that are >= 0 and increase, got {grid.tolist()}")
    return grid


def _filled(
    row: _Row, num_patients: int, draws: Index | None, confidence: float
) -> tuple[str, float, float, float, float, str]:
    try:
        value = row.of(np.arange(num_patients))
    except scores.Undefined as reason:
        return row.metric, row.time, math.nan, math.nan, math.nan, str(reason)
    if draws is None or not len(draws):
        return row.metric, row.time, value, math.nan, math.nan, ""
    sample = []
    for draw in draws:
        try:
            sample.append(row.of(draw))
        except scores.Undefined:
            continue  # counted in the note
    missing = len(draws) - len(sample)
    note = f"undefined in {missing} of {len(draws)} draws" if missing else ""
    if not sample:
        return row.metric, row.time, value, math.nan, math.nan, note
    low, high = np.quantile(sample, [(1 - confidence) / 2, (1 + confidence) / 2])
    return row.metric, row.time, value, float(low), float(high), note
