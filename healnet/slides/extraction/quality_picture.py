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
PHONE = 400  # pixels of width at which lines and names must still be seen
# Okabe and Ito's colors, legible to color-blind eyes, with black for tiles so that they stand out on any stain.
TISSUE, PEN, BLURRED, TILE = (0, 158, 115), (240, 228, 66), (213, 94, 0), (0, 0, 0)
SMALL = (86, 180, 233)
TEXT = 13  # pixels of the names' height at the width of a phone; at least 16 of the picture's own


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
    line = max(1, round(width / PHONE))
    image = Image.fromarray(rgb).resize((width, height), Image.Resampling.BOX)
    pixels = np.array(image)
    legend: list[tuple[str, Color]] = []
    if tissue is not None:
        mask, pen = (_resized(part, width, height) for part in (tissue.mask, tissue.pen))
        pixels[~mask] = 255 - (255 - pixels[~mask]) // 2
        if pen.any():
            # Stripes are seen on ink of any color, which stays visible between them.
            y, x = np.mgrid[:height, :width]
            pixels[pen & ((x + y) // (3 * line) % 2 == 0)] = PEN
            legend.append(("pen mark, left out", PEN))
        small = tissue.small
        if small is not None and small.any():
            # A small piece is under a pixel of a small picture: its frame is what is seen.
            small = _resized(ndimage.binary_dilation(small, iterations=2 * line), width, height)
            pixels[small & ~ndimage.binary_erosion(small, iterations=line)] = SMALL
            legend.append(("small piece, left out", SMALL))
        border = ndimage.binary_dilation(mask, iterations=line + 1) & ~ndimage.binary_erosion(
            mask, border_value=1
        )
        pixels[border] = TISSUE
        if mask.any():
            legend.insert(0, ("tissue", TISSUE))
    if coords is not None and len(coords):
        kept = np.ones(len(coords), bool) if kept is None else kept
        factor = np.array([width, height]) / size
        corners = np.hstack((coords * factor, (coords + footprint) * factor - 1)).round().astype(int)
        for chosen, color, label in ((kept, TILE, "tile"), (~kept, BLURRED, "blurred tile, left out")):
            if chosen.any():
                _draw_tiles(pixels, corners[chosen], color, line)
                legend.append((label, color))
    return _with_legend(Image.fromarray(pixels), legend, None if mpp is None else mpp * size[0] / width)


def write_jpeg(path: Path, picture: Array) -> None:
    """Write a picture atomically."""
    # Encoded in memory first: written straight to a disk that fills up, Pillow can lose the end without an error.
    data = io.BytesIO()
    Image.fromarray(picture).save(data, format="JPEG", quality=88)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.getvalue())


def _resized(mask: Array, width: int, height: int) -> Array:
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def _draw_tiles(pixels: Array, corners: Array, color: Color, line: int) -> None:
    """Outline each tile, or where they are too small to be told apart on a phone, all together; tint all but kept ones."""
    side = int((corners[:, 2:] - corners[:, :2]).mean()) + 1
    together = np.zeros(pixels.shape[:2], bool)
    for left, top, right, bottom in corners.tolist():
        together[max(0, top) : max(top, bottom) + 1, max(0, left) : max(left, right) + 1] = True
    if color != TILE:
        pixels[together] = (0.6 * pixels[together] + 0.4 * np.array(color)).astype(np.uint8)
    if side < 8 * line:
        pixels[together & ~ndimage.binary_erosion(together, iterations=line)] = color
        return
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    thick = 1 if color == TILE else line
    for left, top, right, bottom in corners.tolist():
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=color, width=thick)
    pixels[:] = np.asarray(image)


def _with_legend(image: Image.Image, legend: list[tuple[str, Color]], mpp: float | None) -> Array:
    """The picture above a strip with the names of what is drawn, in as many lines as they need, and a scale bar."""
    text = max(16, round(TEXT * image.width / PHONE))
    gap, strip = text // 2, 2 * text + 2
    font = ImageFont.load_default(size=text)
    entries = [(label, color, text + 3 * gap + round(font.getlength(label))) for label, color in legend]
    bar = None if mpp is None else _scale_bar(mpp, image.width)
    if bar is not None:
        entries.append((bar[0], (0, 0, 0), bar[1] + 3 * gap + round(font.getlength(bar[0]))))
    width = max([image.width, *(needed for _, _, needed in entries)])
    places, x, y = [], 0, 0
    for _, _, needed in entries:
        if x and x + needed > width:
            x, y = 0, y + strip
        places.append((x, y))
        x += needed
    page = Image.new("RGB", (width, image.height + (y + strip if entries else 0)), "white")
    page.paste(image)
    draw = ImageDraw.Draw(page)
    for number, ((label, color, _), (x, y)) in enumerate(zip(entries, places, strict=True)):
        x, middle = x + gap, image.height + y + strip // 2
        if bar is not None and number == len(entries) - 1:
            draw.rectangle((x, middle - text // 8, x + bar[1], middle + text // 8), fill=color)
            after = x + bar[1]
        else:
            box = (x, middle - text // 2, x + text, middle + text // 2)
            draw.rectangle(box, fill="white" if color == TILE else color, outline=color, width=text // 16)
            after = x + text
        draw.text((after + gap, middle), label, fill="black", font=font, anchor="lm")
    return np.asarray(page)


def _scale_bar(mpp: float, width: int) -> tuple[str, int]:
    """A round length of at most a fifth of the width, as text (Pillow's font lacks the sign for micro) and in pixels."""
    limit = mpp * width / 5
    lengths = [step * 10**power for power in range(-1, 6) for step in (1, 2, 5)]
    microns = max([length for length in lengths if length <= limit], default=lengths[0])
    text = f"{microns / 1000:g} mm" if microns >= 1000 else f"{microns:g} microns"
    return text, max(1, round(microns / mpp))
