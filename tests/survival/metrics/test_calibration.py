"""Calibration on cohorts whose truth is known."""

import numpy as np
import pytest
from scipy.stats import kstest

from healnet.survival import SurvivalTarget, calibration_groups, d_calibration


def simulated(rng, n, censoring=None):
    """Exponential survival with a risk per patient, and the true S at each patient's own time."""
    rate = np.exp(rng.normal(size=n))
    time = rng.exponential(1 / rate)
    limit = np.full(n, np.inf) if censoring is None else rng.exponential(censoring, n)
    event = time <= limit
    time = np.minimum(time, limit)
    return rate, time, event


def test_p_is_uniform_on_calibrated_cohorts():
    rng = np.random.default_rng(0)
    p = []
    for _ in range(500):
        rate, time, event = simulated(rng, 300)
        p.append(d_calibration(np.exp(-rate * time), SurvivalTarget.unchecked(time, event)).p_value)
    assert kstest(p, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.08


def test_censored_calibrated_cohorts_are_not_accused():
    """Spread mass is smoother than whole patients: p is larger than uniform, never smaller."""
    rng = np.random.default_rng(1)
    p = []
    for _ in range(500):
        rate, time, event = simulated(rng, 300, censoring=1.0)
        assert 0.3 < event.mean() < 0.7
        p.append(d_calibration(np.exp(-rate * time), SurvivalTarget.unchecked(time, event)).p_value)
    assert kstest(p, "uniform", alternative="greater").pvalue > 0.01  # the distribution function is not above
    assert np.mean(np.array(p) < 0.05) < 0.05


@pytest.mark.parametrize("wrong", [0.5, 2.0])
@pytest.mark.parametrize("censoring", [None, 1.0])
def test_p_is_tiny_on_miscalibrated_cohorts(wrong, censoring):
    rng = np.random.default_rng(2)
    for _ in range(20):
        rate, time, event = simulated(rng, 1000, censoring)
        assert (
            d_calibration(np.exp(-wrong * rate * time), SurvivalTarget.unchecked(time, event)).p_value < 1e-3
        )


def counts(survival, event, num_bins):
    return d_calibration(survival, SurvivalTarget(range(len(event)), event), num_bins)


def test_counts_by_hand():
    """An event at 0.35 counts whole; one censored there spreads 1/0.35 over what lies below."""
    assert counts([0.35], [True], 4).counts.tolist() == [0, 1, 0, 0]
    np.testing.assert_allclose(counts([0.35], [False], 4).counts, [0.25 / 0.35, 0.1 / 0.35, 0, 0])
    np.testing.assert_allclose(counts([1.0, 0.0], [False, False], 4).counts, [1.25, 0.25, 0.25, 0.25])
    assert counts([1.0, 0.0, 0.25], [True] * 3, 4).counts.tolist() == [1, 1, 0, 1]
    result = counts([0.1, 0.6], [True, True], 2)
    assert (result.chi2, result.p_value) == (0, 1)
    assert counts([[0.1], [0.2]], [True, True], 2).chi2 == 2


def test_groups_of_a_calibrated_model_lie_on_the_diagonal():
    rng = np.random.default_rng(3)
    rate, time, event = simulated(rng, 20_000, censoring=2.0)
    target = SurvivalTarget(time, event)
    result = calibration_groups(np.exp(-rate), target, time=1.0, num_groups=5)
    assert result.size.tolist() == [4000] * 5
    assert (np.diff(result.predicted) > 0).all()
    np.testing.assert_allclose(result.observed, result.predicted, atol=0.03)
    assert result.error < 0.015
    assert ((result.low < result.observed) & (result.observed < result.high)).all()
    halved = calibration_groups(np.exp(-rate / 2), target, time=1.0, num_groups=5)
    assert (halved.observed > halved.predicted + 0.05).all()


def test_tied_predictions_share_a_group_and_lost_follow_up_is_undefined():
    target = SurvivalTarget([1, 2, 3, 9, 9, 1], [True, True, True, False, False, False])
    result = calibration_groups([0.2, 0.2, 0.2, 0.8, 0.8, 0.5], target, time=5, num_groups=4)
    assert result.size.tolist() == [2, 1, 3]
    np.testing.assert_allclose(result.predicted, [0.2, 0.5, 0.8])
    np.testing.assert_allclose(result.observed, [0, np.nan, 1])
    assert np.isnan(result.error)


def test_refused():
    target = SurvivalTarget([1, 2], [True, False])
    for refused, message in (
        (
            lambda: d_calibration([0.5], target),
            "expected survival of shape (2,), one value per patient, got (1,)",
        ),
        (lambda: d_calibration([], target[:0]), "expected number of patients >= 1, got 0"),
        (
            lambda: d_calibration([1.5, 0.5], target),
            "expected survival to hold probabilities in [0, 1], got 1.5 at position 0 (1 of 2 are wrong)",
        ),
        (lambda: d_calibration([0.5, 0.5], target, 1), "expected num_bins >= 2, got 1"),
        (
            lambda: calibration_groups([0.5], target, 1),
            "expected survival of shape (2,), one value per patient, got (1,)",
        ),
        (
            lambda: calibration_groups([0.5, np.nan], target, 1),
            "expected survival to hold probabilities in [0, 1], got nan at position 1 (1 of 2 are wrong)",
        ),
        (lambda: calibration_groups([0.5, 0.5], target, 1, 0), "expected num_groups >= 1, got 0"),
    ):
        with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
            refused()
        assert str(error.value) == message


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_probability_at_a_limit_is_in_the_interval_that_begins_there(dtype):
    s = np.repeat(np.arange(10) / 10, 10).astype(dtype)
    target = SurvivalTarget.unchecked(np.ones(100), np.ones(100, dtype=bool))
    assert d_calibration(s, target).counts.tolist() == [10] * 10
    assert d_calibration(np.ones(10, dtype), target[:10]).counts.tolist() == [0] * 9 + [10]
