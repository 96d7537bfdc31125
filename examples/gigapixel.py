"""Every pixel of a slide at full resolution, in bounded memory: one prediction and a map of the attention to each pixel.

    python examples/gigapixel.py --output gigapixel
    python examples/gigapixel.py --slide my.svs --tissue --output gigapixel

No patch is encoded beforehand and no pixel is left out: the slide is read block by block, once to predict and once more to
write the attention. Without `--slide` it makes one of `--side` pixels a side, pale tissue with dark nodules. The model is a
toy: it is trained for some seconds on small crops that are drawn here, whose simulated risk is their share of dark pixels.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import tifffile
import torch
from tqdm import tqdm

from healnet import HEALNet, Pieces, Stream
from healnet.encoders import GridEncoder
from healnet.explain import to_pyramid_tiff, write_scores
from healnet.slides import Slide, slide_pieces
from healnet.survival import cox_nll

TILE = 512
PALE, DARK = np.array([226, 160, 196], np.uint8), np.array([90, 40, 120], np.uint8)


def nodules(side: int) -> list[tuple[float, float, float]]:
    """(y, x, radius) in pixels of the dark nodules of the made slide."""
    rng = np.random.default_rng(0)
    places, sizes = rng.uniform(0.1, 0.9, (12, 2)), rng.uniform(0.01, 0.03, 12)
    return [(y * side, x * side, radius * side) for (y, x), radius in zip(places, sizes, strict=True)]


def draw(top: int, left: int, step: int, side: int, grain: np.ndarray) -> np.ndarray:
    """Every `step`-th pixel of a tile of the made slide: (TILE, TILE, 3) uint8."""
    y, x = (start + step * np.arange(TILE, dtype=np.float32) for start in (top, left))
    dark = np.zeros((TILE, TILE), dtype=bool)
    for center_y, center_x, radius in nodules(side):
        # Most tiles are far from most nodules.
        if (
            abs(y.mean() - center_y) < radius + TILE * step
            and abs(x.mean() - center_x) < radius + TILE * step
        ):
            dark |= (y[:, None] - center_y) ** 2 + (x - center_x) ** 2 < radius**2
    return np.where(dark[..., None], DARK, PALE) + grain


def make_slide(path: Path, side: int) -> Path:
    """A tiled TIFF at 0.25 microns per pixel and an overview of it, drawn tile by tile."""

    def tiles(step: int) -> Iterator[np.ndarray]:
        size = -(-side // step)
        starts = [(top, left) for top in range(0, size, TILE) for left in range(0, size, TILE)]
        for top, left in tqdm(starts, desc=f"making a slide, every {step}. pixel", unit="tile"):
            yield draw(top * step, left * step, step, side, grain)

    grain = np.random.default_rng(1).integers(0, 16, (TILE, TILE, 1), dtype=np.uint8)
    part = path.with_suffix(".part")
    with tifffile.TiffWriter(part, bigtiff=True) as file:
        for step in (1, 16):
            size, scale = -(-side // step), 1e4 / (0.25 * step)
            file.write(
                tiles(step),
                shape=(size, size, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="zlib",
                compressionargs={"level": 1},
                subfiletype=int(step > 1),
                resolution=(scale, scale),
                resolutionunit="CENTIMETER",
            )
    return part.replace(path)


def train(steps: int) -> HEALNet:
    """A model without positions, so that it reads crops of any size; one layer reads the slide once."""
    torch.manual_seed(0)
    encoder = GridEncoder(channels=3, ndim=2, positions=False)
    model = HEALNet(
        {"scan": encoder}, depth=1, num_latents=4, latent_dim=16, num_heads=1, self_attention=0, output="cox"
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    rng = np.random.default_rng(0)
    for _ in tqdm(range(steps), desc="training", unit="step"):
        share = rng.choice([0.0, 0.02, 0.05, 0.1], 64)
        dark = rng.random((64, 24, 24, 1)) < share[:, None, None, None]
        crops = np.where(dark, DARK, PALE) + rng.integers(0, 16, (64, 24, 24, 1))
        scan = torch.from_numpy((crops.clip(0, 255) / 127.5 - 1).astype(np.float32))
        time_to_event = torch.from_numpy(rng.exponential(np.exp(-40 * dark.mean((1, 2, 3)))))
        loss = cox_nll(model({"scan": scan}), time_to_event, torch.ones(64, dtype=torch.bool))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


class Counted:
    """Pixels that advance a bar when they are read."""

    def __init__(self, pieces: Pieces, bar: tqdm) -> None:
        self.pieces, self.bar, self.shape = pieces, bar, (*pieces.sizes, pieces.channels)

    def __getitem__(self, block: tuple[slice, ...]) -> torch.Tensor:
        values = self.pieces.read(block)[0]
        self.bar.update(values.shape[0] * values.shape[1] / 1e6)
        return values


class Mask:
    """The mask of some pieces, as a source of others."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces, self.shape = pieces, pieces.sizes

    def __getitem__(self, block: tuple[slice, ...]) -> torch.Tensor:
        return self.pieces.read_mask(block)


def main() -> None:
    """Make or open a slide, predict from every pixel, write the attention and its picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the map and of the slide made")
    parser.add_argument("--slide", type=Path, help="a slide that OpenSlide opens; one is made by default")
    parser.add_argument("--mpp", type=float, help="microns per pixel to read at; default: the slide's own")
    parser.add_argument("--tissue", action="store_true", help="look at tissue only")
    parser.add_argument("--side", type=int, default=40_000, help="pixels of a side of the slide made")
    parser.add_argument("--block", type=int, default=TILE, help="side of the blocks read at once, in pixels")
    parser.add_argument("--steps", type=int, default=150, help="training steps of the toy model")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    path = args.slide
    if path is None:
        path = args.output / f"made_{args.side}.tif"
        if not path.exists():
            make_slide(path, args.side)
    slide = Slide(path)
    pieces = slide_pieces(slide, args.mpp, args.block, slide.tissue() if args.tissue else None)
    print(f"{slide}: {pieces.sizes[0] * pieces.sizes[1] / 1e6:,.1f} megapixels")

    blocks = [block for block in pieces.blocks() if not pieces.masked or bool(pieces.read_mask(block).any())]
    megapixels = sum((b[0].stop - b[0].start) * (b[1].stop - b[1].start) for b in blocks) / 1e6
    some = blocks[:: max(1, len(blocks) // 64)]
    start = time.perf_counter()
    decoded = sum(pieces.read(block)[0].shape[:2].numel() for block in some) / 1e6
    decoding = decoded / (time.perf_counter() - start)

    model = train(args.steps)
    start = time.perf_counter()
    scores, part = args.output / "attention.h5", args.output / "attention.part"
    with h5py.File(part, "w") as file, tqdm(total=2 * megapixels, unit="MP", unit_scale=False) as bar:
        out = file.create_dataset(
            "attention",
            pieces.sizes,
            "f4",
            chunks=(args.block, args.block),
            compression="lzf",
            fillvalue=np.nan,
        )
        source = Pieces(Counted(pieces, bar), pieces.block, mask=Mask(pieces) if pieces.masked else None)
        with torch.no_grad():
            risk = write_scores(model, {"scan": Stream([source])}, "scan", out).item()
    part.replace(scores)
    speed = 2 * megapixels / (time.perf_counter() - start)

    with h5py.File(scores) as file:
        mpp = slide.mpp if args.mpp is None else args.mpp
        to_pyramid_tiff(file["attention"], args.output / "attention.tif", (0, 5), mpp=mpp)
    print(f"log hazard {risk:.3f}")
    print(
        f"{speed:.2f} megapixels a second in each of two passes; decoding alone {decoding:.2f}{peak_memory()}"
    )
    print(f"attention of every pixel: {scores}; picture for a slide viewer: {args.output / 'attention.tif'}")


def peak_memory() -> str:
    """The most memory that this process had, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return f"; peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.2f} GiB"


if __name__ == "__main__":
    main()
