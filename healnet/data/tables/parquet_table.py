"""Tables in parquet files, read as those of text are: `open_table`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healnet._files import need, shown
from healnet.data.checks import shorten
from healnet.data.tables.text_table import TextTable, open_text_table

__all__ = ["ParquetTable", "open_table"]

_PARQUET = b"PAR1"


def open_table(
    path: Path, max_bytes: int, *, delimiter: str | None = ",", comment: str | None = None
) -> TextTable | ParquetTable:
    """Open a table of text as `open_text_table`, or a parquet file, told by content.

    Raises:
        ImportError: A parquet file without pyarrow.
        ValueError: As `open_text_table`; a parquet file that is damaged or has two columns of one name.
    """
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == _PARQUET:
                return ParquetTable(path, _read_parquet(path, max_bytes))
    return open_text_table(path, max_bytes, delimiter=delimiter, comment=comment)


class ParquetTable:
    """Reads as `TextTable` does, from a table whose columns have types."""

    def __init__(self, path: Path, frame: pd.DataFrame) -> None:
        self.path = path
        self.frame = frame
        self.header = [str(name) for name in frame.columns]

    def read(
        self, text: Sequence[str], numbers: Sequence[str]
    ) -> tuple[dict[str, list[str | None]], NDArray[np.float64]]:
        """Read columns of text and columns of numbers, (rows, numbers)."""
        names = {
            name: [
                None if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)
            ]
            for name, column in self.frame[list(text)].items()
        }
        chosen = self.frame[list(numbers)]
        # Yes and no with gaps between them are objects to pandas.
        objects = chosen.select_dtypes("object")
        gappy = [name for name in objects if objects[name].map(_is_yes_no).all()]
        chosen = chosen.astype(dict.fromkeys(gappy, np.float64))
        for column, dtype in chosen.dtypes.items():
            if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
                values = chosen[column].dropna()
                wrong = values[pd.to_numeric(values, errors="coerce").isna()]
                got = repr(wrong.iloc[0]) if len(wrong) else str(dtype)
                raise ValueError(f"{shown(self.path)}: expected numbers in column {column!r}, got {got}")
        return {str(name): column for name, column in names.items()}, chosen.to_numpy(
            np.float64, na_value=np.nan
        )


def _read_parquet(path: Path, max_bytes: int) -> pd.DataFrame:
    parquet = need("pyarrow.parquet", "pyarrow", "reading a parquet table")
    arrow = need("pyarrow", "pyarrow", "reading a parquet table")
    try:
        with parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
            # Dictionaries and runs unpack to far more than the file says, so cells count as well.
            size = max(sum(groups), file.metadata.num_rows * file.metadata.num_columns)
            if size > max_bytes:
                raise ValueError(
                    f"{shown(path)}: expected at most {max_bytes} bytes, got {size}; raise max_bytes"
                )
            table = file.read()
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{shown(path)}: expected a parquet table, got a damaged one ({error})") from error
    names = table.column_names
    if len(set(names)) != len(names):
        raise ValueError(
            f"{shown(path)}: two columns are named {shorten({n for n in names if names.count(n) > 1})}"
        )
    frame: pd.DataFrame = table.to_pandas()
    return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()


def _is_yes_no(cell: object) -> bool:
    return isinstance(cell, bool) or cell is None or (isinstance(cell, float) and np.isnan(cell))
