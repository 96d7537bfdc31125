"""The patches that score highest, read from the slide at full resolution, on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from healnet._plotting import Panels, panels, use_fonts
from healnet.explain._checks import patches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from healnet.slides.slide import Slide

__all__ = ["TopPatch", "plot_contact_sheet", "top_patches"]


class TopPatch(NamedTuple):
    """A patch that scores high: its pixels, its place (x, y) at level 0, its score and its position in the bag."""

    image: NDArray[Any]
    x: int
    y: int
    score: float
    position: int


def top_patches(
    slide: Slide,
    coords: ArrayLike,
    footprint: float,
    scores: ArrayLike,
    k: int = 12,
    apart: float = 0.5,
    mpp: float | None = None,
) -> list[TopPatch]:
    """The k highest-scored patches, read from the slide at full resolution; the earlier one first where scores are equal.

    Args:
        slide: slide to read, or another object with `region(x, y, width, height, mpp)`.
        coords: (n, 2) top-left corners (x, y) in level-0 pixels.
        footprint: side length of a patch in level-0 pixels.
        scores: (n,) finite.
        k: number of patches, at most.
        apart: a patch is passed over if its corner is nearer than this share of the footprint, in x and in y, to one that
            was taken: overlapping tilings would fill the sheet with one place. 0 takes all.
        mpp: microns per pixel to read at; level-0 pixels by default.

    Raises:
        ValueError: lengths that differ, a footprint that is not positive, fewer than 1 patch asked for.
    """
    places, values = patches(coords, footprint, scores)
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}")
    taken: list[int] = []
    for position in np.argsort(-values, kind="stable"):
        if taken and apart > 0:
            gap = np.abs(places[taken] - places[position]).max(axis=1)
            if (gap < apart * footprint).any():
                continue
        taken.append(int(position))
        if len(taken) == k:
            break
    side = round(footprint if mpp is None else footprint * _known_mpp(slide) / mpp)
    found = []
    for position in taken:
        x, y = (int(v) for v in places[position])
        image = np.asarray(slide.region(x, y, side, side, mpp))
        found.append(TopPatch(image, x, y, float(values[position]), position))
    return found


def plot_contact_sheet(
    images: Sequence[ArrayLike],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 4,
    ax: Axes | None = None,
) -> Panels:
    """Pictures in rows, each with a caption above.

    Args:
        images: (h, w, 3) arrays, as `top_patches` reads them.
        captions: one per image; by default their numbers from 1.
        columns: number of pictures in a row.
        ax: where to draw, divided into as many; by default a figure of its own.

    Raises:
        ValueError: no images, or another number of captions.
        ImportError: matplotlib is not installed.
    """
    names = [str(i + 1) for i in range(len(images))] if captions is None else list(captions)
    if not len(images) or len(names) != len(images):
        raise ValueError(f"expected images and a caption for each, got {len(images)} and {len(names)}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = panels(ax, rows, columns, (1.8 * columns, 2.05 * rows))
    for panel in sheet:
        panel.set_axis_off()
    for panel, image, name in zip(sheet, images, names, strict=False):
        panel.imshow(np.asarray(image), interpolation="nearest")
        panel.set_title(name, fontsize="small", pad=3, parse_math=False)
    use_fonts(*sheet)
    return sheet


def _known_mpp(slide: Slide) -> float:
    if slide.mpp is None:
        raise ValueError(
            "the slide does not say its microns per pixel; leave mpp out, or open it with Slide(path, mpp=...)"
        )
    return slide.mpp
