import numpy as np
import pytest
import torch

from healnet.explain import activation_pattern


def test_it_is_the_correlation_over_real_cells():
    rng = np.random.default_rng(0)
    values, outcome, mask = rng.standard_normal((30, 7)), rng.standard_normal(30), rng.random((30, 7)) > 0.3
    found = activation_pattern(torch.tensor(values), torch.tensor(outcome), torch.tensor(mask))
    expected = [np.corrcoef(values[mask[:, j], j], outcome[mask[:, j]])[0, 1] for j in range(7)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_nan_behind_the_mask_does_not_matter():
    values = torch.tensor([[1.0, torch.nan], [2.0, 1.0], [4.0, 0.0]])
    found = activation_pattern(values, torch.tensor([1.0, 2.0, 4.0]), ~values.isnan())
    torch.testing.assert_close(found, torch.tensor([1.0, -1.0]))


def test_what_does_not_vary_is_zero():
    values = torch.tensor([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0]])
    assert activation_pattern(values, torch.tensor([1.0, 2.0, 4.0]))[0] == 0
    assert activation_pattern(values, torch.full((3,), 0.1)).tolist() == [0, 0]


def test_correlated_genes_share_the_credit_that_gradients_give_to_one():
    """Ten noisy copies of one driver, of which the model reads one only."""
    generator = torch.Generator().manual_seed(0)
    driver = torch.randn(500, 1, generator=generator)
    values = torch.cat(
        [driver + 0.3 * torch.randn(500, 10, generator=generator), torch.randn(500, 40, generator=generator)],
        1,
    )
    pattern = activation_pattern(values, values[:, 0])
    assert pattern[:10].min() > 0.8
    assert pattern[10:].abs().max() < 0.2


def test_shapes_that_do_not_fit_are_refused():
    message = r"^expected values \(b, f\), outcome \(b,\) and mask \(b, f\), got \[\(3, 2\), \(2,\), None\]$"
    with pytest.raises(ValueError, match=message):
        activation_pattern(torch.zeros(3, 2), torch.zeros(2))
