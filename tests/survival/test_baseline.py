"""Breslow's baseline: by hand, and as scikit-survival and lifelines have it."""

import json
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sksurv.linear_model.coxph import BreslowEstimator

from healnet.survival import BreslowBaseline, SurvivalTarget, kaplan_meier

HAND = SurvivalTarget([1, 2, 2, 3, 5], [True, True, False, True, False])


def test_by_hand():
    # exp: 1, 2, 4, 1, 2; at risk from 1: 10, from 2: 9, from 3: 3; the censored at 2 is still at risk at 2.
    eta = torch.tensor([1.0, 2, 4, 1, 2], dtype=torch.float64).log()
    baseline = BreslowBaseline.fit(eta, HAND)
    steps = np.cumsum([1 / 10, 1 / 9, 1 / 3])
    np.testing.assert_allclose(baseline.times, [1, 2, 3])
    np.testing.assert_allclose(baseline.cumulative_hazard, steps * np.exp(float(eta.mean())), rtol=1e-14)
    found = baseline.survival(eta[1:3, None], [0, 0.99, 1, 2.5, 3, 99])
    expected = np.exp(-np.outer([2, 4], [0, 0, steps[0], steps[1], steps[2], steps[2]]))
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert baseline.median(eta[[0, 1, 2]]).tolist() == [
        np.inf,
        3,
        2,
    ]  # 2 * 0.544 and 4 * 0.211 reach log 2 = 0.693


def by_definition(eta, target, asked):
    """Breslow's sum in rational numbers, exact but for the two exponentials."""
    weight = [Fraction(float(np.exp(value))) for value in eta]
    hazard = [
        sum(
            Fraction(int((target.event & (target.time == t)).sum()))
            / sum(w for w, other in zip(weight, target.time, strict=True) if other >= t)
            for t in np.unique(target.time[target.event & (target.time <= until)])
        )
        for until in asked
    ]
    return np.array([[np.exp(-float(min(h * w, Fraction(800)))) for h in hazard] for w in weight])


def test_large_log_hazards_are_exact_where_scikit_survival_subtracts_them_away():
    rng = np.random.default_rng(0)
    asked, wrong, undefined = np.arange(5.0), 0, 0
    for _ in range(200):
        n = int(rng.integers(3, 13))
        target = SurvivalTarget(
            np.append(rng.integers(0, 5, n), [0, 4]), np.append(rng.random(n) < 0.6, [1, 0])
        )
        for size in (1, 10, 30):
            eta = size * rng.normal(size=n + 2)
            exact = by_definition(eta, target, asked)
            ours = BreslowBaseline.fit(eta, target).survival(eta, asked).numpy()
            np.testing.assert_allclose(ours, exact, atol=1e-13)
            with np.errstate(all="ignore"):
                theirs = BreslowEstimator().fit(eta, target.event, target.time).get_survival_function(eta)
                gap = np.array([curve(asked) for curve in theirs]) - exact
            if size == 1:
                np.testing.assert_allclose(gap, 0, atol=1e-12)
            wrong += bool((np.abs(gap) > 0.03).any())
            undefined += bool(np.isnan(gap).any())
    assert wrong > 40
    assert undefined > 0


COHORTS = st.integers(3, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 6), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n).filter(any),
        st.lists(st.floats(-5, 5), min_size=n, max_size=n),
    )
)


@settings(max_examples=60, deadline=None)
@given(COHORTS, st.floats(-50, 50))
def test_it_is_scikit_survivals_estimator_and_blind_to_a_shift(cohort, shift):
    time, event, eta = (np.array(column) for column in cohort)
    target = SurvivalTarget(time, event)
    theirs = BreslowEstimator().fit(eta, event, time.astype(float))
    ours = BreslowBaseline.fit(torch.from_numpy(eta), target)
    shifted = BreslowBaseline.fit(torch.from_numpy(eta + shift), target)
    asked = np.arange(7.0)[(np.arange(7) >= time.min()) & (np.arange(7) <= time.max())]
    curves = np.array([[float(curve(t)) for t in asked] for curve in theirs.get_survival_function(eta)])
    np.testing.assert_allclose(ours.survival(eta, asked), curves, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(shifted.survival(eta + shift, asked), curves, rtol=1e-9, atol=1e-12)


def test_it_is_lifelines_baseline():
    lifelines = pytest.importorskip("lifelines", reason="lifelines is not installed")
    import pandas as pd

    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 2))
    time, event = np.ceil(rng.exponential(np.exp(-x[:, 0])) * 5), rng.random(80) < 0.7
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "time": time, "event": event})
    cox = lifelines.CoxPHFitter(baseline_estimation_method="breslow").fit(frame, "time", "event")
    eta = np.log(cox.predict_partial_hazard(frame).to_numpy())
    baseline = BreslowBaseline.fit(eta, SurvivalTarget(time, event))
    asked = np.unique(time)
    curves = cox.predict_survival_function(frame, times=asked).to_numpy().T
    np.testing.assert_allclose(baseline.survival(eta, asked), curves, rtol=1e-9)
    np.testing.assert_allclose(baseline.median(eta), cox.predict_median(frame).to_numpy().ravel())


def test_without_differences_it_is_close_to_kaplan_meier():
    rng = np.random.default_rng(1)
    target = SurvivalTarget(rng.exponential(size=2000), rng.random(2000) < 0.6)
    curve = BreslowBaseline.fit(torch.zeros(2000), target).survival(torch.zeros(1), target.time)
    early = target.time < np.quantile(target.time, 0.9)
    np.testing.assert_allclose(curve[0, early], kaplan_meier(target).at(target.time[early]), atol=2e-3)


def test_log_hazards_of_any_size_give_probabilities():
    eta = torch.tensor([-300.0, -100, 0, 100, 300])
    baseline = BreslowBaseline.fit(eta, HAND)
    # The last patient is all of every risk set: a hazard of 1 at each event, and none for the others.
    expected = [[1.0, 1, 1]] * 4 + [[1.0, float(np.exp(-1)), float(np.exp(-3))]]
    np.testing.assert_allclose(baseline.survival(eta, [0, 1, 3]), expected, rtol=1e-6)
    assert baseline.median(eta).tolist() == [np.inf] * 4 + [1.0]
    far = baseline.survival(torch.tensor([-5000.0, 5000.0]), [0, 1, 3])
    np.testing.assert_allclose(far, [[1, 1, 1], [1, 0, 0]])


def test_the_type_follows_the_log_hazards():
    for dtype, wide in (
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
    ):
        eta = torch.zeros(5, dtype=dtype, requires_grad=True)
        found = BreslowBaseline.fit(eta, HAND).survival(eta, [1.0])
        assert found.dtype == wide
        assert not found.requires_grad


def test_a_median_in_half_precision_keeps_its_day():
    baseline = BreslowBaseline.fit(torch.zeros(3), SurvivalTarget([361, 365, 367], [True] * 3))
    assert baseline.median(torch.zeros(1, dtype=torch.bfloat16)).tolist() == [365]


def test_a_float32_time_that_was_an_event_time_stays_one():
    """0.7 in float32 is below 0.7 in float64."""
    baseline = BreslowBaseline.fit(torch.zeros(2), SurvivalTarget([0.7, 1], [True, False]))
    at = [baseline.survival(torch.zeros(1), times).item() for times in ([0.7], torch.tensor([0.7]))]
    assert at == pytest.approx([np.exp(-0.5)] * 2)


def test_an_event_at_time_zero_counts_from_the_start():
    baseline = BreslowBaseline.fit(torch.zeros(4), SurvivalTarget([0, 0, 1, 2], [True, False, True, False]))
    found = baseline.survival(torch.zeros(1), [0, 0.5, 1])
    np.testing.assert_allclose(found, [np.exp([-1 / 4, -1 / 4, -3 / 4])], rtol=1e-6)


def test_it_goes_through_json():
    baseline = BreslowBaseline.fit(torch.randn(5), HAND)
    again = BreslowBaseline.from_dict(json.loads(json.dumps(baseline.to_dict())))
    eta = torch.randn(3)
    assert torch.equal(again.survival(eta, [0.5, 2, 7]), baseline.survival(eta, [0.5, 2, 7]))
    assert repr(again) == "BreslowBaseline(3 event times up to 3)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: BreslowBaseline.fit(torch.zeros(4), HAND),
            "expected a log hazard for each of 5 patients, got 4",
        ),
        (
            lambda: BreslowBaseline.fit(torch.zeros(5, 2), HAND),
            "expected log_hazard of shape (b,) or (b, 1), got (5, 2)",
        ),
        (
            lambda: BreslowBaseline.fit(torch.tensor([0.0, 0, float("nan"), 0, 0]), HAND),
            "expected log_hazard to be finite, got nan",
        ),
        (
            lambda: BreslowBaseline.fit(torch.zeros(1), SurvivalTarget([1], [False])),
            "expected at least one observed event, got none",
        ),
        (
            lambda: BreslowBaseline.fit(torch.zeros(5), HAND).survival(torch.zeros(1), [[1.0], [2.0]]),
            "expected times of shape (t,) or (1, t), got (2, 1)",
        ),
        (
            lambda: BreslowBaseline.fit(torch.zeros(5), HAND).survival(torch.zeros(1), [-1.0]),
            "expected times to be >= 0, got -1 at position 0 (1 of 1 are wrong)",
        ),
        (
            lambda: BreslowBaseline([1, 2], [0.1]),
            "expected times and cumulative_hazard of one shape (k,), k > 0, got (2,) and (1,)",
        ),
        (
            lambda: BreslowBaseline.fit(
                torch.tensor([-1000.0, 1000.0]), SurvivalTarget([1, 2], [True, True])
            ),
            "expected log hazards within 600 of their mean, got one 1000 away: has the model diverged?",
        ),
        (
            lambda: BreslowBaseline([2, 1], [0.1, 0.2]),
            "expected times to be finite, >= 0 and ascending, got [2. 1.]",
        ),
        (
            lambda: BreslowBaseline([1, np.inf], [0.1, 0.2]),
            "expected times to be finite, >= 0 and ascending, got [ 1. inf]",
        ),
        (
            lambda: BreslowBaseline([1, 2], [0.2, 0.1]),
            "expected cumulative_hazard to be finite, >= 0 and not falling, got [0.2 0.1]",
        ),
        (
            lambda: BreslowBaseline([1], [-0.1]),
            "expected cumulative_hazard to be finite, >= 0 and not falling, got [-0.1]",
        ),
        (
            lambda: BreslowBaseline([1], [np.inf]),
            "expected cumulative_hazard to be finite, >= 0 and not falling, got [inf]",
        ),
        (lambda: BreslowBaseline([1], [0.1], np.nan), "expected center to be finite, got nan"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
