"""A table most of whose cells are zero, kept sparse until a batch: `SparseTable`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from healnet.data.modalities.modality import Index, Modality, Reader
from healnet.data.modalities.table import Features, Table
from healnet.inputs import Masked

__all__ = ["SparseTable"]


@dataclass(frozen=True, eq=False)
class SparseTable(Features):
    """One sparse row per patient; what is not stored is zero, a stored NaN is a missing cell.

    Zeros are filled in, and all cells standardized, when a batch is read; `frame` does so for all patients at once.

    Attributes:
        rows: (n, features) numbers, in compressed rows.
        has: (n,) True where the patient has the modality.
        patients: Ids of the n patients.
        names: Names of the features.
        center: (features,) subtracted from all cells, also from those that are not stored; None for 0.
        scale: (features,) by which they are divided then; None for 1.
        limit: Limits on both sides after that, (features,); None for none.
    """

    rows: sparse.csr_array
    has: NDArray[np.bool_]
    patients: pd.Index
    names: pd.Index
    center: NDArray[np.float64] | None = None
    scale: NDArray[np.float64] | None = None
    limit: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, rows: sparse.csr_array, ids: pd.Index, names: pd.Index, patients: pd.Index) -> SparseTable:
        """Checked rows with their ids, in the order of these patients; those it lacks, or has as NaN alone, are absent."""
        found = ids.get_indexer(patients)
        has = found >= 0
        pick = sparse.csr_array(
            (np.ones(has.sum()), (np.flatnonzero(has), found[has])), shape=(len(patients), rows.shape[0])
        )
        placed = sparse.csr_array(pick @ rows)
        unknown = np.isnan(placed.data)
        gaps = (
            np.add.reduceat(np.append(unknown, False), placed.indptr[:-1]) if len(patients) else np.zeros(0)
        )
        gaps = np.where(
            np.diff(placed.indptr) > 0, gaps, 0
        )  # `reduceat` gives an empty row the next one's first
        return cls(placed, has & (gaps < len(names)), patients, names)

    @property
    def frame(self) -> pd.DataFrame:
        """(n, features) filled in and standardized, NaN for absent patients."""
        values = self.shown(self.rows)
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
        rows, has, patients = self.rows[positions], self.has[positions], self.patients[positions]
        return replace(self, rows=rows, has=has, patients=patients)

    def shown(self, rows: sparse.csr_array) -> NDArray[np.float64]:
        """Some of the rows filled in and standardized."""
        values: NDArray[np.float64] = rows.toarray()
        if self.center is not None and self.scale is not None:
            values -= self.center
            values /= self.scale
        if self.limit is not None:
            np.clip(values, -self.limit, self.limit, out=values)
        return values

    def standardized(
        self,
        order: Index,
        center: NDArray[np.float64],
        scale: NDArray[np.float64],
        limit: NDArray[np.float64],
    ) -> SparseTable:
        """The same numbers, as sparse as they were, to be standardized when they are read.

        Args:
            order: Columns in the order of `center` and `scale`, (features,).
            center: What to subtract.
            scale: What to divide by.
            limit: Limit on both sides, (features,); infinity for none.
        """
        rows = self.rows if np.array_equal(order, np.arange(len(self.names))) else self.rows[:, order]
        return replace(self, rows=rows, names=self.names[order], center=center, scale=scale, limit=limit)

    def moments(self) -> dict[str, NDArray[np.float64]]:
        """Mean, deviation, least and largest value and number of known cells of each column, (features,) each.

        The deviation has n in the denominator. NaN where no cell is known.
        """
        rows, columns = self.rows[self.has], len(self.names)
        known = ~np.isnan(rows.data)
        at, values = rows.indices[known], rows.data[known]
        stored = np.bincount(at, minlength=columns)
        cells = rows.shape[0] - np.bincount(rows.indices[~known], minlength=columns)
        zeros = cells - stored
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(at, values, columns) / cells
            squares = np.bincount(at, (values - mean[at]) ** 2, columns) + zeros * mean**2
            deviation = np.sqrt(squares / cells)
        least, largest = np.where(zeros > 0, 0.0, np.inf), np.where(zeros > 0, 0.0, -np.inf)
        np.minimum.at(least, at, values)
        np.maximum.at(largest, at, values)
        unknown = cells == 0
        least[unknown] = largest[unknown] = np.nan
        return {"mean": mean, "deviation": deviation, "least": least, "largest": largest, "cells": cells}

    def concat(self, name: str, parts: Sequence[Modality | int], patients: pd.Index) -> Table:
        """Join into a dense table: features that a cohort lacks are missing there, which zeros left out cannot say."""
        return Table.stack(name, parts, patients)

    def reader(self, dtype: torch.dtype, max_patches: int | None) -> Reader:
        """Reads `Masked` rows, filled in one at a time."""
        return _SparseReader(self, dtype)


@dataclass(frozen=True)
class _SparseReader:
    table: SparseTable
    dtype: torch.dtype

    def __call__(self, position: int, rng: np.random.Generator | None) -> Masked:
        row = self.table.shown(self.table.rows[[position]])[0]
        values = torch.from_numpy(row).to(self.dtype)
        mask = ~values.isnan() & bool(self.table.has[position])
        return Masked(torch.where(mask, values, 0), mask)
