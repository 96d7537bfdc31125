"""What a cohort holds of each modality, one entry per patient: a `Table`, or `Values` that a user brings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Index", "Modality", "Table", "Values", "of_one_kind"]

Index = NDArray[np.intp]
_M = TypeVar("_M", bound="Modality")


class Modality(ABC):
    """One modality of n patients, in the cohort's order. `str()` says in short what it holds."""

    @abstractmethod
    def missing(self) -> NDArray[np.bool_]:
        """(n,) True where the patient lacks it."""

    @abstractmethod
    def take(self, positions: Index) -> Modality:
        """The same modality of these patients."""

    @abstractmethod
    def concat(self, name: str, parts: Sequence[Modality | int], patients: pd.Index) -> Modality:
        """The modality of several cohorts, one after the other.

        Args:
            name: name of the modality, for messages.
            parts: each cohort's, or the number of its patients where it has none; this one is among them.
            patients: ids of all patients, in the order of the parts.

        Raises:
            ValueError: parts that are of another kind than this one, or do not fit together.
        """

    @property
    def width(self) -> int | None:
        """Features per patient or per patch; None where only its user knows."""
        return None

    def __str__(self) -> str:
        have = int((~self.missing()).sum())
        return str(have) if self.width is None else f"{have}x{self.width}"


@dataclass(frozen=True, eq=False)
class Table(Modality):
    """One row per patient; NaN = a missing cell, a row of NaN = an absent patient. Its memory cannot be written."""

    frame: pd.DataFrame

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Table:
        """A copy that nobody else holds."""
        values = np.array(frame.to_numpy(dtype=np.float64))
        values.flags.writeable = False
        return cls(pd.DataFrame(values, index=frame.index, columns=frame.columns, copy=False))

    def missing(self) -> NDArray[np.bool_]:
        """(n,) True where every cell is missing."""
        return np.asarray(np.isnan(self.frame.to_numpy()).all(axis=1))

    def take(self, positions: Index) -> Table:
        """These rows."""
        return Table.of(self.frame.iloc[positions])

    def concat(self, name: str, parts: Sequence[Modality | int], patients: pd.Index) -> Table:
        """All rows, with the columns of all parts in the order of their first appearance; NaN where a part lacks one."""
        tables = [part if isinstance(part, int) else part.frame for part in of_one_kind(name, Table, parts)]
        frames = [table for table in tables if not isinstance(table, int)]
        columns = pd.Index(
            dict.fromkeys(chain.from_iterable(frame.columns for frame in frames)), dtype=object
        )
        values = np.full((len(patients), len(columns)), np.nan)
        start = 0
        for table in tables:
            stop = start + (table if isinstance(table, int) else len(table))
            if not isinstance(table, int):
                values[start:stop, columns.get_indexer(table.columns)] = table.to_numpy()
            start = stop
        values.flags.writeable = False
        return Table(pd.DataFrame(values, index=patients, columns=columns, copy=False))

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.frame.shape[1])


@dataclass(frozen=True, eq=False)
class Values(Modality):
    """Per patient a tensor, a NamedTuple of tensors with a `mask`, or a function that reads one of these; or None.

    Arrays are channels-last, as `Masked` describes one patient's part of it: (*axes, c).

    Attributes:
        entries: of each patient.
        example: one entry that is not None, which a part of the cohort keeps though nobody in it has any.
        alike: whether all are tensors of one shape, known without reading any.
    """

    entries: tuple[Any, ...]
    example: Any
    alike: bool

    @classmethod
    def of(cls, name: str, source: Mapping[str, Any], patients: pd.Index) -> Values:
        """The entries in the patients' order; arrays become float32 tensors of their own memory.

        Raises:
            ValueError: an entry of another kind, one that is not finite, or none at all. Names modality and patient.
        """
        entries = tuple(_checked(name, patient, source.get(patient)) for patient in patients)
        present = [entry for entry in entries if entry is not None]
        if not present:
            raise ValueError(f"modality {name!r}: none of the patients has it")
        shapes = {entry.shape if isinstance(entry, Tensor) else None for entry in present}
        return cls(entries, present[0], len(shapes) == 1 and None not in shapes)

    def missing(self) -> NDArray[np.bool_]:
        """(n,) True where the entry is None."""
        return np.array([entry is None for entry in self.entries], dtype=np.bool_)

    def take(self, positions: Index) -> Values:
        """These patients' entries."""
        return Values(tuple(self.entries[position] for position in positions), self.example, self.alike)

    def concat(self, name: str, parts: Sequence[Modality | int], patients: pd.Index) -> Values:
        """All entries; what has to be read cannot be compared before it is."""
        held = of_one_kind(name, Values, parts)
        entries = tuple(chain.from_iterable([None] * p if isinstance(p, int) else p.entries for p in held))
        values = [part for part in held if not isinstance(part, int)]
        kinds = {type(value.example) for value in values if not callable(value.example)}
        if len(kinds) > 1:
            raise ValueError(f"modality {name!r}: expected one type in all cohorts, got {_names(kinds)}")
        shapes = {value.example.shape if value.alike else None for value in values}
        return Values(entries, self.example, len(shapes) == 1 and None not in shapes)


def of_one_kind(name: str, kind: type[_M], parts: Sequence[Modality | int]) -> list[_M | int]:
    """The parts, all of this kind of modality or numbers of patients who lack it.

    Raises:
        ValueError: a part of another kind.
    """
    checked = [part for part in parts if isinstance(part, kind | int)]
    if len(checked) < len(parts):
        kinds = {type(part) for part in parts if not isinstance(part, int)}
        raise ValueError(f"modality {name!r}: expected one kind in all cohorts, got {_names(kinds)}")
    return checked


def _names(kinds: set[type]) -> str:
    return " and ".join(sorted(kind.__name__ for kind in kinds))


def _checked(name: str, patient: str, entry: Any) -> Any:
    if entry is None or callable(entry):
        return entry
    owner = f"modality {name!r}, patient {patient!r}"
    if isinstance(entry, np.ndarray):
        if entry.dtype.kind not in "biuf":
            raise ValueError(f"{owner}: expected an array of numbers, got {entry.dtype}")
        entry = torch.from_numpy(np.array(entry, dtype=np.float32))
    fields = (entry,) if isinstance(entry, Tensor) else entry
    is_named = isinstance(entry, tuple) and isinstance(getattr(entry, "mask", None), Tensor)
    if not isinstance(entry, Tensor) and not (
        is_named and all(isinstance(field, Tensor) for field in fields)
    ):
        raise ValueError(
            f"{owner}: expected an array, a tensor, a NamedTuple of tensors with a mask, or a function that reads "
            f"one, got {type(entry).__name__}"
        )
    for field in fields:
        if field.is_floating_point() and not field.isfinite().all():
            raise ValueError(f"{owner}: a value is not finite; what is missing is masked, or left out")
    return entry
