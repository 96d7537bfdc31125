"""Score how sharp a tile is."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

__all__ = ["sharpness"]


def sharpness(tile: np.ndarray[Any, Any]) -> float:
    """The variance of the Laplacian of a tile's gray values (Pech-Pacheco et al., 2000), in gray levels of 255, squared.

    Blur removes fine detail, and with it the Laplacian. The score depends on scale and stain: look at its median per slide
    in the quality table before choosing a limit.

    Shape:
        tile: (h, w, 3) uint8; below 3 pixels a side the score is 0.

    Example:
        >>> stripes = np.tile(np.array([0, 255], np.uint8), 8)[None, :, None].repeat(16, 0).repeat(3, 2)
        >>> sharpness(np.full((16, 16, 3), 200, np.uint8)), sharpness(stripes)
        (0.0, 260100.0)
    """
    if min(tile.shape[:2]) < 3:
        return 0.0
    gray = np.asarray(Image.fromarray(tile).convert("L"), dtype=np.int16)
    laplacian = gray[1:-1, 1:-1] * np.int16(-4)
    for neighbor in (gray[:-2, 1:-1], gray[2:, 1:-1], gray[1:-1, :-2], gray[1:-1, 2:]):
        laplacian += neighbor
    values = laplacian.ravel().astype(np.float32)
    return max(0.0, float(values.dot(values) / values.size - values.mean() ** 2))
