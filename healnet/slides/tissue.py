"""Where the tissue is: saturation, Otsu's threshold and morphology on a small picture of the slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from healnet._files import need

__all__ = ["Tissue", "otsu_threshold", "outline", "tissue_mask"]

Array = np.ndarray[Any, Any]

# Glass is a little tinted (saturation up to 0.04), and pale stroma begins near 0.1. Within a slide full of tissue Otsu
# would split nuclei from stroma, and on an empty one dust from glass.
THRESHOLD_RANGE = (0.05, 0.12)
DARKEST = (
    0.15  # below this value a pixel is ink, a fold's shadow or the scanner's black border; its hue is noise
)
GREEN = (80.0, 170.0)  # degrees; no stain of histology is green, a common pen is


@dataclass(frozen=True, eq=False)
class Tissue:
    """The tissue of a slide, on a grid of `downsample` level-0 pixels.

    Attributes:
        mask: (h, w) bool, True = tissue.
        downsample: level-0 pixels per pixel of the mask, along x and y.
        area_mm2: area of the tissue.
        threshold: the saturation, from 0 to 1, that parted tissue from glass.
        picture: (h, w, 3) uint8, the slide with the tissue's outline in green, for a look before hours of computing.
    """

    mask: Array
    downsample: tuple[float, float]
    area_mm2: float
    threshold: float
    picture: Array

    def fraction(self, coords: Array, footprint: float) -> Array:
        """What part of each square of `footprint` level-0 pixels is tissue; what lies off the slide is not.

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


def tissue_mask(
    rgb: Array,
    *,
    opening: float = 1,
    closing: float = 2,
    min_area: float = 150,
    min_hole: float = 150,
    threshold: float | None = None,
) -> tuple[Array, float]:
    """Tissue is coloured, glass is not: smoothed saturation above Otsu's threshold, then morphology.

    Opening removes specks, closing joins what staining left apart, pieces under `min_area` go, holes under `min_hole` are
    filled; larger holes (lumina, tears) stay holes. Black and pen green are never tissue.

    Args:
        rgb: picture of the slide.
        opening: radius in pixels.
        closing: radius in pixels.
        min_area: pixels.
        min_hole: pixels.
        threshold: a saturation from 0 to 1 instead of Otsu's.

    Shape:
        rgb: (h, w, 3) uint8; returns (h, w) bool and the threshold.

    Raises:
        ValueError: a picture of another shape or type, a threshold outside 0..1.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an RGB picture (h, w, 3) of uint8, got {rgb.dtype} of shape {rgb.shape}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold of saturation from 0 to 1, got {threshold}")
    ndimage = need("scipy.ndimage", "scipy", "the tissue mask")
    hue, saturation, value = _hsv(rgb)
    usable = (value > DARKEST) & ~((hue > GREEN[0]) & (hue < GREEN[1]) & (saturation > THRESHOLD_RANGE[1]))
    saturation = ndimage.gaussian_filter(np.where(usable, saturation, 0), 1)
    if threshold is None:
        threshold = float(np.clip(otsu_threshold(saturation[usable]), *THRESHOLD_RANGE))
    mask = (saturation > threshold) & usable
    # Beyond the border the picture goes on as it ends: a section cut off by the scan keeps its rim, glass stays glass.
    margin = int(max(opening, closing)) + 1
    mask = np.pad(mask, margin, mode="edge")
    if opening >= 1:
        mask = ndimage.binary_opening(mask, _disk(opening))
    if closing >= 1:
        mask = ndimage.binary_closing(mask, _disk(closing))
    mask = mask[margin:-margin, margin:-margin]
    mask = ~_large(ndimage, ~mask, min_hole)
    return _large(ndimage, mask, min_area), threshold


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


def outline(rgb: Array, mask: Array) -> Array:
    """A copy of the picture with the mask's border drawn in green, two pixels wide, and what is outside paled.

    Shape:
        rgb: (h, w, 3) uint8; mask: (h, w) bool.
    """
    ndimage = need("scipy.ndimage", "scipy", "the tissue picture")
    picture = rgb.copy()
    picture[~mask] = 255 - (255 - picture[~mask]) // 2
    border = ndimage.binary_dilation(mask, iterations=1) & ~ndimage.binary_erosion(
        mask, iterations=1, border_value=1
    )
    picture[border] = (0, 158, 115)  # the green of Okabe and Ito's colours, legible to colour-blind eyes
    return picture


def _hsv(rgb: Array) -> tuple[Array, Array, Array]:
    """Hue in degrees, saturation and value from 0 to 1 (Smith, 1978)."""
    red, green, blue = (rgb[..., c].astype(np.float32) for c in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    safe = np.maximum(spread, 1)
    hue = np.where(
        value == red,
        (green - blue) / safe % 6,
        np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return hue * 60, spread / np.maximum(value, 1), value / 255


def _disk(radius: float) -> Array:
    reach = int(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(x**2 + y**2 <= radius**2)


def _large(ndimage: Any, mask: Array, area: float) -> Array:
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
