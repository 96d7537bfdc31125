"""A table most of whose cells are zero, kept sparse until a batch: `SparseTable`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from healnet.data.modalities.modality import Index, Modality, Reader
from healnet.data.modalities.table import Features, Table
from healnet.inputs import Masked

__all__ = ["SparseTable"]


@dataclass(frozen=True, eq=False)
class SparseTable(Features):
    """One sparse row per patient; what is not stored is zero, a stored NaN is a missing cell.

    `frame` fills the zeros in, and so does whatever changes all cells: `Standardizer`, and joining cohorts.

    Attributes:
        rows: (n, features) numbers, in compressed rows.
        has: (n,) True where the patient has the modality.
        patients: Ids of the n patients.
        names: Names of the features.
    """

    rows: sparse.csr_array
    has: NDArray[np.bool_]
    patients: pd.Index
    names: pd.Index

    @classmethod
    def of(cls, rows: sparse.csr_array, ids: pd.Index, names: pd.Index, patients: pd.Index) -> SparseTable:
        """Checked rows with their ids, in the order of these patients; those it lacks are absent."""
        found = ids.get_indexer(patients)
        has = found >= 0
        pick = sparse.csr_array(
            (np.ones(has.sum()), (np.flatnonzero(has), found[has])), shape=(len(patients), rows.shape[0])
        )
        return cls(sparse.csr_array(pick @ rows), has, patients, names)

    @property
    def frame(self) -> pd.DataFrame:
        """(n, features) filled in, NaN for absent patients."""
        values = self.rows.toarray()
        values[~self.has] = np.nan
        return Table.owning(values, self.patients, self.names).frame

    @property
    def columns(self) -> pd.Index:
        """Names of the features."""
        return self.names

    def missing(self) -> NDArray[np.bool_]:
        """(n,) True where the patient has no row."""
        return ~self.has

    def missing_cells(self) -> tuple[int, int]:
        """Stored NaN, and all cells of the patients who have a row."""
        return int(np.isnan(self.rows.data).sum()), int(self.has.sum()) * len(self.names)

    def take(self, positions: Index) -> SparseTable:
        """These rows."""
        return SparseTable(self.rows[positions], self.has[positions], self.patients[positions], self.names)

    def concat(self, name: str, parts: Sequence[Modality | int], patients: pd.Index) -> Table:
        """Join into a dense table: features that a cohort lacks are missing there, which zeros left out cannot say."""
        return Table.stack(name, parts, patients)

    def reader(self, dtype: torch.dtype, max_patches: int | None) -> Reader:
        """Reads `Masked` rows, filled in one at a time."""
        return _SparseReader(self.rows, torch.tensor(self.has), dtype)


@dataclass(frozen=True)
class _SparseReader:
    rows: sparse.csr_array
    has: Tensor
    dtype: torch.dtype

    def __call__(self, position: int, rng: np.random.Generator | None) -> Masked:
        values = torch.from_numpy(self.rows[[position]].toarray()[0]).to(self.dtype)
        mask = ~values.isnan() & self.has[position]
        return Masked(torch.where(mask, values, 0), mask)
