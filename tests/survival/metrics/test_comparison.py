"""The paired bootstrap, against every draw that there is."""

import itertools

import numpy as np
import pytest

from healnet.survival import SurvivalTarget, compare, concordance


def cohort(seed=0, n=40):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    target = SurvivalTarget(np.ceil(rng.exponential(5 * np.exp(-risk))), rng.random(n) < 0.7)
    return rng, risk, target


def c_index(risk, time, event):
    """Harrell's C pair by pair; NaN without a pair."""
    won = [
        1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
        for i, j in itertools.permutations(range(len(time)), 2)
        if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j]))
    ]
    return np.mean(won) if won else np.nan


def all_draws(a, b, target):
    """The differences on every one of the n^n equally likely resampled cohorts, and which are defined."""
    n = len(target)
    found = []
    for draw in itertools.product(range(n), repeat=n):
        rows = list(draw)
        part = a[rows], b[rows], target.time[rows], target.event[rows]
        found.append(c_index(part[0], *part[2:]) - c_index(part[1], *part[2:]))
    return np.array(found)


def test_the_bootstrap_agrees_with_every_possible_draw():
    """With ties in risks and times; 5^5 = 3125 draws, some without a pair."""
    target = SurvivalTarget([1, 2, 2, 3, 4], [True, True, False, True, False])
    a, b = np.array([3.0, 4.0, 1.0, 1.0, 2.0]), np.array([2.0, 1.0, 1.0, 3.0, 4.0])
    exact = all_draws(a, b, target)
    defined = exact[~np.isnan(exact)]
    result = compare(a, b, target, bootstrap=20_000, seed=5, confidence=0.6)
    assert result.resamples / 20_000 == pytest.approx(len(defined) / len(exact), abs=0.01)
    low, high = np.quantile(defined, [0.2, 0.8])
    assert low < high
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.02)
    assert result.p_value == pytest.approx(2 * min((defined <= 0).mean(), (defined >= 0).mean()), abs=0.02)
    assert 0.05 < result.p_value < 0.95
    assert result.c_a == concordance(a, target) == c_index(a, target.time, target.event)
    assert result.c_b == concordance(b, target)
    assert result.difference == result.c_a - result.c_b


def test_the_seed_repeats_the_draws():
    rng, risk, target = cohort()
    noise = rng.normal(size=40)
    assert compare(risk, noise, target, seed=3) == compare(risk, noise, target, seed=3)
    assert compare(risk, noise, target, seed=3).low != compare(risk, noise, target, seed=4).low


def test_better_worse_and_equal():
    rng, risk, target = cohort(1, 80)
    noise = rng.normal(size=80)
    better = compare(risk, noise, target)
    assert better.low > 0
    assert better.p_value < 0.01
    worse = compare(noise, risk, target)
    assert (worse.difference, worse.p_value) == (-better.difference, better.p_value)
    equal = compare(risk, 2 * risk + 1, target)
    assert (equal.difference, equal.low, equal.high, equal.p_value) == (0, 0, 0, 1)


def test_draws_without_pairs_are_left_out():
    target = SurvivalTarget([1, 2, 3], [True, False, False])
    result = compare([3.0, 2.0, 1.0], [1.0, 2.0, 3.0], target, bootstrap=500)
    assert (
        250 < result.resamples < 400
    )  # the one event, and someone else, are in 1 - (2/3)^3 - (1/3)^3 of the draws
    assert (result.low, result.high) == (1, 1)


def test_refused():
    target = SurvivalTarget([1, 2], [True, True])
    for arguments, message in (
        (([1, 2], [1, 2], target, 0), "expected bootstrap >= 1, got 0"),
        (([1], [1, 2], target), "expected risk_a of shape (2,) or (2, 1), one value per patient, got (1,)"),
        (
            ([1, 2], [1, np.nan], target),
            "expected risk_b to be finite, got nan at position 1 (1 of 2 are wrong)",
        ),
        (
            ([1, 2], [1, 2], SurvivalTarget([1, 2], [False, False])),
            "expected risks and a target of which Harrell's C is defined, got no events",
        ),
        (([1, 2], [1, 2], target, 10, 95), "expected confidence in (0, 1), got 95"),
    ):
        with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
            compare(*arguments)
        assert str(error.value) == message
