"""How well risks and curves agree with what was seen: `concordance` and `evaluate`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import ArrayLike

from healnet.survival import _scores as scores
from healnet.survival.target import SurvivalTarget, check_labels, check_times

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["concordance", "evaluate"]


@overload
def concordance(risk: ArrayLike, time: SurvivalTarget) -> float: ...
@overload
def concordance(risk: ArrayLike, time: ArrayLike, event: ArrayLike) -> float: ...
def concordance(risk: ArrayLike, time: ArrayLike | SurvivalTarget, event: ArrayLike | None = None) -> float:
    """Harrell's C: the share of comparable pairs in which the earlier event has the larger risk.

    Tied risks count half (Harrell et al. 1996; scikit-survival's `concordance_index_censored`).

    Args:
        risk: (n,) larger = worse.
        time: a `SurvivalTarget`, or (n,) times with `event` beside them.
        event: (n,) bool, True = the event was observed.

    Returns:
        C in [0, 1]; NaN, with a UserWarning that says why, where it is undefined.

    Raises:
        ValueError: lengths that differ, a risk that is not finite, a wrong target.
        ImportError: scikit-survival is not installed.

    Example:
        >>> concordance([3.0, 1.0, 2.0], SurvivalTarget([1, 3, 2], [True, False, True]))
        1.0
    """
    if not isinstance(time, SurvivalTarget):
        if event is None:
            raise ValueError("event is missing: concordance takes a SurvivalTarget, or time and event")
        time = SurvivalTarget.unchecked(check_times(time), check_labels(event, "event"))
    risk = scores.checked_risk(risk, time)
    try:
        return scores.harrell(risk, time)
    except scores.Undefined as reason:
        warnings.warn(f"Harrell's C is undefined: {reason}", UserWarning, stacklevel=2)
        return math.nan


def evaluate(
    target_train: SurvivalTarget,
    target_test: SurvivalTarget,
    risk: ArrayLike | None = None,
    survival: ArrayLike | None = None,
    times: ArrayLike | None = None,
) -> pd.DataFrame:
    """Every metric that the given predictions allow, one row each.

    Args:
        target_train: the patients the model was fitted on; the censoring distribution of Uno's C, of the
            time-dependent AUC and of the Brier score is estimated on them.
        target_test: the n patients that were predicted.
        risk: (n,) larger = worse: Harrell's C, Uno's C, and the AUC at each of `times`.
        survival: (n, t) S(t | patient) at `times`: the Brier score at each and its integral.
        times: (t,) increasing; without `survival` it may be left out: the quartiles of the test patients'
            event times.

    Returns:
        Columns metric, time (of AUC and Brier score; tau of Uno's C), value, note. Where a metric is
        undefined its value is NaN and its note says why.

    Raises:
        ValueError: neither risk nor survival, `survival` without `times`, shapes that do not fit.
        ImportError: scikit-survival or pandas is not installed.
    """
    import pandas as pd

    if risk is None and survival is None:
        raise ValueError("evaluate needs risk, survival, or both")
    if times is None:
        if survival is not None:
            raise ValueError("survival needs times: the time of each of its columns")
        seen = target_test.time[target_test.event]
        grid = np.unique(np.quantile(seen, [0.25, 0.5, 0.75])) if len(seen) else np.zeros(0)
    else:
        grid = np.atleast_1d(np.asarray(times, dtype=np.float64))
        if grid.ndim != 1 or not (np.diff(grid) > 0).all():
            raise ValueError(f"times must be increasing, got {grid.tolist()}")
    train, test = target_train, target_test
    rows: list[tuple[str, float, Callable[[], float]]] = []
    if risk is not None:
        r = scores.checked_risk(risk, test)
        tau = float(min(train.time.max(initial=0), test.time.max(initial=0)))
        rows.append(("harrell_c", math.nan, partial(scores.harrell, r, test)))
        rows.append(("uno_c", tau, partial(scores.uno, r, test, train, tau)))
        rows += [("auc", t, partial(scores.auc, r, test, train, t)) for t in grid.tolist()]
    if survival is not None:
        s = scores.checked_survival(survival, test, grid)
        for j, t in enumerate(grid.tolist()):
            rows.append(("brier", t, partial(scores.brier, s[:, j], test, train, t)))
        rows.append(("integrated_brier", math.nan, partial(scores.integrated_brier, s, test, train, grid)))
    return pd.DataFrame([_filled(*row) for row in rows], columns=["metric", "time", "value", "note"])


def _filled(metric: str, time: float, compute: Callable[[], float]) -> tuple[str, float, float, str]:
    try:
        return metric, time, compute(), ""
    except scores.Undefined as reason:
        return metric, time, math.nan, str(reason)
