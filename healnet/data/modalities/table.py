"""Tables of features as modalities: what they have in common, `Features`, and the usual one, `Table`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from healnet.data.modalities.modality import Index, Modality, Reader, of_one_kind
from healnet.inputs import Masked

__all__ = ["Features", "Table"]


class Features(Modality):
    """A modality with one number per patient and feature."""

    patients: pd.Index

    @property
    @abstractmethod
    def frame(self) -> pd.DataFrame:
        """(n, features), NaN where missing; its memory cannot be written."""

    @property
    @abstractmethod
    def columns(self) -> pd.Index:
        """Names of the features."""

    @abstractmethod
    def missing_cells(self) -> tuple[int, int]:
        """Missing cells of the patients who have a row, and all of their cells."""

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.columns)


@dataclass(frozen=True, eq=False)
class Table(Features):
    """One row per patient; NaN = a missing cell, a row of NaN = an absent patient. Its memory cannot be written."""

    values: NDArray[np.float64]
    patients: pd.Index
    names: pd.Index

    @classmethod
    def of(cls, frame: pd.DataFrame, patients: pd.Index) -> Table:
        """A checked table in the patients' order, copied once; patients it lacks are rows of NaN."""
        rows = frame.index.get_indexer(patients)
        given = frame.to_numpy()
        values = np.full((len(patients), given.shape[1]), np.nan)
        values[rows >= 0] = given[rows[rows >= 0]]
        return cls.owning(values, patients, frame.columns)

    @classmethod
    def owning(cls, values: NDArray[np.float64], patients: pd.Index, columns: pd.Index) -> Table:
        """A table of an array that nothing else holds; it cannot be written from here on."""
        values.flags.writeable = False
        return cls(values, patients, columns)

    @classmethod
    def stack(cls, name: str, parts: Sequence[Modality | int], patients: pd.Index) -> Table:
        """All rows, with the columns of all parts in the order of their first appearance; NaN where a part lacks one."""
        held = of_one_kind(name, Features, parts)  # type: ignore[type-abstract]  # any of them
        columns = pd.Index(
            dict.fromkeys(chain.from_iterable(part.columns for part in held if not isinstance(part, int))),
            dtype=object,
        )
        values = np.full((len(patients), len(columns)), np.nan)
        start = 0
        for part in held:
            stop = start + (part if isinstance(part, int) else len(part.missing()))
            if not isinstance(part, int):
                values[start:stop, columns.get_indexer(part.columns)] = part.frame.to_numpy()
            start = stop
        return Table.owning(values, patients, columns)

    @property
    def frame(self) -> pd.DataFrame:
        """(n, features), NaN where missing."""
        return pd.DataFrame(self.values, index=self.patients, columns=self.names, copy=False)

    @property
    def columns(self) -> pd.Index:
        """Names of the features."""
        return self.names

    def missing(self) -> NDArray[np.bool_]:
        """(n,) True where every cell is missing."""
        return np.asarray(np.isnan(self.values).all(axis=1))

    def missing_cells(self) -> tuple[int, int]:
        """Missing cells of the patients who have a row, and all of their cells."""
        gaps = np.isnan(self.values[~self.missing()])
        return int(gaps.sum()), gaps.size

    def take(self, positions: Index) -> Table:
        """These rows."""
        return Table.owning(self.values[positions], self.patients[positions], self.names)

    def concat(self, name: str, parts: Sequence[Modality | int], patients: pd.Index) -> Table:
        """See `stack`."""
        return Table.stack(name, parts, patients)

    def reader(self, dtype: torch.dtype, max_patches: int | None) -> Reader:
        """Reads `Masked` rows: a missing cell is value 0 and mask False."""
        mask = ~np.isnan(self.values)
        return _TableReader(torch.tensor(np.where(mask, self.values, 0.0), dtype=dtype), torch.tensor(mask))


@dataclass(frozen=True)
class _TableReader:
    values: Tensor
    mask: Tensor

    def __call__(self, position: int, rng: np.random.Generator | None) -> Masked:
        return Masked(self.values[position], self.mask[position])
