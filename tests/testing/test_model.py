import re
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from healnet import HEALNet, Masked, Tokens
from healnet.encoders import ModalityEncoder, OmicEncoder
from healnet.fusion import FusionLayer
from healnet.inputs import element_mask, unmask
from healnet.testing import LawBrokenError, check_model

SIZES = {"num_latents": 3, "latent_dim": 6, "num_heads": 2, "head_dim": 3}


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class MixesPatients(FusionLayer):
    def forward(self, latents, tokens, recorder=None):
        return latents + sum(x.values.mean() for x in tokens.values())


class InfiniteHead(nn.Module):
    def forward(self, latents):
        return latents.mean((1, 2)) / 0


class LosesPatients(nn.Module):
    def forward(self, latents):
        return latents.mean()


class Crashes(nn.Module):
    def forward(self, latents):
        return {}["risk"]


class MeanOverMasked(ModalityEncoder):
    """Subtracts a mean that missing values are part of."""

    token_dim = 1

    def forward(self, inputs):
        x, mask = unmask(inputs)
        if x.dim() != 2:
            raise ValueError("expected a shape of (b, n)")
        mask = element_mask(mask, x.shape)
        x = x if mask is None else x.masked_fill(~mask.any(1, keepdim=True), 0)
        return Tokens((x - x.mean(1, keepdim=True)).unsqueeze(-1), mask)


def model(**arguments):
    torch.manual_seed(0)
    encoders = {"rna": OmicEncoder(4, tokens=2, token_dim=3), "protein": OmicEncoder(5, token_dim=3)}
    return HEALNet(encoders, **SIZES | arguments)


def example():
    return {"rna": normal(4, 4), "protein": Masked(normal(4, 5), normal(4, 5) > -1)}


class Pair(NamedTuple):
    risk: Tensor
    label: Tensor


class TwoHeads(nn.Module):
    """Two tasks, as a tuple, a NamedTuple or a mapping."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.risk, self.label = nn.Linear(6, 1), nn.Linear(6, 3)

    def forward(self, latents):
        mean = latents.mean(1)
        parts = self.risk(mean), self.label(mean)
        if self.kind is dict:
            return {"risk": parts[0], "label": parts[1]}
        return Pair(*parts) if self.kind is Pair else parts


@pytest.mark.parametrize("kind", [tuple, dict, Pair])
def test_heads_of_several_outputs_keep_the_laws_and_are_traced(kind):
    two = model(head=TwoHeads(kind))
    check_model(two, example())
    first = "risk" if kind is dict else 0
    output, trace = two.eval().trace(example(), gradient_of=lambda out: out[first][:, 0])
    assert type(output) is kind
    assert not output[first].requires_grad
    torch.testing.assert_close(output[first], two(example())[first], rtol=0, atol=0)
    assert trace.gradients["rna"].abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layers": [MixesPatients()], "head": nn.Identity()},
            "model HEALNet: patients do not mix: patient 0, who has [], alone gives what the batch gives: the largest "
            "difference is ",
        ),
        (
            {"head": InfiniteHead()},
            "model HEALNet: the output is finite under every pattern of absence: the output is not finite; likely cause: ",
        ),
        (
            {"head": LosesPatients()},
            "model HEALNet: patients do not mix: expected the output of 4 patients, got a shape of (); likely cause: the",
        ),
        (
            {"head": Crashes()},
            "model HEALNet: the output is finite under every pattern of absence: got KeyError: 'risk'",
        ),
    ],
)
def test_a_broken_model_is_caught(arguments, message):
    with pytest.raises(LawBrokenError, match=f"^{re.escape(message)}"):
        check_model(model(**arguments), example())


def test_an_encoder_that_leaks_inside_a_model_is_named():
    leaky = HEALNet({"rna": OmicEncoder(4, tokens=2), "protein": MeanOverMasked()}, **SIZES)
    message = "modality 'protein' (MeanOverMasked): what is masked changes nothing, when it is moved to other numbers: "
    for protein in (normal(4, 5), Masked(normal(4, 5), torch.ones(4, 5, dtype=torch.bool))):
        with pytest.raises(LawBrokenError, match=f"^{re.escape(message)}"):
            check_model(leaky, {"rna": normal(4, 4), "protein": protein})


def test_an_example_without_a_modality_cannot_serve():
    message = (
        "expected an example with one batch of each modality ['rna', 'protein'], got batch sizes {'rna': 4}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_model(model(), {"rna": normal(4, 4)})
