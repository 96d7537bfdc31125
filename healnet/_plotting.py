"""Palette, axes, colors and fonts of every picture. Figures are made without pyplot: no window and no global state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from healnet._png import png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

__all__ = [
    "LOWERS",
    "PALETTE",
    "RAISES",
    "STYLES",
    "Panels",
    "add_colorbar",
    "color_limits",
    "despine",
    "direction_legend",
    "draw_scale_bar",
    "narrow_png",
    "new_axes",
    "new_figure",
    "on_scale",
    "panels",
    "readable",
    "trim",
    "use_fonts",
    "viridis",
]

# Okabe and Ito (2008): colors that stay apart for every kind of color vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LOWERS, RAISES = PALETTE[:2]
STYLES: tuple[Any, ...] = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), ":")


class Panels(tuple["Axes", ...]):
    """The axes of a picture of several panels; a notebook shows the picture when it is the last expression of a cell."""

    __slots__ = ()

    @property
    def figure(self) -> Figure:
        """The figure that the panels are in."""
        return self[0].figure.figure  # a subfigure's own, too

    def _repr_png_(self) -> bytes:
        return png(self.figure)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, drawn by Agg, that pyplot does not know and a notebook shows.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        from healnet._notebook import NotebookFigure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install healnet[plots]") from error
    figure = NotebookFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_axes(width: float, height: float) -> Axes:
    """Axes alone in a new figure; `ax.figure.savefig(path)` writes it.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    return panels(None, 1, 1, (width, height))[0]


def panels(
    ax: Axes | None,
    rows: int,
    columns: int,
    size: tuple[float, float],
    heights: Sequence[float] | None = None,
) -> Panels:
    """A grid of axes, row by row: replacing `ax`, or in a new figure of `size` inches; rows as high as `heights` say.

    Raises:
        ValueError: Axes whose place is not that of a grid, as `Figure.subplots` makes them.
        ImportError: Matplotlib is not installed.
    """
    if ax is None:
        figure = new_figure(*size)
        from healnet._notebook import NotebookAxes

        grid = figure.add_gridspec(rows, columns, height_ratios=heights)
        return Panels(figure.add_subplot(grid[i], axes_class=NotebookAxes) for i in range(rows * columns))
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError("expected axes made by subplots, whose place can be divided into panels")
    host = ax.figure
    ax.remove()
    inner = place.subgridspec(rows, columns, height_ratios=heights)
    return Panels(host.add_subplot(inner[i]) for i in range(rows * columns))


def trim(figure: Figure, pad: float = 0.04) -> None:
    """Shrink a figure to what is drawn, with `pad` inches about it: pictures of a fixed shape leave blank strips."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    figure.set_size_inches(box.width + 2 * pad, box.height + 2 * pad)


def despine(ax: Axes) -> Axes:
    """Remove the lines at the top and at the right, which carry nothing."""
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def add_colorbar(scores: ScalarMappable, axes: Iterable[Axes], label: str) -> None:
    """Draw a color bar beside the axes, opaque whatever the picture's opacity; below them in `narrow_png`."""
    beside = list(axes)
    _add_bar(scores, beside, label, shrink=0.75)


def _add_bar(scores: ScalarMappable, axes: list[Axes], label: str, **options: Any) -> None:
    bar = axes[0].figure.colorbar(scores, ax=axes, label=label, **options)
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    vars(bar)["drawn_for"] = axes, label


def _remove_bar(scores: ScalarMappable) -> tuple[list[Axes], str]:
    """Remove the color bar that `_add_bar` made, and return what it was made for."""
    bar = scores.colorbar
    assert bar is not None
    made: tuple[list[Axes], str] = vars(bar)["drawn_for"]
    bar.remove()
    return made


def direction_legend(
    ax: Axes, signs: ArrayLike, quantity: str, prefix: str = "", warning: str | None = None
) -> None:
    """Explain the colors of the directions that occur, and a hatch, below the label of x, where it can cover nothing."""
    from matplotlib.patches import Patch
    from matplotlib.transforms import ScaledTranslation

    given = np.asarray(signs, dtype=np.float64)
    names = ((RAISES, "raises", (given > 0).any()), (LOWERS, "lowers", (given < 0).any()))
    handles = [
        Patch(color=color, label=f"{prefix}{verb} the {quantity}") for color, verb, drawn in names if drawn
    ]
    if warning is not None:
        handles.append(Patch(facecolor="0.75", hatch="////", edgecolor="white", label=warning))
    if handles:
        label = ax.xaxis.label
        # In points: ticks and the space about them, a row of tick labels, the rows of the label.
        depth = 12 + 1.2 * float(label.get_fontsize()) * (2 + label.get_text().count("\n"))
        below = ScaledTranslation(0, -depth / 72, ax.figure.figure.dpi_scale_trans)
        options: dict[str, Any] = {
            "loc": "upper center",
            "bbox_to_anchor": (0.5, 0.0),
            "bbox_transform": ax.transAxes + below,
            "ncols": 2 if warning is None else 1,
        }
        ax.legend(handles=handles, frameon=False, fontsize="small", **options)


def draw_scale_bar(ax: Axes, box: tuple[float, float, float, float], mpp: float, share: float = 0.2) -> None:
    """Draw a bar of a round number of microns at the bottom left.

    Args:
        ax: Axes whose y points downward.
        box: Edges of the picture in the axes' units: left, top, right and bottom.
        mpp: Microns per unit of the axes.
        share: Greatest part of the width.

    Raises:
        ValueError: An mpp that is not above 0.
    """
    from matplotlib.patches import Rectangle

    if not (math.isfinite(mpp) and mpp > 0):
        raise ValueError(f"expected mpp above 0, in microns per pixel, got {mpp}")
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    microns = _round_length(width * mpp * share)
    margin = 0.03 * min(width, height)
    thick = min(0.07 * share * max(width, height), 0.05 * min(width, height))  # to be seen on a strip too
    text = f"{microns / 1000:g} mm" if microns >= 1000 else f"{microns:g} µm"
    y = bottom - margin - thick
    look: dict[str, Any] = {"facecolor": "black", "edgecolor": "white", "linewidth": 0.8, "zorder": 5}
    bar = Rectangle((left + margin, y), microns / mpp, thick, **look)
    ax.add_patch(bar)
    ax.text(
        left + margin,
        y - thick,
        text,
        ha="left",
        va="bottom",
        fontsize="small",
        zorder=5,
        bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.5},
    )


def _round_length(length: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `length`.

    Example:
        >>> _round_length(730.0), _round_length(1999.0)
        (500.0, 1000.0)
    """
    power = 10.0 ** math.floor(math.log10(length))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= length * (1 + 1e-9))


def on_scale(scores: NDArray[np.float64], scale: str) -> NDArray[np.float64]:
    """Scores (n,) as they are colored: "percentile" from 0 (lowest) to 100 (highest), or "raw" as they are.

    Equal scores share the mean of their percentiles, and a single one gets 100.

    Raises:
        ValueError: Another scale.

    Example:
        >>> on_scale(np.array([0.1, 5.0, 0.1, 9.0, 7.0]), "percentile").tolist()
        [12.5, 50.0, 12.5, 100.0, 75.0]
    """
    if scale == "raw":
        return scores
    if scale != "percentile":
        raise ValueError(f"expected scale 'percentile' or 'raw', got {scale!r}")
    if len(scores) < 2:
        return np.full(len(scores), 100.0)
    from scipy.stats import rankdata  # here, for importing it takes longer than all of healnet

    return np.asarray(100 * (rankdata(scores) - 1) / (len(scores) - 1), dtype=np.float64)


def color_limits(scores: ArrayLike) -> tuple[float, float, str]:
    """The ends of a color map, and which: about 0, blue lowers and red raises, for scores of both signs; else sequential.

    Raises:
        ValueError: No score is a number, or one is infinite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).any():
        raise ValueError("expected scores with at least one number, got none")
    if np.isinf(values).any():
        raise ValueError(f"expected finite scores, or NaN for some, got {values[np.isinf(values)][0]}")
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < 0 < high:
        return -max(-low, high), max(-low, high), "RdBu_r"
    return low, high, "viridis"


def viridis(scores: ArrayLike, low: float, high: float) -> NDArray[np.uint8]:
    """Scores (...) from `low` to `high` as (..., 3) red, green, blue; violet is low, yellow high, in any color vision.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise ImportError("colors need matplotlib: pip install healnet[plots]") from error
    fractions = (
        (np.asarray(scores, dtype=np.float64) - low) / (high - low)
        if high > low
        else np.ones(np.shape(scores))
    )
    return np.asarray(colormaps["viridis"](fractions, bytes=True)[..., :3], dtype=np.uint8)


def readable(name: object, longest: int = 28) -> str:
    r"""A name from the data as a matplotlib label: never mathematics, nothing unprintable, a long one cut in its middle.

    Example:
        >>> readable("$x$"), readable("a name of any length", longest=12)
        ('\\$x\\$', 'a name…ength')
    """
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(name))
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[1 - longest // 2 :]}"
    return text.replace("$", r"\$")


def use_fonts(*axes: Axes) -> None:
    """Give texts whose font lacks a character, such as a Chinese name, an installed font that has it as a fallback."""
    from matplotlib.text import Text

    for ax in axes:
        for text in ax.findobj(Text):
            assert isinstance(text, Text)
            foreign = frozenset(c for c in text.get_text() if ord(c) > 0x24F)
            if foreign:
                families = text.get_fontfamily()
                text.set_fontfamily([*families, *_families_with(foreign, tuple(families))])


@lru_cache(maxsize=256)
def _families_with(characters: frozenset[str], own: tuple[str, ...]) -> tuple[str, ...]:
    """Installed font families that have the characters which the `own` families lack; none if there are none."""
    from matplotlib.font_manager import FontProperties, findSystemFonts, fontManager, get_font

    def known(path: str) -> set[int]:
        try:
            return missing & get_font(path).get_charmap().keys()
        # Removed since, or a bitmap font, as those of emoji, which matplotlib cannot read.
        except (OSError, RuntimeError):
            return set()

    missing = {ord(c) for c in characters}
    missing -= known(fontManager.findfont(FontProperties(family=list(own))))
    found: list[str] = []
    # The last resort of recent releases of matplotlib has a box for every character.
    listed = {entry.fname: None for entry in fontManager.ttflist if "Last Resort" not in entry.name}
    # matplotlib keeps its list from an earlier run: fonts that were installed since are looked at last, and added.
    for path in [*listed, *(findSystemFonts() if missing else [])]:
        has = known(path)
        if has:
            missing -= has
            if path not in listed:
                fontManager.addfont(path)
            found.append(get_font(path).family_name)
        if not missing:
            break
    return tuple(found)


def _outer_height(ax: Axes) -> float:
    """Height in inches with titles, labels and a legend."""
    box = ax.get_tightbbox()
    return 0.0 if box is None else float(box.height) / ax.figure.figure.dpi


def narrow_png(figure: Figure, width: float = 3.6, dpi: float = 220) -> bytes:
    """The figure as PNG, laid out anew for a phone.

    Texts keep their size, up to 4 panels stand below each other, and the color bars of `add_colorbar` below them.
    """
    from matplotlib.gridspec import GridSpec

    size = figure.get_size_inches()
    placed = [(ax, spec) for ax in figure.axes if (spec := ax.get_subplotspec()) is not None]
    panels = [ax for ax, _ in placed]
    scored = [
        drawn
        for ax in panels
        for drawn in (*ax.images, *ax.collections)
        if drawn.colorbar is not None and "drawn_for" in vars(drawn.colorbar)
    ]
    bars = [_remove_bar(scores) for scores in scored]
    columns = 1 if len(panels) <= 4 else 2
    rows = -(-len(panels) // columns)

    def place(heights: Sequence[float]) -> None:
        grid = GridSpec(len(heights), columns, figure=figure, height_ratios=heights)
        for i, ax in enumerate(panels):
            ax.set_subplotspec(grid[i])

    own = [ax.get_window_extent().height / figure.dpi for ax in panels]
    try:
        place([1.0] * max(rows, 1))
        figure.set_size_inches(width, 4 * width * rows)
        figure.draw_without_rendering()
        drawn = [ax.get_window_extent().height / figure.dpi for ax in panels]
        texts = [_outer_height(ax) - height for ax, height in zip(panels, drawn, strict=True)]
        # Curves get three quarters of their width, bars their own height, and pictures keep their shape; but no panel is
        # larger than a screen.
        heights = [
            min(max(0.75 * width, before) if ax.get_aspect() == "auto" else height, 1.8 * width)
            for ax, before, height in zip(panels, own, drawn, strict=True)
        ]
        above, more = (
            [max(of[i : i + columns]) for i in range(0, len(of), columns)] for of in (heights, texts)
        )
        place(above or [1.0])
        inch = 1 / sum(above or [1.0])
        for scores, (axes, label) in zip(scored, bars, strict=True):
            options = {"fraction": 0.1 * inch, "pad": 0.1 * inch, "aspect": 40}
            _add_bar(scores, axes, label, location="bottom", **options)
        # Then titles, labels and padding of each row, and numbers and label of the color bars.
        total = 1.02 * sum(above) + sum(more) + 0.1 * rows + 0.6 * len(scored)
        figure.set_size_inches(width, max(total, 1.0))
        for _ in range(5):  # rows share out what is added, so once may not do
            figure.draw_without_rendering()
            box = figure.get_tightbbox()
            if box.y0 >= 0 and box.y1 <= figure.get_figheight():
                break
            figure.set_size_inches(width, figure.get_figheight() + 0.15)
        return png(figure, dpi)
    finally:
        for scores in scored:
            if scores.colorbar is not None:
                _remove_bar(scores)
        for ax, spec in placed:
            ax.set_subplotspec(spec)
        figure.set_size_inches(*size)
        for scores, (axes, label) in zip(scored, bars, strict=True):
            add_colorbar(scores, axes, label)
