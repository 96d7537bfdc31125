"""Graphs: scored nodes at their places, over the picture they were found in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from healnet._plotting import add_colorbar, color_limits, draw_scale_bar, new_axes, on_scale, trim, use_fonts
from healnet.explain._checks import finite_scores, numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_graph_overlay"]


def plot_graph_overlay(
    centroids: ArrayLike,
    scores: ArrayLike,
    edge_index: ArrayLike | None = None,
    image: ArrayLike | None = None,
    *,
    scale: str = "percentile",
    size: float = 14.0,
    mpp: float | None = None,
    cmap: str | None = None,
    colorbar: bool = True,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Nodes colored by score at their centroids, edges as thin lines, over the region's picture.

    Args:
        centroids: (n, 2) places (x, y) in the picture's pixels, y downward.
        scores: (n,) finite scores.
        edge_index: (2, e) pairs of nodes, PyTorch Geometric's layout; an edge given both ways is drawn once.
        image: (h, w) or (h, w, 3), the region.
        scale: Colors by "percentile" rank or by the "raw" score.
        size: Area of a node, in square points.
        mpp: Microns per pixel of the picture, for a scale bar; without it there is none.
        cmap: A matplotlib color map; by default viridis, for raw scores of both signs blue to red about 0.
        colorbar: Whether to draw one beside the axes.
        label: Text of the color bar.
        ax: Axes to draw on; by default new axes of a figure of their own.

    Raises:
        ValueError: Lengths that differ, an edge to a node that is not there.
        ImportError: matplotlib is not installed.
    """
    places, values = numbers(centroids), finite_scores(scores)
    if places.shape != (len(values), 2):
        raise ValueError(f"expected centroids of shape ({len(values)}, 2), one per score, got {places.shape}")
    edges = np.empty((2, 0), np.int64) if edge_index is None else np.asarray(edge_index)
    if (
        edges.ndim != 2
        or len(edges) != 2
        or edges.dtype.kind not in "iu"
        or (edges.size and not 0 <= edges.min() <= edges.max() < len(values))
    ):
        raise ValueError(
            f"expected integer edge_index of shape (2, e) with nodes 0..{len(values) - 1}, "
            f"got {edges.dtype} of shape {edges.shape}"
        )
    shown = on_scale(values, scale)
    own = ax is None
    ax = new_axes(6.4, 5.4) if ax is None else ax
    if image is not None:
        # A pixel's center is a whole number, as in the tools that measure centroids.
        ax.imshow(np.asarray(image), cmap="gray", interpolation="nearest")
    elif not ax.yaxis_inverted():  # as it is where the axes hold a picture already
        ax.invert_yaxis()
    ax.set_aspect("equal")
    once = np.unique(np.sort(edges, axis=0), axis=1).T
    if len(once):
        from matplotlib.collections import LineCollection

        lines = LineCollection(list(places[once]), colors="black", linewidths=0.4, alpha=0.5, zorder=2)
        ax.add_collection(lines)
    order = np.argsort(shown, kind="stable")  # the highest on top
    low, high, colors = (0.0, 100.0, "viridis") if scale == "percentile" else color_limits(values)
    nodes = ax.scatter(
        places[order, 0],
        places[order, 1],
        c=shown[order],
        s=size,
        cmap=cmap or colors,
        # The middle of a diverging map is white, as paper and glass are.
        edgecolors="black" if low < 0 else "0.4" if image is None else "white",
        linewidths=0.8 if low < 0 else 0.3,
        zorder=3,
        vmin=low,
        vmax=high,
    )
    if mpp is not None:
        (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
        draw_scale_bar(ax, (left, bottom, right, top), mpp)
    ax.set_xticks([])
    ax.set_yticks([])
    if colorbar:
        text = label or ("score (percentile)" if scale == "percentile" else "score")
        add_colorbar(nodes, [ax], text)
    use_fonts(ax)
    if own:
        trim(ax.figure.figure)
    return ax
