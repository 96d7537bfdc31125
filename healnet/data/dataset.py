"""A cohort as a PyTorch dataset: `CohortDataset`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from healnet.data.batch import Batch, collate
from healnet.data.cohort import Cohort
from healnet.tokens import Masked

__all__ = ["CohortDataset"]


class CohortDataset(Dataset[Batch]):
    """One item per patient, ready for `torch.utils.data.DataLoader`.

    Tables become `Masked(values, mask)` with one mask element per feature: a missing cell, or an absent patient's whole
    row, is value 0 and mask False. No NaN reaches a batch. A cohort of tables works with the loader's default
    collation; with slides or volumes of different sizes give it `collate_fn=collate`.

    Args:
        cohort: whose patients to serve, in its order. Standardise it before.
        dtype: of the tables' values.

    Example:
        >>> from healnet.datasets import load_mini_acc
        >>> cohort = load_mini_acc()
        >>> loader = torch.utils.data.DataLoader(CohortDataset(cohort), batch_size=8, shuffle=True)
        >>> batch = next(iter(loader))
        >>> batch.inputs["rna"].values.shape, batch.event.dtype
        (torch.Size([8, 198]), torch.bool)
    """

    def __init__(self, cohort: Cohort, dtype: torch.dtype = torch.float32) -> None:
        self.cohort = cohort
        self._tables: dict[str, tuple[Tensor, Tensor]] = {}
        for name in cohort.tables:
            values = cohort.table(name).to_numpy()
            mask = ~np.isnan(values)
            self._tables[name] = (torch.tensor(np.where(mask, values, 0.0), dtype=dtype), torch.tensor(mask))
        self._time = torch.tensor(cohort.target.time, dtype=torch.float64)
        self._event = torch.tensor(cohort.target.event)

    def __len__(self) -> int:
        return len(self.cohort)

    def __getitem__(self, position: int) -> Batch:
        if not -len(self) <= position < len(self):
            raise IndexError(f"patient {position} of a cohort of {len(self)}")
        position %= len(self)
        inputs: dict[str, Any] = {
            name: Masked(values[position], mask[position]) for name, (values, mask) in self._tables.items()
        }
        return Batch(inputs, self._time[position], self._event[position], torch.tensor(position))

    def all(self) -> Batch:
        """Every patient in one batch, for evaluation or a small cohort."""
        return collate([self[position] for position in range(len(self))])
