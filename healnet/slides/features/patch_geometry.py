"""Read where the patches of a slide lie, from the files that CLAM and TRIDENT keep them in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from healnet._files import shown
from healnet.slides.features.hdf5 import h5_attributes, h5_rows, reading_h5
from healnet.slides.features.patch_rows import Rows, Selection
from healnet.slides.slide_bounds import Bounds

__all__ = [
    "MAX_COORDINATE",
    "PatchGeometry",
    "agreed_name",
    "bounds_of",
    "find_patches_file",
    "footprint_of",
    "read_coords",
    "read_patch_geometry",
    "size_of",
]

# The largest slides have some 2^18 pixels a side, and float32 holds level-0 coordinates exactly up to this.
MAX_COORDINATE = 1 << 24


@dataclass(frozen=True)
class PatchGeometry:
    """Places of the patches of a slide. Made by `read_patch_geometry`.

    Attributes:
        positions: Rows of the (n, 2) coordinates.
        footprint: Side length of a patch in level-0 pixels, None if the file does not say it.
        size: Side length of a patch in its own pixels, None if the file does not say it.
        name: Name of the slide as the file says it, or None.
        bounds: The slide's bounds, or None.
        magnification: Magnification at which a patch was read, None if the file does not say it.
    """

    positions: Rows
    footprint: float | None
    size: int | None
    name: str | None
    bounds: Bounds | None
    magnification: float | None


def read_patch_geometry(path: Path) -> PatchGeometry:
    """Open a file of coordinates: CLAM's ``patches/<slide>.h5`` or TRIDENT's ``patches/<slide>_patches.h5``.

    Raises:
        ValueError: A damaged file, or one without coordinates.
    """
    with reading_h5(path, "a patches file with `coords`") as file:
        positions = h5_rows(path, file, "coords", "iu", 2)
        notes = h5_attributes(path, file["coords"])
    size, magnification = size_of(notes)
    return PatchGeometry(
        positions, footprint_of(notes, path), size, notes.get("name"), bounds_of(notes, path), magnification
    )


def size_of(notes: Mapping[str, Any]) -> tuple[int | None, float | None]:
    """Side length of a patch in its own pixels, and its magnification; None of what the attributes do not say."""
    size, magnification = notes.get("patch_size", math.nan), notes.get("target_magnification", math.nan)
    return int(size) if size >= 1 else None, float(magnification) if magnification > 0 else None


def read_coords(positions: Rows, rows: Selection = None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(n, 2) int64, (x, y) of the top-left corners in level-0 pixels.

    Raises:
        ValueError: Coordinates below 0 or beyond any slide.
    """
    stored = positions.read(rows)
    if stored.size and (stored.min() < 0 or stored.max() > MAX_COORDINATE):
        row = stored[((stored < 0) | (stored > MAX_COORDINATE)).any(axis=1)][0]
        raise ValueError(
            f"{shown(positions.path)}: expected level-0 coordinates from 0 to {MAX_COORDINATE}, got {row.tolist()}"
        )
    return stored.astype(np.int64)


def agreed_name(path: Path, notes: Mapping[str, Any], stem: str) -> str:
    """The file's name, once the names written inside agree: a swapped file would give one patient another's slide."""
    for name in [*notes.get("names", ()), notes.get("name")]:
        if name not in (None, stem) and Path(name).stem != stem:
            raise ValueError(
                f"{shown(path)}: expected the patches of the slide {stem!r}, got those of {name!r} by the attribute `name`; "
                "pass slide= if the file was renamed on purpose"
            )
    return stem


def footprint_of(notes: Mapping[str, Any], path: Path) -> float | None:
    """Level-0 side length: TRIDENT says it; CLAM's is ``patch_size`` (pixels at its level) times ``downsample``."""
    size = notes.get("patch_size", math.nan)
    if "patch_size_level0" in notes:
        length = notes["patch_size_level0"]
    elif "downsample" in notes:
        scales = notes["downsample"]
        if len(scales) == 0 or not np.allclose(scales, scales[0], rtol=0.01):
            raise ValueError(f"{shown(path)}: expected one downsample for x and y, got {scales.tolist()}")
        length = size * float(scales.mean())
    elif "target_magnification" in notes and "level0_magnification" in notes:
        length = size * notes["level0_magnification"] / (notes["target_magnification"] or math.nan)
    elif notes.get("patch_level") == 0:
        length = size
    else:
        return None
    if not 0 < length <= MAX_COORDINATE:
        raise ValueError(
            f"{shown(path)}: expected a patch size from 0 to {MAX_COORDINATE} level-0 pixels, got {length}"
        )
    return float(length)


def bounds_of(notes: Mapping[str, Any], path: Path) -> Bounds | None:
    """Bounds of the slide (see `Slide.bounds`), where `extract_features` wrote them."""
    if "level0_bounds" not in notes:
        return None
    values = notes["level0_bounds"].tolist()
    if len(values) != 4 or not all(-MAX_COORDINATE <= value <= MAX_COORDINATE for value in values):
        raise ValueError(
            f"{shown(path)}: expected `level0_bounds` as left, top, width and height, got {values}"
        )
    x, y, width, height = map(int, values)
    return x, y, width, height


def find_patches_file(path: Path, patches: str | Path | None) -> Path | None:
    """The file of coordinates that belongs to a feature file; None where the usual place has none.

    Args:
        path: The feature file.
        patches: The file of coordinates, or its folder; by default ``../patches``.

    Raises:
        FileNotFoundError: There is none in `patches`.
    """
    place = path.absolute().parent.parent / "patches" if patches is None else Path(patches)
    if patches is not None and place.is_file():
        return place
    names = (f"{path.stem}.h5", f"{path.stem}_patches.h5")
    for name in names:
        # A feature file that itself lies in a folder `patches` is not its own patches file.
        if (place / name).is_file() and not (place / name).samefile(path):
            return place / name
    if patches is not None:
        raise FileNotFoundError(
            f"{shown(place)}: expected a patches file, or a folder with {names[0]} or {names[1]}"
        )
    return None
