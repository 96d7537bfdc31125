"""Tests whether one risk ranks better than another on the same patients: `compare`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from healnet.survival._checks import Floats, check_inside, check_least, check_risk
from healnet.survival._order import check_same_order
from healnet.survival.metrics import _scores as scores
from healnet.survival.metrics._ranks import ranks
from healnet.survival.target import SurvivalTarget

__all__ = ["Comparison", "compare"]


class Comparison(NamedTuple):
    """Harrell's C of two risks, and their difference a - b with its bootstrap interval; the result of `compare`."""

    c_a: float
    c_b: float
    difference: float
    low: float
    high: float
    p_value: float
    resamples: int


def compare(
    risk_a: ArrayLike,
    risk_b: ArrayLike,
    target: SurvivalTarget,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare Harrell's C of two risks of the same patients by a paired bootstrap.

    Patients are drawn with replacement, and both risks are judged on the same draw, so that what is hard for
    both cancels. The interval is the percentile interval; p is twice the smaller share of draws on either
    side of zero, counting the observed sample as one (Davison and Hinkley 1997, sec. 4.4), so it is never
    zero.

    Each risk must come from one model that was not fitted on these patients: the interval is about other patients, not
    about other training sets or seeds. For out-of-fold risks pooled over cross-validation p is too small, because the
    models of the folds were fitted on each other's patients: with outcomes shuffled it fell below 0.05 in 12% of runs
    (see `compare_folds`, which compares the scores of folds instead). Nothing in the arrays tells where they came from.

    Args:
        risk_a: Risk by one model, larger = worse.
        risk_b: Risk by the other.
        target: The same patients' follow-up.
        bootstrap: Number of draws.
        confidence: Confidence of the interval.
        seed: Random seed of the bootstrap.

    Shape:
        risk_a, risk_b: (n,) or (n, 1). Memory is O(n^2).

    Returns:
        `resamples` counts the draws in which C was defined.

    Raises:
        ValueError: Arguments or patients in another order, shapes that do not fit, risks that are not finite, fewer than one
            draw, a confidence outside (0, 1), C undefined on the patients themselves.

    Example:
        >>> target = SurvivalTarget([1, 2, 3, 4], [True, True, True, False])
        >>> result = compare([4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0], target, bootstrap=50)
        >>> result.c_a, result.c_b, result.difference
        (1.0, 0.0, 1.0)
    """
    check_least("bootstrap", bootstrap, 1)
    check_inside("confidence", confidence)
    check_same_order(risk_a, risk_b, "risk_a and risk_b")
    a, b = (ranks(check_risk(risk, target, name)) for name, risk in (("risk_a", risk_a), ("risk_b", risk_b)))
    try:
        c_a, c_b = scores.harrell(a, target), scores.harrell(b, target)
    except scores.Undefined as reason:
        raise ValueError(
            f"expected risks and a target of which Harrell's C is defined, got {reason}"
        ) from reason
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(target), np.full(len(target), 1 / len(target)), size=bootstrap)
    weights = draws.astype(np.float64)
    comparable = _comparable(target)
    pairs = _counted(weights, comparable)
    defined = pairs > 0
    gain = _concordant(a) - _concordant(b)
    differences = _counted(weights, comparable * gain)[defined] / pairs[defined]
    if not defined.any():
        raise ValueError(
            f"expected a draw in which C is defined, got none in {bootstrap}: too few events among {len(target)} patients"
        )
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    count = int(defined.sum())
    # Rounded to what a sum of thousands of pairs can hold, so that equal risks count on both sides.
    sides = [int((np.round(sign * differences, 12) <= 0).sum()) for sign in (1, -1)]
    p_value = min(1.0, 2 * (1 + min(sides)) / (1 + count))
    return Comparison(c_a, c_b, c_a - c_b, float(low), float(high), p_value, count)


def _comparable(target: SurvivalTarget) -> Floats:
    """(n, n): 1 where i had the event and j was followed longer, or as long and censored."""
    time, event = target.time, target.event
    later = time[None, :] > time[:, None]
    as_late = (time[None, :] == time[:, None]) & ~event[None, :]
    return (event[:, None] & (later | as_late)).astype(np.float64)


def _concordant(rank: Floats) -> Floats:
    """(n, n): 1 where i has the larger risk, 1/2 where they tie."""
    higher: Floats = (1 + np.sign(rank[:, None] - rank[None, :])) / 2
    return higher


def _counted(weights: Floats, pairs: Floats) -> Floats:
    """The sum of a pair's value over all pairs of each draw, (draws,): exactly that of the resampled cohort.

    Copies of one patient make no pair: they share their time, and their event, so the diagonal of `pairs` is
    zero.
    """
    total: Floats = ((weights @ pairs) * weights).sum(axis=1)
    return total
