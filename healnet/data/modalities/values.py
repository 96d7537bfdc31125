"""Arrays, tensors, NamedTuples of tensors, or functions that read them, as a modality: `Values`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from healnet.data.checks import check_finite
from healnet.data.modalities.modality import Index, Modality, Reader, of_one_kind, type_names
from healnet.inputs import Masked

__all__ = ["Values"]


@dataclass(frozen=True, eq=False)
class Values(Modality):
    """Per patient a tensor, a NamedTuple of tensors with a `mask`, or a function that reads one of these; or None.

    Arrays are (*axes, c), or with `channels_first` (c, *axes); the mask of elements is over the axes.

    Attributes:
        entries: Input of each patient, or None.
        example: One entry that is not None, which a part of the cohort keeps though no patient in it has any.
        alike: Whether all are tensors of one shape, known without reading any.
        channels_first: Whether arrays are (c, *axes).
    """

    entries: tuple[Any, ...]
    example: Any
    alike: bool
    channels_first: bool = False

    @classmethod
    def of(
        cls, name: str, source: Mapping[str, Any], patients: pd.Index, channels_first: bool = False
    ) -> Values:
        """The entries in the patients' order; arrays become float32 tensors of their own memory.

        Raises:
            ValueError: An entry of another kind, one that is not finite, none at all, or arrays of several numbers of axes.
                Names modality and patient.
        """
        entries = tuple(_checked(name, patient, source.get(patient)) for patient in patients)
        present = [entry for entry in entries if entry is not None]
        if not present:
            raise ValueError(f"modality {name!r}: none of the patients has it")
        shapes = {entry.shape if isinstance(entry, Tensor) else None for entry in present}
        axes = {len(shape) for shape in shapes if shape is not None}
        if len(axes) > 1:
            raise ValueError(
                f"modality {name!r}: expected arrays of one number of axes, got {' and '.join(map(str, sorted(axes)))}"
            )
        return cls(entries, present[0], len(shapes) == 1 and None not in shapes, channels_first)

    def missing(self) -> NDArray[np.bool_]:
        """(n,) True where the entry is None."""
        return np.array([entry is None for entry in self.entries], dtype=np.bool_)

    def take(self, positions: Index) -> Values:
        """These patients' entries."""
        return replace(self, entries=tuple(self.entries[position] for position in positions))

    def concat(self, name: str, parts: Sequence[Modality | int], patients: pd.Index) -> Values:
        """All entries; what has to be read cannot be compared before it is."""
        held = of_one_kind(name, Values, parts)
        entries = tuple(chain.from_iterable([None] * p if isinstance(p, int) else p.entries for p in held))
        values = [part for part in held if not isinstance(part, int)]
        kinds = {type(value.example) for value in values if not callable(value.example)}
        if len(kinds) > 1:
            raise ValueError(f"modality {name!r}: expected one type in all cohorts, got {type_names(kinds)}")
        if len({value.channels_first for value in values}) > 1:
            raise ValueError(f"modality {name!r}: channels come first in some of the cohorts only")
        shapes = {value.example.shape if value.alike else None for value in values}
        return replace(self, entries=entries, alike=len(shapes) == 1 and None not in shapes)

    def reader(self, dtype: torch.dtype, max_patches: int | None) -> Reader:
        """Reads `Masked` arrays, and NamedTuples as they are; axes of length 0 of an absent patient."""
        return _ValuesReader(self, _read(self.example))


def _checked(name: str, patient: str, entry: Any) -> Any:
    owner = f"modality {name!r}, patient {patient!r}"
    if entry is None:
        return None
    return _Function(owner, entry) if callable(entry) else _as_input(owner, entry)


@dataclass(frozen=True)
class _Function:
    """A function that reads an entry, whose result is checked whenever it is called."""

    owner: str
    function: Callable[[], Any]

    def __call__(self) -> Any:
        return _as_input(self.owner, self.function())


def _as_input(owner: str, entry: Any) -> Any:
    if isinstance(entry, np.ndarray):
        if entry.dtype.kind not in "biuf":
            raise ValueError(f"{owner}: expected an array of numbers, got {entry.dtype}")
        # A copy, for a memory map that cannot be written makes a tensor that torch warns of.
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
    check_finite(owner, entry)
    return entry


@dataclass(frozen=True)
class _ValuesReader:
    values: Values
    example: Any

    def __call__(self, position: int, rng: np.random.Generator | None) -> Any:
        entry = self.values.entries[position]
        present = entry is not None
        value = _read(entry) if present else self._absent()
        if not isinstance(value, Tensor):
            return value
        # Arrays of one shape need no mask per element: one flag says whether the patient has it.
        return Masked(value, torch.full(() if self.values.alike else self._axes(value), present))

    def _axes(self, value: Tensor) -> torch.Size:
        return value.shape[1:] if self.values.channels_first else value.shape[: max(1, value.dim() - 1)]

    def _absent(self) -> Any:
        """Make an absent patient's input: the example in zeros, its axes of length 0 where sizes differ between patients."""
        if isinstance(self.example, Tensor):
            if self.values.alike:
                return torch.zeros_like(self.example)
            return self._empty(self.example, len(self._axes(self.example)))
        axes = self.example.mask.dim()
        return type(self.example)(*[self._empty(field, axes) for field in self.example])

    def _empty(self, field: Tensor, axes: int) -> Tensor:
        if self.values.channels_first and field.dim() > axes:
            return field.new_zeros((*field.shape[:-axes], *(0,) * axes))
        return field.new_zeros((*(0,) * min(axes, field.dim()), *field.shape[axes:]))


def _read(entry: Any) -> Any:
    return entry() if callable(entry) else entry
