"""Weibull against scipy's distribution and lifelines' fitter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import WeibullAFTFitter
from lifelines.datasets import load_rossi
from scipy.stats import weibull_min

from healnet.survival import weibull_nll, weibull_parameters, weibull_survival


def softplus_inverse(x):
    return np.log(np.expm1(x))


@settings(max_examples=25, deadline=None)
@given(st.floats(-2, 2), st.floats(-2, 4), st.floats(0.05, 9), st.booleans())
def test_the_density_and_the_survival_of_scipy(first, second, time, event):
    outputs = torch.tensor([[first, second]], dtype=torch.float64)
    scale, shape = weibull_parameters(outputs)
    law = weibull_min(shape.item(), scale=scale.item())
    expected = -(law.logpdf(time) if event else law.logsf(time))
    assert weibull_nll(outputs, [time], [event]).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert weibull_survival(outputs, [time]).item() == pytest.approx(law.sf(time), abs=1e-12)


def test_the_likelihood_lifelines_fits():
    """WeibullAFTFitter with an intercept alone: its optimum is ours, and the likelihood there is its own."""
    table = load_rossi()[["week", "arrest"]]
    table["week"] /= 52
    fitted = WeibullAFTFitter().fit(table, "week", "arrest")
    time, event = table["week"].to_numpy(), table["arrest"].to_numpy()
    log_scale = fitted.params_[("lambda_", "Intercept")]
    shape = np.exp(fitted.params_[("rho_", "Intercept")])
    theirs = torch.tensor([[log_scale, softplus_inverse(shape)]], dtype=torch.float64)
    nll = weibull_nll(theirs.expand(len(time), 2), time, event, reduction="sum")
    assert nll.item() == pytest.approx(-fitted.log_likelihood_, abs=1e-6)

    outputs = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([outputs], max_iter=100, tolerance_grad=1e-10, tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        loss = weibull_nll(outputs.expand(len(time), 2), time, event)
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(outputs.detach(), theirs, atol=1e-4)
    ours = weibull_nll(outputs.expand(len(time), 2), time, event, reduction="sum").item()
    assert ours == pytest.approx(-fitted.log_likelihood_, abs=1e-6)


def test_the_likelihood_lifelines_fits_with_covariates():
    table = load_rossi()[["week", "arrest", "fin", "prio"]]
    fitted = WeibullAFTFitter().fit(table, "week", "arrest")
    params = fitted.params_
    x = table[["fin", "prio"]].to_numpy()
    log_scale = x @ params["lambda_"][["fin", "prio"]].to_numpy() + params[("lambda_", "Intercept")]
    shape = np.full(len(x), softplus_inverse(np.exp(params[("rho_", "Intercept")])))
    outputs = torch.tensor(np.column_stack([log_scale, shape]))
    nll = weibull_nll(outputs, table["week"].to_numpy(), table["arrest"].to_numpy(), reduction="sum")
    assert nll.item() == pytest.approx(-fitted.log_likelihood_, abs=1e-6)


@pytest.mark.parametrize("first", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("second", [-100.0, 100.0])
@pytest.mark.parametrize("event", [True, False])
def test_finite_at_a_hundred(first, second, event):
    outputs = torch.tensor([[first, second]], requires_grad=True)
    loss = weibull_nll(outputs, torch.tensor([2.0]), torch.tensor([event]))
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize("second", [-41.0, -800.0])
def test_a_shape_too_small_for_its_number_has_its_logarithm(second):
    """As shape -> 0, z -> 0: the term of an event is 1 - log(shape) + log(t)."""
    outputs = torch.tensor([[0.3, second]], dtype=torch.float64, requires_grad=True)
    loss = weibull_nll(outputs, [2.0], [True])
    loss.backward()
    assert loss.item() == pytest.approx(1 - second + np.log(2), abs=1e-9)
    np.testing.assert_allclose(outputs.grad, [[0, -1]], atol=1e-9)


def test_beyond_the_tangent_the_gradient_still_points_home():
    outputs = torch.tensor([[-100.0, 1.0]], requires_grad=True)
    weibull_nll(outputs, torch.tensor([1.0]), torch.tensor([False])).backward()
    assert outputs.grad[0, 0] < 0  # a larger scale lowers the loss


def test_derivatives():
    outputs = torch.tensor([[0.2, 0.3], [-0.5, 1.0], [0.1, -1.0]], dtype=torch.float64, requires_grad=True)
    time, event = torch.tensor([0.5, 2.0, 0.0]), torch.tensor([True, False, False])
    assert torch.autograd.gradcheck(lambda x: weibull_nll(x, time, event), (outputs,))
    assert torch.autograd.gradgradcheck(lambda x: weibull_nll(x, time, event), (outputs,))


def test_censored_at_time_zero_says_nothing():
    outputs = torch.tensor([[0.3, 0.2]], requires_grad=True)
    loss = weibull_nll(outputs, torch.tensor([0.0]), torch.tensor([False]))
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad.tolist() == [[0, 0]]


def test_rows_and_reductions():
    outputs = torch.tensor([[0.2, 0.3], [-0.5, 1.0], [0.1, -1.0]])
    time, event = torch.tensor([0.5, 2.0, 1.0]), torch.tensor([True, False, True])
    terms = weibull_nll(outputs, time, event, reduction="none")
    rows = [2, 0, 1]
    torch.testing.assert_close(
        weibull_nll(outputs[rows], time[rows], event[rows], reduction="none"), terms[rows]
    )
    assert weibull_nll(outputs, time, event).item() == pytest.approx(terms.mean().item())
    assert weibull_nll(outputs, time, event, reduction="sum").item() == pytest.approx(terms.sum().item())


def test_half_precision_is_computed_wider():
    outputs = torch.tensor([[0.5, 1.0]], dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = weibull_nll(outputs, torch.tensor([2.0]), torch.tensor([True]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(weibull_nll(outputs.double(), [2.0], [True]).item(), rel=1e-6)


def test_survival_at_a_hundred():
    """(t / scale)^shape is exp(shape (log t - 100)): in plain powers the scale or the shape would be out of float32."""
    outputs = torch.tensor([[100.0, 100], [-100, 100], [100, -100], [-100, -100]], requires_grad=True)
    found = weibull_survival(outputs, [0.0, 1.0, 5.0])
    found.sum().backward()
    expected = [[1, 1, 1], [1, 0, 0], [1, np.exp(-1), np.exp(-1)], [1, np.exp(-1), np.exp(-1)]]
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-6)
    assert outputs.grad.isfinite().all()


def test_survival_is_refused_at_wrong_times():
    outputs = torch.zeros(2, 2)
    with pytest.raises(
        ValueError, match=r"^expected times to be >= 0, got -1 at position 0 \(1 of 1 are wrong\)$"
    ):
        weibull_survival(outputs, [-1.0])
    with pytest.raises(ValueError, match=r"^expected times of shape \(t,\) or \(2, t\), got \(3, 1\)$"):
        weibull_survival(outputs, [[1.0], [1.0], [1.0]])


def test_survival_at_each_patients_own_times():
    outputs = torch.tensor([[0.0, softplus_inverse(1.0)]] * 2, dtype=torch.float64)
    np.testing.assert_allclose(weibull_survival(outputs, [[1.0], [2.0]]), np.exp([[-1.0], [-2.0]]))


REFUSED = [
    (
        ([[0.0, 0.0, 0.0]], [1.0], [True]),
        "expected outputs of shape (b, 2), log scale and raw shape, got (1, 3)",
    ),
    (([[0.0, 0.0]], [-1.0], [True]), "expected time to be >= 0, got -1 at position 0 (1 of 1 are wrong)"),
    (
        ([[0.0, 0.0]], [0.0], [True]),
        "expected time > 0 for events, whose likelihood is unbounded at 0, got 0 at position 0 (1 of 1 are wrong)",
    ),
    (
        ([[0.0, 0.0]], [1.0, 2.0], [True]),
        "expected time of shape (1,) or (1, 1), one value per patient, got (2,)",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_refused(arguments, message):
    outputs, time, event = arguments
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        weibull_nll(torch.tensor(outputs), time, event)
    assert str(error.value) == message
