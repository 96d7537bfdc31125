import pytest
import torch

from healnet import HEALNet
from healnet.encoders import OmicEncoder, PatchEncoder
from healnet.inputs import Masked, PatchBag


@pytest.fixture
def model():
    """Two tables and a bag, in float64, with dropout that evaluation mode must silence."""
    torch.manual_seed(0)
    encoders = {
        "rna": OmicEncoder(5, token_dim=7),
        "protein": OmicEncoder(3, tokens=2, token_dim=6, input_dropout=0.5),
        "slide": PatchEncoder(4, scale=1000.0),
    }
    sizes = {"depth": 2, "num_latents": 6, "latent_dim": 8, "num_heads": 2, "head_dim": 4}
    return HEALNet(encoders, output="cox", attention_dropout=0.3, ff_dropout=0.3, **sizes).double()


@pytest.fixture
def inputs():
    """Three patients: the first has everything, the second no protein and a short bag, the third no slide."""
    generator = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.tensor([[True] * 11, [True] * 4 + [False] * 7, [False] * 11])
    coords = torch.randint(0, 1000, (3, 11, 2), generator=generator)
    return {
        "rna": randn(3, 5),
        "protein": Masked(randn(3, 3), torch.tensor([True, False, True])),
        "slide": PatchBag(randn(3, 11, 4), coords, mask),
    }


@pytest.fixture
def auroc():
    """The area under the ROC curve by counting pairs: how often a planted element outscores another."""

    def area(scores, planted):
        high, low = scores[planted].unsqueeze(1), scores[~planted]
        return float(((high > low).double() + (high == low) / 2).mean())

    return area
