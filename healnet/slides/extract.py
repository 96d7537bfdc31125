"""Command line of `extract_features`.

As a command::

    python -m healnet.slides.extract slides/ --output features/ --encoder my_models:uni --mpp 0.5 --size 256

where ``my_models.py`` has a function ``uni()`` that returns any callable from (b, 3, size, size) tiles to (b, d) features.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from healnet._files import need, shown
from healnet.slides.feature_extraction import extract_features
from healnet.slides.tile_encoder import Encoder

__all__ = ["main"]

logger = logging.getLogger("healnet.slides.extract")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of `extract_features`; returns 1 if a slide failed, 0 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m healnet.slides.extract",
        description="Encode the tissue of whole-slide images, tile by tile, into feature files (TRIDENT's HDF5). "
        "Kill it at any moment and start it again: finished slides are kept, and no file is ever half written.",
    )
    parser.add_argument("slides", nargs="+", type=Path, help="slide files, or folders of them")
    parser.add_argument(
        "--output", required=True, type=Path, help="folder for <slide>.h5, qc.csv and tissue/<slide>.jpg"
    )
    parser.add_argument(
        "--encoder",
        required=True,
        metavar="MODULE:FUNCTION",
        help="a function without arguments that returns the encoder, a callable from (b, 3, size, size) in 0..1 to (b, d)",
    )
    parser.add_argument("--encoder-name", help="written into the files (default: the function's name)")
    parser.add_argument(
        "--size", type=int, default=256, help="side length of a tile in pixels (default: 256)"
    )
    parser.add_argument(
        "--mpp", type=float, default=0.5, help="microns per pixel of a tile (default: 0.5, which is 20x)"
    )
    parser.add_argument(
        "--overlap", type=int, default=0, help="of neighbouring tiles, in pixels (default: 0)"
    )
    parser.add_argument(
        "--tissue-fraction",
        type=float,
        default=0.1,
        help="least part of a tile that is tissue (default: 0.1)",
    )
    parser.add_argument(
        "--slide-mpp",
        help="microns per level-0 pixel for slides that do not say it: a number, or a CSV file with columns slide and mpp",
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="processes that read tiles (default: 2)")
    parser.add_argument("--device", help="as cuda:1 (default: the local rank's GPU, or the CPU)")
    parser.add_argument("--autocast", choices=("float16", "bfloat16"), help="mixed precision (default: none)")
    parser.add_argument(
        "--shard", metavar="I/N", help="take every N-th slide from the I-th on, counted from 0"
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

    device = options.device
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    slides = _found(options.slides)
    if not slides:
        parser.error(f"no slides in {', '.join(map(shown, options.slides))}")
    encoder = _imported(parser, options.encoder)()
    if isinstance(encoder, nn.Module):
        encoder = encoder.to(device)
    reports = extract_features(
        slides,
        encoder,
        options.output,
        encoder_name=options.encoder_name or options.encoder.rpartition(":")[2],
        size=options.size,
        mpp=options.mpp,
        overlap=options.overlap,
        tissue_fraction=options.tissue_fraction,
        slide_mpp=None if options.slide_mpp is None else _slide_mpp(parser, options.slide_mpp),
        batch_size=options.batch_size,
        num_workers=options.workers,
        device=device,
        autocast=None if options.autocast is None else getattr(torch, options.autocast),
        shard=None if options.shard is None else _two(parser, options.shard),
        progress=not options.no_progress,
    )
    failed = [report for report in reports if report.error]
    tiles, area = sum(report.tiles for report in reports), sum(r.tissue_mm2 for r in reports if not r.error)
    logger.info("%d slides, %d tiles, %.1f mm2 of tissue; %d failed", len(reports), tiles, area, len(failed))
    for report in failed:
        logger.info("failed: %s (%s)", report.slide, report.error)
    return 1 if failed else 0


def _imported(parser: argparse.ArgumentParser, name: str) -> Callable[[], Encoder]:
    module, colon, function = name.rpartition(":")
    if not colon:
        parser.error(f"--encoder: expected MODULE:FUNCTION, got {name}")
    found: Callable[[], Encoder] = getattr(importlib.import_module(module), function)
    return found


def _found(places: Sequence[Path]) -> list[Path]:
    """Slide files as they are, and of folders the files that OpenSlide recognises."""
    detect = need("openslide", "openslide-python openslide-bin", "reading slides").OpenSlide.detect_format
    return [
        path
        for place in places
        for path in (
            sorted(p for p in place.iterdir() if p.is_file() and detect(p)) if place.is_dir() else [place]
        )
    ]


def _slide_mpp(parser: argparse.ArgumentParser, text: str) -> float | dict[str, float]:
    try:
        return float(text)
    except ValueError:
        with Path(text).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    if not rows or not {"slide", "mpp"} <= set(rows[0]):
        parser.error(f"--slide-mpp: expected a number or a CSV file with columns slide and mpp, got {text}")
    return {row["slide"]: float(row["mpp"]) for row in rows}


def _two(parser: argparse.ArgumentParser, text: str) -> tuple[int, int]:
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        parser.error(f"--shard: expected I/N, as 0/4, got {text}")
    return int(parts[0]), int(parts[1])


if __name__ == "__main__":
    sys.exit(main())
