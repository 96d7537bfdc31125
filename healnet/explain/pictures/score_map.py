"""Scores of patches as a picture of the slide: whole, or read piece by piece at any size."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from healnet.explain._checks import check_inside, patches

__all__ = ["ScoreRaster", "score_map"]


def score_map(
    coords: ArrayLike,
    footprint: float,
    scores: ArrayLike,
    level0_size: tuple[int, int],
    shape: tuple[int, int],
) -> NDArray[np.float64]:
    """Scores of patches as a picture of the slide: a pixel is the mean over the patches that cover its center, NaN without.

    A patch that is too small to cover any pixel's center takes the pixel that its own center is in. Time and memory grow
    with patches plus pixels, not with their product.

    Args:
        coords: (n, 2) top-left corners (x, y) in level-0 pixels, as CLAM, TRIDENT and `read_patches` give them.
        footprint: Side length of a patch in level-0 pixels (`PatchFile.footprint`): not the patch size at its own level.
        scores: (n,) finite scores.
        level0_size: (width, height) of the slide in level-0 pixels.
        shape: (height, width) of the picture, whatever its magnification.

    Returns:
        (height, width) float64.

    Raises:
        ValueError: Lengths that differ, a footprint that is not positive, a score that is not finite, a patch that does
            not touch the slide (coordinates or size of another slide or level).

    Example:
        >>> score_map([[0, 0], [512, 0]], 512, [1.0, 3.0], (1024, 1024), shape=(2, 2)).tolist()
        [[1.0, 3.0], [nan, nan]]
    """
    places, values = patches(coords, footprint, scores)
    check_inside(places, footprint, level0_size)
    pixel = (level0_size[0] / shape[1], level0_size[1] / shape[0])
    return _filled(places, footprint, values, pixel, shape)


class ScoreRaster:
    """Scores of patches as a picture of the slide that is made piece by piece where it is read, for `to_pyramid_tiff`.

    Its pixels are those of `score_map`, NaN where no patch is, and only what is read takes memory:

        raster = ScoreRaster(coords, file.footprint, scores, (slide.width, slide.height), downsample=8)
        to_pyramid_tiff(raster, "scores.tif", limits=(scores.min(), scores.max()), mpp=8 * slide.mpp)

    Args:
        coords: (n, 2) top-left corners (x, y) in level-0 pixels.
        footprint: Side length of a patch in level-0 pixels.
        scores: (n,) finite scores.
        level0_size: (width, height) of the slide in level-0 pixels.
        downsample: Level-0 pixels per pixel of the picture.

    Attributes:
        shape: (height, width).

    Raises:
        ValueError: As `score_map`, or a downsample that is not above 0; from reading, anything but two slices without steps.
    """

    def __init__(
        self,
        coords: ArrayLike,
        footprint: float,
        scores: ArrayLike,
        level0_size: tuple[int, int],
        downsample: float = 1.0,
    ) -> None:
        if not downsample > 0:
            raise ValueError(f"expected a downsample above 0, got {downsample}")
        places, values = patches(coords, footprint, scores)
        check_inside(places, footprint, level0_size)
        order = np.argsort(places[:, 1], kind="stable")
        self._places, self._values, self._footprint = places[order], values[order], footprint
        self._downsample = downsample
        self.shape = (math.ceil(level0_size[1] / downsample), math.ceil(level0_size[0] / downsample))

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.float64]:
        if not (isinstance(key, tuple) and len(key) == 2 and all(_is_run(part) for part in key)):
            raise ValueError(f"expected two slices without steps, such as raster[:100, 50:90], got {key}")
        (top, bottom, _), (left, right, _) = (
            part.indices(size) for part, size in zip(key, self.shape, strict=True)
        )
        step, reach = self._downsample, max(self._footprint, self._downsample)
        # A patch that is smaller than a pixel still takes one: what touches the window is drawn, and what is cut is cut.
        first, last = np.searchsorted(self._places[:, 1], [top * step - reach, bottom * step + reach])
        x = self._places[first:last, 0]
        near = np.flatnonzero((x >= left * step - reach) & (x <= right * step + reach)) + first
        shape = (max(bottom - top, 0), max(right - left, 0))
        return _filled(
            self._places[near] - (left * step, top * step),
            self._footprint,
            self._values[near],
            (step, step),
            shape,
        )


def _is_run(part: object) -> bool:
    return isinstance(part, slice) and part.step in (None, 1)


def _filled(
    places: NDArray[np.float64],
    footprint: float,
    values: NDArray[np.float64],
    pixel: tuple[float, float],
    shape: tuple[int, int],
) -> NDArray[np.float64]:
    """The mean over the patches that cover each pixel's center, NaN without; a pixel spans `pixel` level-0 pixels."""
    rows, columns = shape
    top, bottom = _covered(places[:, 1], footprint, pixel[1], rows)
    left, right = _covered(places[:, 0], footprint, pixel[0], columns)
    # Two-dimensional differences: +s where a rectangle starts, -s behind its ends; their running sum fills the rectangles.
    stride = columns + 1
    corners = np.concatenate(
        [top * stride + left, top * stride + right, bottom * stride + left, bottom * stride + right]
    )

    def filled(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        signed = np.concatenate([weights, -weights, -weights, weights])
        corner = np.bincount(corners, signed, minlength=(rows + 1) * stride).reshape(rows + 1, stride)
        running: NDArray[np.float64] = corner.cumsum(axis=0).cumsum(axis=1)[:rows, :columns]
        return running

    # About their middle, so that the running sums round as little as they can.
    middle = (values.min() + values.max()) / 2 if len(values) else 0.0
    count = filled(np.ones(len(places))).round()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, filled(values - middle) / count + middle, np.nan)


def _covered(
    start: NDArray[np.float64], length: float, pixel: float, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one-past-last pixel whose centers lie in [start, start + length), clipped to the picture."""
    first = np.ceil(start / pixel - 0.5)
    last = np.ceil((start + length) / pixel - 0.5)
    none = last <= first
    first = np.where(none, np.floor((start + length / 2) / pixel), first)
    last = np.where(none, first + 1, last)
    return np.clip(first, 0, count).astype(np.int64), np.clip(last, 0, count).astype(np.int64)
