import re

import pytest
import torch

from healnet import HEALNet, Masked, PatchBag, Pieces, Stream, Tokens
from healnet.encoders import GridEncoder, OmicEncoder, PatchEncoder

N = 11


@pytest.fixture
def model():
    torch.manual_seed(3)
    encoders = {
        "rna": OmicEncoder(5, tokens=2, token_dim=3),
        "genes": OmicEncoder(N, token_dim=5),
        "slide": PatchEncoder(3),
        "scan": GridEncoder(channels=2, ndim=2),
    }
    return HEALNet(encoders, latent_dim=16, num_latents=3, num_heads=2, head_dim=7).double().eval()


@pytest.fixture
def inputs():
    """The same three patients in memory and in pieces; the second has no slide, the third's ends early."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    coords = torch.randint(0, 9999, (3, N, 2), generator=generator)
    mask = torch.arange(N) < torch.tensor([[N], [0], [8]])
    whole = {
        "rna": draw(3, 5),
        "genes": Masked(draw(3, N), torch.rand(3, N, generator=generator) < 0.8),
        "slide": PatchBag(draw(3, N, 3), coords, mask),
        "scan": draw(3, 4, 3, 2),
    }
    genes, slide = zip(*whole["genes"], strict=True), list(zip(*whole["slide"], strict=True))
    pieces = {
        "rna": whole["rna"],
        "genes": Stream([Pieces(values, (4,), mask) for values, mask in genes]),
        "slide": Stream(
            [
                Pieces(slide[0][0], (3,), coords=slide[0][1]),
                None,
                Pieces(slide[2][0], (5,), mask[2], slide[2][1]),
            ]
        ),
        "scan": Stream([Pieces(scan, (3, 2)) for scan in whole["scan"]]),
    }
    return whole, pieces


def filled(like, stream, walk):
    """What the blocks hold, in the place of each; zeros elsewhere."""
    found = torch.zeros_like(like)
    for patient, pieces in enumerate(stream.stream.patients):
        if pieces is not None:
            own = found[:, patient].unflatten(-1, pieces.sizes)
            for block, part in walk(stream, patient):
                own[(..., *block)] = part.unflatten(-1, [s.stop - s.start for s in block])
    return found


@pytest.mark.parametrize("keep", ["none", "heads", "latents", "both"])
def test_the_blocks_hold_the_weights_and_gradients_of_the_whole(model, inputs, keep):
    whole, pieces = inputs
    options = {"keep": keep, "gradient_of": lambda output: output[:, 0] ** 2}
    output, expected = model.trace(whole, **options)
    streamed, trace = model.trace(pieces, **options)
    torch.testing.assert_close(streamed, output, rtol=0, atol=1e-10)
    torch.testing.assert_close(trace["rna"], expected["rna"], rtol=0, atol=1e-10)
    torch.testing.assert_close(trace.gradients["rna"], expected.gradients["rna"], rtol=0, atol=1e-10)
    assert trace.order == expected.order == tuple(model.encoders)
    assert list(trace.streams) == ["genes", "slide", "scan"]
    for name, stream in trace.streams.items():
        for walk, other in (("weights", expected), ("gradients", expected.gradients)):
            found = filled(other[name], stream, lambda s, i, w=walk: getattr(s, w)(i))
            assert other[name].abs().max() > 1e-6
            torch.testing.assert_close(found, other[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_gradient_of_raw_numbers_is_that_in_memory(model, inputs, mode):
    whole, pieces = inputs
    leaves = {name: whole[name].clone().requires_grad_() for name in ("rna", "scan")}
    features = whole["slide"].features.clone().requires_grad_()
    slide = whole["slide"]._replace(features=features)
    output = model({**whole, **leaves, "slide": slide})
    of_scan, of_slide = torch.autograd.grad((output[:, 0] ** 2).sum(), [leaves["scan"], features])
    with mode():
        _, trace = model.trace(pieces, gradient_of=lambda output: output[:, 0] ** 2)
        for name, expected in (("scan", of_scan), ("slide", of_slide)):
            found = torch.zeros_like(expected)
            for patient, one in enumerate(pieces[name].patients):
                for block, values, slope in trace.streams[name].input_gradients(patient):
                    found[patient][block] = slope
                    assert not values.requires_grad
                    assert torch.equal(values, one.read(block)[0])
            assert expected.abs().max() > 1e-5
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_integers_are_differentiated_as_numbers():
    model = HEALNet({"scan": GridEncoder(channels=2, ndim=2)}).eval()
    scan = torch.randint(0, 9, (4, 3, 2), dtype=torch.uint8)
    _, trace = model.trace({"scan": Stream([Pieces(scan, (4, 3))])}, gradient_of=lambda output: output[:, 0])
    leaf = scan.float().requires_grad_()
    (expected,) = torch.autograd.grad(model({"scan": leaf[None]}).sum(), leaf)
    ((_, values, slope),) = trace.streams["scan"].input_gradients()
    assert torch.equal(values, scan.float())
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-7)


def test_the_pieces_are_read_once_more_for_all_layers(model, inputs):
    class Counted:
        shape, read = (4, 3, 2), 0

        def __getitem__(self, block):
            self.read += 1
            return torch.zeros(4, 3, 2, dtype=torch.float64)[block]

    source = Counted()
    with torch.no_grad():
        _, trace = model.trace({"scan": Stream([Pieces(source, (4, 3))])})
    assert (source.read, len(trace.streams["scan"])) == (2, 2)
    list(trace.streams["scan"].weights())
    assert source.read == 3


def test_weights_of_many_pieces_keep_their_digits_in_float32():
    torch.manual_seed(0)
    scan = torch.rand(300, 200, 3)
    model = HEALNet({"scan": GridEncoder(channels=3, ndim=2)}, depth=1).eval()
    _, exact = model.double().trace({"scan": scan[None].double()})
    _, trace = model.float().trace({"scan": Stream([Pieces(scan, (7, 50))])})
    weights = torch.zeros(300, 200)
    for block, part in trace.streams["scan"].weights():
        weights[block] = part.reshape(weights[block].shape)
    assert torch.allclose(weights.flatten(), exact["scan"][0, 0].float(), rtol=2e-5, atol=0)


def test_gradients_of_an_attention_that_dropped_tokens_are_refused(inputs):
    """In memory the gradients are of the tokens that were left; of a stream it is not kept which these were."""
    slide = {"slide": inputs[1]["slide"]}
    model = HEALNet({"slide": PatchEncoder(3)}, attention_dropout=0.5, latent_dim=16).double()
    message = (
        "modality 'slide': expected a model in evaluation mode for gradients of the attention to a Stream, got attention "
        "dropout in training mode; call model.eval() before"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.train().trace(slide, gradient_of=lambda output: output[:, 0])
    model.train().trace(slide)
    model.eval().trace(slide, gradient_of=lambda output: output[:, 0])


class Projected(PatchEncoder):
    """Patches through a linear layer, whose precision autocast decides."""

    def __init__(self):
        super().__init__(4, positions=False)
        self.linear, self.seen = torch.nn.Linear(3, 4), []

    def encode_block(self, pieces, block, values, mask):
        projected = self.linear(values)
        self.seen.append(projected.dtype)
        return Tokens(projected[None], mask)


def test_blocks_are_encoded_in_the_precision_of_the_forward_pass():
    torch.manual_seed(0)
    encoder = Projected()
    model = HEALNet({"slide": encoder}, depth=1, num_latents=2, latent_dim=8).eval()
    with torch.autocast("cpu", torch.bfloat16):
        _, trace = model.trace({"slide": Stream([Pieces(torch.randn(9, 3), (4,))])})
    forward = len(encoder.seen)
    total = torch.cat([part for _, part in trace.streams["slide"].weights()], dim=-1).sum()
    assert len(encoder.seen) == forward + 3
    assert set(encoder.seen) == {torch.bfloat16}
    assert float(total) == pytest.approx(1, abs=1e-3)


def test_a_stream_is_not_in_the_mapping_and_says_where_it_is(model, inputs):
    _, trace = model.trace(inputs[1])
    assert list(trace) == ["rna"]
    message = "modality 'scan' is a Stream, whose weights are made in blocks: trace.streams['scan'].weights(patient)"
    with pytest.raises(KeyError, match=re.escape(message)):
        trace["scan"]
    assert repr(trace).startswith(
        "AttentionTrace(rna: (2, 3, 2), genes: AttentionStream(Stream([Pieces(11, block (4,)),"
    )
    assert repr(trace).endswith(", 2 layers, keep='none'); keep='none')")
    with pytest.raises(
        ValueError, match=r"^expected a trace with gradients, made by model\.trace\(inputs, gradient"
    ):
        trace.streams["scan"].gradients()
    with pytest.raises(
        ValueError, match=r"^expected a trace with gradients, made by model\.trace\(inputs, gradient"
    ):
        trace.streams["scan"].input_gradients()


def test_the_trace_of_a_stream_holds_no_graph(model, inputs):
    for gradient_of in (None, lambda output: output[:, 0]):
        _, trace = model.trace(inputs[1], gradient_of=gradient_of)
        assert not any(
            output.requires_grad for stream in trace.streams.values() for output in stream.outputs()
        )
        assert not any(part.requires_grad for _, part in trace.streams["genes"].weights())
