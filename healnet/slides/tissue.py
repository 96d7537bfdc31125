"""Find the tissue of a slide: saturation, Otsu's threshold and morphology on a small picture; pen marks are left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from healnet.slides.pen_marks import hue_saturation_value, pen_mask
from healnet.slides.slide_bounds import Bounds

__all__ = ["Segmenter", "Tissue", "find_tissue", "otsu_threshold", "tissue_mask"]

Array = np.ndarray[Any, Any]
# From a (h, w, 3) uint8 picture and its microns per pixel to (h, w): bool, or probabilities of tissue.
Segmenter = Callable[[Array, float], Array]

# Glass is a little tinted (saturation up to 0.04), and pale stroma begins near 0.1. Within a slide full of tissue Otsu
# would split nuclei from stroma, and on an empty one dust from glass.
THRESHOLD_RANGE = (0.05, 0.12)
# Below this value a pixel is ink, a fold's shadow or the scanner's black border; its hue is noise.
DARKEST = 0.15
PROBABLE = 0.5  # of a segmenter's probabilities


@dataclass(frozen=True, eq=False)
class Tissue:
    """The tissue of a slide, on a grid of `downsample` level-0 pixels.

    Attributes:
        mask: (h, w) bool, True = tissue.
        downsample: Level-0 pixels per pixel of the mask, along x and y.
        area_mm2: Area of the tissue.
        threshold: Threshold used, of the saturation or of a segmenter's probability, from 0 to 1; NaN of a mask
            that the user or a segmenter made.
        pen: (h, w) bool, True = pen mark.
        rgb: (h', w', 3) uint8, picture of the slide on the same grid or, of a small slide, on a finer one; None of a mask
            that the user made.
        bounds: The slide's `Slide.bounds`, from whose corner outlines for QuPath are counted; None if they are not known.
        small: (h, w) bool, True = in a piece that was left out because it is small; None of a mask that the user made.
    """

    mask: Array
    downsample: tuple[float, float]
    area_mm2: float
    threshold: float
    pen: Array
    rgb: Array | None = None
    bounds: Bounds | None = None
    small: Array | None = None

    @property
    def pen_share(self) -> float:
        """Area of pen marks relative to that of tissue and pen marks together; 0 where there is neither."""
        pen, either = int(self.pen.sum()), int((self.pen | self.mask).sum())
        return pen / either if either else 0.0

    def fraction(self, coords: Array, footprint: float) -> Array:
        """Return the part of each square of `footprint` level-0 pixels that is tissue; what lies off the slide is not.

        Exact for any position: the area under the mask is the bilinear interpolation of its summed-area table.

        Shape:
            coords: (n, 2), (x, y) of the top-left corners; returns (n,) float64 from 0 to 1.
        """
        height, width = self.mask.shape
        table = np.zeros((height + 1, width + 1))
        table[1:, 1:] = self.mask.cumsum(0).cumsum(1)
        scale = np.asarray(self.downsample)
        low = np.clip(np.asarray(coords) / scale, 0, (width, height))
        high = np.clip((np.asarray(coords) + footprint) / scale, 0, (width, height))
        area = (
            _interpolated(table, high[:, 0], high[:, 1])
            - _interpolated(table, low[:, 0], high[:, 1])
            - _interpolated(table, high[:, 0], low[:, 1])
            + _interpolated(table, low[:, 0], low[:, 1])
        )
        return np.clip(area * scale.prod() / footprint**2, 0, 1)


def find_tissue(
    rgb: Array,
    downsample: tuple[float, float],
    mpp: float,
    *,
    opening: float,
    closing: float,
    min_area: float,
    min_hole: float,
    threshold: float | None = None,
    pen: bool = True,
    segment: Segmenter | None = None,
) -> Tissue:
    """The tissue of a slide, from a picture of it and sizes in microns.

    Args:
        rgb: (h, w, 3) uint8, picture of the whole slide.
        downsample: Level-0 pixels per pixel of the picture, along x and y.
        mpp: Microns per level-0 pixel.
        opening: Radius in microns.
        closing: Radius in microns.
        min_area: Least area of a piece in square microns.
        min_hole: Least area of a hole in square microns.
        threshold: A saturation from 0 to 1 instead of Otsu's; with `segment`, a probability instead of 0.5.
        pen: Look for pen marks, which are never tissue.
        segment: Function that finds the tissue instead of saturation.

    Raises:
        ValueError: A threshold outside 0..1, a result of `segment` that is no mask of the picture.
    """
    pixel = mpp * mpp * downsample[0] * downsample[1]
    side = pixel**0.5
    marks = pen_mask(rgb) if pen else np.zeros(rgb.shape[:2], bool)
    if segment is None:
        found, threshold = _colored(rgb, marks, threshold)
    else:
        found, threshold = _segmented(segment, rgb, side, threshold)
    mask = _smoothed(found, opening / side, closing / side, min_hole / pixel) & ~marks
    large = _large(mask, min_area / pixel)
    area = float(large.sum() * pixel / 1e6)
    return Tissue(large, downsample, area, threshold, marks, rgb, small=mask & ~large)


def tissue_mask(
    rgb: Array,
    pen: Array | None = None,
    *,
    opening: float = 1,
    closing: float = 2,
    min_area: float = 150,
    min_hole: float = 150,
    threshold: float | None = None,
) -> tuple[Array, float]:
    """Mark as tissue what is colored, as glass is not: smoothed saturation above Otsu's threshold, then morphology.

    Opening removes specks, closing joins what staining left apart, pieces under `min_area` go, holes under `min_hole` are
    filled; larger holes (lumina, tears) stay holes. Black pixels and pen marks are never tissue.

    Args:
        rgb: Picture of the slide.
        pen: Pen marks of the picture; by default those of `pen_mask`.
        opening: Radius in pixels.
        closing: Radius in pixels.
        min_area: Least size of a piece in pixels.
        min_hole: Least size of a hole in pixels.
        threshold: A saturation from 0 to 1 instead of Otsu's.

    Shape:
        rgb: (h, w, 3) uint8; returns (h, w) bool and the threshold.

    Raises:
        ValueError: A picture of another shape or type, a threshold outside 0..1.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an RGB picture (h, w, 3) of uint8, got {rgb.dtype} of shape {rgb.shape}")
    pen = pen_mask(rgb) if pen is None else pen
    mask, threshold = _colored(rgb, pen, threshold)
    return _large(_smoothed(mask, opening, closing, min_hole) & ~pen, min_area), threshold


def _colored(rgb: Array, pen: Array, threshold: float | None) -> tuple[Array, float]:
    """What is more saturated than the threshold, by default Otsu's, and neither black nor pen."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold of saturation from 0 to 1, got {threshold}")
    _, saturation, value = hue_saturation_value(rgb)
    usable = (value > DARKEST) & ~pen
    saturation = ndimage.gaussian_filter(np.where(usable, saturation, 0), 1)
    if threshold is None:
        threshold = float(np.clip(otsu_threshold(saturation[usable]), *THRESHOLD_RANGE))
    return (saturation > threshold) & usable, threshold


def _segmented(segment: Segmenter, rgb: Array, mpp: float, threshold: float | None) -> tuple[Array, float]:
    """What a function takes for tissue, once it is a mask of the picture or probabilities."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold of probability from 0 to 1, got {threshold}")
    found = np.asarray(segment(rgb.copy(), mpp))
    kind = found.dtype.kind
    if (
        found.shape != rgb.shape[:2]
        or kind not in "bf"
        or (kind == "f" and not ((found >= 0) & (found <= 1)).all())
    ):
        raise ValueError(
            f"expected of segment bool or probabilities from 0 to 1 of shape {rgb.shape[:2]}, got {found.dtype} of shape "
            f"{found.shape}" + (f" from {found.min()} to {found.max()}" if kind == "f" and found.size else "")
        )
    if kind == "b":
        return found, math.nan
    threshold = PROBABLE if threshold is None else threshold
    return found >= threshold, threshold


def _smoothed(mask: Array, opening: float, closing: float, min_hole: float) -> Array:
    """A mask without specks, cracks and small holes."""
    # Beyond the border the picture goes on as it ends: a section cut off by the scan keeps its rim, glass stays glass.
    margin = int(max(opening, closing)) + 1
    mask = np.pad(mask, margin, mode="edge")
    if opening >= 1:
        mask = ndimage.binary_opening(mask, _disk(opening))
    if closing >= 1:
        mask = ndimage.binary_closing(mask, _disk(closing))
    return ~_large(~mask[margin:-margin, margin:-margin], min_hole)


def otsu_threshold(values: Array) -> float:
    """The threshold of values in 0..1 that parts them into two classes of largest variance between (Otsu, 1979).

    The middle of the best thresholds where several tie; 0 where all values are equal or there are none.

    Example:
        >>> 0.1 < otsu_threshold(np.array([0.1, 0.1, 0.1, 0.7, 0.7])) < 0.7
        True
    """
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    middle = (edges[:-1] + edges[1:]) / 2
    below, above = counts.cumsum(), counts.sum() - counts.cumsum()
    sums = (counts * middle).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    between = np.nan_to_num(between)
    return float(edges[1:][between == between.max()].mean()) if between.max() > 0 else 0.0


def _disk(radius: float) -> Array:
    reach = int(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(x**2 + y**2 <= radius**2)


def _large(mask: Array, area: float) -> Array:
    """The connected pieces of at least `area` pixels."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    keep = sizes >= area
    keep[0] = False
    return np.asarray(keep[labels])


def _interpolated(table: Array, x: Array, y: Array) -> Array:
    """Bilinear interpolation of (h, w) at (n,) points within it."""
    x0, y0 = np.minimum(x.astype(int), table.shape[1] - 2), np.minimum(y.astype(int), table.shape[0] - 2)
    fx, fy = x - x0, y - y0
    top = table[y0, x0] * (1 - fx) + table[y0, x0 + 1] * fx
    bottom = table[y0 + 1, x0] * (1 - fx) + table[y0 + 1, x0 + 1] * fx
    return np.asarray(top * (1 - fy) + bottom * fy)
