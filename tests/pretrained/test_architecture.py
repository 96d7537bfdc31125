"""Every encoder of the library goes through plain values and comes back the same."""

import json

import pytest
import torch
from torch import nn

from healnet import HEALNet, encoders
from healnet.encoders import (
    GeneSetEncoder,
    GraphEncoder,
    GridEncoder,
    OmicEncoder,
    PatchEncoder,
    SequenceEncoder,
)
from healnet.pretrained.architecture import NotDescribableError, describe, rebuild

ENCODERS = {
    "genes": GeneSetEncoder(
        ["A_rna", "B_rna", "C_rna"],
        {"s": ["A", "B"], "t": ["C"]},
        token_dim=5,
        rest="drop",
        suffixes=("_rna",),
        dropout=0.2,
    ),
    "graph": GraphEncoder(node_dim=3, walk_length=2, eigenvectors=1, cache=7),
    "grid": GridEncoder(channels=1, ndim=3, patch=2, spacing=(2.0, 1.0, 1.0)),
    "omic": OmicEncoder(7, tokens=3, token_dim=4, input_dropout=0.1),
    "vector": OmicEncoder(7, tokens="vector"),
    "features": OmicEncoder(7, tokens="features", token_dim=6),
    "slide": PatchEncoder(5, num_bands=2, scale=100.0, slide_position=True),
    "series": SequenceEncoder(channels=2, num_bands=3, duration=48.0),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_comes_back_with_its_arguments(name):
    model = HEALNet({name: ENCODERS[name]}, num_latents=3, latent_dim=8, gate="gelu", temperature=0.5)
    description = json.loads(json.dumps(describe(model)))
    again = rebuild(description)
    assert repr(again) == repr(model)
    assert json.loads(json.dumps(describe(again))) == description
    again.load_state_dict(model.state_dict())


def test_all_encoders_of_the_library_are_covered():
    kinds = {type(encoder).__name__ for encoder in ENCODERS.values()}
    public = {name for name in encoders.__all__ if name.endswith("Encoder")}
    assert public - kinds == {"ModalityEncoder", "LearnedEncoder"}


def test_the_order_of_fusion_is_kept():
    model = HEALNet(
        {name: ENCODERS[name] for name in ("slide", "omic", "graph")}, num_latents=2, latent_dim=4
    )
    assert list(rebuild(json.loads(json.dumps(describe(model)))).encoders) == ["slide", "omic", "graph"]


def test_what_plain_values_do_not_hold_is_named():
    class Forgetful(OmicEncoder):
        def __init__(self, width):
            super().__init__(width)

    class Own(HEALNet):
        pass

    one = {"omic": ENCODERS["omic"]}
    for model, message in (
        (HEALNet(one, head=nn.Identity()), r"^the model is a HEALNet with layers or a head of its own$"),
        (Own(one), r"^the model is a Own$"),
        (
            HEALNet({"x": Forgetful(3)}),
            r"^modality 'x': its Forgetful does not keep the constructor's argument 'width'",
        ),
    ):
        with pytest.raises(NotDescribableError, match=message):
            describe(model)


def test_a_built_model_is_untrained():
    description = describe(HEALNet({"omic": ENCODERS["omic"]}, num_latents=2, latent_dim=4))
    torch.manual_seed(0)
    first = rebuild(description)
    assert first.training
    assert not torch.equal(first.latents, rebuild(description).latents)
