"""Pairs, written out one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.survival import SurvivalTarget, concordance, ranking_loss, survival_function


@st.composite
def batches(draw):
    b = draw(st.integers(1, 8))
    column = lambda values: draw(st.lists(values, min_size=b, max_size=b))  # noqa: E731
    rows = [draw(st.lists(st.floats(-4, 4), min_size=3, max_size=3)) for _ in range(b)]
    return (
        torch.tensor(rows, dtype=torch.float64),
        torch.tensor(column(st.integers(0, 3))),
        torch.tensor(column(st.booleans())),
        torch.tensor(column(st.integers(0, 2))),
    )


def pairs(time, event):
    for i, j in np.ndindex(len(time), len(time)):
        if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
            yield i, j


@settings(max_examples=30, deadline=None)
@given(batches())
def test_both_forms_pair_by_pair(batch):
    logits, time, event, y = batch
    comparable = list(pairs(time, event))
    risk = logits[:, 0]
    f = 1 - survival_function(logits)
    of_risks = [1 / (1 + np.exp((risk[i] - risk[j]).item() / 2)) for i, j in comparable]
    of_curves = [np.exp(-(f[i, y[i]] - f[j, y[i]]).item() / 0.1) for i, j in comparable]
    for costs, ours in (
        (of_risks, lambda how: ranking_loss(risk.unsqueeze(1), time, event, sigma=2.0, reduction=how)),
        (of_curves, lambda how: ranking_loss(logits, time, event, y, reduction=how)),
    ):
        assert ours("sum").item() == pytest.approx(sum(costs), rel=1e-9, abs=1e-12)
        assert ours("mean").item() == pytest.approx(np.mean(costs) if costs else 0, rel=1e-9, abs=1e-12)


def test_a_small_sigma_gives_one_minus_c():
    risk = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0], dtype=torch.float64)
    time, event = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([True, True, False, True, False])
    loss = ranking_loss(risk, time, event, sigma=1e-3)
    assert loss.item() == pytest.approx(1 - concordance(risk, SurvivalTarget(time, event)), abs=1e-9)


@pytest.mark.parametrize("size", [-100.0, 100.0])
def test_finite_at_a_hundred(size):
    time, event, y = torch.tensor([1, 2, 3]), torch.tensor([True, True, False]), torch.tensor([0, 1, 2])
    for outputs, bins in ((torch.tensor([size, 0.0, -size]), None), (torch.full((3, 3), size), y)):
        outputs.requires_grad_()
        loss = ranking_loss(outputs, time, event, bins)
        loss.backward()
        assert loss.isfinite()
        assert outputs.grad.isfinite().all()
    risk = torch.tensor([size, 0.0, -size])
    assert ranking_loss(risk, time, event).item() == pytest.approx(0 if size > 0 else 1)


def test_derivatives():
    logits = torch.randn(
        4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True
    )
    time, event, y = (
        torch.tensor([1, 2, 2, 3]),
        torch.tensor([True, True, False, True]),
        torch.tensor([0, 1, 1, 2]),
    )
    assert torch.autograd.gradcheck(lambda x: ranking_loss(x, time, event, y, sigma=0.5), (logits,))
    assert torch.autograd.gradgradcheck(lambda x: ranking_loss(x, time, event, y, sigma=0.5), (logits,))
    assert torch.autograd.gradgradcheck(lambda x: ranking_loss(x[:, 0], time, event), (logits,))


@pytest.mark.parametrize("b", [1, 3])
def test_without_pairs_a_zero_joined_to_the_graph(b):
    risk = torch.zeros(b, requires_grad=True)
    loss = ranking_loss(risk, torch.arange(b), torch.zeros(b, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert risk.grad.tolist() == [0] * b


def test_half_precision_is_computed_in_float32():
    risk = torch.tensor([0.5, 0.1], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ranking_loss(risk, torch.tensor([1, 2]), torch.tensor([True, False]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(torch.sigmoid(risk[1].double() - risk[0].double()).item(), rel=1e-6)


REFUSED = [
    ({"reduction": "none"}, "expected reduction 'mean' or 'sum', got 'none'"),
    ({"sigma": 0.0}, "expected sigma > 0, got 0.0"),
    ({"outputs": torch.zeros(2, 3)}, "expected outputs (without y) of shape (b,) or (b, 1), got (2, 3)"),
    ({"y": torch.tensor([0, 1])}, "expected outputs of shape (b, k) where y is given, got (2,)"),
    ({"time": torch.zeros(3)}, "expected time of shape (2,) or (2, 1), one value per patient, got (3,)"),
    (
        {"time": torch.tensor([torch.nan, 2.0])},
        "expected time to be a number, got nan at position 0 (1 of 2 are wrong)",
    ),
    (
        {"event": torch.tensor([0.5, 1])},
        "expected event to be bool or exactly 0 or 1, got 0.5 at position 0 (1 of 2 are wrong)",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED)
def test_refused(wrong, message):
    right = {
        "outputs": torch.zeros(2),
        "time": torch.tensor([1.0, 2.0]),
        "event": torch.tensor([True, False]),
    }
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        ranking_loss(**(right | wrong))
    assert str(error.value) == message
