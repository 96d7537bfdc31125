"""Find pen marks of any color on a picture of a slide, by the colors that stains cannot mix."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from scipy import ndimage

__all__ = ["hue_saturation_value", "pen_mask"]

Array = np.ndarray[Any, Any]
Chroma = tuple[float, float]

# In optical density a dye's direction does not depend on its strength, and dyes that lie over each other add up. So in the
# plane of chroma (van der Laak et al., Cytometry 39:275, 2000: R / D - 1 and (G - B) / (sqrt(3) D) of the densities R, G, B
# with mean D) every mixture of stains lies within the polygon of the stains, and what lies outside it is ink. The corners
# are wider than the stains that Ruifrok and Johnston measured (Anal. Quant. Cytol. Histol. 23:291, 2001): hematoxylin
# (0.19, 0.43), eosin (-0.82, 1.31), DAB (-0.50, -0.22).
STAINS: tuple[Chroma, ...] = (
    (0.32, 0.49),  # the bluest hematoxylin
    (-0.82, 1.31),  # the most magenta eosin
    (-1.02, 0.60),  # eosin on a scanner that sees no red absorbed
    (-1.02, 0.00),  # blood
    (-0.75, -0.60),  # the yellowest DAB
    (0.10, -0.10),  # gray: folds and pigments
)
OUTSIDE, NEAR = 0.04, 0.012  # optical density beyond the polygon: of ink, and of what continues it
# Red and purple ink lie within the polygon, beyond these two lines that stained tissue rarely crosses. Fresh blood does, and
# so do vivid mixtures of hematoxylin and eosin, so that there only flat strokes are ink, and of purple only long ones of a
# single dye: the chroma of purple ink deviates by up to 0.021, that of flat purple tissue out of focus by 0.027 and more.
# At 8 microns per pixel, 0.02% of the tissue of two real slides deviates by less than 4 gray levels within 5 x 5 pixels.
RED: tuple[Chroma, Chroma] = ((-0.92, 0.45), (-0.66, 0.10))
PURPLE: tuple[Chroma, Chroma] = ((0.25, 0.48), (-0.80, 0.74))
REDDER, MORE_PURPLE, FLAT = 0.015, 0.03, 4.0  # optical densities beyond the lines; gray levels
ONE_DYE, LONG = 0.024, 400  # deviation of chroma within a purple stroke; its least number of pixels
BLACK = 0.15  # largest value of black ink
GRAY = (0.25, 0.45)  # least densities of gray ink: of what continues black ink, and where it is flat
WHITE = 243.0  # glass
STROKE, WIDEST = 80, 250  # pixels: smaller pieces are cells, dust or bile; wider than 2 mm is no stroke
GAP, REACH = 3, 1  # pixels: half of a gap within a stroke, and its soft edge


def pen_mask(rgb: Array) -> Array:
    """Pen marks: colors that stains of tissue cannot mix, black, and flat strokes of red and purple.

    Meant for hematoxylin with eosin or DAB, at 4 to 16 microns per pixel. Stains of other colors, as trichrome, Alcian blue
    and saffron, may count as pen.

    Measured on two real slides with ink drawn as a dye acts, at 0.6 to 1.5 times the density of a fresh stroke. Over glass,
    all ink is found, of purple from 1.0 times (97%). Over tissue, green, blue and black are found from 1.0 times (84% of the
    pixels or more), yellow, light blue and orange from 1.5 times (67% or more), red and purple mostly not. Of the real pen
    marks among HistoQC's examples 56% of the red, 99.8% of the green and all of the black is found; what is missed is red of
    a pen that ran dry. No tissue of these slides is lost in focus or out of it, pale or dark, vivid or brown, with one
    exception: tissue out of focus that is as red as fresh blood.

    Shape:
        rgb: (h, w, 3) uint8; returns (h, w) bool.
    """
    density = _density(rgb)
    red, green, blue = density
    mean = (red + green + blue) / 3
    outside = reduce(np.maximum, (_beyond(face, density) for face in FACES))
    redder = np.where(green > blue, _beyond(RED_LINE, density), 0)
    more_purple = np.where(2 * red > mean, _beyond(PURPLE_LINE, density), 0)
    gray = (abs(red - mean) < 0.15 * mean) & (green - blue < 0.1 * mean) & (mean > GRAY[0])
    flat = _deviation(rgb) < FLAT
    brightest = reduce(np.maximum, np.moveaxis(rgb, -1, 0))
    black = (brightest < 255 * BLACK) | (gray & flat & (mean > GRAY[1]))
    marks = _continued(outside > OUTSIDE, outside > NEAR) | _continued(black, black | gray)
    marks |= _continued((redder > OUTSIDE) | _strokes(flat & (redder > REDDER)), redder > REDDER / 2)
    # The deviation is large along a stroke's own edges, by two pixels.
    purple = _of_one_dye(_strokes(flat & (more_purple > MORE_PURPLE), LONG), density)
    marks |= ndimage.binary_dilation(purple, iterations=4) & (more_purple > MORE_PURPLE / 2)
    if not marks.any():
        return marks
    y, x = np.mgrid[-GAP : GAP + 1, -GAP : GAP + 1]
    closed = ndimage.binary_closing(np.pad(marks, GAP), x**2 + y**2 <= GAP**2)[GAP:-GAP, GAP:-GAP]
    return np.asarray(ndimage.binary_dilation(closed | marks, iterations=REACH))


def hue_saturation_value(rgb: Array) -> tuple[Array, Array, Array]:
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


def _density(rgb: Array) -> list[Array]:
    """Optical density of red, green and blue, smoothed by one pixel, which evens out the noise of pale pixels."""
    levels = np.maximum(0, -np.log10(np.maximum(np.arange(256), 1) / WHITE)).astype(np.float32)
    return [ndimage.gaussian_filter(levels[rgb[..., c]], 1) for c in range(3)]


def _beyond(line: Array, density: list[Array]) -> Array:
    """How far densities lie beyond a line of `_line`."""
    return np.asarray(line[0] * density[0] + line[1] * density[1] + line[2] * density[2])


def _deviation(rgb: Array) -> Array:
    """The largest standard deviation of the three colors within 5 x 5 pixels."""
    result = np.zeros(rgb.shape[:2], np.float32)
    for c in range(3):
        color = rgb[..., c].astype(np.float32)
        mean = ndimage.uniform_filter(color, 5, mode="nearest")
        square = ndimage.uniform_filter(color * color, 5, mode="nearest")
        result = np.maximum(result, np.sqrt(np.maximum(square - mean * mean, 0)))
    return result


def _strokes(mask: Array, size: int = STROKE) -> Array:
    """The connected pieces of at least `size` pixels that are nowhere as wide and high as `WIDEST`."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    keep = np.bincount(labels.ravel()) >= size
    keep[0] = False
    if keep.any() and min(mask.shape) >= WIDEST:
        keep[labels[ndimage.minimum_filter(mask, WIDEST, mode="constant")]] = False
    return np.asarray(keep[labels])


def _of_one_dye(mask: Array, density: list[Array]) -> Array:
    """The connected pieces whose chroma deviates by less than `ONE_DYE`."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    piece, (red, green, blue) = labels[mask], [color[mask] for color in density]
    count = np.maximum(np.bincount(piece, minlength=1), 1)
    variance = np.zeros(len(count))
    for chroma in (3 * red / (red + green + blue), 3**0.5 * (green - blue) / (red + green + blue)):
        mean = np.bincount(piece, chroma, len(count)) / count
        variance += np.bincount(piece, (chroma - mean[piece]) ** 2, len(count)) / count
    keep = variance < ONE_DYE**2
    keep[0] = False
    return np.asarray(keep[labels])


def _continued(sure: Array, likely: Array) -> Array:
    """The connected pieces of `likely` that hold at least `STROKE` pixels of `sure`."""
    labels, _ = ndimage.label(likely, np.ones((3, 3)))
    keep = np.bincount(labels.ravel(), sure.ravel()) >= STROKE
    keep[0] = False
    return np.asarray(keep[labels])


def _line(first: Chroma, second: Chroma, within: Chroma) -> Array:
    """The vector whose product with densities tells how far they lie beyond the line, seen from `within`."""
    vectors = [
        np.array((1 + x, (2 - x + 3**0.5 * y) / 2, (2 - x - 3**0.5 * y) / 2))
        for x, y in (first, second, within)
    ]
    normal = np.cross(vectors[0], vectors[1])
    normal *= -np.sign(normal @ vectors[2]) / np.linalg.norm(normal)
    return np.asarray(normal, np.float32)


TISSUE: Chroma = (-0.3, 0.3)  # hematoxylin and eosin in equal parts
FACES = np.stack([_line(*pair, TISSUE) for pair in zip(STAINS, STAINS[1:] + STAINS[:1], strict=True)])
RED_LINE, PURPLE_LINE = _line(*RED, TISSUE), _line(*PURPLE, TISSUE)
