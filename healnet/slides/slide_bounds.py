"""The part of a slide that was scanned, as its file states it: other tools show that alone, and count from its corner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

__all__ = ["Bounds", "Origin", "bounds_from_properties", "origin_of"]

Bounds = tuple[int, int, int, int]
Origin = Literal["bounds", "level0"]


def bounds_from_properties(properties: Mapping[str, str], size: tuple[int, int]) -> Bounds:
    """Left, top, width and height of the scanned part in level-0 pixels; the whole slide where the file does not say it.

    MIRAX and Leica's SCN state it (``openslide.bounds-x/y/width/height``): level 0 spans the whole glass, and nothing
    lies beyond the bounds. QuPath crops to them if all four are there.

    Example:
        >>> keys = ("x", "y", "width", "height")
        >>> stated = {f"openslide.bounds-{key}": value for key, value in zip(keys, ("200", "100", "50", "40"))}
        >>> bounds_from_properties(stated, (1000, 800)), bounds_from_properties({}, (1000, 800))
        ((200, 100, 50, 40), (0, 0, 1000, 800))
    """
    try:
        x, y, width, height = (
            int(properties[f"openslide.bounds-{key}"]) for key in ("x", "y", "width", "height")
        )
    except (KeyError, ValueError):
        return (0, 0, *size)
    return (x, y, width, height) if width > 0 and height > 0 else (0, 0, *size)


def origin_of(bounds: Bounds | None, origin: Origin) -> tuple[int, int]:
    """Level-0 place from which coordinates of a file are counted.

    Args:
        bounds: Bounds of the slide; None if they are not known.
        origin: "bounds", as QuPath counts; "level0", as OpenSlide and this package count.

    Raises:
        ValueError: Another origin.
    """
    if origin not in get_args(Origin):
        raise ValueError(f"expected an origin of {' or '.join(get_args(Origin))}, got {origin!r}")
    return (0, 0) if bounds is None or origin == "level0" else bounds[:2]
