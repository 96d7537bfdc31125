"""Streams against the same data in memory: `pytest tests/benchmarks/test_streams.py`.

The rows say what reading in pieces costs in time and saves in memory. Decoding is left out: the source is a memory map or an
array; `examples/gigapixel.py` prints the share of decoding for a slide.
"""

import numpy as np
import pytest
import torch

from healnet import HEALNet, PatchBag, Pieces, Stream
from healnet.encoders import GridEncoder, PatchEncoder

TITLE = (
    "| what | pass | memory, s | pieces, s | pieces / memory | memory, GiB | pieces, GiB |\n"
    "|---|---|---|---|---|---|---|"
)
GIB = 2**30


def pixels(tmp_path):
    """2,048 x 2,048 x 3 pixels on disk, one layer of 8 latents."""
    source = np.lib.format.open_memmap(
        tmp_path / "scan.npy", mode="w+", dtype=np.float32, shape=(2048, 2048, 3)
    )
    source[:] = np.random.default_rng(0).random(source.shape, dtype=np.float32)
    model = HEALNet(
        {"x": GridEncoder(3, 2)}, depth=1, num_latents=8, latent_dim=32, num_heads=1, self_attention=0
    )
    return model, lambda: torch.from_numpy(np.array(source))[None], Stream([Pieces(source, (512, 512))])


def patches(tmp_path):
    """100,000 patches x 1,024 features on disk, two layers of 16 latents, 8 heads."""
    source = np.lib.format.open_memmap(
        tmp_path / "bag.npy", mode="w+", dtype=np.float32, shape=(100_000, 1024)
    )
    source[:] = np.random.default_rng(0).random(source.shape, dtype=np.float32)
    coords = torch.randint(0, 99_999, (100_000, 2))
    model = HEALNet({"x": PatchEncoder(1024)}, depth=2, num_latents=16, num_heads=8, head_dim=64)
    mask = torch.ones(1, 100_000, dtype=torch.bool)

    def whole():
        return PatchBag(torch.from_numpy(np.array(source))[None], coords[None], mask)

    return model, whole, Stream([Pieces(source, (8192,), coords=coords)])


@pytest.mark.parametrize("training", [False, True], ids=["forward", "forward+backward"])
@pytest.mark.parametrize("case", [pixels, patches], ids=lambda case: case.__name__)
def test_pieces_against_memory(case, training, tmp_path, median_seconds, peak_memory, report):
    torch.manual_seed(0)
    model, whole, stream = case(tmp_path)

    def run(inputs):
        with torch.set_grad_enabled(training):
            output = model({"x": inputs})
            if training:
                output.sum().backward()
        return output.detach()

    assert torch.allclose(run(whole()), run(stream), atol=1e-4)
    ways = (lambda: run(whole()), lambda: run(stream))
    seconds = [median_seconds(way, rounds=3) for way in ways]
    peaks = [(peak_memory(way) or 0) / GIB for way in ways]
    report(
        TITLE,
        f"| {case.__name__} | {'forward + backward' if training else 'forward'} | {seconds[0]:.2f} | {seconds[1]:.2f} "
        f"| {seconds[1] / seconds[0]:.2f} | {peaks[0]:.2f} | {peaks[1]:.2f} |",
    )
