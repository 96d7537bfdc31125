import re

import h5py
import numpy as np
import pytest
import torch

from healnet import HEALNet, Masked, Pieces, Stream
from healnet.encoders import GridEncoder, OmicEncoder
from healnet.explain import write_attention


@pytest.fixture
def model():
    torch.manual_seed(0)
    encoders = {"rna": OmicEncoder(5), "scan": GridEncoder(channels=2, ndim=2)}
    return HEALNet(encoders, latent_dim=8, num_latents=3).eval()


@pytest.mark.parametrize("masked", [False, True])
def test_the_file_holds_the_trace_of_the_same_data_in_memory(model, tmp_path, masked):
    scan, rna = torch.rand(20, 14, 2), torch.randn(2, 5)
    mask = torch.ones(20, 14, dtype=torch.bool)
    if masked:
        mask[3:9, :10] = False
    pieces = Pieces(scan, (6, 5), mask=mask if masked else None)
    with h5py.File(tmp_path / "attention.h5", "w") as file:
        out = file.create_dataset("scan", (20, 14), "f4", fillvalue=np.nan)
        inputs = {"rna": rna, "scan": Stream([None, pieces])}
        output = write_attention(model, inputs, "scan", out, patient=1)
        written = torch.from_numpy(out[:])
    whole = {"rna": rna[1:], "scan": Masked(scan[None], mask[None])}
    expected, trace = model.trace(whole)
    assert torch.allclose(output[1:], expected, atol=1e-5)
    relative = trace["scan"].mean(0).reshape(20, 14) * mask.sum()
    assert torch.allclose(written.nan_to_num(0.0), relative, atol=1e-5)
    assert written[mask].mean().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"scan": torch.rand(1, 4, 4, 2)}}, "modality 'scan': expected a Stream, got Tensor"),
        ({"patient": 1}, "modality 'scan': expected a patient who has it, got 1"),
        ({"out": np.zeros((4, 5))}, "modality 'scan': expected out of shape (4, 4), got (4, 5)"),
        ({"train": True}, "expected a model in evaluation mode, got one in training mode; call model.eval()"),
    ],
)
def test_what_cannot_be_written_is_refused(model, change, message):
    stream = Stream([Pieces(torch.rand(4, 4, 2), (2, 2)), None])
    options = {"inputs": {"scan": stream}, "out": np.zeros((4, 4))} | change
    model.train(options.pop("train", False))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_attention(model, options.pop("inputs"), "scan", **options)


def test_tokens_that_are_no_pixels_are_refused():
    model = HEALNet({"scan": GridEncoder(channels=2, ndim=2, patch=2)}).eval()
    message = "modality 'scan': expected one token per element, got 4 tokens of a block of (4, 4)"
    stream = Stream([Pieces(torch.rand(4, 4, 2), (4, 4))])
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_attention(model, {"scan": stream}, "scan", np.zeros((4, 4)))
