"""Figures and axes that a notebook shows as a picture when they are the last expression of a cell."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from healnet._png import png

__all__ = ["NotebookAxes", "NotebookFigure"]


class NotebookFigure(Figure):
    """A figure that pyplot does not know, which a notebook would show as text."""

    def _repr_png_(self) -> bytes:
        return png(self)


class NotebookAxes(Axes):
    """Axes in a figure of their own, which stand for the picture."""

    def _repr_png_(self) -> bytes:
        return png(self.figure.figure)
