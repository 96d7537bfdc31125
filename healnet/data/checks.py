"""Checks at the edge where data enter: ids, columns, cells and numbers, each refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from healnet.inputs import broadcast_mask
from healnet.survival.target import SurvivalTarget

__all__ = ["check_finite", "check_ids", "check_table", "check_target", "shorten"]

_TOO_LARGE = 2**53  # the first integer that another one becomes as float64


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
            raise ValueError(f"{owner}: expected patient ids of strings or integers, got {identity!r}")
        if not str(identity).strip():
            raise ValueError(f"{owner}: expected patient ids, got an empty one")
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
        raise ValueError(f"{owner}: expected columns, got none")
    if columns.has_duplicates:
        raise ValueError(f"{owner}: duplicated column {shorten(columns[columns.duplicated()].unique())}")
    kinds = table.dtypes.to_numpy()
    whole = np.zeros(len(columns), dtype=np.bool_)
    for dtype in dict.fromkeys(kinds):
        if pd.api.types.is_integer_dtype(dtype):
            whole |= kinds == dtype
        # Complex numbers are numeric to pandas, and would lose their imaginary part without a word.
        if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
            at = int(np.argmax(kinds == dtype))
            raise ValueError(
                f"{owner}: column {columns[at]!r} is not numeric ({dtype}){_cause(table.iloc[:, at])}; "
                "encode it as numbers, with NaN where unknown"
            )
    values = table.to_numpy(dtype=np.float64, na_value=np.nan)
    large = ((values >= _TOO_LARGE) | (values <= -_TOO_LARGE)).any(axis=0)
    for at in np.flatnonzero(large & whole)[:1]:
        raise ValueError(
            f"{owner}: column {columns[at]!r} has integers of 2**53 or more, which float64 does not tell apart: is it an id?"
        )
    infinite = np.isinf(values)
    if infinite.any():
        row, at = np.argwhere(infinite)[0]
        raise ValueError(
            f"{owner}: infinite value in column {columns[at]!r} of patient {index[row]!r} "
            f"({infinite.sum()} infinite in all); missing values are NaN"
        )
    return pd.DataFrame(values, index=index, columns=columns)


def check_finite(owner: str, value: Any) -> None:
    """Refuse NaN and infinity in a tensor, or in a NamedTuple of tensors where its `mask` does not hide them.

    Args:
        owner: Name of the input, for messages.
        value: Input of one patient or of several.

    Raises:
        ValueError: A value that is not finite and not masked.
    """
    mask = getattr(value, "mask", None)
    for field in (value,) if isinstance(value, Tensor) else value:
        # The extremes are NaN or infinite if any value is, and take a twentieth of the time of asking each.
        if (
            not field.is_floating_point()
            or not field.numel()
            or torch.stack(field.aminmax()).isfinite().all()
        ):
            continue
        finite, shape = field.isfinite(), field.shape
        if isinstance(mask, Tensor):
            if mask.shape == shape[: mask.dim()]:
                finite |= ~broadcast_mask(mask, shape)
            elif mask.shape == shape[1:]:  # of one patient, channels first
                finite |= ~mask
            elif mask.shape == shape[:1] + shape[2:]:  # of several, channels first
                finite |= ~mask.unsqueeze(1)
        if not finite.all():
            raise ValueError(
                f"{owner}: expected finite values, got {field[~finite][0].item()}; what is missing is masked, or left out"
            )


def check_target(target: object, patients: pd.Index) -> None:
    """Refuse what is not the outcomes of these patients; None is no outcomes.

    Raises:
        ValueError: A target of another type or length; one that knows its patients (`SurvivalTarget.from_frame`), in another
            order.
    """
    if target is None:
        return
    if not isinstance(target, SurvivalTarget):
        raise ValueError(
            f"expected the target as a SurvivalTarget, got {type(target).__name__}; "
            "SurvivalTarget.from_frame and from_structured make one"
        )
    if len(target) != len(patients):
        raise ValueError(f"the cohort has {len(patients)} patient ids but {len(target)} survival times")
    at = target.first_other(patients.to_numpy())
    if at is not None and target.patients is not None:
        raise ValueError(
            f"expected patients in the order of the target's table, got {patients[at]!r} at position {at} where the table "
            f"has {target.patients[at]!r}; leave `patients` out to take the table's own"
        )


def _cause(column: pd.Series) -> str:
    """Return why a column of objects or text is not numeric, as a part of a message."""
    if column.dtype != object and not pd.api.types.is_string_dtype(column.dtype):
        return ""
    cells = column.dropna()
    strange = cells[
        [isinstance(cell, bool) or not isinstance(cell, int | float | np.number) for cell in cells]
    ]
    if not len(strange):
        return ": its numbers are held as objects, which table.apply(pd.to_numeric) mends"
    ids = len(strange) == len(column) and all(isinstance(cell, str) for cell in cells)
    if isinstance(column.index, pd.RangeIndex) and ids and cells.is_unique:
        return f": {strange.iloc[0]!r}; if it is the patients' ids, make it the index with table.set_index({column.name!r})"
    return f": {strange.iloc[0]!r} of patient {str(strange.index[0])!r}"
