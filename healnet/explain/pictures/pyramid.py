"""Write scores of every pixel as a pyramidal TIFF that OpenSlide, QuPath and other slide viewers open."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from healnet._files import atomic_path

__all__ = ["to_pyramid_tiff"]

Array = np.ndarray[Any, Any]
READ = 2048  # side of the squares that are read at once
# Pixels of the largest level that is kept in memory, from which all smaller ones are made: 512 MiB.
KEPT = 2**26
SMALLEST = 1024  # the pyramid ends with the first level whose longer side is at most this


def to_pyramid_tiff(
    scores: Any,
    path: str | Path,
    limits: tuple[float, float],
    *,
    mpp: float | None = None,
    tile: int = 512,
    colormap: str = "viridis",
) -> Path:
    """Write scores as a tiled pyramid of RGB pictures, each level half the size of the one before.

    The scores are read in squares of at most 2,048 pixels, up to three times, so memory stays small. A pixel of a lower
    level is the mean of the scores under it. The file appears when it is whole.

    Args:
        scores: Source of the scores, (h, w): an array, a memory map or a dataset of an HDF5 or Zarr file. NaN is white.
        path: File to write.
        limits: Scores of the first and of the last color.
        mpp: Microns per pixel, which viewers show as a scale.
        tile: Side of the file's tiles, a multiple of 16.
        colormap: Name of a matplotlib color map.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: Scores that are no picture, limits that do not rise, an mpp not above 0, or a tile that TIFF does not
            allow.
    """
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise ImportError(
            "the colors of a pyramidal TIFF need matplotlib: pip install healnet[plots]"
        ) from error
    shape = tuple(int(size) for size in scores.shape)
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"expected scores of shape (h, w), got {shape}")
    if not limits[0] < limits[1]:
        raise ValueError(f"expected limits that rise, got {limits}")
    if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
        raise ValueError(f"expected mpp above 0, in microns per pixel, got {mpp}")
    if tile < 16 or tile % 16:
        raise ValueError(f"expected a tile of a multiple of 16, got {tile}")
    table = (np.asarray(colormaps[colormap](np.linspace(0, 1, 256)))[:, :3] * 255).round().astype(np.uint8)
    table = np.concatenate((table, np.full((1, 3), 255, np.uint8)))  # the last one is for NaN
    factors = [2**level for level in range(1 + max(0, math.ceil(math.log2(max(shape) / SMALLEST))))]
    kept = next((factor for factor in factors if shape[0] * shape[1] <= KEPT * factor**2), factors[-1])
    kept = min(kept, 16)  # every tile holds whole pixels of it
    level = _Level(shape, kept)
    path = Path(path)
    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=True) as file:
        for factor in factors:
            height, width = (-(-size // factor) for size in shape)
            resolution = None if mpp is None else (1e4 / (mpp * factor), 1e4 / (mpp * factor))
            file.write(
                _colored(_parts(scores, factor, tile, level), tile, limits, table),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(tile, tile),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(factor > 1),
                resolution=resolution,
                resolutionunit=None if mpp is None else "CENTIMETER",
            )
    return path


class _Level:
    """One level in memory, as sums and counts, so that smaller levels are exact means of what is no NaN."""

    def __init__(self, shape: tuple[int, ...], factor: int) -> None:
        height, width = (-(-size // factor) for size in shape)
        self.factor = factor
        self.total = np.zeros((height, width), np.float32)
        self.count = np.zeros((height, width), np.float32)

    def add(self, top: int, left: int, part: Array) -> None:
        """Take in a part of the scores that begins at a multiple of the factor."""
        total, count = _pooled(np.nan_to_num(part), self.factor), _pooled(~np.isnan(part), self.factor)
        place = np.s_[top // self.factor :, left // self.factor :]
        self.total[place][: total.shape[0], : total.shape[1]] = total
        self.count[place][: count.shape[0], : count.shape[1]] = count

    def mean(self, factor: int, top: int, left: int, height: int, width: int) -> Array:
        """A part of a level whose pixels are `factor` pixels of this one."""
        place = np.s_[top * factor : (top + height) * factor, left * factor : (left + width) * factor]
        return _ratio(_pooled(self.total[place], factor), _pooled(self.count[place], factor))


def _parts(scores: Any, factor: int, tile: int, level: _Level) -> Iterator[Array]:
    """The scores of one level, tile by tile, row by row. The first level fills `level`."""
    height, width = (-(-size // factor) for size in scores.shape)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            size = (min(tile, height - top), min(tile, width - left))
            if factor >= level.factor and factor > 1:
                yield level.mean(factor // level.factor, top, left, *size)
                continue
            part = _read(scores, factor, top, left, *size)
            if factor == 1:
                level.add(top, left, part)
            yield part


def _colored(parts: Iterator[Array], tile: int, limits: tuple[float, float], table: Array) -> Iterator[Array]:
    """Pictures of whole tiles, padded with white."""
    for part in parts:
        place = np.nan_to_num((part - limits[0]) / (limits[1] - limits[0]) * 255).clip(0, 255)
        index = np.where(np.isnan(part), 256, place.round()).astype(np.intp)
        picture = np.full((tile, tile, 3), 255, np.uint8)
        picture[: part.shape[0], : part.shape[1]] = table[index]
        yield picture


def _read(scores: Any, factor: int, top: int, left: int, height: int, width: int) -> Array:
    """A part of a level from the scores themselves."""
    part = np.empty((height, width), np.float32)
    step = max(1, READ // factor)
    for y in range(0, height, step):
        for x in range(0, width, step):
            rows = slice((top + y) * factor, (top + min(y + step, height)) * factor)
            columns = slice((left + x) * factor, (left + min(x + step, width)) * factor)
            source = np.asarray(scores[rows, columns], dtype=np.float32)
            if factor > 1:
                source = _ratio(_pooled(np.nan_to_num(source), factor), _pooled(~np.isnan(source), factor))
            part[y : y + step, x : x + step] = source
    return part


def _pooled(values: Array, factor: int) -> Array:
    """Sums over squares of `factor` pixels; what lies beyond the edge counts as zero."""
    padded = np.pad(values, [(0, -size % factor) for size in values.shape])
    squares = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    return np.asarray(squares.sum(axis=(1, 3), dtype=np.float32))


def _ratio(total: Array, count: Array) -> Array:
    return np.divide(total, count, where=count > 0, out=np.full(count.shape, np.nan, np.float32))
