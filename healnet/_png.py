"""A figure as the bytes of a PNG file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["png"]


def png(figure: Figure, dpi: float = 144) -> bytes:
    """The figure as PNG, without the date and version that would make every file differ."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
