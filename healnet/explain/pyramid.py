"""Write scores of every pixel as a pyramidal TIFF that OpenSlide, QuPath and other slide viewers open."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from healnet._files import atomic_path

__all__ = ["to_pyramid_tiff"]

Array = np.ndarray[Any, Any]
READ = 2048  # Side of the squares that are read at once.
SMALLEST = 1024  # The pyramid ends with the first level whose longer side is at most this.


def to_pyramid_tiff(
    scores: Any,
    path: str | Path,
    limits: tuple[float, float],
    *,
    mpp: float | None = None,
    tile: int = 512,
    colormap: str = "viridis",
) -> None:
    """Write scores as a tiled pyramid of RGB pictures, each level half the size of the one before.

    The scores are read once per level, in squares of at most 2,048 pixels, so memory stays small. A pixel of a lower level
    is the mean of the scores under it. The file appears when it is whole.

    Args:
        scores: Source of the scores, (h, w): an array, a memory map or a dataset of an HDF5 or Zarr file. NaN is white.
        path: File to write.
        limits: Scores of the first and of the last color.
        mpp: Microns per pixel, which viewers show as a scale.
        tile: Side of the file's tiles, a multiple of 16.
        colormap: Name of a matplotlib color map.

    Raises:
        ImportError: tifffile or matplotlib is not installed.
        ValueError: scores that are no picture, limits that do not rise, or a tile that TIFF does not allow.
    """
    try:
        import tifffile
        from matplotlib import colormaps
    except ImportError as error:
        raise ImportError(
            "a pyramidal TIFF needs tifffile and matplotlib: pip install healnet[examples]"
        ) from error
    shape = tuple(int(size) for size in scores.shape)
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"expected scores of shape (h, w), got {shape}")
    if not limits[0] < limits[1]:
        raise ValueError(f"expected limits that rise, got {limits}")
    if tile < 16 or tile % 16:
        raise ValueError(f"expected a tile of a multiple of 16, got {tile}")
    table = (np.asarray(colormaps[colormap](np.linspace(0, 1, 256)))[:, :3] * 255).round().astype(np.uint8)
    table = np.concatenate((table, np.full((1, 3), 255, np.uint8)))  # the last one is for NaN
    factors = [2**level for level in range(1 + max(0, math.ceil(math.log2(max(shape) / SMALLEST))))]
    with atomic_path(Path(path)) as temporary, tifffile.TiffWriter(temporary, bigtiff=True) as file:
        for factor in factors:
            height, width = (-(-size // factor) for size in shape)
            resolution = None if mpp is None else (1e4 / (mpp * factor), 1e4 / (mpp * factor))
            file.write(
                _tiles(scores, factor, tile, limits, table),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(tile, tile),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(factor > 1),
                resolution=resolution,
                resolutionunit=None if mpp is None else "CENTIMETER",
            )


def _tiles(scores: Any, factor: int, tile: int, limits: tuple[float, float], table: Array) -> Iterator[Array]:
    """The tiles of one level, row by row, padded with white."""
    height, width = (-(-size // factor) for size in scores.shape)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            part = _mean(scores, factor, top, left, min(tile, height - top), min(tile, width - left))
            level = np.nan_to_num((part - limits[0]) / (limits[1] - limits[0]) * 255).clip(0, 255)
            index = np.where(np.isnan(part), 256, level.round()).astype(np.intp)
            picture = np.full((tile, tile, 3), 255, np.uint8)
            picture[: part.shape[0], : part.shape[1]] = table[index]
            yield picture


def _mean(scores: Any, factor: int, top: int, left: int, height: int, width: int) -> Array:
    """A part of a level: the mean of each square of `factor` pixels, NaN left out; NaN where nothing is left."""
    part = np.empty((height, width), np.float32)
    step = max(1, READ // factor)
    for y in range(0, height, step):
        for x in range(0, width, step):
            rows = slice((top + y) * factor, (top + min(y + step, height)) * factor)
            columns = slice((left + x) * factor, (left + min(x + step, width)) * factor)
            source = np.asarray(scores[rows, columns], dtype=np.float32)
            part[y : y + step, x : x + step] = source if factor == 1 else _pooled(source, factor)
    return part


def _pooled(source: Array, factor: int) -> Array:
    short = [(0, -size % factor) for size in source.shape]
    padded = np.pad(source, short, constant_values=np.nan)
    squares = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    known = ~np.isnan(squares)
    count = known.sum(axis=(1, 3))
    total = np.where(known, squares, 0).sum(axis=(1, 3), dtype=np.float64)
    return np.asarray(np.divide(total, count, where=count > 0, out=np.full(count.shape, np.nan)))
