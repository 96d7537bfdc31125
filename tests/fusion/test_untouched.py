import math

import pytest
import torch
from torch import nn

from healnet import HEALNet, Masked
from healnet.encoders import LearnedEncoder, OmicEncoder
from healnet.fusion import FusionLayer
from healnet.fusion.untouched import touch


def test_latents_stay_bit_for_bit_and_gradients_are_zero():
    latents = torch.tensor([-0.0, 0.0, 1.5, math.inf], requires_grad=True)
    module = nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.fill_(math.nan)  # a parameter that is not finite must not spoil the rest
    module.bias.requires_grad_(False)
    touched = touch(latents, [module])
    assert touched.tolist() == latents.tolist()
    assert torch.equal(touched.signbit(), latents.signbit())
    touched[:3].sum().backward()
    assert (module.weight.grad == 0).all()
    assert module.bias.grad is None
    assert latents.grad.tolist() == [1.0, 1.0, 1.0, 0.0]


def test_without_gradients_nothing_is_done():
    latents = torch.ones(2)
    with torch.no_grad():
        assert touch(latents, [nn.Linear(3, 2)]) is latents
    assert touch(latents, []) is latents


class MeanFusion(FusionLayer):
    """A layer of a user's own, which says nothing about absent modalities."""

    def __init__(self):
        super().__init__()
        self.read = nn.ModuleDict({name: nn.Linear(4, 6) for name in ("rna", "image")})

    def forward(self, latents, tokens, recorder=None):
        for name, x in tokens.items():
            latents = latents + self.read[name](x.standardized()).mean(1, keepdim=True)
        return latents


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("given", [set(), {"rna"}, {"image"}, {"rna", "image"}])
def test_every_parameter_has_a_gradient_whatever_is_absent(given, own):
    torch.manual_seed(0)
    encoders = {
        "rna": OmicEncoder(5, tokens=2, token_dim=4),
        "image": LearnedEncoder(nn.Linear(3, 4), 4),
    }
    layers = [MeanFusion(), MeanFusion()] if own else None
    model = HEALNet(encoders, latent_dim=6, num_latents=3, num_heads=1, head_dim=2, layers=layers)
    values = {"rna": torch.randn(4, 5), "image": torch.randn(4, 7, 3)}
    inputs = {name: x for name, x in values.items() if name in given}
    model(inputs).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        absent = any(other in name for other in {"rna", "image"} - given)
        assert (parameter.grad == 0).all() if absent else True, name
    # What a batch has trains as it would with the others all masked.
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    masked = {n: x if n in given else Masked(x, torch.zeros(4).bool()) for n, x in values.items()}
    if not own and given:  # MeanFusion knows no masks; without inputs the batch is one patient
        model(masked).sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=1e-6)
    # In evaluation nothing is joined.
    model.eval().zero_grad()
    model(inputs).sum().backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert any("rna" in name for name in unused) == ("rna" not in given)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
def test_compiled_and_transformed_gradients_are_the_same_with_an_absent_modality():
    torch.manual_seed(0)
    encoders = {name: OmicEncoder(5, tokens=2, token_dim=4) for name in ("rna", "protein")}
    model = HEALNet(encoders, latent_dim=8, num_latents=3, num_heads=1, head_dim=4)
    rna = torch.randn(3, 5)
    model({"rna": rna}).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled({"rna": rna}).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)

    def loss(parameters, row):
        return torch.func.functional_call(model, parameters, ({"rna": row[None]},)).square().sum()

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        single = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(dict(model.named_parameters()), rna)
    for name, gradient in expected.items():
        torch.testing.assert_close(single[name].sum(0), gradient, rtol=1e-4, atol=1e-5)
