import pytest
import torch

from healnet import HEALNet
from healnet.encoders import OmicEncoder
from healnet.fusion import FusionLayer


def test_a_layer_without_forward_cannot_be_made():
    class Nothing(FusionLayer):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?forward'?"):
        Nothing()


def test_a_layer_of_ones_own_takes_the_place_of_ours():
    class AddMean(FusionLayer):
        def forward(self, latents, tokens, recorder=None):
            for x in tokens.values():
                latents = latents + x.values.mean((1, 2))[:, None, None]
            return latents

    model = HEALNet(
        {"rna": OmicEncoder(3, tokens="vector")}, layers=[AddMean(), AddMean()], head=torch.nn.Identity()
    )
    rna = torch.tensor([[1.0, 2.0, 6.0]])
    torch.testing.assert_close(model({"rna": rna}), model.latents[None] + 6.0)
