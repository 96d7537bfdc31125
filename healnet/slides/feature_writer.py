"""Feature files in TRIDENT's format: written whole or not at all, and known again when a run resumes."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from healnet._files import atomic_path, need, shown
from healnet.slides.hdf5 import open_h5
from healnet.slides.slide import Slide, magnification_of
from healnet.slides.tile_encoder import FeatureKind
from healnet.slides.tiles import Tiles
from healnet.slides.trident_clam_reader import read_patches

__all__ = ["ExtractionSettings", "SlideReport", "finished_report", "write_features", "write_report"]

logger = logging.getLogger(__name__)


class SlideReport(NamedTuple):
    """What became of one slide: a row of the quality-control table.

    Attributes:
        slide: its name.
        tiles: how many were encoded.
        tissue_mm2: area of its tissue in square millimetres.
        seconds: from opening the slide to the finished file.
        error: empty if all went well.
    """

    slide: str
    tiles: int
    tissue_mm2: float
    seconds: float
    error: str


@dataclass(frozen=True)
class ExtractionSettings:
    """What decides the features of a slide, and so must agree between the runs that fill one folder.

    Attributes:
        encoder: its name.
        size: side length of a tile in pixels.
        mpp: microns per pixel of a tile.
        overlap: of neighbouring tiles, in pixels.
        tissue_fraction: least part of a tile that is tissue.

    Raises:
        ValueError: sizes that no tile can have.
    """

    encoder: str
    size: int
    mpp: float
    overlap: int
    tissue_fraction: float

    def __post_init__(self) -> None:
        sizes = self.size >= 1 and 0 <= self.overlap < self.size
        if not sizes or not 0 <= self.tissue_fraction <= 1 or not (math.isfinite(self.mpp) and self.mpp > 0):
            raise ValueError(
                "expected size >= 1, 0 <= overlap < size, mpp > 0 and 0 <= tissue_fraction <= 1, got "
                f"size {self.size}, overlap {self.overlap}, mpp {self.mpp}, tissue_fraction {self.tissue_fraction}"
            )

    def attributes(self) -> dict[str, int | float]:
        """As they are written beside the coordinates."""
        return {
            "patch_size": self.size,
            "mpp": float(self.mpp),
            "overlap": self.overlap,
            "tissue_fraction": float(self.tissue_fraction),
        }

    def tiles(self, slide: Slide) -> Tiles:
        """The tiles of a slide."""
        return slide.tiles(self.size, self.mpp, self.overlap, self.tissue_fraction)


def write_features(
    path: Path,
    tiles: Tiles,
    batches: Iterable[np.ndarray[Any, Any]],
    kind: FeatureKind,
    settings: ExtractionSettings,
    root: dict[str, float],
) -> None:
    """Write one slide's features, batch by batch as they come, with TRIDENT's datasets and attributes.

    Args:
        path: a temporary path; the caller makes it final.
        tiles: of the slide.
        batches: (b, d) rows in the order of the tiles.
        kind: of the features, known beforehand because a slide without tissue has no batch.
        settings: of the run.
        root: attributes of the whole file, filled by the caller until the last batch has come.

    Raises:
        ValueError: a batch that is not finite, or rows that do not add up to the number of tiles.
    """
    h5py = need("h5py", "h5py", "writing feature files")
    slide = tiles.slide
    attributes: dict[str, Any] = settings.attributes() | {
        "patch_size_level0": tiles.footprint,
        "level0_magnification": slide.magnification or math.nan,
        "target_magnification": magnification_of(settings.mpp),
        "level0_mpp": slide.mpp or math.nan,
        "level0_width": slide.width,
        "level0_height": slide.height,
        "name": slide.name,
        "savetodir": shown(path.parent),
    }
    with h5py.File(path, "w") as file:
        coords = file.create_dataset("coords", data=tiles.coords)
        coords.attrs.update(attributes)
        features = file.create_dataset("features", (len(tiles), kind.dim), kind.dtype)
        features.attrs.update(
            {"name": slide.name, "encoder": settings.encoder, "savetodir": attributes["savetodir"]}
        )
        start = 0
        for batch in batches:
            if not np.isfinite(batch).all():
                row = start + int(np.argmin(np.isfinite(batch).all(axis=1)))
                raise ValueError(
                    f"{slide.name}: the encoder made features that are not finite of the tile in row {row}"
                )
            features[start : start + len(batch)] = batch
            start += len(batch)
        if start != len(tiles):
            raise ValueError(f"{slide.name}: expected features of {len(tiles)} tiles, got {start}")
        file.attrs.update(root)


def finished_report(
    path: Path, settings: ExtractionSettings, slide_mpp: float | None = None
) -> SlideReport | None:
    """The report of a slide that an earlier run finished; None if there is no such file or it is damaged.

    Args:
        path: of its features.
        settings: of this run.
        slide_mpp: the slide's scale as the user of this run says it, if they do.

    Raises:
        ValueError: the file was made with other settings, or by another tool.
    """
    if not path.exists():
        return None
    try:
        bag = read_patches(path)
        with open_h5(path) as file:
            notes = dict(file["coords"].attrs) if "coords" in file else {}
            root = dict(file.attrs)
    except (ValueError, OSError) as error:
        logger.warning("%s; it is made again", error)
        return None
    found = {key: notes.get(key) for key in settings.attributes()} | {"encoder": bag.encoder}
    expected = settings.attributes() | {"encoder": settings.encoder}
    if slide_mpp is not None:
        found["level0_mpp"], expected["level0_mpp"] = notes.get("level0_mpp"), float(slide_mpp)
    other = {key: value for key, value in found.items() if value != expected[key]}
    if other:
        raise ValueError(
            f"{shown(path)}: made with {_listed(other)}, this run has {_listed({key: expected[key] for key in other})}; "
            "write to another folder, or remove the old files"
        )
    area, seconds = (float(root.get(key, math.nan)) for key in ("tissue_mm2", "seconds"))
    return SlideReport(bag.slide, bag.num_patches, area, seconds, "")


def write_report(path: Path, reports: Sequence[SlideReport]) -> None:
    """The quality-control table as CSV, one row per slide, replaced as a whole."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(SlideReport._fields)
        for report in reports:
            writer.writerow(
                report._replace(tissue_mm2=round(report.tissue_mm2, 4), seconds=round(report.seconds, 2))
            )


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
