"""Find pen marks of any color on a picture of a slide."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

__all__ = ["hue_saturation_value", "pen_mask"]

Array = np.ndarray[Any, Any]

# Ink by hue in degrees and saturation alone: no stain of histology is green, and hematoxylin, eosin, DAB and saffron lie
# outside the hues of blue and yellow ink at the same strength.
INKS = ((38.0, 72.0, 0.45), (72.0, 170.0, 0.12), (170.0, 232.0, 0.45))
BRIGHT = 0.65  # least value of yellow ink; brown stains and pigments are darker
# Red and purple ink have the hues of stained tissue. They are flat where tissue is grainy: at 8 microns per pixel none of
# 37,000 pixels of tissue of two real slides has a standard deviation under 4 gray levels within 5 x 5 pixels.
FLAT = 4.0
STRONG = 0.55  # least saturation of flat ink of any hue
WEAK, STAINS = 0.25, (232.0, 345.0)  # least saturation of flat ink outside the hues of stained tissue
BLACK = 0.15  # largest value of black ink
STROKE = 60  # pixels; smaller pieces are cells, dust or bile
REACH = 2  # pixels by which a stroke grows over its own soft edge


def pen_mask(rgb: Array) -> Array:
    """Pen marks: colors that no stain has, or the hue of a stain stronger than it and without tissue's grain.

    Meant for pictures of 4 to 16 microns per pixel, on which nuclei make tissue grainy and ink is flat. Ink over tissue is
    found by its color; weak red or purple ink over tissue is not.

    Shape:
        rgb: (h, w, 3) uint8; returns (h, w) bool.
    """
    hue, saturation, value = hue_saturation_value(rgb)
    colored = np.zeros(hue.shape, bool)
    for low, high, strength in INKS:
        colored |= (hue >= low) & (hue < high) & (saturation > strength) & ((high > 72) | (value > BRIGHT))
    grainless = _deviation(rgb) < FLAT
    stained = (hue >= STAINS[0]) & (hue < STAINS[1])
    least = np.where(stained, STRONG, WEAK)
    flat = _pieces(grainless & (saturation > least), STROKE)
    # The deviation is large along a stroke's own edges: the flat core grows over what is as strong.
    strong = ndimage.binary_dilation(flat, iterations=4) & (saturation > least)
    marks = colored | flat | strong | (value < BLACK)
    marks = _pieces(marks, STROKE)
    return np.asarray(ndimage.binary_dilation(marks, iterations=REACH)) if marks.any() else marks


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


def _deviation(rgb: Array) -> Array:
    """The largest standard deviation of the three colors within 5 x 5 pixels."""
    result = np.zeros(rgb.shape[:2], np.float32)
    for c in range(3):
        color = rgb[..., c].astype(np.float32)
        mean = ndimage.uniform_filter(color, 5, mode="nearest")
        square = ndimage.uniform_filter(color * color, 5, mode="nearest")
        result = np.maximum(result, np.sqrt(np.maximum(square - mean * mean, 0)))
    return result


def _pieces(mask: Array, size: int) -> Array:
    """The connected pieces of at least `size` pixels."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    keep = np.bincount(labels.ravel()) >= size
    keep[0] = False
    return np.asarray(keep[labels])
