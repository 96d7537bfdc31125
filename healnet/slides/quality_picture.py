"""Draw what a run took from a slide: tissue, tiles, pen marks and blurred tiles, on a picture of the slide."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from healnet._files import atomic_path
from healnet.slides.tissue import Tissue

__all__ = ["PICTURE_SIDE", "quality_picture", "write_jpeg"]

Array = np.ndarray[Any, Any]
Color = tuple[int, int, int]

PICTURE_SIDE = 1600  # pixels of the longer side
# Okabe and Ito's colors, legible to color-blind eyes, with black for tiles so that they stand out on any stain.
TISSUE, PEN, BLURRED, TILE = (0, 158, 115), (240, 228, 66), (213, 94, 0), (0, 0, 0)
LEGEND = 34  # pixels of height


def quality_picture(
    rgb: Array,
    size: tuple[int, int],
    *,
    tissue: Tissue | None = None,
    coords: Array | None = None,
    kept: Array | None = None,
    footprint: float = 0.0,
    mpp: float | None = None,
) -> Array:
    """A picture of the slide with the tissue's outline, the tiles, and what was left out, with a legend of what it shows.

    Args:
        rgb: (h, w, 3) uint8, picture of the whole slide.
        size: Width and height of the slide's level 0.
        tissue: Tissue and pen marks; what is not tissue is paled.
        coords: (n, 2), level-0 corners of the tiles.
        kept: (n,) bool, tiles that were encoded; the others are drawn as blurred. All by default.
        footprint: Side length of a tile in level-0 pixels.
        mpp: Microns per level-0 pixel, for the scale bar.

    Shape:
        (h', w', 3) uint8, at most `PICTURE_SIDE` wide or high, and the legend below.
    """
    scale = min(1.0, PICTURE_SIDE / max(rgb.shape[:2]))
    width, height = (max(1, round(n * scale)) for n in (rgb.shape[1], rgb.shape[0]))
    image = Image.fromarray(rgb).resize((width, height), Image.Resampling.BOX)
    pixels = np.array(image)
    legend: list[tuple[str, Color]] = []
    if tissue is not None:
        mask, pen = (_resized(part, width, height) for part in (tissue.mask, tissue.pen))
        pixels[~mask] = 255 - (255 - pixels[~mask]) // 2
        if pen.any():
            pixels[pen] = (pixels[pen] // 2) + np.array(PEN, np.uint8) // 2
            legend.append(("pen mark, left out", PEN))
        border = ndimage.binary_dilation(mask, iterations=2) & ~ndimage.binary_erosion(mask, border_value=1)
        pixels[border] = TISSUE
        if mask.any():
            legend.insert(0, ("tissue", TISSUE))
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    if coords is not None and len(coords):
        kept = np.ones(len(coords), bool) if kept is None else kept
        factor = np.array([width, height]) / size
        corners = np.hstack((coords * factor, (coords + footprint) * factor - 1)).round().astype(int)
        for chosen, color, label in ((kept, TILE, "tile"), (~kept, BLURRED, "blurred tile, left out")):
            for left, top, right, bottom in corners[chosen].tolist():
                draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=color, width=1)
            if chosen.any():
                legend.append((label, color))
    return _with_legend(image, legend, None if mpp is None else mpp * size[0] / width)


def write_jpeg(path: Path, picture: Array) -> None:
    """Write a picture, whole or not at all."""
    # Encoded in memory first: written straight to a disk that fills up, Pillow can lose the end without an error.
    data = io.BytesIO()
    Image.fromarray(picture).save(data, format="JPEG", quality=88)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.getvalue())


def _resized(mask: Array, width: int, height: int) -> Array:
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def _with_legend(image: Image.Image, legend: list[tuple[str, Color]], mpp: float | None) -> Array:
    """The picture above a strip with the names of what is drawn, in as many lines as they need, and a scale bar."""
    font = ImageFont.load_default(size=16)
    entries = [(label, color, 40 + round(font.getlength(label))) for label, color in legend]
    bar = None if mpp is None else _scale_bar(mpp, image.width)
    if bar is not None:
        entries.append((bar[0], (0, 0, 0), bar[1] + 40 + round(font.getlength(bar[0]))))
    width = max([image.width, *(needed for _, _, needed in entries)])
    places, x, y = [], 0, 0
    for _, _, needed in entries:
        if x and x + needed > width:
            x, y = 0, y + LEGEND
        places.append((x, y))
        x += needed
    page = Image.new("RGB", (width, image.height + (y + LEGEND if entries else 0)), "white")
    page.paste(image)
    draw = ImageDraw.Draw(page)
    for number, ((label, color, _), (x, y)) in enumerate(zip(entries, places, strict=True)):
        top = image.height + y + 9
        if bar is not None and number == len(entries) - 1:
            draw.rectangle((x + 10, top + 6, x + 10 + bar[1], top + 10), fill=color)
            draw.text((x + 18 + bar[1], top - 2), label, fill="black", font=font)
        else:
            draw.rectangle(
                (x + 10, top, x + 26, top + 16), fill="white" if color == TILE else color, outline=color
            )
            draw.text((x + 32, top - 2), label, fill="black", font=font)
    return np.asarray(page)


def _scale_bar(mpp: float, width: int) -> tuple[str, int]:
    """A round length of at most a fifth of the width, as text (Pillow's font lacks the sign for micro) and in pixels."""
    limit = mpp * width / 5
    lengths = [step * 10**power for power in range(-1, 6) for step in (1, 2, 5)]
    microns = max([length for length in lengths if length <= limit], default=lengths[0])
    text = f"{microns / 1000:g} mm" if microns >= 1000 else f"{microns:g} microns"
    return text, max(1, round(microns / mpp))
