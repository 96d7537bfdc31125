"""Refuse pandas objects whose patients, folds or times are in another order than those they are paired with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_columns", "check_order", "check_same_order", "patient_ids"]


def check_order(values: Any, target: Any, name: str) -> None:
    """Refuse a pandas object that names the target's patients in another order than it.

    Raises:
        ValueError: Patients in another order.
    """
    own = patient_ids(getattr(values, "index", None))
    if own is not None and (at := target.first_other(own)) is not None:
        raise ValueError(
            f"expected {name} in the order of the target's patients, got {own[at]!r} at position {at} "
            f"where the target has {target.patients[at]!r}; reindex it with target.patients"
        )


def check_same_order(first: Any, second: Any, names: str) -> None:
    """Refuse two pandas objects whose indices hold the same in another order, so that positions would pair other patients.

    Raises:
        ValueError: The same in another order.
    """
    one: Any = getattr(first, "index", None)
    other: Any = getattr(second, "index", None)
    if (
        not (hasattr(one, "equals") and hasattr(other, "equals"))
        or len(one) != len(other)
        or one.equals(other)
    ):
        return
    if one.is_unique and other.is_unique and one.isin(other).all():
        at = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        raise ValueError(
            f"expected {names} in one order, got {one[at]!r} and {other[at]!r} at position {at} of their indices; "
            "reindex one with the other's index"
        )


def check_columns(survival: Any, times: NDArray[np.float64]) -> None:
    """Refuse a DataFrame whose columns are other times than these; 0, 1, 2, ... are no times.

    Raises:
        ValueError: Columns named by other times.
    """
    columns: Any = getattr(survival, "columns", None)
    if getattr(columns, "inferred_type", None) not in ("integer", "floating", "mixed-integer-float"):
        return
    names = columns.to_numpy(dtype=np.float64)
    numbered = np.array_equal(names, np.arange(len(names)))
    if names.shape == times.shape and not numbered and not np.array_equal(names, times):
        raise ValueError(
            f"expected survival at the times {times.tolist()}, got columns named {names.tolist()}"
        )


def patient_ids(index: Any) -> NDArray[np.object_] | None:
    """Return the ids in a pandas index, text or whole numbers, (n,); None of other things, and of 0, 1, 2, ... for rows."""
    kind = getattr(index, "inferred_type", None)
    if kind not in ("string", "integer") or (kind == "integer" and (index == np.arange(len(index))).all()):
        return None
    ids: NDArray[np.object_] = index.to_numpy(dtype=object)
    return ids
