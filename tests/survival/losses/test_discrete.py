"""Discrete time: recorded numbers, the formulas in plain probabilities, the ends of the number line, Kaplan-Meier."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter

from healnet.survival import (
    TimeBins,
    cumulative_incidence,
    discrete_cross_entropy,
    discrete_nll,
    hazard,
    risk_score,
    survival_function,
)

REFERENCE = json.loads((Path(__file__).parents[2] / "reference" / "survival.json").read_text())[
    "discrete_nll"
]
LOSSES = [discrete_nll, discrete_cross_entropy]


@st.composite
def batches(draw, causes=None):
    b, k = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    shape = (b, k) if causes is None else (b, causes, k)
    flat = draw(st.lists(st.floats(-8, 8), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    y = draw(st.lists(st.integers(0, k - 1), min_size=b, max_size=b))
    label = st.booleans() if causes is None else st.integers(0, causes)
    event = draw(st.lists(label, min_size=b, max_size=b))
    return torch.tensor(flat, dtype=torch.float64).reshape(shape), torch.tensor(y), torch.tensor(event)


def plain(logits, y, event):
    """h(y), S(y - 1) and S(y) of each patient in plain probabilities."""
    h = 1 / (1 + np.exp(-logits.numpy()))
    s = np.cumprod(1 - h, axis=1)
    rows = np.arange(len(h))
    before = np.where(y > 0, s[rows, np.maximum(y - 1, 0)], 1)
    return h[rows, y], before, s[rows, y], event.numpy()


def test_recorded_likelihood():
    logits = torch.tensor(REFERENCE["logits"], dtype=torch.float64)
    y, event = torch.tensor(REFERENCE["bin"]), torch.tensor(REFERENCE["event"])
    terms = discrete_nll(logits, y, event, reduction="none")
    np.testing.assert_allclose(terms, REFERENCE["per_patient"], atol=1e-6)
    assert discrete_nll(logits, y, event).item() == pytest.approx(REFERENCE["mean"], abs=1e-6)
    assert discrete_nll(logits, y, event, reduction="sum").item() == pytest.approx(terms.sum().item())


@settings(max_examples=60, deadline=None)
@given(batches(), st.floats(0, 1))
def test_the_likelihood_in_plain_probabilities(batch, alpha):
    logits, y, event = batch
    h, before, s, seen = plain(logits, y.numpy(), event)
    expected = np.where(seen, -np.log(h) - np.log(before), -(1 - alpha) * np.log(s))
    np.testing.assert_allclose(discrete_nll(logits, y, event, alpha, reduction="none"), expected, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(batches(), st.floats(0, 1))
def test_the_cross_entropy_in_plain_probabilities(batch, alpha):
    """MCAT's ce_surv without its eps."""
    logits, y, event = batch
    h, before, s, seen = plain(logits, y.numpy(), event)
    asked = np.where(seen, -np.log(1 - s), -np.log(s))
    likelihood = np.where(seen, -np.log(h) - np.log(before), 0)
    expected = (1 - alpha) * asked + alpha * likelihood
    ours = discrete_cross_entropy(logits, y, event, alpha, reduction="none")
    np.testing.assert_allclose(ours, expected, atol=1e-6)  # 1 - S loses digits in the plain form


def test_bin_weights_have_mean_one_and_weigh_events_and_censored():
    logits = torch.zeros(4, 2, dtype=torch.float64)
    y, event = torch.tensor([0, 0, 1, 1]), torch.tensor([True, False, True, False])
    weighted = discrete_nll(logits, y, event, bin_weights=[1.0, 3.0], reduction="none")
    plain_terms = discrete_nll(logits, y, event, reduction="none")
    torch.testing.assert_close(weighted / plain_terms, torch.tensor([0.5, 0.5, 1.5, 1.5]).double())
    same = discrete_nll(logits, y, event, bin_weights=torch.full((2,), 7.0), reduction="none")
    torch.testing.assert_close(same, plain_terms)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_at_a_hundred(sign, dtype):
    """An event's gradient is sigmoid(logit) before its bin and sigmoid(logit) - 1 in it."""
    logits = torch.full((2, 3), sign * 100.0, dtype=dtype, requires_grad=True)
    y, event = torch.tensor([1, 1]), torch.tensor([True, False])
    terms = discrete_nll(logits, y, event, reduction="none")
    terms.sum().backward()
    assert terms.tolist() == pytest.approx([100, 200] if sign > 0 else [100, 2 * np.exp(-100)], rel=1e-5)
    high = sign > 0
    expected = [[high, high - 1, 0], [high, high, 0]]
    np.testing.assert_allclose(logits.grad, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_at_a_hundred(dtype):
    """With all hazards e^-100, 1 - S(1) = 2 e^-100, and each of the two bins has half of the gradient."""
    logits = torch.full((2, 3), -100.0, dtype=dtype, requires_grad=True)
    terms = discrete_cross_entropy(
        logits, torch.tensor([1, 1]), torch.tensor([True, False]), reduction="none"
    )
    terms.sum().backward()
    assert terms.tolist() == pytest.approx([100 - np.log(2), 2 * np.exp(-100)], rel=1e-5)
    np.testing.assert_allclose(logits.grad, [[-0.5, -0.5, 0], [0, 0, 0]], atol=1e-6)
    high = torch.full((1, 3), 100.0, dtype=dtype, requires_grad=True)
    loss = discrete_cross_entropy(high, torch.tensor([1]), torch.tensor([True]), alpha=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(50)
    assert high.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast(loss, dtype):
    layer = torch.nn.Linear(2, 3)
    y, event = torch.tensor([0, 2]), torch.tensor([True, False])
    with torch.autocast("cpu", dtype=dtype):
        logits = layer(torch.ones(2, 2))
        value = loss(logits, y, event)
    assert logits.dtype == dtype
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(logits.double(), y, event).item(), rel=1e-6)
    value.backward()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives(loss):
    logits = torch.randn(
        4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True
    )
    y, event = torch.tensor([0, 2, 1, 2]), torch.tensor([True, True, False, False])
    assert torch.autograd.gradcheck(lambda x: loss(x, y, event, 0.3), (logits,))
    assert torch.autograd.gradgradcheck(lambda x: loss(x, y, event, 0.3), (logits,))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("event", [True, False])
def test_a_batch_of_one_and_all_censored_stay_joined_to_the_graph(loss, event):
    logits = torch.zeros(1, 2, requires_grad=True)
    value = loss(logits, torch.tensor([0]), torch.tensor([event]))
    value.backward()
    assert value.item() == pytest.approx(np.log(2))
    np.testing.assert_allclose(logits.grad, [[-0.5 if event else 0.5, 0]])
    ignored = loss(torch.zeros(1, 2, requires_grad=True), torch.tensor([0]), torch.tensor([False]), alpha=1.0)
    assert ignored.item() == 0
    assert ignored.requires_grad


@pytest.mark.parametrize("loss", LOSSES)
def test_of_nobody_a_zero_joined_to_the_graph(loss):
    logits = torch.zeros(0, 3, requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool))
    assert value.item() == 0
    assert value.requires_grad


@pytest.mark.parametrize("loss", LOSSES)
def test_row_order(loss):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    y, event = torch.randint(3, (7,), generator=generator), torch.rand(7, generator=generator) < 0.5
    rows = torch.randperm(7, generator=generator)
    terms = loss(logits, y, event, reduction="none")
    torch.testing.assert_close(loss(logits[rows], y[rows], event[rows], reduction="none"), terms[rows])


def fit_intercepts(loss, shape):
    logits = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        value = loss(logits)
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach()


def test_an_intercept_only_model_gives_the_kaplan_meier_hazards():
    rng = np.random.default_rng(3)
    y, event = rng.integers(0, 4, 80), rng.random(80) < 0.6
    logits = fit_intercepts(lambda x: discrete_nll(x.expand(80, 4), y, event), (1, 4))
    deaths = np.bincount(y[event], minlength=4)
    at_risk = (y[:, None] >= np.arange(4)).sum(axis=0)
    np.testing.assert_allclose(hazard(logits)[0], deaths / at_risk, atol=1e-9)
    estimate = KaplanMeierFitter().fit(y, event).survival_function_at_times(range(4))
    np.testing.assert_allclose(survival_function(logits)[0], estimate, atol=1e-9)


def test_an_intercept_only_model_of_competing_causes_gives_the_aalen_johansen_incidence():
    rng = np.random.default_rng(4)
    y, cause = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
    logits = fit_intercepts(lambda x: discrete_nll(x.expand(200, 2, 4), y, cause), (1, 2, 4))
    incidence = cumulative_incidence(logits)[0]
    deaths = np.stack([np.bincount(y[cause == r], minlength=4) for r in (1, 2)])
    at_risk = (y[:, None] >= np.arange(4)).sum(axis=0)
    np.testing.assert_allclose(hazard(logits)[0], deaths / at_risk, atol=1e-7)
    survival = np.cumprod(1 - deaths.sum(axis=0) / at_risk)
    before = np.concatenate([[1], survival[:-1]])
    np.testing.assert_allclose(incidence, np.cumsum(deaths / at_risk * before, axis=1), atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(batches())
def test_one_competing_cause_is_the_plain_likelihood(batch):
    logits, y, event = batch
    ours = discrete_nll(logits.unsqueeze(1), y, event.long(), 0.3, reduction="none")
    torch.testing.assert_close(ours, discrete_nll(logits, y, event, 0.3, reduction="none"), atol=1e-9, rtol=0)
    torch.testing.assert_close(hazard(logits.unsqueeze(1)).squeeze(1), hazard(logits))


@settings(max_examples=30, deadline=None)
@given(batches(causes=3))
def test_competing_causes_in_plain_probabilities(batch):
    logits, y, cause = batch
    odds = np.exp(logits.numpy())
    h = odds / (1 + odds.sum(axis=1, keepdims=True))
    s = np.cumprod(1 - h.sum(axis=1), axis=1)
    s_before = np.concatenate([np.ones((len(s), 1)), s[:, :-1]], axis=1)
    rows = np.arange(len(h))
    seen = np.log(h[rows, np.maximum(cause.numpy() - 1, 0), y]) + np.log(s_before[rows, y])
    expected = -np.where(cause > 0, seen, np.log(s[rows, y]))
    np.testing.assert_allclose(discrete_nll(logits, y, cause, reduction="none"), expected, atol=1e-8)
    incidence = cumulative_incidence(logits)
    torch.testing.assert_close(incidence.sum(dim=1), 1 - survival_function(logits), atol=1e-12, rtol=0)
    assert (incidence.diff(dim=2) >= 0).all()


def test_competing_causes_at_a_hundred():
    logits = torch.full((3, 2, 2), -100.0, requires_grad=True)
    terms = discrete_nll(logits, torch.tensor([1, 1, 1]), torch.tensor([0, 1, 2]), reduction="none")
    terms.sum().backward()
    assert terms.tolist() == pytest.approx([0, 100, 100])
    expected = torch.zeros(3, 2, 2)
    expected[1, 0, 1] = expected[2, 1, 1] = -1
    torch.testing.assert_close(logits.grad, expected)


def test_hazard_survival_and_risk():
    logits = torch.log(torch.tensor([[1 / 3, 1.0]]))  # hazards 1/4, 1/2
    torch.testing.assert_close(hazard(logits), torch.tensor([[0.25, 0.5]]))
    torch.testing.assert_close(survival_function(logits), torch.tensor([[0.75, 0.375]]))
    torch.testing.assert_close(risk_score(logits), torch.tensor([-1.125]))
    assert risk_score(logits + 1) > risk_score(logits)
    assert survival_function(logits.half()).dtype == torch.float32


def test_survival_with_bins_is_a_curve():
    logits = torch.log(torch.tensor([[1 / 3, 1.0]]))
    curve = survival_function(logits, TimeBins([0, 10, 30]))
    torch.testing.assert_close(curve.at([0, 5, 10, 20, 30]), torch.tensor([[1, 0.875, 0.75, 0.5625, 0.375]]))
    with pytest.raises(ValueError, match=r"^expected survival of shape \(b, 3\) for 3 bins, got \(1, 2\)$"):
        survival_function(logits, TimeBins([0, 10, 20, 30]))


BINS = torch.tensor([0, 1])
EVENT = torch.tensor([True, False])
REFUSED = [
    (
        (torch.zeros(2), BINS, EVENT),
        "expected logits of shape (b, k), one per time bin, or (b, r, k) for r competing causes, got (2,)",
    ),
    (
        (torch.zeros(2, 3, dtype=torch.long), BINS, EVENT),
        "expected logits of floating point, got torch.int64",
    ),
    (
        (torch.zeros(2, 3), BINS.float(), EVENT),
        "expected y of integer bins, as TimeBins.transform gives them, got torch.float32",
    ),
    (
        (torch.zeros(2, 3), BINS + 2, EVENT),
        "expected y in 0..2 for logits of 3 bins, got 3 at position 1 (1 of 2 are wrong)",
    ),
    (
        (torch.zeros(2, 3), BINS[:1], EVENT),
        "expected y of shape (2,) or (2, 1), one value per patient, got (1,)",
    ),
    (
        (torch.zeros(2, 3), BINS, torch.tensor([1, 2])),
        "expected event to be bool or exactly 0 or 1, got 2 at position 1 (1 of 2 are wrong)",
    ),
    (
        (torch.zeros(2, 2, 3), BINS, torch.tensor([1, 3])),
        "expected event in 0..2 for 2 causes (0 = censored), got 3 at position 1 (1 of 2 are wrong)",
    ),
    (
        (torch.zeros(2, 2, 3), BINS, torch.tensor([1.0, 0.0])),
        "expected event of integers, 0 = censored or the cause 1..2, got torch.float32",
    ),
    ((torch.zeros(2, 3), BINS, EVENT, 1.5), "expected alpha in [0, 1], got 1.5"),
    ((torch.zeros(2, 3), BINS, EVENT, 0.0, [1.0, 2.0]), "expected bin_weights of shape (3,), got (2,)"),
    (
        (torch.zeros(2, 3), BINS, EVENT, 0.0, [1.0, -2.0, 1.0]),
        "expected bin_weights to be >= 0, got -2 at position 1 (1 of 3 are wrong)",
    ),
    (
        (torch.zeros(2, 3), BINS, EVENT, 0.0, None, "max"),
        "expected reduction 'mean', 'sum' or 'none', got 'max'",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_refused(arguments, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        discrete_nll(*arguments)
    assert str(error.value) == message


def test_the_cross_entropy_and_the_incidence_take_one_kind_of_logits():
    with pytest.raises(
        ValueError, match=r"^expected logits of shape \(b, k\), one per time bin, got \(2, 2, 3\)$"
    ):
        discrete_cross_entropy(torch.zeros(2, 2, 3), BINS, EVENT)
    with pytest.raises(
        ValueError, match=r"^expected logits of shape \(b, r, k\) for r competing causes, got \(2, 3\)$"
    ):
        cumulative_incidence(torch.zeros(2, 3))
