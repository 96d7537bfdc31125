"""Read a slide from an OME-Zarr folder (NGFF 0.4 and 0.5), by the part of OpenSlide's interface that `Slide` uses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import count, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from healnet._files import shown
from healnet._warnings import warn
from healnet.slides.zarr_array import ZarrArray, read_json

__all__ = ["OmeZarr", "is_ome_zarr", "is_zarr"]

Array = np.ndarray[Any, Any]

CACHE = 1 << 27  # bytes of unpacked chunks kept, as of OpenSlide's tiles
HUGE = 1e12  # of scales and shifts, in whatever unit
RGB = ["FF0000", "00FF00", "0000FF"]
# Microns per unit of length, for those of the standard's units (UDUNITS-2) in which anybody would state a pixel.
MICRONS = {
    "angstrom": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
    "inch": 25400.0,
}


class _Level(NamedTuple):
    """One resolution of a slide."""

    array: ZarrArray
    x: int  # number of the axis
    y: int
    channel: int
    scale: tuple[float, float] | None  # along x and y, in the axes' units
    shift: tuple[float, float]

    @property
    def size(self) -> tuple[int, int]:
        return self.array.shape[self.x], self.array.shape[self.y]


class OmeZarr:
    """A slide in an OME-Zarr folder: RGB, uint8, one plane.

    Of the folder that bioformats2raw writes image 0 is read; every other one is a folder of its own (``slide.zarr/1``).

    Args:
        path: Folder of the image.

    Attributes:
        dimensions: (width, height) of level 0.
        level_downsamples: Level-0 pixels per pixel of each level.
        properties: Version of the metadata, and microns per pixel by OpenSlide's names if the axes have a unit of length.

    Raises:
        ValueError: No image of this kind, or a damaged one.
        ImportError: `numcodecs` is absent.
    """

    def __init__(self, path: Path) -> None:
        # Of a folder that is linked to, the parts lie where the link leads.
        root = path.resolve()
        try:
            held = _attributes(root, "")
            image = ""
            if "bioformats2raw.layout" in held and "multiscales" not in held and "plate" not in held:
                image, held = "0/", _attributes(root, "0/")
            self._levels, units = _levels(root, image, held)
            self.level_downsamples = _downsamples(self._levels)
        except (OSError, ValueError) as error:
            raise ValueError(f"{shown(path)}: {error}") from error
        if image:
            _warn_of_others(path, root, self._levels[0].size)
        self.dimensions = self._levels[0].size
        self.properties = {"ome-zarr.version": str(held.get("version") or _first(held).get("version"))}
        scale = self._levels[0].scale
        if scale is not None:
            for axis, value, unit in zip("xy", scale, units, strict=True):
                if isinstance(unit, str) and unit in MICRONS:
                    self.properties[f"openslide.mpp-{axis}"] = str(value * MICRONS[unit])
        largest = max(math.prod(level.array.chunk) for level in self._levels)
        # A chunk is larger than a tile as a rule, and the next tile reads it again.
        self._pixels = lru_cache(max(1, CACHE // largest))(self._unpacked)

    def close(self) -> None:
        """Free the memory of unpacked chunks."""
        self._pixels.cache_clear()

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """RGBA of a rectangle of one level from level-0 (x, y), as OpenSlide's; transparent beyond the slide.

        Raises:
            OSError: A damaged chunk.
        """
        one, own = self._levels[level], self.level_downsamples[level]
        left, top = (math.floor(place / own + 0.5) for place in location)
        pixels = np.zeros((size[1], size[0], 4), np.uint8)
        step_x, step_y, step_c = (one.array.chunk[axis] for axis in (one.x, one.y, one.channel))
        for row, column, channel in product(
            _touched(top, size[1], one.size[1], step_y),
            _touched(left, size[0], one.size[0], step_x),
            range(-(-3 // step_c)),
        ):
            rows, of_rows = _overlap(row * step_y, min((row + 1) * step_y, one.size[1]), top, size[1])
            columns, of_columns = _overlap(
                column * step_x, min((column + 1) * step_x, one.size[0]), left, size[0]
            )
            channels = slice(channel * step_c, min((channel + 1) * step_c, 3))
            part = self._pixels(level, row, column, channel)
            if not isinstance(part, int):
                part = part[of_rows, of_columns, : channels.stop - channels.start]
            pixels[rows, columns, channels] = part
            pixels[rows, columns, 3] = 255
        return Image.frombuffer("RGBA", size, pixels, "raw", "RGBA", 0, 1)

    def _unpacked(self, level: int, row: int, column: int, channel: int) -> Array | int:
        """(y, x, channel) of a chunk; the fill value alone if it is not there.

        So the standard has it, and writers leave out chunks that hold nothing else, as the black or white around a scan.
        Whether one was lost instead cannot be told. A fill value that is left open is white, as what lies beyond the slide.
        """
        one = self._levels[level]
        place = [0] * len(one.array.shape)
        place[one.y], place[one.x], place[one.channel] = row, column, channel
        chunk = one.array.read(tuple(place))
        if chunk is None:
            return 255 if one.array.fill is None else one.array.fill
        kept = sorted((one.y, one.x, one.channel))
        plane = chunk[tuple(slice(None) if axis in kept else 0 for axis in range(chunk.ndim))]
        return plane.transpose([kept.index(axis) for axis in (one.y, one.x, one.channel)])


def is_zarr(path: Path) -> bool:
    """Whether a path is a folder of Zarr's, by its name or the files in it."""
    files = (".zgroup", ".zattrs", ".zarray", "zarr.json")
    return path.is_dir() and (
        path.suffix.lower() == ".zarr" or any((path / name).is_file() for name in files)
    )


def is_ome_zarr(path: Path) -> bool:
    """Whether a folder of Zarr's is a slide, or a damaged one; tables and other arrays are stored in Zarr as well."""
    try:
        held = _attributes(path.resolve(), "")
    except (OSError, ValueError):
        return True
    return path.name.lower().endswith(".ome.zarr") or "multiscales" in held or "bioformats2raw.layout" in held


def _attributes(root: Path, group: str) -> dict[str, Any]:
    """What a group says about itself by the OME's names."""
    if (meta := read_json(root, f"{group}zarr.json")) is not None:
        held = _get(meta, "attributes", dict, {})
        return _get(held, "ome", dict, {})
    attributes = read_json(root, f"{group}.zattrs")
    if attributes is None and read_json(root, f"{group}.zgroup") is None:
        raise ValueError(f"expected a group of Zarr's in {group or 'the folder'}, got none")
    return attributes or {}


def _first(held: Mapping[str, Any]) -> dict[str, Any]:
    """The first of the multiscale images, which stands for all (they are versions of one)."""
    images = held.get("multiscales")
    if not isinstance(images, list) or not images or not isinstance(images[0], dict):
        raise ValueError(f"expected an image with `multiscales`, got {sorted(held)[:8]}")
    return images[0]


def _levels(root: Path, group: str, held: Mapping[str, Any]) -> tuple[list[_Level], tuple[Any, ...]]:
    """The levels of an image, and the units of x and y."""
    if "image-label" in held:
        raise ValueError("expected a slide, got the labels of one")
    image = _first(held)
    axes = _get(image, "axes", list, [])
    if not axes or not all(isinstance(axis, dict) and isinstance(axis.get("name"), str) for axis in axes):
        raise ValueError(f"expected axes as of NGFF 0.4 or 0.5, got {axes} of version {image.get('version')}")
    names = [axis["name"] for axis in axes]
    channels = [
        i for i, axis in enumerate(axes) if axis.get("type", {"c": "channel"}.get(axis["name"])) == "channel"
    ]
    if names.count("x") != 1 or names.count("y") != 1 or len(channels) != 1:
        raise ValueError(f"expected axes x, y and one of channels, got {names}")
    places = names.index("x"), names.index("y"), channels[0]
    _refuse_other_colors(held)
    levels = []
    for dataset in _get(image, "datasets", list, []):
        path = dataset.get("path") if isinstance(dataset, dict) else None
        if not isinstance(path, str) or not path.strip("/") or "\0" in path:
            raise ValueError(f"expected datasets with paths, got {dataset!r}"[:200])
        array = ZarrArray.open(root, group + path.strip("/"))
        if len(array.shape) != len(axes):
            raise ValueError(f"expected {len(axes)} axes of the array {path!r}, got shape {array.shape}")
        if array.shape[places[2]] != 3:
            raise ValueError(f"expected three channels, red, green and blue, got {array.shape[places[2]]}")
        for i, name in enumerate(names):
            if i not in places and array.shape[i] != 1:
                raise ValueError(f"expected a single plane, got {array.shape[i]} along {name}")
        scale, shift = _transformed(
            [
                *_get(dataset, "coordinateTransformations", list, []),
                *_get(image, "coordinateTransformations", list, []),
            ],
            len(axes),
        )
        x, y = places[:2]
        levels.append(
            _Level(array, *places, None if scale is None else (scale[x], scale[y]), (shift[x], shift[y]))
        )
    if not levels:
        raise ValueError("expected datasets, got none")
    return levels, tuple(axes[i].get("unit") for i in places[:2])


def _refuse_other_colors(held: Mapping[str, Any]) -> None:
    """Refuse three channels that are shown in other colors than red, green and blue: stains, each seen by itself."""
    channels = _get(_get(held, "omero", dict, {}), "channels", list, [])
    colors = [str(channel.get("color")).upper() for channel in channels if isinstance(channel, dict)]
    if len(set(colors)) == 3 and colors != RGB:
        raise ValueError(f"expected channels red, green and blue, got the colors {', '.join(colors)}")


def _transformed(entries: list[Any], ndim: int) -> tuple[list[float] | None, list[float]]:
    """Scale and shift of coordinate transformations, one after another; scale None if none is given."""
    scale, shift = [1.0] * ndim, [0.0] * ndim
    scaled = False
    if len(entries) > 4:
        raise ValueError(
            f"expected a scale and a shift of a level and of the whole image, got {len(entries)}"
        )
    for entry in entries:
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind == "identity":
            continue
        values = entry.get(kind) if kind in ("scale", "translation") else None
        if (
            not isinstance(values, list)
            or len(values) != ndim
            or not all(type(value) in (int, float) and abs(value) < HUGE for value in values)
            or (kind == "scale" and min(values) < 1 / HUGE)
        ):
            raise ValueError(
                f"expected a scale above 0 or a translation, of {ndim} numbers, got {entry!r}"[:200]
            )
        if kind == "scale":
            scaled = True
            scale = [a * b for a, b in zip(scale, values, strict=True)]
            shift = [a * b for a, b in zip(shift, values, strict=True)]
        else:
            shift = [a + b for a, b in zip(shift, values, strict=True)]
    return (scale if scaled else None), shift


def _downsamples(levels: list[_Level]) -> tuple[float, ...]:
    """Level-0 pixels per pixel of each level: by its scale where that agrees with its size, else by its size."""
    first, found = levels[0], list[float]()
    for number, level in enumerate(levels):
        by_size = [a / b for a, b in zip(first.size, level.size, strict=True)]
        ratios = by_size
        if level.scale is not None and first.scale is not None:
            stated = [a / b for a, b in zip(level.scale, first.scale, strict=True)]
            # Halving again and again, up or down, is off by less than a pixel of the level. By size, a downsample of 16
            # would come out as 16.1. Some writers state one scale for all levels; their sizes say what is true.
            if all(abs(r * n - all_) <= r for r, n, all_ in zip(stated, level.size, first.size, strict=True)):
                ratios = stated
            moved = [(b - a) / s for a, b, s in zip(first.shift, level.shift, level.scale, strict=True)]
            if not max(map(abs, moved)) <= 1:  # less is how the mean of several pixels is placed
                raise ValueError(
                    f"expected levels from one corner, got level {number} moved by {moved} pixels"
                )
        mean = sum(ratios) / 2
        off = [abs(all_ / mean - n) for n, all_ in zip(level.size, first.size, strict=True)]
        if min(by_size) < 1 or max(off) > 1 or (found and mean < found[-1]):
            raise ValueError(
                f"expected levels from large to small that shrink x and y alike, got {first.size} and {level.size}"
            )
        found.append(mean)
    return tuple(found)


def _warn_of_others(path: Path, root: Path, size: tuple[int, int]) -> None:
    """Warn of further images beside image 0 that are no thumbnails or labels, as of a scan in several parts."""
    for number in count(1):
        try:
            other = _levels(root, f"{number}/", _attributes(root, f"{number}/"))[0][0].size
        except (OSError, ValueError):
            if not (root / str(number)).is_dir():
                return
            continue
        if math.prod(other) > math.prod(size) / 16:
            warn(
                f"{shown(path)}: only image 0 is read, of {size[0]} x {size[1]} pixels; image {number} has "
                f"{other[0]} x {other[1]}, see Slide({str(path / str(number))!r})"
            )


def _get(held: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = held.get(key, default)
    if not isinstance(value, kind):
        raise ValueError(f"expected `{key}` as a {kind.__name__}, got {value!r}"[:200])
    return value


def _touched(start: int, length: int, limit: int, step: int) -> range:
    """Numbers of the chunks along one axis that hold a part of `length` pixels from `start`."""
    low, high = max(start, 0), min(start + length, limit)
    return range(low // step, -(-high // step)) if low < high else range(0)


def _overlap(low: int, high: int, start: int, length: int) -> tuple[slice, slice]:
    """Where pixels low..high of a level lie in a region of `length` from `start`, and in their own chunk."""
    first, last = max(low, start), min(high, start + length)
    return slice(first - start, last - start), slice(first - low, last - low)
