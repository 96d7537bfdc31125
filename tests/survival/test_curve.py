"""Curves between the bins: what can be computed by hand, and by fine sums."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.survival import SurvivalCurve, TimeBins, survival_function

BINS = TimeBins([0, 10, 20, 40])
RULES = ["linear", "exponential"]


def curve(values, rule="linear"):
    return SurvivalCurve(torch.tensor(values, dtype=torch.float64), BINS, rule)


@pytest.mark.parametrize("rule", RULES)
def test_both_rules_pass_through_the_edges_and_stay_flat_beyond(rule):
    at = curve([[0.8, 0.4, 0.1]], rule).at([0, 10, 20, 40, 41, 1e6])
    np.testing.assert_allclose(at, [[1, 0.8, 0.4, 0.1, 0.1, 0.1]], rtol=1e-12)


def test_halfway():
    np.testing.assert_allclose(curve([[0.8, 0.4, 0.1]]).at([5, 15, 30]), [[0.9, 0.6, 0.25]])
    halfway = curve([[0.8, 0.4, 0.1]], "exponential").at([5, 15, 30])
    np.testing.assert_allclose(halfway, np.sqrt([[0.8, 0.32, 0.04]]))


def test_each_patients_own_times():
    two = curve([[0.8, 0.4, 0.1], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(two.at(torch.tensor([[5.0], [10.0]])), [[0.9], [0.5]])
    assert len(two) == 2


def test_median_and_quantiles():
    values = [[0.8, 0.4, 0.1], [0.9, 0.8, 0.7], [0.5, 0.5, 0.2]]
    np.testing.assert_allclose(curve(values).median(), [17.5, np.inf, 10])
    np.testing.assert_allclose(curve(values).quantile(0.1), [5, 10, 2])
    exponential = curve(values, "exponential").median()
    np.testing.assert_allclose(exponential, [10 + 10 * np.log(0.8 / 0.5) / np.log(2), np.inf, 10])


@pytest.mark.parametrize("rule", RULES)
def test_a_curve_that_drops_to_zero(rule):
    dead = curve([[0.0, 0.0, 0.0]], rule)
    np.testing.assert_allclose(dead.at([0, 10, 15, 40]), [[1, 0, 0, 0]])
    np.testing.assert_allclose(dead.median(), [5 if rule == "linear" else 0])
    np.testing.assert_allclose(dead.restricted_mean(), [5 if rule == "linear" else 0])


@pytest.mark.parametrize("size", [95.0, 200.0, 1e4])
def test_a_survival_too_small_for_float32_is_not_zero(size):
    """Hazards of constant size within a bin: log S falls from log S(10) by `size` over the 1000 days of the last bin."""
    ours = survival_function(torch.tensor([[-0.4, size]]), TimeBins([0, 10, 1010]), "exponential")
    log_start = float(torch.nn.functional.logsigmoid(torch.tensor(0.4)))
    expected = 10 + 1000 * (log_start - np.log(0.5)) / size
    assert ours.median().item() == pytest.approx(expected, rel=1e-5)
    assert ours.at([[expected]]).item() == pytest.approx(0.5, rel=1e-3)
    whole = 10 * (np.exp(log_start) - 1) / log_start + 1000 * np.exp(log_start) / size
    assert ours.restricted_mean().item() == pytest.approx(whole, rel=1e-5)


def test_where_s_is_exactly_zero_the_exponential_median_is_the_beginning_of_the_bin():
    """The limit of ever larger hazards, which at() and the restricted mean take, too."""
    values = [[0.8, 0.6, 0.0]]
    for tiny, tolerance in ((0.0, 1e-12), (1e-300, 0.02)):  # S(t) = 0.6 (tiny / 0.6)^((t - 20) / 20)
        ours = curve([[0.8, 0.6, tiny]], "exponential")
        np.testing.assert_allclose(ours.median(), [20], rtol=tolerance)
        np.testing.assert_allclose(ours.at([20, 21, 40]), [[0.6, 0, 0]], atol=1e-12)
        until_20 = curve(values, "exponential").restricted_mean(20)
        np.testing.assert_allclose(ours.restricted_mean(), until_20, rtol=tolerance)
    np.testing.assert_allclose(curve(values).median(), [20 + 20 / 6])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.sampled_from(RULES), st.floats(0.5, 40))
def test_laws(logits, rule, horizon):
    ours = survival_function(torch.tensor([logits], dtype=torch.float64), BINS, rule)
    grid = torch.linspace(0, horizon, 20001, dtype=torch.float64)
    values = ours.at(grid)[0]
    assert (values.diff() <= 1e-12).all()
    assert ours.restricted_mean(horizon).item() == pytest.approx(
        torch.trapezoid(values, grid).item(), rel=1e-6
    )
    median = ours.median()
    if median.isfinite():
        assert ours.at(median)[0, 0].item() == pytest.approx(0.5, abs=1e-9)
    else:
        assert ours.at([40])[0, 0] > 0.5


def test_the_restricted_mean_of_nobody_dying_is_the_horizon():
    for rule in RULES:
        np.testing.assert_allclose(curve([[1.0, 1.0, 1.0]], rule).restricted_mean(25), [25])
        np.testing.assert_allclose(curve([[1.0, 1.0, 1.0]], rule).restricted_mean(), [40])


@pytest.mark.parametrize("rule", RULES)
def test_differentiable(rule):
    logits = torch.tensor([[0.2, -0.3, 0.1], [-9.0, -9.0, -9.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: survival_function(x, BINS, rule).at([3, 10, 33]), (logits,))
    assert torch.autograd.gradcheck(lambda x: survival_function(x, BINS, rule).restricted_mean(33), (logits,))


def test_the_last_edge_in_float32_is_a_horizon():
    """0.7 in float32 is below 0.7 in float64."""
    ours = survival_function(torch.zeros(1, 2), TimeBins([0, 0.3, 0.7]))
    assert ours.restricted_mean(0.7).item() == pytest.approx(0.375)
    assert ours.last_time == 0.7


def test_half_precision_is_widened():
    ours = SurvivalCurve(torch.tensor([[0.5, 0.25]], dtype=torch.bfloat16), TimeBins([0, 365, 999]))
    assert ours.median().tolist() == [365]


def test_refused():
    ours = curve([[0.8, 0.4, 0.1]])
    refusals = [
        (lambda: ours.at([[1.0], [2.0]]), "expected times of shape (t,) or (1, t), got (2, 1)"),
        (lambda: ours.at([-1.0]), "expected times to be >= 0, got -1 at position 0 (1 of 1 are wrong)"),
        (lambda: ours.quantile(1.0), "expected p in (0, 1), got 1.0"),
        (lambda: ours.restricted_mean(41), "expected horizon in (0, 40], the span of the bins, got 41"),
        (
            lambda: curve([[0.5, 0.4, 0.1]], "cubic"),
            "expected interpolation 'linear' or 'exponential', got 'cubic'",
        ),
        (
            lambda: curve([[0.5, 0.4, 1.1]]),
            "expected survival to hold probabilities in [0, 1] that do not rise from bin to bin",
        ),
        (
            lambda: curve([[0.1, 0.4, 0.5]]),
            "expected survival to hold probabilities in [0, 1] that do not rise from bin to bin",
        ),
        (lambda: curve([[0.5, 0.4]]), "expected survival of shape (b, 3) for 3 bins, got (1, 2)"),
    ]
    for refused, message in refusals:
        with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
            refused()
        assert str(error.value) == message


def test_it_prints():
    assert (
        repr(curve([[0.8, 0.4, 0.1]]))
        == "SurvivalCurve(1 patients, TimeBins(edges=[0, 10, 20, 40]), 'linear')"
    )
