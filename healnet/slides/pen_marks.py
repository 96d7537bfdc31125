"""Find pen marks of any color on a picture of a slide, by the colors that stains cannot mix."""

from __future__ import annotations

from functools import reduce
from itertools import product
from typing import Any, NamedTuple

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
BLOCK = 256  # pixels: side of the blocks that are looked at one after the other
HALO = 4  # pixels that smoothing by one pixel reaches
# Three densities of 0.0036 are 0.0062 beyond any line together, less than every limit here: glass.
CLEAR = 241
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
    inks, density = _inks(rgb)
    marks = _continued(inks.outside, inks.near_outside) | _continued(inks.black, inks.black_or_gray)
    marks |= _continued(inks.red | _strokes(inks.flat_red), inks.near_red)
    # The deviation is large along a stroke's own edges, by two pixels.
    purple = _of_one_dye(_strokes(inks.flat_purple, LONG), density)
    if purple.any():
        marks |= ndimage.binary_dilation(purple, iterations=4) & inks.near_purple
    if not marks.any():
        return marks
    # Closing reaches GAP pixels beyond the marks, and their soft edge REACH more.
    rows, columns = (np.flatnonzero(marks.any(axis)) for axis in (1, 0))
    part = tuple(slice(max(0, at[0] - GAP - REACH), at[-1] + 1 + GAP + REACH) for at in (rows, columns))
    y, x = np.mgrid[-GAP : GAP + 1, -GAP : GAP + 1]
    closed = ndimage.binary_closing(np.pad(marks[part], GAP), x**2 + y**2 <= GAP**2)[GAP:-GAP, GAP:-GAP]
    marks[part] = ndimage.binary_dilation(closed | marks[part], iterations=REACH)
    return marks


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


class _Inks(NamedTuple):
    """Pixels of colors that ink may have, (h, w) bool each."""

    outside: Array
    near_outside: Array
    black: Array
    black_or_gray: Array
    red: Array
    near_red: Array
    flat_red: Array
    flat_purple: Array
    near_purple: Array


def _inks(rgb: Array) -> tuple[_Inks, list[Array]]:
    """Colors that ink may have, and the optical densities, block by block.

    What fits into a processor's cache is three times as fast, and blocks of glass are skipped.
    """
    height, width = rgb.shape[:2]
    inks = _Inks(*(np.zeros((height, width), bool) for _ in _Inks._fields))
    density = [np.zeros((height, width), np.float32) for _ in range(3)]
    for top, left in product(range(0, height, BLOCK), range(0, width, BLOCK)):
        # With the surroundings that smoothing looks at; at the picture's border it looks at what it did.
        low, high = (max(0, top - HALO), max(0, left - HALO)), (top + BLOCK + HALO, left + BLOCK + HALO)
        around = rgb[low[0] : high[0], low[1] : high[1]]
        if around.min() >= CLEAR:
            continue
        inside = tuple(
            slice(at - start, at - start + BLOCK) for at, start in zip((top, left), low, strict=True)
        )
        place = slice(top, top + BLOCK), slice(left, left + BLOCK)
        own = [color[inside] for color in _density(around)]
        for whole, part in zip(density, own, strict=True):
            whole[place] = part
        for whole, part in zip(inks, _inks_of_block(around, inside, own), strict=True):
            whole[place] = part
    return inks, density


def _inks_of_block(around: Array, inside: tuple[slice, ...], density: list[Array]) -> _Inks:
    red, green, blue = density
    mean = (red + green + blue) / 3
    outside = reduce(np.maximum, (_beyond(face, density) for face in FACES))
    redder = np.where(green > blue, _beyond(RED_LINE, density), 0)
    more_purple = np.where(2 * red > mean, _beyond(PURPLE_LINE, density), 0)
    gray = (abs(red - mean) < 0.15 * mean) & (green - blue < 0.1 * mean) & (mean > GRAY[0])
    may_be_flat = [gray & (mean > GRAY[1]), redder > REDDER, more_purple > MORE_PURPLE]
    flat = np.zeros(mean.shape, bool)
    if any(mask.any() for mask in may_be_flat):
        flat = _deviation(around)[inside] < FLAT
    brightest = reduce(np.maximum, np.moveaxis(around[inside], -1, 0))
    black = (brightest < 255 * BLACK) | (may_be_flat[0] & flat)
    return _Inks(
        outside > OUTSIDE,
        outside > NEAR,
        black,
        black | gray,
        redder > OUTSIDE,
        redder > REDDER / 2,
        flat & may_be_flat[1],
        flat & may_be_flat[2],
        more_purple > MORE_PURPLE / 2,
    )


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
    if np.count_nonzero(mask) < size:
        return np.zeros_like(mask)
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    keep = np.bincount(labels.ravel()) >= size
    keep[0] = False
    if keep.any() and min(mask.shape) >= WIDEST:
        keep[labels[ndimage.minimum_filter(mask, WIDEST, mode="constant")]] = False
    return np.asarray(keep[labels])


def _of_one_dye(mask: Array, density: list[Array]) -> Array:
    """The connected pieces whose chroma deviates by less than `ONE_DYE`."""
    if not mask.any():
        return mask
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
    if np.count_nonzero(sure) < STROKE:
        return np.zeros_like(sure)
    labels, pieces = ndimage.label(likely, np.ones((3, 3)))
    keep = np.bincount(labels[sure], minlength=pieces + 1) >= STROKE
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
