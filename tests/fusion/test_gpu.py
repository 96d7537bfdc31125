"""The whole model on a GPU against the same on a CPU, wherever a GPU is found."""

import os

import pytest
import torch
from torch import nn

from healnet import HEALNet, Masked, PatchBag, Pieces, Stream, TimeSeries
from healnet.encoders import GridEncoder, LearnedEncoder, OmicEncoder, PatchEncoder, SequenceEncoder
from healnet.explain import attention_scores, gradient_x_input
from healnet.inputs import move
from healnet.nn import chunked_attention

# HEALNET_TEST_GPU=cpu runs the tests themselves where there is no GPU.
DEVICE = os.environ.get("HEALNET_TEST_GPU", "cuda")
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no GPU")
N = 50


def build(**arguments):
    torch.manual_seed(0)
    encoders = {
        "rna": OmicEncoder(6, tokens=2, token_dim=3),
        "genes": OmicEncoder(N, token_dim=5),
        "slide": PatchEncoder(4),
        "ct": GridEncoder(2, 3),
        "vitals": SequenceEncoder(2),
        "learned": LearnedEncoder(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)), 4),
    }
    sizes = {"num_latents": 3, "latent_dim": 8, "num_heads": 2, "head_dim": 5, "output": "cox"}
    return HEALNet(encoders, **sizes | arguments)


def inputs(dtype=torch.float64):
    """Three patients; the second lacks the slide, the third has a short one."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    mask = torch.arange(N) < torch.tensor([[N], [0], [9]])
    coords = torch.randint(0, 5000, (3, N, 2), generator=generator)
    real = torch.ones(3, 5, 4, 3, dtype=torch.bool)
    real[2, 3:] = False
    return {
        "rna": normal(3, 6),
        "genes": Masked(normal(3, N), torch.rand(3, N, generator=generator) < 0.8),
        "slide": PatchBag(normal(3, N, 4), coords, mask),
        "ct": Masked(normal(3, 5, 4, 3, 2), real),
        "vitals": TimeSeries(normal(3, N, 2), normal(3, N).abs().cumsum(1), normal(3, N, 2) > -1),
        "learned": normal(3, N, 5),
    }


def in_pieces(whole):
    slides, scans = zip(*whole["slide"], strict=True), whole["ct"].values
    return {
        "rna": whole["rna"],
        "slide": Stream([Pieces(f, (7,), m, c) if m.any() else None for f, c, m in slides]),
        "ct": Stream([Pieces(scan, (2, 4, 3)) for scan in scans]),
    }


def results(device, whole, **arguments):
    model = build(**arguments).to(device, whole["rna"].dtype)
    own = {name: move(value, device) for name, value in whole.items()}
    output = model.train()(own)
    output.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    scores = {
        f"{method} {name}": score
        for method in ("mean", "rollout", "gradient")
        for name, score in attention_scores(model, own, method=method).items()
    }
    if "genes" not in whole:
        scores |= gradient_x_input(model, own, per_token=True)
    found = {"output": output.detach(), **gradients, **scores}
    assert {x.device.type for x in found.values()} == {torch.device(device).type}
    return {name: x.double().cpu() for name, x in found.items()}


@pytest.mark.parametrize("checkpoint_layers", [False, True])
@pytest.mark.parametrize("kept", [0, 2**22], ids=["chunks", "kept"])
@pytest.mark.parametrize("pieces", [False, True], ids=["memory", "pieces"])
def test_output_gradients_and_scores_are_those_of_a_cpu(monkeypatch, checkpoint_layers, kept, pieces):
    monkeypatch.setattr(chunked_attention, "KEEP_ELEMENTS", kept)
    whole = in_pieces(inputs()) if pieces else inputs()
    expected, got = (
        results(device, whole, checkpoint_layers=checkpoint_layers) for device in ("cpu", DEVICE)
    )
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_near(dtype):
    exact = results("cpu", inputs())
    with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        got = results(DEVICE, inputs(torch.float32))
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    for name, value in exact.items():
        size = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(
            got[name], value, rtol=0, atol=tolerance * size, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_memory_is_that_of_a_chunk():
    """A volume of 301,056 voxels and 1,024 queries, whose scores would take 1.2 GiB, forward and backward."""
    if DEVICE != "cuda":
        pytest.skip("memory is counted on a GPU")
    model = HEALNet({"ct": GridEncoder(1, 3)}, depth=1, num_latents=128, num_heads=8).cuda()
    scan = torch.rand(1, 6, 224, 224, 1, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model({"ct": scan}).sum().backward()
    chunk = 4 * chunked_attention.CHUNK_ELEMENTS_GPU
    tokens = 4 * scan.numel() * model.encoders["ct"].token_dim
    assert torch.cuda.max_memory_allocated() - before < 5 * chunk + 4 * tokens
