"""Clinical findings as numbers with their gaps kept: `encode_clinical`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healnet.data.checks import shorten
from healnet.data.outcome_columns import is_outcome_name

__all__ = ["encode_clinical"]

# How GDC's and cBioPortal's clinical tables write that something is not known, in lower case; TCGA's own put such
# words in brackets, as [Not Available]. "None" is not here: it may be a finding.
_UNKNOWN = frozenset(
    (
        "",
        "na",
        "n/a",
        "nan",
        "null",
        "unknown",
        "not reported",
        "not available",
        "not applicable",
        "--",
        "'--",
    )
)

_BRACKETS = re.compile(r"\[(?!\s*[-+.\d]).*\]", re.DOTALL)  # R's cut writes its lowest interval [18,40]


def encode_clinical(
    table: pd.DataFrame,
    *,
    ordinal: Mapping[str, Sequence[str]] | None = None,
    one_hot: Sequence[str] | Mapping[str, Sequence[str]] = (),
    dates: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """A table of findings as numbers, one row per patient; what is not known stays NaN.

    Columns that hold numbers (also as text, beside words for "unknown") and bool stay in their order; the others must be
    named in one of the arguments. Words in brackets as "[Not Available]", "unknown", "not reported", "NA" and "'--" are
    missing, unless they are among the levels; intervals as "[18,40]" are values.

    Args:
        table: Findings, indexed by patient id.
        ordinal: Levels of a column by its name, from the lowest; they become 0, 1, 2, ...
        one_hot: Columns, or the levels of each by its name; each level becomes a column `name=level` of 0 and 1. Pass
            the levels where new patients must get the columns of the training patients.
        dates: By column of dates, another such column or one date; the value becomes the number of days since that. Dates
            without a time zone are taken as UTC.

    Raises:
        ValueError: A column that is not there or twice, is text and in no argument, or is an outcome by its name; a level
            that is not listed; levels to be found that differ in case only, or none; a date that cannot be read.

    Example:
        >>> table = pd.DataFrame({"age": ["61", "[Not Available]"], "stage": ["Stage II", None]}, index=["p1", "p2"])
        >>> encode_clinical(table, ordinal={"stage": ["Stage I", "Stage II", "Stage III"]})
             age  stage
        p1  61.0    1.0
        p2   NaN    NaN
    """
    ordinal, dates = dict(ordinal or {}), dict(dates or {})
    levels = dict(one_hot) if isinstance(one_hot, Mapping) else dict.fromkeys(one_hot)
    _check_names(table, [*ordinal, *levels, *dates])
    columns: dict[str, Any] = {}
    for name, column in table.items():
        name = str(name)
        given = ordinal.get(name) or levels.get(name)
        known = _without_unknown(column, given or ())
        if name in ordinal:
            columns[name] = _place(name, known, [_text(level) for level in ordinal[name]])
        elif name in levels:
            named = _levels(name, known) if given is None else [_text(v) for v in given]
            place = _place(name, known, named)
            for code, level in enumerate(named):
                columns[f"{name}={level}"] = np.where(np.isnan(place), np.nan, place == code)
        elif name in dates:
            since = table[dates[name]] if dates[name] in table else pd.Series(dates[name], index=table.index)
            columns[name] = (_dates(name, known) - _dates(dates[name], since)).dt.total_seconds() / 86_400
        elif name not in dates.values():
            columns[name] = _numbers(name, known)
    return pd.DataFrame(columns, index=table.index, dtype=np.float64)


def _check_names(table: pd.DataFrame, named: list[str]) -> None:
    if table.columns.has_duplicates:
        raise ValueError(
            f"column {shorten(table.columns[table.columns.duplicated()].unique())} is there twice"
        )
    absent = [name for name in named if name not in table]
    if absent:
        raise ValueError(f"no column {shorten(absent)}; the table has {shorten(table.columns, 20)}")
    twice = {name for name in named if named.count(name) > 1}
    if twice:
        raise ValueError(f"column {shorten(sorted(twice))} is in more than one of ordinal, one_hot and dates")
    outcomes = [name for name in table if is_outcome_name(str(name))]
    if outcomes:
        raise ValueError(f"column {shorten(outcomes)} is an outcome by its name, not an input; leave it out")


def _without_unknown(column: pd.Series[Any], levels: Sequence[str] = ()) -> pd.Series[Any]:
    """The column with NaN for every word that says "unknown", and text without blanks around it."""
    if pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_datetime64_any_dtype(column.dtype):
        return column
    text = column.astype(object).map(lambda cell: cell.strip() if isinstance(cell, str) else cell)
    return text.mask(text.map(lambda cell: cell not in levels and _is_unknown(cell)).astype(bool))


def _is_unknown(cell: Any) -> bool:
    return isinstance(cell, str) and (cell.lower() in _UNKNOWN or _BRACKETS.fullmatch(cell) is not None)


def _place(name: str, column: pd.Series[Any], levels: list[str]) -> NDArray[np.float64]:
    """(n,) position of each value among the levels, NaN where missing."""
    text = column.map(lambda cell: _text(cell) if pd.notna(cell) else None)
    codes = pd.Index(levels, dtype=object).get_indexer(pd.Index(text, dtype=object))
    strange = sorted(set(text[(codes < 0) & text.notna().to_numpy()]))
    if strange:
        raise ValueError(f"column {name!r}: expected one of {shorten(levels, 10)}, got {shorten(strange)}")
    return np.where(codes < 0, np.nan, codes.astype(np.float64))


def _levels(name: str, column: pd.Series[Any]) -> list[str]:
    """The values that occur, in sorted order."""
    levels = sorted({_text(cell) for cell in column.dropna()})
    if not levels:
        raise ValueError(
            f"column {name!r}: no value is known; give the levels, as one_hot={{{name!r}: [...]}}"
        )
    alike = [level for level in levels if [other.lower() for other in levels].count(level.lower()) > 1]
    if alike:
        raise ValueError(f"column {name!r}: the levels {shorten(alike)} differ in upper and lower case only")
    return levels


def _text(value: Any) -> str:
    """A level as text; 2.0 is 2, for a gap makes integers floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _dates(name: str, column: pd.Series[Any]) -> pd.Series[pd.Timestamp]:
    known = _without_unknown(column)
    # pandas would take a number for nanoseconds since 1970.
    numeric = pd.api.types.is_numeric_dtype(known.dtype)
    text = known.astype(str) if numeric else known
    dates = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)
    wrong = known[known.notna()] if numeric else known[dates.isna() & known.notna()]
    if len(wrong):
        raise ValueError(f"column {name!r}: expected dates as 2020-12-31, got {wrong.iloc[0]!r}")
    return dates


def _numbers(name: str, column: pd.Series[Any]) -> pd.Series[Any]:
    if column.dtype.kind in "mM":  # pandas would take them for nanoseconds
        raise ValueError(
            f"column {name!r}: expected numbers, got {column.dtype}; name it in dates, or take its days"
        )
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = column[numbers.isna() & column.notna()]
    if len(wrong) or not (pd.api.types.is_numeric_dtype(numbers) or pd.api.types.is_bool_dtype(numbers)):
        got = repr(wrong.iloc[0]) if len(wrong) else str(column.dtype)
        raise ValueError(
            f"column {name!r}: expected numbers, got {got}; name it in ordinal, one_hot or dates"
        )
    return numbers.astype(np.float64)
