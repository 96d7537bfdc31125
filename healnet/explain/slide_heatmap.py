"""Whole-slide heat maps: scores of patches over the slide's thumbnail, in level-0 geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from healnet._plotting import add_colorbar, color_limits, draw_scale_bar, new_axes, on_scale
from healnet.explain._checks import finite_scores, patches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from healnet.slides.slide import Slide

__all__ = ["plot_slide_heatmap", "score_map"]


def score_map(
    coords: ArrayLike,
    footprint: float,
    scores: ArrayLike,
    level0_size: tuple[int, int],
    shape: tuple[int, int],
) -> NDArray[np.float64]:
    """Scores of patches as a picture of the slide: a pixel is the mean over the patches that cover its centre, NaN without.

    A patch that is too small to cover any pixel's centre takes the pixel that its own centre is in. Time and memory grow
    with patches plus pixels, not with their product.

    Args:
        coords: (n, 2) top-left corners (x, y) in level-0 pixels, as CLAM, TRIDENT and `read_patches` give them.
        footprint: side length of a patch in level-0 pixels (`PatchFile.footprint`): not the patch size at its own level.
        scores: (n,) finite.
        level0_size: (width, height) of the slide in level-0 pixels.
        shape: (height, width) of the picture, whatever its magnification.

    Returns:
        (height, width) float64.

    Raises:
        ValueError: lengths that differ, a footprint that is not positive, a score that is not finite, a patch that does
            not touch the slide (coordinates or size of another slide or level).

    Example:
        >>> score_map([[0, 0], [512, 0]], 512, [1.0, 3.0], (1024, 1024), shape=(2, 2)).tolist()
        [[1.0, 3.0], [nan, nan]]
    """
    places, values = patches(coords, footprint, scores)
    width, height = level0_size
    outside = (places >= (width, height)).any(axis=1) | (places + footprint <= 0).any(axis=1)
    if outside.any():
        raise ValueError(
            f"the patch at {places[outside][0].tolist()} lies outside a slide of {width} x {height} level-0 pixels "
            f"({int(outside.sum())} of {len(places)} do): are coordinates and size of one slide, at level 0?"
        )
    rows, columns = shape
    top, bottom = _covered(places[:, 1], footprint, height / rows, rows)
    left, right = _covered(places[:, 0], footprint, width / columns, columns)
    # Two-dimensional differences: +s where a rectangle starts, -s behind its ends; their running sum fills the rectangles.
    stride = columns + 1
    corners = np.concatenate(
        [top * stride + left, top * stride + right, bottom * stride + left, bottom * stride + right]
    )

    def filled(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        signed = np.concatenate([weights, -weights, -weights, weights])
        corner = np.bincount(corners, signed, minlength=(rows + 1) * stride).reshape(rows + 1, stride)
        running: NDArray[np.float64] = corner.cumsum(axis=0).cumsum(axis=1)[:rows, :columns]
        return running

    # About their middle, so that the running sums round as little as they can.
    middle = (values.min() + values.max()) / 2 if len(values) else 0.0
    count = filled(np.ones(len(places))).round()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, filled(values - middle) / count + middle, np.nan)


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

    The axes are in level-0 pixels, so that anything else in level-0 coordinates can be drawn on top. Of a bag of several
    slides (a slide's index in the third column of `PatchBag.coords`) draw each slide's rows by themselves, without padding.

    Args:
        slide: a `Slide`, or a thumbnail (h, w, 3) of the *whole* slide at any magnification.
        coords: (n, 2) top-left corners (x, y) in level-0 pixels.
        footprint: side length of a patch in level-0 pixels.
        scores: (n,) finite.
        level0_size: (width, height) of the slide; needed with a thumbnail.
        mpp: microns per level-0 pixel, for the scale bar (default: the slide's); without it there is none.
        scale: "percentile" colors by rank, which shows order even where few scores are huge; "raw" by the score itself.
        max_size: longer side of the picture, in pixels, when read from a `Slide`.
        cmap: a matplotlib color map; by default viridis, for raw scores of both signs blue to red about 0.
        alpha: opacity of the scores.
        colorbar: draw one beside the axes.
        label: text of the color bar.
        ax: where to draw; by default new axes of a figure of their own.

    Raises:
        ValueError: as `score_map`; a thumbnail without `level0_size`, or of another shape of picture; an mpp not above 0.
        ImportError: matplotlib is not installed.
    """
    picture, size, mpp = _whole_slide(slide, level0_size, mpp, max_size)
    heat = score_map(coords, footprint, on_scale(finite_scores(scores), scale), size, picture.shape[:2])
    if ax is None:
        aspect = size[1] / size[0]
        ax = new_axes(7.0 if aspect <= 1 else 6.0 / aspect + 1.0, 6.0 * min(aspect, 1) + 0.4)
    extent = (0, size[0], size[1], 0)
    ax.imshow(picture, extent=extent, interpolation="nearest", aspect="equal")
    by_rank = scale == "percentile" or not np.size(scores)  # a slide without patches has no raw scale
    low, high, colors = (0.0, 100.0, "viridis") if by_rank else color_limits(heat)
    drawn = ax.imshow(
        np.ma.masked_invalid(heat),
        extent=extent,
        cmap=cmap or colors,
        alpha=alpha,
        interpolation="nearest",
        vmin=low,
        vmax=high,
    )
    ax.set_xticks([])
    ax.set_yticks([])
    if mpp is not None:
        draw_scale_bar(ax, (0, 0, *size), mpp)
    if colorbar:
        text = label or ("score (percentile)" if scale == "percentile" else "score")
        add_colorbar(drawn, [ax], text)
    return ax


def _covered(
    start: NDArray[np.float64], length: float, pixel: float, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one-past-last pixel whose centres lie in [start, start + length), clipped to the picture."""
    first = np.ceil(start / pixel - 0.5)
    last = np.ceil((start + length) / pixel - 0.5)
    none = last <= first
    first = np.where(none, np.floor((start + length / 2) / pixel), first)
    last = np.where(none, first + 1, last)
    return np.clip(first, 0, count).astype(np.int64), np.clip(last, 0, count).astype(np.int64)


def _whole_slide(
    slide: Any, level0_size: tuple[int, int] | None, mpp: float | None, max_size: int
) -> tuple[NDArray[Any], tuple[int, int], float | None]:
    """A picture of the whole slide, its level-0 size and its scale."""
    if hasattr(slide, "thumbnail"):
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
