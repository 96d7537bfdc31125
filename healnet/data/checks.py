"""Checks at the edge where tables enter a cohort: ids, columns and cells, each refused by name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

__all__ = ["check_ids", "check_table", "shorten"]


def shorten(values: Iterable[object], limit: int = 5) -> str:
    """The first few of many, for a message: "'a', 'b' and 3 more"."""
    shown = [repr(value) for value in values]
    rest = len(shown) - limit
    return ", ".join(shown[:limit]) + (f" and {rest} more" if rest > 0 else "")


def check_ids(ids: Iterable[object], owner: str) -> pd.Index:
    """Patient ids as unique strings.

    Integers become strings, so that a table that was read with `2016` and one that was read with `"2016"` still join.

    Raises:
        ValueError: An id that is neither a string nor an integer, is empty, or occurs twice.
    """
    names: list[str] = []
    for identity in ids:
        if isinstance(identity, bool | np.bool_) or not isinstance(identity, str | int | np.integer):
            raise ValueError(f"{owner}: patient ids must be strings or integers, got {identity!r}")
        if not str(identity).strip():
            raise ValueError(f"{owner}: a patient id is empty")
        names.append(str(identity))
    index = pd.Index(names, dtype=object, name="patient")
    if index.has_duplicates:
        twice = index[index.duplicated()].unique()
        raise ValueError(f"{owner}: duplicated patient id {shorten(twice)}; a cohort has one row per patient")
    return index


def check_table(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """A modality's table as float64 with string ids and string column names; NaN = a missing cell.

    Raises:
        ValueError: Duplicated ids or columns, no columns, a column that is not numeric, an infinite cell. Each names
            the modality.
    """
    owner = f"modality {name!r}"
    index = check_ids(table.index, owner)
    columns = pd.Index([str(column) for column in table.columns], dtype=object)
    if not len(columns):
        raise ValueError(f"{owner}: the table has no columns")
    if columns.has_duplicates:
        raise ValueError(f"{owner}: duplicated column {shorten(columns[columns.duplicated()].unique())}")
    kinds = table.dtypes.to_numpy()
    for dtype in dict.fromkeys(kinds):
        # Complex numbers are numeric to pandas, and would lose their imaginary part without a word.
        if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
            column = columns[int(np.argmax(kinds == dtype))]
            raise ValueError(
                f"{owner}: column {column!r} is not numeric ({dtype}); encode it as numbers, with NaN where unknown"
            )
    values = table.to_numpy(dtype=np.float64, na_value=np.nan)
    infinite = np.isinf(values)
    if infinite.any():
        row, at = np.argwhere(infinite)[0]
        raise ValueError(
            f"{owner}: infinite value in column {columns[at]!r} of patient {index[row]!r} "
            f"({infinite.sum()} infinite in all); missing values are NaN"
        )
    return pd.DataFrame(values, index=index, columns=columns)
