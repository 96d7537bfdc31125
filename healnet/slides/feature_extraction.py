"""Slides in, feature files out: tiles read by worker processes, encoded in batches, resumable at any moment."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from healnet._evaluation import evaluating
from healnet._files import atomic_path, leftovers, need, shown
from healnet.slides.feature_writer import (
    ExtractionSettings,
    SlideReport,
    finished_report,
    write_features,
    write_report,
)
from healnet.slides.progress_bar import SlideBar
from healnet.slides.slide import Slide
from healnet.slides.tile_encoder import Encoder, FeatureKind, TileEncoder, device_of
from healnet.slides.tiles import Tiles

__all__ = ["extract_features"]

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
