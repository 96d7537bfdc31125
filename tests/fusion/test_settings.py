"""Weights of another model are refused where shapes fit: `HEALNet.load_state_dict`."""

import io
import re

import pytest
import torch
from torch import nn

from healnet import HEALNet, Tokens
from healnet.encoders import GridEncoder, LearnedEncoder, ModalityEncoder, OmicEncoder, PatchEncoder
from healnet.fusion import HybridFusionLayer
from healnet.fusion.settings import settings_of

SIZES = {"num_latents": 3, "latent_dim": 8, "num_heads": 4, "head_dim": 2}


class Scaled(ModalityEncoder):
    """An encoder of a user's own, whose factor is in no weight."""

    token_dim = 2

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, inputs):
        return Tokens(self.factor * inputs)


def encoders(**changes):
    made = {
        "rna": OmicEncoder(5, tokens=2, token_dim=4),
        "slide": PatchEncoder(6, scale=1000.0),
        "own": Scaled(2.0),
    }
    return made | changes


def build(own=None, **sizes):
    return HEALNet(own or encoders(), **SIZES | sizes)


def stored(model):
    """The weights after a round trip through a file that holds nothing but tensors."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_weights_of_the_same_settings_load():
    build().load_state_dict(stored(build()))
    # Dropout and the declared output do not change what a trained model gives.
    build(ff_dropout=0.3, attention_dropout=0.5, output="cox").load_state_dict(stored(build(output="value")))
    wrapped = nn.Sequential(build())
    wrapped.load_state_dict({f"0.{name}": x for name, x in stored(build()).items()})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"own": dict(reversed(encoders().items()))},
            "expected weights of a model with encoders.order=['rna', 'slide', 'own'], got ['own', 'slide', 'rna']; "
            "5 settings differ, also layers.0.cross_attention.order, layers.0.feed_forward.order, "
            "layers.1.cross_attention.order",
        ),
        (
            {"num_heads": 2, "head_dim": 4},
            "expected weights of a model with layers.0.cross_attention.rna.num_heads=4, got 2; 16 settings differ, also "
            "layers.0.cross_attention.rna.head_dim, layers.0.cross_attention.slide.num_heads, "
            "layers.0.cross_attention.slide.head_dim",
        ),
        (
            {"temperature": 0.5},
            "expected weights of a model with layers.0.cross_attention.rna.temperature=1.0, got 0.5; 8 settings differ, "
            "also layers.0.cross_attention.slide.temperature, layers.0.cross_attention.own.temperature, "
            "layers.0.self_attention.0.temperature",
        ),
        (
            {"gate": "gelu"},
            "expected weights of a model with layers.0.feed_forward.rna.1.gate='selu', got 'gelu'; 8 settings differ, "
            "also layers.0.feed_forward.slide.1.gate, layers.0.feed_forward.own.1.gate, "
            "layers.0.self_feed_forward.0.1.gate",
        ),
        ({"tie_layers": True}, "expected weights of a model with layers.same=[0, 1], got [0, 0]"),
        (
            {"own": encoders(slide=PatchEncoder(6))},
            "modality 'slide': expected weights of a model with encoders.slide.scale=1000.0, got None",
        ),
        (
            {"own": encoders(slide=PatchEncoder(6, scale=1000.0, max_freq=8.0))},
            "modality 'slide': expected weights of a model with encoders.slide.max_freq=32.0, got 8.0",
        ),
        (
            {"own": encoders(own=Scaled(3.0))},
            "modality 'own': expected weights of a model with encoders.own.factor=2.0, got 3.0",
        ),
    ],
    ids=["order", "heads", "temperature", "gate", "ties", "scale", "frequency", "own"],
)
def test_weights_of_another_model_are_refused_before_anything_is_overwritten(other, message):
    model = build()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    message += "; these weights belong to another model"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.load_state_dict(stored(build(**other)))
    for name, x in model.state_dict().items():
        assert torch.equal(x, before[name])
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):  # also as a part of something else
        nn.Sequential(model).load_state_dict({f"0.{k}": x for k, x in stored(build(**other)).items()})


def test_layers_of_torch_count_and_unknown_modules_do_not():
    def network(stride, own):
        class Unknown(nn.Module):
            def __init__(self):
                super().__init__()
                self.verbose = own
                self.conv = nn.Conv2d(1, 2, 3, stride=stride)

        return build({"image": LearnedEncoder(Unknown(), 2)})

    network(1, True).load_state_dict(stored(network(1, False)))
    message = "modality 'image': expected weights of a model with encoders.image.module.conv.stride=[1, 1], got [2, 2]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}; these"):
        network(1, True).load_state_dict(stored(network(2, True)))


def test_the_activation_after_attention_has_no_weight_and_counts():
    def model(activation):
        layer = HybridFusionLayer(8, {"image": 7}, self_attention=0, activation=activation)
        return HEALNet({"image": GridEncoder(2, 1)}, latent_dim=8, layers=[layer])

    message = "expected weights of a model with layers.0.cross_attention.image.activation.class='Identity', got 'LeakyReLU'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}; these"):
        model(nn.Identity).load_state_dict(stored(model(nn.LeakyReLU)))


def test_what_is_no_settings_is_refused():
    state = build().state_dict()
    message = "expected the settings of a model as a uint8 tensor of JSON, got Tensor: "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build().load_state_dict(state | {"_extra_state": torch.ones(3)})
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "_extra_state"'):
        build().load_state_dict({name: x for name, x in state.items() if name != "_extra_state"})


def test_settings_of_ours_hold_what_an_encoder_was_given():
    found = settings_of(OmicEncoder(5, tokens="features", token_dim=7, input_dropout=0.5))
    assert found == {"": {"class": "OmicEncoder", "num_features": 5, "tokens": "features", "token_dim": 7}}
