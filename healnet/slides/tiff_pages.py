"""Tell what the pages of a TIFF file hold, refuse what is no slide, read colors that lie apart and levels in SubIFDs."""

from __future__ import annotations

import logging
import lzma
import math
import re
import struct
import weakref
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import tifffile
from PIL import Image

from healnet._files import need, shown

__all__ = ["TiffPages", "open_tiff_pages"]

logger = logging.getLogger(__name__)
Array = np.ndarray[Any, Any]

CACHE = 1 << 27  # bytes of unpacked tiles kept, as of OpenSlide's
# What tifffile raises on damaged files. What OpenSlide and Pillow say of them stands.
DAMAGED = (
    tifffile.TiffFileError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    OSError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
BLACK, RGB, YCBCR = 1, 2, 6  # photometric interpretations of TIFF
JPEG = (6, 7, 34892, 33007)  # compressions that are unpacked with tables of their page
ALPHA = (1, 2)  # extra samples
COLORS = ("red", "green", "blue")
PURE = (
    0xFF0000FF,
    0x00FF00FF,
    0x0000FFFF,
)  # red, green and blue as OME-XML writes colors: RGBA in one number
UNITS = {1: "none", 2: "inch", 3: "centimeter"}


class _Level(NamedTuple):
    """One resolution: its size, and of each color the page and the sample that hold it."""

    width: int
    height: int
    colors: tuple[tuple[Any, int], ...]


def open_tiff_pages(path: Path, openslide_levels: int) -> TiffPages | None:
    """A reader of a TIFF file that OpenSlide and Pillow do not read as it is; None where they do, or it is no TIFF file.

    They take the first page for the slide and 16 bits for 8. So three pages of gray, which Bio-Formats writes for red, green
    and blue, became a gray slide of the first, and OME-TIFF's SubIFDs a slide without coarse levels.

    Args:
        path: File to look at.
        openslide_levels: Number of levels that OpenSlide found in it; 0 where it does not read the file.

    Raises:
        ValueError: More than 8 bits a color, channels that are not red, green and blue, or several planes.
        ImportError: `imagecodecs` is absent, and only it unpacks this file.
    """
    try:
        file = tifffile.TiffFile(path)
    except DAMAGED:
        return None
    try:
        series = file.series[0]
        page = series.levels[0].keyframe
        sizes = dict(zip(series.axes, series.shape, strict=True))
    except DAMAGED:
        file.close()
        return None
    try:
        colors = _colors(file, series, page, sizes)
        gray = len(set(colors)) == 1
        joined = not gray and (colors[0][0] != colors[1][0] or page.photometric == BLACK)
        coarser = len(series.levels) > max(1, openslide_levels) and page.bitspersample == 8
        if not joined and not (coarser and page.photometric in (BLACK, RGB, YCBCR)):
            file.close()
            return None
        try:
            page.decode(None, 0)  # what is empty needs no unpacking, but the means for it
        except (ValueError, NotImplementedError) as error:
            if "imagecodecs" not in str(error):
                raise
            if joined:
                need("imagecodecs", "'healnet[tiff]'", f"{shown(path)}: what packed its colors")
            logger.info("%s: its coarse levels are read with pip install 'healnet[tiff]'", shown(path))
            file.close()
            return None
        return TiffPages(file, series, colors)
    except (*DAMAGED, ImportError):
        file.close()
        raise


class TiffPages:
    """A slide in the pages of a TIFF file, by the part of OpenSlide's interface that `Slide` uses.

    Made by `open_tiff_pages`.

    Attributes:
        dimensions: (width, height) of level 0.
        level_downsamples: Level-0 pixels per pixel of each level.
        properties: Description and resolution of the first page, by OpenSlide's names.
    """

    def __init__(self, file: Any, series: Any, colors: Sequence[tuple[int, int]]) -> None:
        self._file = file
        self._levels, downsamples = list[_Level](), list[float]()
        for level in series.levels:
            sizes = dict(zip(level.axes, level.shape, strict=True))
            width, height = sizes["X"], sizes["Y"]
            first = self._levels[0] if self._levels else _Level(width, height, ())
            ratios = first.width / width, first.height / height
            # A level of other proportions is no picture of this slide: a label, or rows that were cut off.
            if abs(ratios[0] - ratios[1]) > max(ratios) * 2 / min(width, height):
                continue
            pages = tuple((level.pages[page], sample) for page, sample in colors)
            self._levels.append(_Level(width, height, pages))
            downsamples.append(sum(ratios) / 2)
        self.level_downsamples = tuple(downsamples)
        self.dimensions = self._levels[0].width, self._levels[0].height
        page = series.levels[0].keyframe
        self.properties = {"tiff.ImageDescription": str(page.description)}
        if (unit := UNITS.get(_tag(page, "ResolutionUnit", 2))) is not None:
            self.properties["tiff.ResolutionUnit"] = unit
        for axis in "XY":
            value = _tag(page, f"{axis}Resolution", None)
            if isinstance(value, tuple) and len(value) == 2 and value[1]:
                self.properties[f"tiff.{axis}Resolution"] = str(value[0] / value[1])
        largest = max(math.prod(level.colors[0][0].keyframe.chunks) for level in self._levels)
        weakref.finalize(self, file.close)  # as OpenSlide's handles, of which nobody thinks
        self._tile = lru_cache(max(3, CACHE // largest))(self._unpacked)

    def close(self) -> None:
        """Close the file and free the memory of unpacked tiles."""
        self._tile.cache_clear()
        self._file.close()

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """RGBA of a rectangle of one level from level-0 (x, y), as OpenSlide's; transparent beyond the slide.

        Raises:
            OSError: A damaged tile.
        """
        one, own = self._levels[level], self.level_downsamples[level]
        left, top = (math.floor(place / own + 0.5) for place in location)
        low = max(left, 0), max(top, 0)
        high = min(left + size[0], one.width), min(top + size[1], one.height)
        pixels = np.zeros((size[1], size[0], 4), np.uint8)
        for color, (page, sample) in enumerate(one.colors):
            step_y, step_x = (
                (page.keyframe.tilelength, page.keyframe.tilewidth)
                if page.keyframe.is_tiled
                else (page.keyframe.rowsperstrip, one.width)
            )
            for y in range(low[1] // step_y * step_y, high[1], step_y):
                for x in range(low[0] // step_x * step_x, high[0], step_x):
                    columns = slice(max(x, low[0]), min(x + step_x, high[0]))
                    rows = slice(max(y, low[1]), min(y + step_y, high[1]))
                    if columns.start >= columns.stop or rows.start >= rows.stop:
                        continue
                    part = self._tile(
                        level, color if len(set(one.colors)) > 1 else 0, y // step_y, x // step_x
                    )
                    if part is None:
                        continue
                    place = (
                        slice(rows.start - top, rows.stop - top),
                        slice(columns.start - left, columns.stop - left),
                    )
                    inside = slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x)
                    pixels[(*place, color)] = part[(*inside, sample if part.shape[2] > 1 else 0)]
                    pixels[(*place, 3)] = 255
        return Image.frombuffer("RGBA", size, pixels, "raw", "RGBA", 0, 1)

    def _unpacked(self, level: int, color: int, row: int, column: int) -> Array | None:
        """(h, w, samples) of one tile; None of one that the file leaves out."""
        one = self._levels[level]
        page, sample = one.colors[color]
        frame = page.keyframe
        across = -(-one.width // (frame.tilewidth if frame.is_tiled else one.width))
        number = row * across + column
        if frame.planarconfig == 2 and frame.samplesperpixel > 1:
            number += sample * len(page.dataoffsets) // frame.samplesperpixel
        try:
            offset, count = page.dataoffsets[number], page.databytecounts[number]
            handle = page.parent.filehandle
            with handle.lock:
                handle.seek(offset)
                data = handle.read(count) if count else None
            tables = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader}
            found = frame.decode(data, number, **(tables if frame.compression in JPEG else {}))[0]
        except DAMAGED as error:
            raise OSError(f"tile {number}: {error}") from error
        return None if found is None else np.asarray(found)[0]


def _colors(file: Any, series: Any, page: Any, sizes: dict[str, int]) -> list[tuple[int, int]]:
    """Of red, green and blue the number of the page and the sample; refuses what is no picture of 8 bits a color.

    Raises:
        ValueError: See `open_tiff_pages`.
    """
    samples, channels = sizes.pop("S", 1), sizes.pop("C", 1)
    pages = math.prod(size for axis, size in sizes.items() if axis not in "YX")
    stored = [(p, s) for p in range(channels) for s in range(samples)]
    names, shades = _channels(file) if series.kind == "ome" else ([], [])
    what = f"{channels * samples} channels" if channels * samples > 1 else "one channel"
    if names and channels > 1:
        what += f" ({', '.join(names)})"
    if page.bitspersample > 8 or page.dtype.kind not in "ub":
        bits = f"{page.bitspersample} bits" + (" of floating point" if page.dtype.kind == "f" else "")
        raise ValueError(f"expected red, green and blue of 8 bits each, got {what} of {bits}")
    plain = (
        page.photometric != BLACK
        or samples == 1
        or (samples == 2 and page.extrasamples[:1] in (ALPHA[:1], ALPHA[1:]))
    )
    if pages > 1 and (page.photometric == BLACK or series.kind == "ome"):
        raise ValueError(f"expected a single plane, got {pages} of one size and {what}")
    if channels == 1 and plain:
        return stored[:3] if samples >= 3 else [(0, 0)] * 3
    if len(stored) != 3 or series.kind != "ome" or not _are_rgb(names, shades):
        raise ValueError(f"expected channels red, green and blue, got {what}")
    return stored


def _channels(file: Any) -> tuple[list[str], list[int]]:
    """Names and colors of the channels of the first image, as its OME-XML states them; empty where it does not."""
    try:
        root = ElementTree.fromstring(file.ome_metadata or "<OME/>")
    except ElementTree.ParseError:
        return [], []
    image = next((one for one in root.iter() if one.tag.rpartition("}")[2] == "Pixels"), root)
    channels = [one for one in image.iter() if one.tag.rpartition("}")[2] == "Channel"]
    names = [one.get("Name", "").strip() for one in channels]
    colors = [one.get("Color", "") for one in channels]
    stated = all(re.fullmatch(r"-?\d{1,10}", color) for color in colors)
    return (names if any(names) else []), ([int(color) % (1 << 32) for color in colors] if stated else [])


def _are_rgb(names: Sequence[str], shades: Sequence[int]) -> bool:
    """Whether channels are the colors of one picture, and no stains that are seen each by itself."""
    for name, color in zip(names, COLORS, strict=False):
        # "Red", "R", "Camera R"; names that say nothing, such as "Channel 1" and "C:0", are as good as none.
        if not re.search(rf"\b({color}|{color[0]})\b|^(channel|ch|c)?[ :_\d]*$", name.lower()):
            return False
    return len(set(shades)) != 3 or tuple(shades) == PURE


def _tag(page: Any, name: str, default: Any) -> Any:
    tag = page.tags.get(name)
    return default if tag is None else tag.value
