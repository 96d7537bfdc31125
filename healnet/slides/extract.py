"""Command line of `extract_features`.

As a command::

    python -m healnet.slides.extract slides/ --output features/ --encoder my_models:uni --mpp 0.5 --size 256

where ``my_models.py`` has a function ``uni()`` that returns any callable from (b, 3, size, size) tiles to (b, d) features.
Start it on as many machines as there are, on one folder: they share the slides.
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
from typing import Any, get_args

import torch
from torch import nn

from healnet._files import shown
from healnet.slides.extraction.feature_extraction import extract_features
from healnet.slides.slide_bounds import Origin
from healnet.slides.slide_files import find_slide_files, read_slide_list
from healnet.slides.tile_encoder import Encoder

__all__ = ["main"]

logger = logging.getLogger("healnet.slides.extract")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line of `extract_features`; returns 1 if a slide failed, 0 otherwise."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    device = options.device
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        slides, scales = _slides(options.slides)
        slide_mpp = _slide_mpp(options.slide_mpp) or scales or None
        if scales and slide_mpp is not scales:
            raise ValueError("expected mpp in the list of slides or --slide-mpp, got both")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not slides:
        parser.error(f"no slides in {', '.join(map(shown, options.slides))}")
    encoders = {}
    for text in options.encoder:
        name, encoder = _encoder(parser, text)
        encoders[name] = encoder.to(device) if isinstance(encoder, nn.Module) else encoder
    one = len(encoders) == 1
    tissue = {} if options.segment is None else {"segment": _named(parser, "--segment", options.segment)}
    tissue |= {"pen": False} if options.no_pen else {}
    results = extract_features(
        slides,
        next(iter(encoders.values())) if one else encoders,
        options.output,
        encoder_name=next(iter(encoders)) if one else None,
        size=options.size,
        mpp=options.mpp,
        overlap=options.overlap,
        tissue_fraction=options.tissue_fraction,
        min_sharpness=options.min_sharpness,
        slide_mpp=slide_mpp,
        coords=options.coords,
        masks=options.masks,
        outline_origin=options.outline_origin,
        tissue_options=tissue or None,
        layout=options.layout,
        batch_size=options.batch_size,
        num_workers=options.workers,
        device=device,
        autocast=None if options.autocast is None else getattr(torch, options.autocast),
        progress=not options.no_progress,
    )
    failed = [result for result in results if result.error]
    tiles = sum(result.tiles for result in results)
    area = sum(result.tissue_mm2 for result in results if result.tissue_mm2 > 0)
    logger.info("%d slides, %d tiles, %.1f mm2 of tissue; %d failed", len(results), tiles, area, len(failed))
    for result in failed:
        logger.info("failed: %s (%s)", result.slide, result.error)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m healnet.slides.extract",
        description="Encode the tissue of whole-slide images, tile by tile, into feature files (HDF5, as TRIDENT or CLAM "
        "writes it). Kill it at any moment and start it again: finished slides are kept, and no file is ever half written. "
        "Any number of runs share one output folder.",
    )
    add = parser.add_argument
    add(
        "slides",
        nargs="+",
        type=Path,
        help="slides (files, OME-Zarr folders), folders of them (with subfolders), or CSV lists with columns slide (or wsi) "
        "and mpp",
    )
    add(
        "--output",
        required=True,
        type=Path,
        help="folder for the feature files, qc.csv and tissue/<slide>.jpg",
    )
    add(
        "--encoder",
        required=True,
        action="append",
        metavar="[NAME=]MODULE:FUNCTION",
        help="a function without arguments that returns the encoder, a callable from (b, 3, size, size) in 0..1 to (b, d); "
        "given several times, the pixels are read once for all. The name (default: the function's) goes into the files",
    )
    add("--size", type=int, help="side length of a tile in pixels (default: 256, or that of --coords)")
    add("--mpp", type=float, default=0.5, help="microns per pixel of a tile (default: 0.5, which is 20x)")
    add("--overlap", type=int, default=0, help="overlap of neighboring tiles, in pixels (default: 0)")
    add(
        "--tissue-fraction",
        type=float,
        default=0.1,
        help="least part of a tile that is tissue (default: 0.1)",
    )
    add(
        "--min-sharpness",
        type=float,
        default=0.0,
        help="leave out blurrier tiles; see sharpness in qc.csv (default: 0)",
    )
    add(
        "--slide-mpp",
        help="microns per level-0 pixel for slides that do not say it: a number, or a CSV file with columns slide and mpp",
    )
    add("--coords", type=Path, help="folder of coordinates by CLAM or TRIDENT: encode the tiles there")
    add(
        "--masks",
        type=Path,
        help="folder of tissue masks: <slide>.geojson (QuPath's annotations) or <slide>.png",
    )
    add(
        "--outline-origin",
        choices=get_args(Origin),
        help="what outlines count from, read and written, where a slide states bounds (default: bounds, as QuPath)",
    )
    add(
        "--segment",
        metavar="MODULE:FUNCTION",
        help="a function that finds the tissue, from a picture (h, w, 3) and its mpp to (h, w) bool or probabilities",
    )
    add("--no-pen", action="store_true", help="look for no pen marks")
    add(
        "--layout",
        choices=("trident", "clam"),
        default="trident",
        help="folders and files as this tool has them",
    )
    add("--batch-size", type=int, default=64, help="tiles per call of the encoder (default: 64)")
    add("--workers", type=int, default=2, help="processes that read tiles (default: 2)")
    add("--device", help="such as cuda:1 (default: the local rank's GPU, or the CPU)")
    add("--autocast", choices=("float16", "bfloat16"), help="mixed precision (default: none)")
    add("--no-progress", action="store_true", help="no progress bar")
    return parser


def _encoder(parser: argparse.ArgumentParser, text: str) -> tuple[str, Encoder]:
    given, _, name = text.rpartition("=")
    make: Callable[[], Encoder] = _named(parser, "--encoder", name)
    return given or name.rpartition(":")[2], make()


def _named(parser: argparse.ArgumentParser, option: str, text: str) -> Any:
    module, colon, function = text.rpartition(":")
    if not colon:
        parser.error(f"{option}: expected MODULE:FUNCTION, got {text}")
    return getattr(importlib.import_module(module), function)


def _slides(places: Sequence[Path]) -> tuple[list[Path], dict[str, float]]:
    slides: list[Path] = []
    scales: dict[str, float] = {}
    for place in places:
        if place.is_dir():
            slides += find_slide_files(place)
        elif place.suffix.lower() == ".csv":
            listed, more = read_slide_list(place)
            slides += listed
            scales |= more
        else:
            slides.append(place)
    return slides, scales


def _slide_mpp(text: str | None) -> float | dict[str, float] | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        with Path(text).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    if not rows or not {"slide", "mpp"} <= set(rows[0]):
        raise ValueError(
            f"--slide-mpp: expected a number or a CSV file with columns slide and mpp, got {text}"
        ) from None
    found: dict[str, float] = {}
    for row in rows:
        value = float(row["mpp"])
        if found.setdefault(row["slide"], value) != value:
            raise ValueError(
                f"--slide-mpp: expected one mpp for {row['slide']}, got {found[row['slide']]} and {value}"
            )
    return found


if __name__ == "__main__":
    sys.exit(main())
