"""The patches that score highest, read from the slide at full resolution, on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from healnet._plotting import Panels, draw_scale_bar, panels, use_fonts
from healnet.explain import _checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from healnet.slides.slide import Slide

__all__ = ["TopPatch", "plot_contact_sheet", "top_patches"]


class TopPatch(NamedTuple):
    """A patch that scores high.

    Attributes:
        image: (h, w, 3) its pixels.
        x: Left edge in level-0 pixels.
        y: Top edge in level-0 pixels.
        score: Its score.
        position: Its position in the bag.
        mpp: Microns per pixel of the image, None where the slide does not say its scale.
    """

    image: NDArray[Any]
    x: int
    y: int
    score: float
    position: int
    mpp: float | None = None


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
        slide: Slide to read, or another object with `region(x, y, width, height, mpp)`, and `mpp` where it is known.
        coords: (n, 2) top-left corners (x, y) in level-0 pixels.
        footprint: Side length of a patch in level-0 pixels.
        scores: (n,) finite scores.
        k: Number of patches, at most.
        apart: A patch is skipped if its corner is nearer than this share of the footprint, in x and in y, to one that
            was taken: overlapping tilings would fill the sheet with one place. 0 takes all.
        mpp: Microns per pixel to read at; level-0 pixels by default.

    Raises:
        ValueError: Lengths that differ, a footprint that is not positive, a k below 1.
    """
    places, values = _checks.patches(coords, footprint, scores)
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
    own = getattr(slide, "mpp", None)
    side = round(footprint if mpp is None else footprint * _known(own) / mpp)
    found = []
    for position in taken:
        x, y = (int(v) for v in places[position])
        image = np.asarray(slide.region(x, y, side, side, mpp))
        found.append(TopPatch(image, x, y, float(values[position]), position, own if mpp is None else mpp))
    return found


def plot_contact_sheet(
    patches: Sequence[TopPatch | ArrayLike],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 4,
    mpp: float | None = None,
    ax: Axes | None = None,
) -> Panels:
    """Patches in rows, each with a caption above, and a scale bar on the first.

    Args:
        patches: Result of `top_patches`, or pictures (h, w, 3).
        captions: Captions, one per patch; by default its rank, and its score where it has one.
        columns: Number of pictures in a row.
        mpp: Microns per pixel, for the scale bar; by default the patches'. Without it there is none.
        ax: Axes to draw on, divided into as many; by default a figure of its own.

    Raises:
        ValueError: No patches, another number of captions, or no column.
        ImportError: matplotlib is not installed.
    """
    found = [patch if isinstance(patch, TopPatch) else None for patch in patches]
    ranked = [f"{i + 1}" if own is None else f"#{i + 1}   {own.score:.3g}" for i, own in enumerate(found)]
    names = ranked if captions is None else list(captions)
    if not len(patches) or len(names) != len(patches):
        raise ValueError(f"expected patches and a caption for each, got {len(patches)} and {len(names)}")
    if columns < 1:
        raise ValueError(f"expected columns >= 1, got {columns}")
    columns = min(columns, len(patches))
    rows = -(-len(patches) // columns)
    sheet = panels(ax, rows, columns, (1.8 * columns, 2.05 * rows))
    for panel in sheet:
        panel.set_axis_off()
    for panel, patch, own, name in zip(sheet, patches, found, names, strict=False):
        panel.imshow(np.asarray(patch if own is None else own.image), interpolation="nearest")
        panel.set_title(name, fontsize="small", pad=3, parse_math=False)
    scale = mpp if mpp is not None or found[0] is None else found[0].mpp
    if scale is not None:
        height, width = sheet[0].images[0].get_size()
        draw_scale_bar(sheet[0], (-0.5, -0.5, width - 0.5, height - 0.5), scale, share=0.4)
    use_fonts(*sheet)
    return sheet


def _known(mpp: float | None) -> float:
    if mpp is None:
        raise ValueError(
            "the slide does not say its microns per pixel; leave mpp out, or open it with Slide(path, mpp=...)"
        )
    return mpp
