"""Slides in, feature files out: tiles read by worker processes, encoded in batches, resumable at any moment.

As a command::

    python -m healnet.data.extract slides/ --output features/ --encoder my_models:uni --mpp 0.5 --size 256

where ``my_models.py`` has a function ``uni()`` that returns any callable from (b, 3, size, size) tiles to (b, d) features.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from healnet.data.encoding import Encoder, FeatureKind, TileEncoder, device_of, evaluating
from healnet.data.feature_files import (
    ExtractionSettings,
    SlideReport,
    finished_report,
    write_features,
    write_report,
)
from healnet.data.files import atomic_path, leftovers, need, shown
from healnet.data.progress import SlideBar
from healnet.data.slides import Slide
from healnet.data.tiles import Tiles

__all__ = ["SlideReport", "extract_features", "main"]

logger = logging.getLogger(__name__)


def extract_features(
    slides: Iterable[str | Path],
    encoder: Encoder,
    output: str | Path,
    *,
    encoder_name: str | None = None,
    size: int = 256,
    mpp: float = 0.5,
    overlap: int = 0,
    tissue_fraction: float = 0.1,
    slide_mpp: float | Mapping[str, float] | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 64,
    num_workers: int = 2,
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
    shard: tuple[int, int] | None = None,
    progress: bool = True,
) -> list[SlideReport]:
    """Encode the tissue of many slides, each to ``output/<slide>.h5`` in TRIDENT's format, as `read_patches` reads it.

    A file is there whole or not at all: kill the run at any moment and start it again with the same arguments; it goes on
    with the first slide that has no file. A slide that fails is reported and passed over. At the end ``output/qc.csv`` has a
    row for every slide (slide, tiles, tissue_mm2, seconds, error), and ``output/tissue/<slide>.jpg`` shows what was taken
    for tissue. Two runs may fill one folder only if they take different slides, as shards do.

    Args:
        slides: files that OpenSlide reads; their names without suffix must differ.
        encoder: (b, 3, size, size) to (b, d). A module is put into evaluation mode for the run, and back; it is not moved.
        output: folder of the feature files; made if need be.
        encoder_name: written into the files; the class or function's name by default.
        size: side length of a tile in pixels.
        mpp: microns per pixel of a tile; 0.5 is 20x.
        overlap: of neighbouring tiles, in pixels.
        tissue_fraction: least part of a tile that is tissue.
        slide_mpp: microns per level-0 pixel, for all slides or by name, in the place of what their files say or do not.
        transform: of one (3, size, size) uint8 tile to what the encoder takes, run by the workers. By default the encoder
            gets float32 from 0 to 1, not normalised: what mean and deviation it was trained with, only its user knows.
        batch_size: tiles per call of the encoder.
        num_workers: processes that read tiles; 0 reads in this one.
        device: of the tiles; by default where the encoder's parameters are.
        autocast: type for mixed precision, as torch.bfloat16; None keeps full precision.
        shard: (i, n) takes every n-th slide, by name, from the i-th on; give all shards the same slides. By default
            torchrun's RANK and WORLD_SIZE, or all slides.
        progress: show a bar with slides, tiles per second and time left.

    Returns:
        A report for each slide of this shard, in the order of names.

    Raises:
        ValueError: two slides of one name, settings that cannot be or differ from those of files in `output`, an encoder
            that does not return (b, d) floating point.
        ImportError: OpenSlide or h5py is absent.

    Example, with a torchvision model that was trained on normalised pictures::

        model = torchvision.models.resnet50(weights="DEFAULT").cuda()
        model.fc = torch.nn.Identity()
        normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        extract_features(
            sorted(Path("slides").glob("*.svs")),
            lambda tiles: model.eval()(normalise(tiles)),
            "features",
            encoder_name="resnet50",
            device="cuda",
            autocast=torch.float16,
        )
        bag = read_patches("features/slide-1.h5")
    """
    need("openslide", "openslide-python openslide-bin", "reading slides")
    need("h5py", "h5py", "writing feature files")
    name = encoder_name or str(getattr(encoder, "__name__", type(encoder).__name__))
    settings = ExtractionSettings(name, size, mpp, overlap, tissue_fraction)
    index, count = _shard(shard)
    mine = _named(slides)[index::count]
    scales = {name: slide_mpp.get(name) if isinstance(slide_mpp, Mapping) else slide_mpp for name, _ in mine}
    output = Path(output)
    (output / "tissue").mkdir(parents=True, exist_ok=True)
    reports: dict[str, SlideReport] = {}
    for slide_name, _ in mine:
        target = _target(output, slide_name)
        for file in leftovers(target):
            file.unlink(missing_ok=True)
        report = finished_report(target, settings, scales[slide_name])
        if report is not None:
            reports[slide_name] = report
    with evaluating(encoder), torch.inference_mode():
        encode = TileEncoder(encoder, device_of(encoder, device), autocast)
        kind = encode.probe(size, transform)
        loader = partial(
            DataLoader,
            batch_size=batch_size,
            num_workers=num_workers,
            pin_memory=encode.device.type == "cuda",
        )
        try:
            with SlideBar(len(mine), len(reports), progress) as bar:
                for slide_name, path in mine:
                    if slide_name in reports:
                        continue
                    reports[slide_name] = _extract_slide(
                        path,
                        _target(output, slide_name),
                        scales[slide_name],
                        settings,
                        kind,
                        transform,
                        loader,
                        encode,
                        bar,
                    )
        finally:  # Ctrl-C too leaves a table of what was done
            done = [reports[slide_name] for slide_name, _ in mine if slide_name in reports]
            write_report(output / ("qc.csv" if count == 1 else f"qc_{index}_of_{count}.csv"), done)
    return done


def _extract_slide(
    path: Path,
    target: Path,
    own_mpp: float | None,
    settings: ExtractionSettings,
    kind: FeatureKind,
    transform: Callable[[Tensor], Tensor] | None,
    loader: Callable[[Tiles], DataLoader[Tensor]],
    encode: TileEncoder,
    bar: SlideBar,
) -> SlideReport:
    begin = time.perf_counter()
    tiles: Tiles | None = None
    done, error = 0, ""
    root: dict[str, float] = {}
    try:
        with Slide(path, mpp=own_mpp) as slide:
            tiles = settings.tiles(slide)
            if tiles.tissue is not None:
                root["tissue_mm2"] = tiles.tissue.area_mm2
                _save_picture(target.parent / "tissue" / f"{slide.name}.jpg", tiles.tissue.picture)

            def batches() -> Iterator[np.ndarray[Any, Any]]:
                nonlocal done
                for batch in loader(tiles if transform is None else tiles.with_transform(transform)):
                    features = encode(batch)
                    yield features
                    done += len(features)
                    bar.advance(slide.name, len(features), len(tiles))
                root["seconds"] = time.perf_counter() - begin

            with atomic_path(target) as temporary:
                write_features(temporary, tiles, batches(), kind, settings, root)
    except Exception as failure:  # whatever one slide holds, the others are worth going on for
        error = _last_line(failure)
        _release(failure)
        logger.error("%s: %s", target.stem, error, exc_info=logger.isEnabledFor(logging.DEBUG))
    finally:
        bar.finish(done, len(tiles) if tiles is not None else 0)
    return SlideReport(
        target.stem,
        0 if error else done,
        root.get("tissue_mm2", float("nan")),
        time.perf_counter() - begin,
        error,
    )


def _release(failure: BaseException | None) -> None:
    """Let go of what an error's frames hold, the failed slide's loader above all.

    It would live on in the next slide's forked workers and there shut down what is not theirs: seen as ten seconds of
    waiting after each bad slide.
    """
    while failure is not None:
        traceback.clear_frames(failure.__traceback__)
        failure = failure.__cause__ or failure.__context__


def _last_line(failure: Exception) -> str:
    """The error as one line; of an error that a worker sends with its traceback, the line that names it."""
    lines = str(failure).strip().splitlines() or [""]
    return lines[-1] if len(lines) > 1 else f"{type(failure).__name__}: {lines[0]}"


def _shard(shard: tuple[int, int] | None) -> tuple[int, int]:
    if shard is None:
        torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
        shard = (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if torchrun else (0, 1)
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"expected a shard (i, n) with 0 <= i < n, got {shard}")
    return shard


def _named(slides: Iterable[str | Path]) -> list[tuple[str, Path]]:
    """Names and paths in the order of names, which every shard agrees on."""
    named: dict[str, Path] = {}
    for path in map(Path, slides):
        other = named.setdefault(path.stem, path)
        if other != path:
            raise ValueError(f"expected slides of different names, got {shown(other)} and {shown(path)}")
    return sorted(named.items())


def _target(output: Path, name: str) -> Path:
    return output / f"{name}.h5"


def _save_picture(path: Path, picture: np.ndarray[Any, Any]) -> None:
    image = need("PIL.Image", "Pillow", "the tissue picture")
    with atomic_path(path) as temporary:
        image.fromarray(picture).save(temporary, format="JPEG", quality=85)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of `extract_features`; returns 1 if a slide failed, 0 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m healnet.data.extract",
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
