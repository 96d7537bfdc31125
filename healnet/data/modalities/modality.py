"""Base class of a cohort's modalities, which hold one entry per patient and know how it is read: `Modality`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

__all__ = ["Index", "Modality", "Reader", "of_one_kind", "type_names"]

Index = NDArray[np.intp]
# (position, random source or None) -> one patient's input. The source decides which part is read where not all is.
Reader = Callable[[int, np.random.Generator | None], Any]
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
            name: Name of the modality, for messages.
            parts: Each cohort's, or the number of its patients where it has none; this one is among them.
            patients: Ids of all patients, in the order of the parts.

        Raises:
            ValueError: Parts that are of another kind than this one, or do not fit together.
        """

    @abstractmethod
    def reader(self, dtype: torch.dtype, max_patches: int | None) -> Reader:
        """A function that reads one patient's input; it can be pickled, for a loader's workers.

        Args:
            dtype: Type of the numbers.
            max_patches: Limit of the patches of a patient, of which a random part is read.
        """

    def lengths(self) -> NDArray[np.int64]:
        """(n,) patches per patient; 0 where the size of an input does not vary."""
        return np.zeros(len(self.missing()), dtype=np.int64)

    @property
    def width(self) -> int | None:
        """Features per patient or per patch; None where the entries do not tell."""
        return None

    def __str__(self) -> str:
        have = int((~self.missing()).sum())
        return str(have) if self.width is None else f"{have}x{self.width}"


def of_one_kind(name: str, kind: type[_M], parts: Sequence[Modality | int]) -> list[_M | int]:
    """The parts, all of this kind of modality or numbers of patients who lack it.

    Raises:
        ValueError: A part of another kind.
    """
    checked: list[_M | int] = [part for part in parts if isinstance(part, kind | int)]
    if len(checked) < len(parts):
        kinds = {type(part) for part in parts if not isinstance(part, int)}
        raise ValueError(f"modality {name!r}: expected one kind in all cohorts, got {type_names(kinds)}")
    return checked


def type_names(kinds: set[type]) -> str:
    """The names of types, for messages."""
    return " and ".join(sorted(kind.__name__ for kind in kinds))
