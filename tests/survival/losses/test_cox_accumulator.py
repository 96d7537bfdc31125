"""Risks collected over forwards give the loss and the gradients of one forward."""

import pytest
import torch

from healnet.survival import CoxAccumulator, cox_nll


def cohort():
    generator = torch.Generator().manual_seed(7)
    return (
        torch.randn(11, 3, generator=generator, dtype=torch.float64),
        torch.randint(1, 6, (11,), generator=generator),
        torch.rand(11, generator=generator) < 0.7,
        torch.randint(0, 2, (11,), generator=generator),
        torch.rand(11, generator=generator) + 0.1,
    )


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("extras", [False, True])
def test_one_patient_at_a_time_gives_the_gradient_of_all_at_once(ties, extras):
    x, time, event, strata, weights = cohort()
    model = torch.nn.Linear(3, 1, dtype=torch.float64)
    whole = cox_nll(model(x), time, event, ties, *((strata, weights) if extras else ()))
    expected = torch.autograd.grad(whole, list(model.parameters()))
    collected = CoxAccumulator(ties)
    for i in range(11):
        row = slice(i, i + 1)
        more = {"strata": strata[row], "weights": weights[row]} if extras else {}
        collected.add(model(x[row]), time[row], event[row], **more)
    assert len(collected) == 11
    loss = collected.loss()
    loss.backward()
    assert loss.item() == pytest.approx(whole.item(), abs=1e-12)
    torch.testing.assert_close(model.weight.grad, expected[0], atol=1e-12, rtol=0)


def test_parts_of_several_patients_and_another_reduction():
    x, time, event, *_ = cohort()
    collected = CoxAccumulator()
    collected.add(x[:4, 0], time[:4], event[:4])
    collected.add(x[4:, :1], time[4:], event[4:])
    torch.testing.assert_close(collected.loss("none"), cox_nll(x[:, 0], time, event, reduction="none"))


def test_days_as_whole_numbers_stay_apart_after_a_part_in_float32():
    collected, eta = CoxAccumulator(), torch.tensor([0.3, -0.2, 0.9])
    days = torch.tensor([2**24, 2**24 + 1], dtype=torch.int64)
    collected.add(eta[:1], torch.tensor([5.0]), [True])
    collected.add(eta[1:], days, [True, True])
    expected = cox_nll(eta, torch.cat([torch.tensor([5.0]).double(), days.double()]), [True] * 3)
    assert collected.loss().item() == expected.item()


def test_clear_starts_anew():
    collected = CoxAccumulator()
    collected.add(torch.zeros(2), [1.0, 2.0], [True, False])
    collected.clear()
    assert len(collected) == 0
    collected.add(torch.zeros(2), [1.0, 2.0], [True, False], strata=[0, 0])  # strata may begin now
    assert collected.loss().item() == pytest.approx(0.6931, abs=1e-4)


def test_refused():
    collected = CoxAccumulator()
    with pytest.raises(ValueError, match=r"^expected patients to be added before loss, got none$"):
        collected.loss()
    with pytest.raises(
        ValueError, match=r"^expected time of shape \(2,\) or \(2, 1\), one value per patient, got \(1,\)$"
    ):
        collected.add(torch.zeros(2), [1.0], [True, False])
    collected.add(torch.zeros(1), [1.0], [True], weights=[2.0])
    with pytest.raises(
        ValueError, match=r"^expected weights with every part or with none, got some before, now none$"
    ):
        collected.add(torch.zeros(1), [1.0], [True])
    with pytest.raises(
        ValueError, match=r"^expected strata with every part or with none, got none before, now some$"
    ):
        collected.add(torch.zeros(1), [1.0], [True], strata=[1], weights=[2.0])
    assert len(collected) == 1
