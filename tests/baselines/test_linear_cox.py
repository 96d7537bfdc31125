import numpy as np
import pytest
import torch
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from healnet import Masked
from healnet.baselines import LinearCox
from healnet.survival import cox_nll


@pytest.fixture
def patients():
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "age": torch.randn(60, 1, generator=generator, dtype=torch.float64),
        "rna": torch.randn(60, 5, generator=generator, dtype=torch.float64),
    }
    risk = inputs["age"][:, 0] + inputs["rna"][:, 1]
    time = torch.rand(60, generator=generator, dtype=torch.float64) * torch.exp(-risk)
    return inputs, time, torch.arange(60) % 3 > 0


def test_weights_are_those_of_scikit_survivals_ridge(patients):
    inputs, time, event = patients
    model = LinearCox({"age": 1, "rna": 5}).double().fit(inputs, time, event, penalty=3.0)
    # Its penalty is alpha / 2 on the sum of events, on features that are scaled here by hand.
    scaled = torch.cat((inputs["age"], inputs["rna"] / 5**0.5), dim=1).numpy()
    reference = CoxPHSurvivalAnalysis(alpha=3.0, ties="efron", tol=1e-14, n_iter=1000)
    reference.fit(scaled, Surv.from_arrays(event.numpy(), time.numpy()))
    np.testing.assert_allclose(model.weight.detach().numpy(), reference.coef_, atol=1e-5)
    np.testing.assert_allclose(model(inputs).detach().numpy()[:, 0], scaled @ reference.coef_, atol=1e-4)


def test_strata_are_cohorts_with_baselines_of_their_own(patients):
    inputs, time, event = patients
    cohort = torch.arange(60) % 2
    later = torch.where(cohort == 1, time * 100 + 7, time)  # another disease, the same order within
    models = [
        LinearCox({"age": 1, "rna": 5}).double().fit(inputs, at, event, strata=cohort) for at in (time, later)
    ]
    torch.testing.assert_close(models[0].weight, models[1].weight)
    pooled = LinearCox({"age": 1, "rna": 5}).double().fit(inputs, later, event)
    assert (pooled.weight - models[1].weight).abs().max() > 0.05


def test_the_weights_are_a_minimum_and_a_larger_penalty_shrinks_them(patients):
    inputs, time, event = patients
    sizes = []
    for penalty in (0.1, 2.0, 50.0):
        model = LinearCox({"age": 1, "rna": 5}).double().fit(inputs, time, event, penalty=penalty)
        loss = (
            cox_nll(model(inputs), time, event, reduction="sum") + penalty / 2 * model.weight.square().sum()
        )
        (slope,) = torch.autograd.grad(loss, model.weight)
        assert slope.abs().max() < 1e-3
        sizes.append(model.weight.norm().item())
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_what_a_patient_lacks_adds_nothing():
    model = LinearCox({"age": 1, "rna": 4})
    with torch.no_grad():
        model.weight.copy_(torch.tensor([1.0, 10.0, 20.0, 30.0, 40.0]))
    rna = torch.ones(2, 4)
    mask = torch.tensor([[True, False, False, True], [False] * 4])
    assert model({"age": torch.tensor([[2.0], [3.0]]), "rna": Masked(rna, mask)}).tolist() == [[27.0], [3.0]]
    assert model({"rna": rna, "age": None}).tolist() == [[50.0], [50.0]]
    assert model({}).tolist() == [[0.0]]
    whole = Masked(torch.full((2, 4), torch.nan), torch.tensor([False, False]))
    assert model({"rna": whole}).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearCox({}), "^expected at least one table, got none$"),
        (
            lambda: LinearCox({"rna": 3})({"ct": torch.zeros(2, 1)}),
            r"^unknown modality 'ct': this model's tables are \['rna'\]$",
        ),
        (
            lambda: LinearCox({"rna": 3})({"rna": torch.zeros(2, 4)}),
            r"^modality 'rna': expected a shape of \(2, 3\), got \(2, 4\)$",
        ),
        (
            lambda: LinearCox({"rna": 3}).fit({}, torch.ones(1), torch.ones(1), penalty=0),
            "^expected a penalty above 0, got 0$",
        ),
        (
            lambda: LinearCox({"rna": 1}).fit(
                {"rna": torch.tensor([[1.0], [torch.nan]])}, torch.ones(2), torch.ones(2)
            ),
            "^expected finite values, or Masked ones, got others for 1 of 2 patients$",
        ),
        (
            lambda: LinearCox({"rna": 1}).fit({"rna": torch.ones(2, 1)}, torch.ones(2), torch.zeros(2)),
            "^expected at least one observed event, got none in 2 patients$",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
