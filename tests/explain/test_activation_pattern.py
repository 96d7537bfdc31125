import numpy as np
import pytest
import torch

from healnet.explain import activation_pattern
from healnet.inputs import Masked


def pattern(values, outcome, mask=None):
    """The pattern of a table for a model that answers with the outcome."""
    table = values if mask is None else Masked(values, mask)
    return activation_pattern(lambda _: outcome, {"x": table}, risk=lambda output: output)["x"]


def test_it_is_the_correlation_over_real_cells():
    rng = np.random.default_rng(0)
    values, outcome, mask = rng.standard_normal((30, 7)), rng.standard_normal(30), rng.random((30, 7)) > 0.3
    found = pattern(torch.tensor(values), torch.tensor(outcome), torch.tensor(mask))
    expected = [np.corrcoef(values[mask[:, j], j], outcome[mask[:, j]])[0, 1] for j in range(7)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_nan_behind_the_mask_does_not_matter():
    values = torch.tensor([[1.0, torch.nan], [2.0, 1.0], [4.0, 0.0]])
    found = pattern(values, torch.tensor([1.0, 2.0, 4.0]), ~values.isnan())
    torch.testing.assert_close(found, torch.tensor([1.0, -1.0]))


def test_what_does_not_vary_is_zero():
    values = torch.tensor([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0]])
    assert pattern(values, torch.tensor([1.0, 2.0, 4.0]))[0] == 0
    assert pattern(values, torch.full((3,), 0.1)).tolist() == [0, 0]


def test_correlated_genes_share_the_credit_that_gradients_give_to_one():
    """Ten noisy copies of one driver, of which the model reads one only."""
    generator = torch.Generator().manual_seed(0)
    driver = torch.randn(500, 1, generator=generator)
    copies = driver + 0.3 * torch.randn(500, 10, generator=generator)
    values = torch.cat([copies, torch.randn(500, 40, generator=generator)], dim=1)
    found = pattern(values, values[:, 0])
    assert found[:10].min() > 0.8
    assert found[10:].abs().max() < 0.2


def test_by_default_every_table_goes_along_with_the_risk_of_the_model(model, inputs):
    found = activation_pattern(model, inputs)
    assert list(found) == ["rna", "protein"]
    with torch.no_grad():
        risk = model.eval()(inputs)[:, 0]
    expected = np.corrcoef(inputs["rna"][:, 2], risk)[0, 1]
    assert float(found["rna"][2]) == pytest.approx(expected)


def test_another_outcome_may_stand_for_the_risk(model, inputs):
    outcome = {"rna": torch.tensor([3.0, 1.0, 2.0]).double()}
    found = activation_pattern(model, inputs, modalities=["rna"], outcome=outcome)
    expected = np.corrcoef(inputs["rna"][:, 4], outcome["rna"])[0, 1]
    assert float(found["rna"][4]) == pytest.approx(expected)


def test_what_does_not_fit_is_refused(model, inputs):
    message = r"^modality 'slide': expected a table \(b, f\), got values of shape \(3, 11, 4\)$"
    with pytest.raises(ValueError, match=message):
        activation_pattern(model, inputs, modalities=["rna", "slide"])
    with pytest.raises(
        ValueError, match=r"^modality 'rna': expected an outcome of shape \(3,\), got \(2,\)$"
    ):
        activation_pattern(model, inputs, modalities=["rna"], outcome={"rna": torch.zeros(2)})


def test_a_table_of_integers_has_correlations_too():
    found = pattern(torch.tensor([[1, 5], [2, 3], [3, 4]]), torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(found, torch.tensor([1.0, -0.5]))
