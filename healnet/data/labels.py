"""Classes and numbers to be predicted, one value per patient and label: `Labels`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from healnet.data.checks import check_ids, shorten
from healnet.data.id_matching import left_out
from healnet.data.modalities.modality import Index

__all__ = ["UNKNOWN_CLASS", "Labels"]

UNKNOWN_CLASS = -100  # the default `ignore_index` of torch's cross-entropy


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of n patients, in the cohort's order: columns of classes (categories), integers or floats."""

    frame: pd.DataFrame

    @classmethod
    def of(
        cls,
        source: pd.DataFrame | Mapping[str, Any],
        patients: pd.Index,
        unknown: Literal["raise", "drop"] = "raise",
    ) -> Labels:
        """Labels joined by patient id.

        Args:
            source: A DataFrame indexed by patient id, or by name a Series or mapping by patient id, or a sequence in the
                patients' order.
            patients: Ids of the cohort.
            unknown: Treatment of ids that are not the cohort's, as `left_out`'s.

        Raises:
            ValueError: Two labels of one name, a sequence of another length or shape, an infinite number, integers with gaps
                or that stand for an unknown class, values of another kind.
        """
        names = [str(name) for name in source]
        twice = shorten(sorted({name for name in names if names.count(name) > 1}))
        if twice:
            raise ValueError(f"expected labels of different names, got {twice} more than once")
        columns = {
            str(name): _column(str(name), values, patients, unknown) for name, values in source.items()
        }
        return cls(pd.DataFrame(columns, index=patients))

    @classmethod
    def concat(cls, frames: Sequence[pd.DataFrame], patients: pd.Index) -> Labels:
        """The labels of several cohorts, one after the other; unknown where a cohort lacks one.

        Classes are numbered in the order of their first appearance; they are in that order where they are in every cohort.

        Raises:
            ValueError: A label that is of classes in one cohort and of numbers in another; integers that a cohort lacks.
        """
        columns = {}
        for name in dict.fromkeys(chain.from_iterable(frame.columns for frame in frames)):
            held = [frame[name] for frame in frames if name in frame]
            kinds = {"classes" if isinstance(c.dtype, pd.CategoricalDtype) else str(c.dtype) for c in held}
            if len(kinds) > 1:
                raise ValueError(
                    f"label {name!r}: expected one kind in all cohorts, got {' and '.join(sorted(kinds))}"
                )
            if kinds == {"classes"}:
                classes = list(dict.fromkeys(chain.from_iterable(column.cat.categories for column in held)))
                number = {each: place for place, each in enumerate(classes)}
                codes = [
                    [number[value] if pd.notna(value) else -1 for value in frame[name]]
                    if name in frame
                    else [-1] * len(frame)
                    for frame in frames
                ]
                joined = pd.Categorical.from_codes(
                    list(chain.from_iterable(codes)),
                    categories=pd.Index(classes, dtype=None if len(set(map(type, classes))) == 1 else object),
                    ordered=all(column.cat.ordered for column in held),
                )
                columns[name] = pd.Series(joined, index=patients)
                continue
            elif kinds == {"int64"} and len(held) < len(frames):
                held = [column.astype("Int64") for column in held]
            columns[name] = _typed(f"label {name!r}", pd.concat(held).reindex(patients))
        return cls(pd.DataFrame(columns, index=patients))

    @property
    def classes(self) -> dict[str, tuple[Any, ...]]:
        """The classes of each label that has any; the position is the number in a batch."""
        return {
            str(name): tuple(column.cat.categories)
            for name, column in self.frame.items()
            if isinstance(column.dtype, pd.CategoricalDtype)
        }

    def take(self, positions: Index) -> Labels:
        """The same labels of these patients; classes that none of them has are kept."""
        return Labels(self.frame.iloc[positions])

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Name -> (n,): int64 for classes and integers, `dtype` for floats."""
        classes = self.classes
        return {
            str(name): torch.tensor(self.codes(str(name)))
            if name in classes or column.dtype.kind == "i"
            else torch.tensor(column.to_numpy(), dtype=dtype)
            for name, column in self.frame.items()
        }

    def codes(self, name: str) -> NDArray[np.int64]:
        """(n,) numbers of the classes, -100 where unknown; integers as they are.

        Raises:
            ValueError: No such label, or one of floats.
        """
        if name not in self.frame:
            raise ValueError(f"unknown label {name!r}; the cohort has {shorten(self.frame) or 'none'}")
        column = self.frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            codes = column.cat.codes.to_numpy(np.int64)
            return np.where(codes < 0, UNKNOWN_CLASS, codes)
        if column.dtype.kind == "f":
            raise ValueError(
                f"label {name!r}: expected classes, got numbers; cut them into classes with pandas.cut"
            )
        return column.to_numpy(np.int64)

    def named(self, name: str) -> list[str]:
        """(n,) the label's name and each patient's class or integer, as "grade high" or "grade unknown".

        Raises:
            ValueError: As `codes`.
        """
        classes = self.classes.get(name)
        codes = self.codes(name)
        return [f"{name} {c if classes is None else 'unknown' if c < 0 else classes[c]}" for c in codes]


def _column(name: str, values: Any, patients: pd.Index, unknown: Literal["raise", "drop"]) -> pd.Series[Any]:
    owner = f"label {name!r}"
    if isinstance(values, Mapping):
        values = pd.Series(values, dtype=None if values else object)
    if isinstance(values, pd.Series):
        index = check_ids(values.index, owner)
        left_out(owner, index, patients, unknown)
        given = values.dtype
        values = values.set_axis(index).reindex(patients)
        if pd.api.types.is_integer_dtype(given) and values.isna().any():
            values = values.astype("Int64")  # not float, as reindex makes it: the gap is refused below
    else:
        values = values.tolist() if isinstance(values, Tensor) else values
        if len(values) != len(patients):
            raise ValueError(f"{owner}: expected {len(patients)} values, one per patient, got {len(values)}")
        shape = np.shape(values)
        if len(shape) > 1:
            raise ValueError(f"{owner}: expected one value per patient, got an array of shape {shape}")
        values = pd.Series(values, index=patients)
    return _typed(owner, values)


def _typed(owner: str, values: pd.Series[Any]) -> pd.Series[Any]:
    """Classes for text, bool and categories; int64; float64."""
    kinds = {type(value) for value in values.dropna()} if values.dtype == object else set()
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values
    named = (kinds and (kinds <= {str} or kinds <= {bool, np.bool_})) or values.dtype == "string"
    if named or pd.api.types.is_bool_dtype(values.dtype):
        return values.astype("category")
    if not pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_complex_dtype(values.dtype):
        first = values.dropna().iloc[:1].tolist()
        raise ValueError(
            f"{owner}: expected text, categories, bool or numbers, got {values.dtype} as {first}"
        )
    if pd.api.types.is_integer_dtype(values.dtype):
        if values.isna().any():
            raise ValueError(f"{owner}: integers with gaps are classes or numbers; pass categories or floats")
        if (values > np.iinfo(np.int64).max).any():
            raise ValueError(f"{owner}: expected integers below 2**63, got {values.max()}")
        if (values == UNKNOWN_CLASS).any():
            raise ValueError(
                f"{owner}: {UNKNOWN_CLASS} stands for an unknown class in a batch; pass categories, with gaps where unknown"
            )
        return values.astype(np.int64)
    numbers = values.astype(np.float64)
    if np.isinf(numbers).any():
        raise ValueError(f"{owner}: expected finite numbers, got {numbers[np.isinf(numbers)].iloc[0]}")
    return numbers
