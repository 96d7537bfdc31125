"""The paired bootstrap, against resampling done the slow way."""

import numpy as np
import pytest

from healnet.survival import SurvivalTarget, compare, concordance


def cohort(seed=0, n=40):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    target = SurvivalTarget(np.ceil(rng.exponential(5 * np.exp(-risk))), rng.random(n) < 0.7)
    return rng, risk, target


def test_every_draw_is_the_difference_on_the_resampled_cohort():
    rng, risk, target = cohort()
    a, b = np.round(risk + rng.normal(size=40), 1), rng.normal(size=40)  # rounded, so that risks tie
    draws = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), size=200)
    slow = []
    for draw in draws:
        rows = np.repeat(np.arange(40), draw)
        slow.append(concordance(a[rows], target[rows]) - concordance(b[rows], target[rows]))
    result = compare(a, b, target, bootstrap=200, seed=5, confidence=0.9)
    np.testing.assert_allclose([result.low, result.high], np.quantile(slow, [0.05, 0.95]), atol=1e-12)
    assert result.c_a == concordance(a, target)
    assert result.c_b == concordance(b, target)
    assert result.difference == result.c_a - result.c_b
    assert result.p_value == pytest.approx(
        2 * (1 + min(np.sum(np.array(slow) <= 0), np.sum(np.array(slow) >= 0))) / 201
    )
    assert result.resamples == 200


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
