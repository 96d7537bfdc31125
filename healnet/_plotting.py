"""New figures without pyplot: no window, no global state, and a clear word where matplotlib is absent."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

__all__ = ["LOWERS", "RAISES", "add_colorbar", "colour_limits", "new_axes", "new_figure", "png", "readable"]

# Okabe and Ito (2008): vermilion and blue stay apart for every kind of colour vision.
RAISES, LOWERS = "#D55E00", "#0072B2"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, drawn by Agg, that pyplot does not know.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install healnet[plots]") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_axes(width: float, height: float) -> Axes:
    """Axes alone in a new figure; `ax.figure.savefig(path)` writes it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    return new_figure(width, height).add_subplot()


def add_colorbar(scores: ScalarMappable, axes: list[Axes], label: str) -> None:
    """A colour bar beside the axes, opaque whatever the picture's opacity."""
    figure = axes[0].figure
    bar = figure.colorbar(scores, ax=axes, shrink=0.75, label=label)
    if bar.solids is not None:
        bar.solids.set_alpha(1)


def colour_limits(scores: ArrayLike) -> tuple[float, float, str]:
    """The ends of a colour map, and which: about 0, blue lowers and red raises, for scores of both signs; else sequential.

    Raises:
        ValueError: no score is a number.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).any():
        raise ValueError("expected scores with at least one number, got none")
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < 0 < high:
        return -max(-low, high), max(-low, high), "RdBu_r"
    return low, high, "viridis"


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


def png(figure: Figure, dpi: float = 144) -> bytes:
    """The figure as PNG, without the date and version that would make every file differ."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
