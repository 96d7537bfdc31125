"""Kaplan-Meier and log-rank by hand, and against lifelines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test

from healnet.survival import SurvivalTarget, kaplan_meier, logrank_p


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=30))
def test_lifelines_estimate_and_band(rows):
    time, event = zip(*rows, strict=True)
    target = SurvivalTarget.unchecked(np.array(time, dtype=float), np.array(event))
    ours = kaplan_meier(target)
    theirs = KaplanMeierFitter().fit(target.time, target.event)
    np.testing.assert_allclose(ours.survival, theirs.predict(ours.time), atol=1e-12)
    inside = (ours.survival > 0) & (ours.survival < 1)
    band = theirs.confidence_interval_.loc[ours.time[inside]].to_numpy()
    np.testing.assert_allclose(np.column_stack([ours.low, ours.high])[inside], band, atol=1e-9)
    assert ours.time[0] == 0


def test_steps():
    estimate = kaplan_meier(SurvivalTarget([2, 4, 6], [True, False, True]))
    np.testing.assert_allclose(estimate.at([0, 1.9, 2, 5.9, 6, 7]), [1, 1, 2 / 3, 2 / 3, 0, 0])
    open_end = kaplan_meier(SurvivalTarget([2, 4, 6], [True, True, False]))
    np.testing.assert_allclose(open_end.at([6, 6.1]), [1 / 3, np.nan])
    low, high = open_end.band_at([3, 7])
    assert low[0] < 2 / 3 < high[0]
    assert np.isnan([low[1], high[1]]).all()


def test_an_event_at_time_zero():
    estimate = kaplan_meier(SurvivalTarget([0, 4], [True, True]))
    assert estimate.time.tolist() == [0, 4]
    assert estimate.survival.tolist() == [0.5, 0]


@pytest.mark.parametrize("groups", [2, 3])
def test_lifelines_log_rank(groups):
    rng = np.random.default_rng(groups)
    group = rng.integers(0, groups, 80)
    target = SurvivalTarget(rng.integers(1, 20, 80) + 2 * group, rng.random(80) < 0.7)
    theirs = multivariate_logrank_test(target.time, group, target.event).p_value
    assert logrank_p(np.array(["a", "b", "c"])[group], target) == pytest.approx(theirs, abs=1e-9)


def test_a_group_of_which_nobody_is_at_risk_at_an_event_is_left_out():
    """As R's survdiff, which drops groups that expect no event."""
    time, event = np.array([1.0, 1, 2, 3, 4, 5, 6, 7]), np.array([0, 0, 1, 1, 1, 0, 1, 1])
    group = np.array(list("ccaabbab"))
    target = SurvivalTarget(time, event)
    inside = group != "c"
    assert logrank_p(group, target) == logrank_p(group[inside], target[inside])
    theirs = multivariate_logrank_test(time[inside], group[inside], event[inside]).p_value
    assert logrank_p(group, target) == pytest.approx(theirs, abs=1e-9)
    alone = SurvivalTarget([1, 2, 3], [False, True, True])
    assert logrank_p(["a", "b", "b"], alone) == 1
    assert multivariate_logrank_test([1, 2, 3], list("abb"), [0, 1, 1]).p_value == 1


def test_refused():
    target = SurvivalTarget([1, 2], [True, False])
    for refused, message in (
        (lambda: kaplan_meier(target[:0]), "expected number of patients >= 1, got 0"),
        (
            lambda: kaplan_meier(target).at([-1]),
            "expected times to be >= 0, got -1 at position 0 (1 of 1 are wrong)",
        ),
        (
            lambda: kaplan_meier(target).at([np.nan]),
            "expected times to be >= 0, got nan at position 0 (1 of 1 are wrong)",
        ),
        (
            lambda: logrank_p(["a", None], target),
            "expected a group for every patient, got None at position 1 (1 of 2 are missing)",
        ),
        (
            lambda: logrank_p(["a"], target),
            "expected groups of shape (2,) or (2, 1), one value per patient, got (1,)",
        ),
        (lambda: logrank_p(["a", "a"], target), "expected at least two groups for a log-rank test, got 1"),
        (
            lambda: logrank_p(["a", "b"], target[[1, 1]]),
            "expected at least one event for a log-rank test, got none",
        ),
    ):
        with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
            refused()
        assert str(error.value) == message
