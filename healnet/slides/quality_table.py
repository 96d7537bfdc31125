"""Quality-control table of a run over slides: what became of each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from healnet._files import atomic_path

__all__ = ["SlideResult", "write_quality_table"]

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that spreadsheet software would run


class SlideResult(NamedTuple):
    """Outcome of one slide: a row of the quality-control table.

    Attributes:
        slide: Name of the slide.
        tiles: Number of tiles that were encoded.
        tissue_mm2: Area of its tissue in square millimeters; NaN where no tissue was looked for.
        pen: Area of pen marks relative to tissue and pen marks together.
        blur: Part of the tiles that was left out as blurred.
        sharpness: Median of the tiles' `sharpness`.
        seconds: From opening the slide to the finished file.
        error: Empty if all went well.
    """

    slide: str
    tiles: int
    tissue_mm2: float
    pen: float
    blur: float
    sharpness: float
    seconds: float
    error: str

    @classmethod
    def failed(cls, slide: str, error: str) -> SlideResult:
        """The row of a slide that was not encoded."""
        return cls(slide, 0, error=error, **dict.fromkeys(cls.numbers(), float("nan")))

    @classmethod
    def numbers(cls) -> tuple[str, ...]:
        """Names of the fields that are stored in the feature file."""
        return ("tissue_mm2", "pen", "blur", "sharpness", "seconds")


def write_quality_table(path: Path, results: Sequence[SlideResult]) -> None:
    """Write the table as CSV, one row per slide, replaced as a whole. Text that a spreadsheet would run gets a leading '."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(SlideResult._fields)
        for result in results:
            cells = [_as_text(cell) if isinstance(cell, str) else round(cell, 4) for cell in result]
            writer.writerow(cells)


def _as_text(cell: str) -> str:
    cell = cell.encode("utf-8", "backslashreplace").decode()
    return f"'{cell}" if cell.startswith(FORMULA) else cell
