import re

import pytest
import torch

from healnet import Masked
from healnet.encoders import OmicEncoder
from healnet.testing import check_encoder

B, F = 4, 7


@pytest.mark.parametrize("tokens", ["features", "vector", 3])
@pytest.mark.parametrize("gaps", [False, True])
def test_the_laws(tokens, gaps):
    torch.manual_seed(0)
    values = torch.randn(B, F)
    check_encoder(
        OmicEncoder(F, tokens, token_dim=5), Masked(values, torch.rand(B, F) < 0.7) if gaps else values
    )


def test_a_token_per_feature_is_its_value_and_its_embedding():
    encoder = OmicEncoder(3, token_dim=4)
    tokens = encoder(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    assert tokens.mask is None
    assert tokens.values[:, :, 0].tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert torch.equal(tokens.values[1, :, 1:], encoder.embedding)


def test_the_vector_is_one_raw_token():
    tokens = OmicEncoder(3, "vector")(torch.tensor([[1.0, 2.0, 3.0]]))
    assert tokens.values.tolist() == [[[1.0, 2.0, 3.0]]]


def test_projected_tokens_are_selu_of_a_linear_map():
    encoder = OmicEncoder(3, tokens=2, token_dim=5)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    expected = torch.selu(x @ encoder.project.linear.weight.T + encoder.project.linear.bias)
    torch.testing.assert_close(encoder(x).values, expected.view(1, 2, 5))


@pytest.mark.parametrize("tokens", ["vector", 2])
def test_missing_features_enter_as_zero_which_is_the_mean_of_a_standardized_feature(tokens):
    encoder = OmicEncoder(3, tokens)
    gaps = Masked(torch.tensor([[1.0, float("nan"), 3.0]]), torch.tensor([[True, False, True]]))
    torch.testing.assert_close(encoder(gaps).values, encoder(torch.tensor([[1.0, 0.0, 3.0]])).values)


def test_missing_features_are_masked_tokens():
    gaps = Masked(torch.ones(2, 3), torch.tensor([[True, False, True], [False, False, False]]))
    tokens = OmicEncoder(3)(gaps)
    assert tokens.mask.tolist() == [[True, False, True], [False, False, False]]
    assert tokens.present.tolist() == [True, False]


@pytest.mark.parametrize("tokens", ["vector", 2])
def test_a_patient_without_features_is_absent(tokens):
    gaps = Masked(torch.ones(2, 3), torch.tensor([[False, False, True], [False, False, False]]))
    assert OmicEncoder(3, tokens)(gaps).present.tolist() == [True, False]


def test_input_dropout_hides_features_in_training_only_and_never_all_of_a_patient():
    torch.manual_seed(0)
    encoder = OmicEncoder(F, input_dropout=0.9)
    mask = torch.ones(1000, F, dtype=torch.bool)
    mask[0] = False
    tokens = encoder(Masked(torch.ones(1000, F), mask))
    assert tokens.present.tolist() == [False] + [True] * 999
    share = tokens.mask[1:].double().mean().item()
    everything = 0.9**F  # patients in whom nothing was kept keep everything
    assert share == pytest.approx(0.1 + everything, abs=0.03)
    assert encoder.eval()(torch.ones(2, F)).mask is None


def test_input_dropout_keeps_the_mean():
    torch.manual_seed(0)
    encoder = OmicEncoder(F, "vector", input_dropout=0.5)
    values = encoder(torch.ones(20000, F)).values
    assert set(values.unique().tolist()) == {0.0, 2.0}
    assert values.mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": "genes"}, "expected tokens 'features', 'vector' or a positive integer, got 'genes'"),
        ({"tokens": 0}, "expected tokens 'features', 'vector' or a positive integer, got 0"),
        ({"tokens": True}, "expected tokens 'features', 'vector' or a positive integer, got True"),
        ({"tokens": 3, "token_dim": 0}, f"expected num_features and token_dim to be positive, got {F} and 0"),
        ({"num_features": 0}, "expected num_features and token_dim to be positive, got 0 and 32"),
        ({"input_dropout": 1.0}, "expected input_dropout in [0, 1), got 1.0"),
        ({"input_dropout": -0.1}, "expected input_dropout in [0, 1), got -0.1"),
        ({"token_dim": 1}, "expected token_dim of at least 2 (a value and an embedding), got 1"),
    ],
)
def test_bad_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        OmicEncoder(**{"num_features": F} | arguments)


@pytest.mark.parametrize("tokens", ["features", "vector", 2])
def test_mutations_as_integers_or_booleans_are_numbers(tokens):
    encoder, x = OmicEncoder(3, tokens), torch.tensor([[1, 0, 1]])
    for mutated in (x, x.bool()):
        torch.testing.assert_close(encoder(mutated).values, encoder(x.float()).values, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(B,), (B, F + 1), (B, F, 1)])
def test_bad_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=f"^{re.escape(f'expected a shape of (b, {F}), got {shape}')}$"):
        OmicEncoder(F)(torch.zeros(shape))
