"""Choose the tiles of a slide and make the picture of it, in a process of its own: a damaged slide can end a process."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from healnet._files import shown
from healnet.slides.features.feature_writer import ExtractionSettings
from healnet.slides.features.patch_geometry import agreed_name, read_coords, read_patch_geometry
from healnet.slides.sharpness import sharpness
from healnet.slides.slide import Slide
from healnet.slides.slide_bounds import Origin
from healnet.slides.tiles import Tiles
from healnet.slides.tissue import Tissue
from healnet.slides.tissue_files import read_tissue

__all__ = ["FirstLook", "ScoredTiles", "SlideJob", "SlideSizes", "first_look"]

OVERVIEW = 1000  # pixels of the longer side of a slide's picture


@dataclass(frozen=True)
class SlideJob:
    """A slide of a run, and where its tiles come from.

    Attributes:
        name: Name of the slide.
        path: Its file.
        mpp: Microns per level-0 pixel as the user gives them, or None.
        coords: Folder of coordinates by CLAM or TRIDENT, or None.
        masks: Folder of tissue masks, or None.
        origin: Where outlines count from, as the user says; None = as `read_tissue` and `write_tissue` have it.
        tissue: Options of `Slide.tissue` by name.
    """

    name: str
    path: Path
    mpp: float | None
    coords: Path | None = None
    masks: Path | None = None
    origin: Origin | None = None
    tissue: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = list(inspect.signature(Slide.tissue).parameters)[1:]
        unknown = [key for key in self.tissue if key not in known]
        if unknown:
            raise ValueError(
                f"expected options of Slide.tissue, {', '.join(known)}, got {', '.join(unknown)}"
            )

    def selection(self) -> str:
        """Name the source of the tiles, with a digest where it is a file, so that a later run notices another one."""
        if self.coords is not None:
            return f"coords {_digest(self._coords_file())}"
        if self.masks is not None:
            return f"mask {_digest(self._mask_file())}" + (f" from {self.origin}" if self.origin else "")
        options = [
            f"{key}={value}"
            if value is None or isinstance(value, bool | int | float)
            else f"{key}={_name_of(value)}"
            for key, value in sorted(self.tissue.items())
        ]
        return " ".join(["tissue", *options])

    def tiles(self, settings: ExtractionSettings) -> Tiles:
        """The tiles of the slide.

        Raises:
            OSError: No such slide, coordinates or mask.
            ValueError: A file that cannot be used.
        """
        slide = Slide(self.path, mpp=self.mpp, name=self.name)
        if self.coords is None:
            assert settings.size is not None
            slide.known_mpp(f"slide_mpp={{{self.name!r}: ...}} (--slide-mpp), or one number for all slides")
            tissue: Tissue | None
            if self.masks is not None:
                tissue = read_tissue(self._mask_file(), slide, self.origin)
            else:
                tissue = slide.tissue(**self.tissue) if settings.tissue_fraction > 0 else None
            return slide.tiles(
                settings.size, settings.mpp, settings.overlap, settings.tissue_fraction, tissue
            )
        path = self._coords_file()
        geometry = read_patch_geometry(path)
        agreed_name(path, {"name": geometry.name}, self.name)
        footprint = None if geometry.footprint is None else round(geometry.footprint)
        size = settings.size or geometry.size
        if not footprint or not size:
            raise ValueError(f"{shown(path)}: expected coordinates with their patch size, got none")
        coords = read_coords(geometry.positions)
        beyond = (coords >= (slide.width, slide.height)).any(axis=1)
        if beyond.any():
            raise ValueError(
                f"{shown(path)}: expected patches within {slide.width} x {slide.height} pixels, "
                f"got one at {coords[beyond][0].tolist()}"
            )
        mpp = None if slide.mpp is None else slide.mpp * footprint / size
        return Tiles(slide, coords, size, footprint, 0, mpp, None)

    def _coords_file(self) -> Path:
        assert self.coords is not None
        names = (f"{self.name}.h5", f"{self.name}_patches.h5")
        found = next((self.coords / name for name in names if (self.coords / name).is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"{shown(self.coords)}: expected a patches file {names[0]} or {names[1]}, got none"
            )
        return found

    def _mask_file(self) -> Path:
        assert self.masks is not None
        names = [f"{self.name}{suffix}" for suffix in (".geojson", ".json", ".png", ".tif", ".tiff")]
        found = next((self.masks / name for name in names if (self.masks / name).is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"{shown(self.masks)}: expected a tissue mask {names[0]} or {names[2]}, got none"
            )
        return found


class FirstLook(NamedTuple):
    """Result of the first look at a slide: its tiles, and a (h, w, 3) uint8 picture of it."""

    tiles: Tiles
    overview: np.ndarray[Any, Any]


def first_look(job: SlideJob, settings: ExtractionSettings) -> FirstLook:
    """Choose the tiles of a slide and make its picture.

    Raises:
        OSError, ValueError: As `SlideJob.tiles`.
    """
    tiles = job.tiles(settings)
    slide, tissue = tiles.slide, tiles.tissue
    assert isinstance(slide, Slide)
    rgb = None if tissue is None else tissue.rgb
    if rgb is None:
        rgb = _overview(slide)
    slide.close()
    # The mask's own picture has served; it would be sent to the main process a second time.
    return FirstLook(replace(tiles, tissue=None if tissue is None else replace(tissue, rgb=None)), rgb)


@dataclass(frozen=True)
class SlideSizes(Dataset[tuple[int, int] | None]):
    """Width and height of slide i's level 0 when indexed; None of a slide that is gone or cannot be read."""

    jobs: Sequence[SlideJob]

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, position: int) -> tuple[int, int] | None:
        try:
            with Slide(self.jobs[position].path) as slide:
                return slide.width, slide.height
        except (OSError, ValueError):
            return None


@dataclass(frozen=True)
class ScoredTiles(Dataset[tuple[Tensor, float]]):
    """Tile i with its sharpness when indexed: (size, size, 3) uint8, or what `transform` makes of (3, size, size).

    Attributes:
        tiles: Tiles of a slide.
        transform: Function of one tile, or None.
    """

    tiles: Tiles
    transform: Callable[[Tensor], Tensor] | None

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, position: int) -> tuple[Tensor, float]:
        pixels = self.tiles.pixels(position)
        tile, score = torch.from_numpy(pixels), sharpness(pixels)
        # Colors stay last: batches are copied as they are read, and turned once, on the encoder's device.
        return tile if self.transform is None else self.transform(tile.permute(2, 0, 1)), score


def _overview(slide: Slide) -> np.ndarray[Any, Any]:
    try:
        return slide.thumbnail(OVERVIEW)
    except ValueError:  # a picture is no reason to give up a slide whose tiles may all be readable
        scale = OVERVIEW / max(slide.width, slide.height)
        shape = (max(1, round(slide.height * scale)), max(1, round(slide.width * scale)), 3)
        return np.full(shape, 255, np.uint8)


def _name_of(function: Any) -> str:
    """A function's name with its module's, or that of an object's class."""
    one = function if hasattr(function, "__qualname__") else type(function)
    return f"{one.__module__}.{one.__qualname__}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
