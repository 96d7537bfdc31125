import re

import pytest
import torch

from healnet import HEALNet, Masked, PatchBag, Pieces, Stream
from healnet.encoders import GridEncoder, OmicEncoder, PatchEncoder
from healnet.fusion import FusionLayer


@pytest.fixture
def model():
    torch.manual_seed(3)
    encoders = {
        "genes": OmicEncoder(37, token_dim=5),
        "scan": GridEncoder(channels=3, ndim=2, patch=(2, 1)),
        "slide": PatchEncoder(5, slide_position=True),
    }
    return HEALNet(encoders, latent_dim=16, num_latents=3, num_heads=2, head_dim=7).double().eval()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    coords = torch.randint(0, 99_999, (17, 3), generator=generator)
    coords[:, 2] = torch.arange(17) > 9
    return {"genes": draw(37), "scan": draw(11, 13, 3), "slide": draw(17, 5), "coords": coords}


def in_memory(data, gene_mask=None, slide_mask=None):
    gene_mask = torch.ones(37, dtype=torch.bool) if gene_mask is None else gene_mask
    slide_mask = torch.ones(17, dtype=torch.bool) if slide_mask is None else slide_mask
    return {
        "genes": Masked(data["genes"][None], gene_mask[None]),
        "scan": data["scan"][None],
        "slide": PatchBag(data["slide"][None], data["coords"][None], slide_mask[None]),
    }


def in_pieces(data, gene_mask=None, slide_mask=None):
    return {
        "genes": Stream([Pieces(data["genes"], (10,), mask=gene_mask)]),
        "scan": Stream([Pieces(data["scan"], (4, 6))]),
        "slide": Stream([Pieces(data["slide"], (4,), mask=slide_mask, coords=data["coords"])]),
    }


@pytest.mark.parametrize("masked", [False, True])
def test_output_and_gradients_are_those_in_memory(model, data, masked):
    masks = (torch.arange(37) % 3 > 0, torch.arange(17) % 4 > 0) if masked else (None, None)
    grads = []
    for inputs in (in_memory(data, *masks), in_pieces(data, *masks)):
        model.zero_grad()
        output = model(inputs)
        output.sum().backward()
        grads.append([output, *(parameter.grad for parameter in model.parameters())])
    for whole, pieces in zip(*grads, strict=True):
        assert torch.allclose(pieces, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("positions", [{"scale": 5000.0}, {"positions": False}, {}])
def test_the_places_of_patches_are_those_of_the_whole(data, positions):
    model = HEALNet({"slide": PatchEncoder(5, **positions)}, latent_dim=16).double()
    pieces = Pieces(data["slide"], (4,), coords=data["coords"])
    bag = in_memory(data)["slide"]
    assert torch.allclose(model({"slide": Stream([pieces])}), model({"slide": bag}), rtol=0, atol=1e-10)


@pytest.mark.parametrize("spacing", [None, (2.0, 0.5)])
def test_the_places_of_pixels_are_those_of_the_whole(data, spacing):
    encoder = GridEncoder(channels=3, ndim=2, patch=3, spacing=spacing)
    model = HEALNet({"scan": encoder}, latent_dim=16).double()
    streamed = model({"scan": Stream([Pieces(data["scan"], (6, 3))])})
    assert torch.allclose(streamed, model({"scan": data["scan"][None]}), rtol=0, atol=1e-10)


def test_patients_of_different_sizes_give_what_each_gives_alone(model, data):
    small = torch.randn(3, 2, 3, dtype=torch.float64)
    stream = Stream([Pieces(data["scan"], (4, 6)), None, Pieces(small, (2, 2))])
    genes = torch.randn(3, 37, dtype=torch.float64)
    together = model({"genes": genes, "scan": stream})
    alone = [
        model({"genes": genes[:1], "scan": data["scan"][None]}),
        model({"genes": genes[1:2]}),
        model({"genes": genes[2:], "scan": small[None]}),
    ]
    assert torch.allclose(together, torch.cat(alone), rtol=0, atol=1e-10)


def test_dropout_in_the_encoder_hides_the_same_features_in_every_pass(data):
    encoder = OmicEncoder(37, token_dim=5, input_dropout=0.5).double()
    model = HEALNet({"genes": encoder}, depth=1, latent_dim=8, self_attention=0).double()
    inputs = {"genes": Stream([Pieces(data["genes"], (10,))])}
    parameter = model.encoders["genes"].embedding

    def loss():
        torch.manual_seed(5)
        return model(inputs).sum()

    value = loss()
    torch.rand(3)  # as other layers draw between the two passes
    (grad,) = torch.autograd.grad(value, parameter)
    step = 1e-6 * torch.randn_like(parameter)
    with torch.no_grad():
        parameter += step
        up = loss()
        parameter -= 2 * step
        down = loss()
        parameter += step
    assert torch.allclose((up - down) / 2, (grad * step).sum(), rtol=1e-5)
    hidden = (grad == 0).all(dim=1)
    assert 5 < int(hidden.sum()) < 32  # about half of 37
    torch.manual_seed(5)
    first, second = model(inputs), model(inputs)
    assert not torch.equal(first, second)


class TestRefused:
    @pytest.mark.parametrize(
        ("encoder", "pieces", "message"),
        [
            (
                OmicEncoder(7, tokens=2),
                Pieces(torch.zeros(7), (3,)),
                "modality 'x': OmicEncoder reads its input at once; "
                "expected a tensor or a NamedTuple of tensors, got a Stream",
            ),
            (
                OmicEncoder(7),
                Pieces(torch.zeros(8), (3,)),
                "modality 'x': expected pieces of a shape of (7,), got (8,)",
            ),
            (
                GridEncoder(3, 2),
                Pieces(torch.zeros(8, 5, 1), (3, 3)),
                "modality 'x': expected pieces of a shape of (axis0, axis1, 3), got (8, 5, 1)",
            ),
            (
                GridEncoder(3, 2, patch=2),
                Pieces(torch.zeros(8, 5, 3), (3, 3)),
                "modality 'x': expected blocks in multiples of patch (2, 2), got blocks of (3, 3)",
            ),
            (
                PatchEncoder(3),
                Pieces(torch.zeros(8, 3), (3,)),
                "modality 'x': expected coords of shape (8, 2) or (8, 3), got none",
            ),
            (
                PatchEncoder(4),
                Pieces(torch.zeros(8, 3), (3,)),
                "modality 'x': expected pieces of a shape of (n, 4), got (8, 3)",
            ),
        ],
    )
    def test_pieces_that_do_not_fit_the_encoder(self, encoder, pieces, message):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            HEALNet({"x": encoder})({"x": Stream([pieces])})

    def test_batches_of_other_sizes(self, model, data):
        message = "modality 'scan': expected a batch of 2 patients as in modality 'genes', got 1"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            model({"genes": torch.zeros(2, 37).double(), "scan": Stream([Pieces(data["scan"], (4, 4))])})

    def test_a_fusion_layer_that_reads_tokens_at_once(self, data):
        class Own(FusionLayer):
            def forward(self, latents, tokens, recorder=None):
                return latents

        model = HEALNet({"scan": GridEncoder(3, 2)}, layers=[Own()])
        with pytest.raises(ValueError, match=r"^expected fusion layers that take a Stream, got Own$"):
            model({"scan": Stream([Pieces(data["scan"], (4, 4))])})
