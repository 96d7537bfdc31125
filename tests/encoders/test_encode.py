import pytest
import torch
from torch import nn

from healnet import Masked, Tokens
from healnet.encoders import ModalityEncoder, OmicEncoder, encode, encoder_dict


class Wrong(ModalityEncoder):
    token_dim = 3

    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, inputs):
        return self.result


def test_tokens_come_in_the_order_of_the_encoders_without_the_absent():
    encoders = encoder_dict(
        {"rna": OmicEncoder(5, "vector"), "cnv": OmicEncoder(3, "vector"), "mut": OmicEncoder(2)}
    )
    rna, cnv = torch.arange(10.0).view(2, 5), torch.ones(2, 3)
    tokens = encode(encoders, {"cnv": Masked(cnv, torch.tensor([False, True])), "rna": rna, "mut": None})
    assert list(tokens) == ["rna", "cnv"]
    assert torch.equal(tokens["rna"].values, rna.unsqueeze(1))
    assert tokens["cnv"].present.tolist() == [False, True]


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ({}, "^expected at least one encoder, got none$"),
        ({"rna": nn.Linear(2, 2)}, "^modality 'rna': expected a ModalityEncoder, got Linear$"),
        (
            {"a.b": OmicEncoder(2)},
            "^modality 'a.b': expected a name without dots that is not a method of ModuleDict$",
        ),
        ({"keys": OmicEncoder(2)}, "^modality 'keys': expected a name without dots"),
    ],
)
def test_encoders_that_cannot_be(encoders, message):
    with pytest.raises(ValueError, match=message):
        encoder_dict(encoders)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(2, 5), "^expected a mapping from modality to input, got Tensor$"),
        ({"ct": None}, "^unknown modality 'ct': this model's modalities are \\['rna', 'cnv'\\]$"),
        ({"rna": torch.zeros(2, 4)}, "^modality 'rna': expected a shape of \\(b, 5\\), got \\(2, 4\\)$"),
        (
            {"rna": torch.zeros(2, 5), "cnv": torch.zeros(3, 3)},
            "^modality 'cnv': expected a batch of 2 patients as in modality 'rna', got 3$",
        ),
    ],
)
def test_inputs_that_cannot_be(inputs, message):
    with pytest.raises(ValueError, match=message):
        encode(encoder_dict({"rna": OmicEncoder(5), "cnv": OmicEncoder(3)}), inputs)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.zeros(2, 1, 3), "^modality 'x': expected its encoder to return Tokens, got Tensor$"),
        (
            Tokens(torch.zeros(2, 1, 4)),
            "^modality 'x': expected tokens of width 3 \\(its encoder's token_dim\\), got 4$",
        ),
    ],
)
def test_encoders_that_return_something_else(result, message):
    with pytest.raises(ValueError, match=message):
        encode(encoder_dict({"x": Wrong(result)}), {"x": torch.zeros(2, 1)})
