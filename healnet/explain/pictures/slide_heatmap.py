"""Whole-slide heat maps: scores of patches over the slide's thumbnail, in level-0 geometry; several slides of a patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from healnet._plotting import (
    Panels,
    add_colorbar,
    color_limits,
    draw_scale_bar,
    new_axes,
    on_scale,
    panels,
    readable,
    trim,
    use_fonts,
)
from healnet.explain._checks import finite_scores, numbers
from healnet.explain.pictures.score_map import score_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from healnet.slides.slide import Slide

__all__ = ["plot_slide_heatmap", "plot_slide_panels"]

_BOX = (3.6, 5.0)  # inches


def plot_slide_heatmap(
    slide: Slide | ArrayLike,
    coords: ArrayLike,
    footprint: float,
    scores: ArrayLike,
    *,
    level0_size: tuple[int, int] | None = None,
    mpp: float | None = None,
    scale: str = "percentile",
    max_size: int = 2048,
    cmap: str | None = None,
    alpha: float = 0.6,
    colorbar: bool = True,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Scores over the slide's thumbnail; overlapping patches averaged, glass and unscored tissue left as they are.

    The axes are in level-0 pixels, so that anything else in level-0 coordinates can be drawn on top. `plot_slide_panels`
    draws the plain slide beside it, and several slides of a patient.

    Args:
        slide: A `Slide`, or a thumbnail (h, w, 3) of the *whole* slide at any magnification.
        coords: (n, 2) top-left corners (x, y) in level-0 pixels.
        footprint: Side length of a patch in level-0 pixels.
        scores: (n,) finite scores.
        level0_size: (width, height) of the slide; needed with a thumbnail.
        mpp: Microns per level-0 pixel, for the scale bar (default: the slide's); without it there is none.
        scale: "percentile" colors by rank, which shows order even where few scores are huge; "raw" by the score itself.
        max_size: Longer side of the picture, in pixels, when read from a `Slide`.
        cmap: A matplotlib color map; by default viridis, for raw scores of both signs blue to red about 0.
        alpha: Opacity of the scores, from 0 (the plain slide) to 1.
        colorbar: Whether to draw one beside the axes.
        label: Text of the color bar.
        ax: Axes to draw on; by default new axes of a figure of their own.

    Raises:
        ValueError: As `score_map`; a thumbnail without `level0_size`, or of another shape of picture; an mpp not above 0.
        ImportError: matplotlib is not installed.
    """
    picture, size, mpp = _whole_slide(slide, level0_size, mpp, max_size)
    shown = on_scale(finite_scores(scores), scale)
    heat = score_map(coords, footprint, shown, size, picture.shape[:2])
    own = ax is None
    if ax is None:
        aspect = size[1] / size[0]
        ax = new_axes(7.0 if aspect <= 1 else 6.0 / aspect + 1.0, 6.0 * min(aspect, 1) + 0.4)
    _draw_picture(ax, picture, size, mpp)
    drawn = _draw_heat(ax, heat, size, _limits(scale, heat, cmap), alpha)
    if colorbar:
        add_colorbar(drawn, [ax], label or _label(scale))
    use_fonts(ax)
    if own:
        trim(ax.figure.figure)
    return ax


def plot_slide_panels(
    slides: Slide | Sequence[Slide],
    coords: ArrayLike,
    footprint: float | ArrayLike,
    scores: ArrayLike,
    *,
    scale: str = "percentile",
    max_size: int = 1024,
    cmap: str | None = None,
    alpha: float = 0.6,
    label: str | None = None,
    ax: Axes | None = None,
) -> Panels:
    """Each slide of a patient in a row: the plain slide, and the scores over it; all scores on one color scale.

    Args:
        slides: The patient's slide or slides.
        coords: (n, 2) top-left corners (x, y) of patches in level-0 pixels; (n, 3) with the slide's position last, as in
            `PatchBag.coords`, where there are several. Leave padding out.
        footprint: Side length of a patch in level-0 pixels, for all slides or for each.
        scores: (n,) finite scores.
        scale: "percentile" colors by rank among the patches of all slides; "raw" by the score itself.
        max_size: Longer side of each picture, in pixels.
        cmap: A matplotlib color map; by default viridis, for raw scores of both signs blue to red about 0.
        alpha: Opacity of the scores.
        label: Text of the color bar.
        ax: Axes to draw on, divided into two for each slide; by default a figure of its own.

    Raises:
        ValueError: As `score_map`; no slide; a patch of a slide that is not there; another number of footprints than of
            slides.
        ImportError: matplotlib is not installed.
    """
    each = list(slides) if isinstance(slides, Sequence) else [slides]
    if not each:
        raise ValueError("expected at least one slide, got none")
    sides = np.broadcast_to(numbers(footprint), len(each)) if np.ndim(footprint) == 0 else numbers(footprint)
    if sides.shape != (len(each),):
        raise ValueError(f"expected a footprint for each of {len(each)} slides, got {sides.size}")
    places, shown = numbers(coords), on_scale(finite_scores(scores), scale)
    axes = places.shape[-1]
    if places.shape != (len(shown), axes) or axes not in (2, 3) or (axes == 2 and len(each) > 1):
        raise ValueError(
            f"expected coords ({len(shown)}, 3) with the position of one of {len(each)} slides last, "
            f"or ({len(shown)}, 2) of one slide, got {places.shape}"
        )
    position = places[:, 2] if axes == 3 else np.zeros(len(places))
    unknown = ~np.isin(position, np.arange(len(each)))
    if unknown.any():
        raise ValueError(
            f"expected patches of slides 0 to {len(each) - 1}, got one of slide {position[unknown][0]:g}"
        )
    pictures = [_whole_slide(slide, None, None, max_size) for slide in each]
    limits = _limits(scale, shown, cmap)
    # Each slide as large as fits into one box, so that a strip leaves no blank space and does not shrink the others.
    aspects = [size[1] / size[0] for _, size, _ in pictures]
    widths = [min(_BOX[0], _BOX[1] / aspect) for aspect in aspects]
    heights = [width * aspect for width, aspect in zip(widths, aspects, strict=True)]
    size = (2 * max(*widths, 0.8) + 0.8, sum(heights) + 0.2 * len(each) + 0.3)
    grid = panels(ax, len(each), 2, size, heights=heights)
    drawn = None
    for i, (picture, level0, mpp) in enumerate(pictures):
        own = position == i
        heat = score_map(places[own, :2], float(sides[i]), shown[own], level0, picture.shape[:2])
        for panel in grid[2 * i : 2 * i + 2]:
            _draw_picture(panel, picture, level0, mpp)
        drawn = _draw_heat(grid[2 * i + 1], heat, level0, limits, alpha)
        grid[2 * i].set_title(readable(each[i].name), fontsize="small", loc="left")
    if drawn is not None:
        add_colorbar(drawn, grid, label or _label(scale))
    use_fonts(*grid)
    if ax is None:
        trim(grid.figure)
    return grid


def _draw_picture(ax: Axes, picture: NDArray[Any], size: tuple[int, int], mpp: float | None) -> None:
    """The slide, in level-0 pixels, with a scale bar where its scale is known."""
    ax.imshow(picture, extent=(0, size[0], size[1], 0), interpolation="nearest", aspect="equal")
    ax.set_xticks([])
    ax.set_yticks([])
    if mpp is not None:
        draw_scale_bar(ax, (0, 0, *size), mpp)


def _draw_heat(
    ax: Axes, heat: NDArray[np.float64], size: tuple[int, int], limits: tuple[float, float, str], alpha: float
) -> AxesImage:
    low, high, colors = limits
    return ax.imshow(
        np.ma.masked_invalid(heat),
        extent=(0, size[0], size[1], 0),
        cmap=colors,
        alpha=alpha,
        interpolation="nearest",
        vmin=low,
        vmax=high,
    )


def _limits(scale: str, shown: NDArray[np.float64], cmap: str | None) -> tuple[float, float, str]:
    # A slide without patches has no raw scale.
    by_rank = scale == "percentile" or not np.isfinite(shown).any()
    low, high, colors = (0.0, 100.0, "viridis") if by_rank else color_limits(shown)
    return low, high, cmap or colors


def _label(scale: str) -> str:
    return "score (percentile)" if scale == "percentile" else "score"


def _whole_slide(
    slide: Any, level0_size: tuple[int, int] | None, mpp: float | None, max_size: int
) -> tuple[NDArray[Any], tuple[int, int], float | None]:
    """A picture of the whole slide, its level-0 size and its scale."""
    if hasattr(slide, "mpp"):  # a picture of PIL has a thumbnail() too
        size = (int(slide.width), int(slide.height))
        if level0_size is not None and tuple(level0_size) != size:
            raise ValueError(
                f"the slide is {size[0]} x {size[1]} pixels at level 0, got level0_size {level0_size}"
            )
        return slide.thumbnail(max_size), size, slide.mpp if mpp is None else mpp
    picture = np.asarray(slide)
    if picture.ndim not in (2, 3) or 0 in picture.shape:
        raise ValueError(f"expected a thumbnail of shape (h, w, 3), got {picture.shape}")
    if level0_size is None:
        raise ValueError("a thumbnail does not say how large its slide is: pass level0_size=(width, height)")
    width, height = level0_size
    # One pixel of rounding on either side of the thumbnail is no other shape.
    h, w = picture.shape[:2]
    if abs(w * height - h * width) > max(width, height, 0.02 * w * height):
        raise ValueError(
            f"a thumbnail of {w} x {h} is not a picture of the whole of a slide of {width} x {height} pixels"
        )
    return picture, (int(width), int(height)), mpp
