"""A table of features as a modality: `Table`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from healnet.data.modality import Index, Modality, Reader, of_one_kind
from healnet.inputs import Masked

__all__ = ["Table"]


@dataclass(frozen=True, eq=False)
class Table(Modality):
    """One row per patient; NaN = a missing cell, a row of NaN = an absent patient. Its memory cannot be written."""

    frame: pd.DataFrame

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
        return cls(pd.DataFrame(values, index=patients, columns=columns, copy=False))

    def missing(self) -> NDArray[np.bool_]:
        """(n,) True where every cell is missing."""
        return np.asarray(np.isnan(self.frame.to_numpy()).all(axis=1))

    def take(self, positions: Index) -> Table:
        """These rows."""
        return Table.owning(self.frame.to_numpy()[positions], self.frame.index[positions], self.frame.columns)

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
        return Table.owning(values, patients, columns)

    def reader(self, dtype: torch.dtype, max_patches: int | None) -> Reader:
        """Reads `Masked` rows: a missing cell is value 0 and mask False."""
        values = self.frame.to_numpy()
        mask = ~np.isnan(values)
        return _TableReader(torch.tensor(np.where(mask, values, 0.0), dtype=dtype), torch.tensor(mask))

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.frame.shape[1])


@dataclass(frozen=True)
class _TableReader:
    values: Tensor
    mask: Tensor

    def __call__(self, position: int, rng: np.random.Generator | None) -> Masked:
        return Masked(self.values[position], self.mask[position])
