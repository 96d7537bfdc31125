"""A cohort as a PyTorch dataset: `CohortDataset`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from healnet._processes import check_loader_start
from healnet.data.batch import Batch, encode_ids
from healnet.data.cohort import Cohort
from healnet.data.collate_fn import collate

__all__ = ["CohortDataset"]


class CohortDataset(Dataset[Batch]):
    """One item per patient, ready for `torch.utils.data.DataLoader`.

    - Tables become `Masked(values, mask)` with one mask element per feature: a missing cell, or an absent patient's whole
      row, is value 0 and mask False. No NaN reaches a batch.
    - Slides become a `PatchBag`: the patches of all of a patient's slides, read from disk when the item is,
      coords (n, 3) with the slide's number last. An absent patient has 0 patches.
    - Arrays become `Masked` volumes; NamedTuples stay what they are. Of an absent patient every axis has length 0, or
      where all arrays have one shape, there are zeros of that shape.

    The loader's default collation works for a cohort of tables; with slides or anything else whose size differs between
    patients give the loader `collate_fn=collate`.

    Args:
        cohort: Patients to serve, in its order; standardize it before.
        dtype: Type of tables' values, patch features and labels of numbers.
        max_patches: Number of patches to serve, for training, of a patient who has more; None serves all. The part is
            drawn by the seed, the patient's id and the number of times that the patient was served before, so that it is
            new in every epoch and the same for any number of workers.
        seed: Random seed of `max_patches`; by default drawn from torch's global generator now, so that `torch.manual_seed`
            decides and the members of an ensemble differ.

    Raises:
        ValueError: `max_patches` below 1.
        RuntimeError: When a loader starts its workers: a script without ``if __name__ == "__main__":``, where processes are
            not forked.

    Example:
        >>> from healnet.datasets import load_mini_acc
        >>> cohort = load_mini_acc()
        >>> loader = torch.utils.data.DataLoader(CohortDataset(cohort), batch_size=8, shuffle=True)
        >>> batch = next(iter(loader))
        >>> batch.inputs["rna"].values.shape, batch.event.dtype
        (torch.Size([8, 198]), torch.bool)
    """

    def __init__(
        self,
        cohort: Cohort,
        dtype: torch.dtype = torch.float32,
        *,
        max_patches: int | None = None,
        seed: int | None = None,
    ) -> None:
        if max_patches is not None and max_patches < 1:
            raise ValueError(f"expected max_patches >= 1 or None, got {max_patches}")
        self.cohort = cohort
        self.max_patches = max_patches
        # Only where it is used, so that a cohort without slides moves no generator.
        drawn = max_patches is not None and seed is None
        self.seed = int(torch.empty((), dtype=torch.int64).random_()) if drawn else seed or 0
        self._readers = {name: cohort.modality(name).reader(dtype, max_patches) for name in cohort.modalities}
        # Shared memory: the workers of a loader, which may outlive an epoch, count together.
        self._served = torch.zeros(len(cohort) if max_patches else 0, dtype=torch.int64).share_memory_()
        self._outcomes: dict[str, Tensor] = {}
        if cohort.has_target:
            self._outcomes["time"] = torch.tensor(cohort.target.time, dtype=torch.float64)
            self._outcomes["event"] = torch.tensor(cohort.target.event)
        self._labels = cohort.label_tensors(dtype)
        self._ids = encode_ids(cohort.patients)

    def __getstate__(self) -> dict[str, Any]:
        check_loader_start()
        return self.__dict__

    def __repr__(self) -> str:
        limit = "" if self.max_patches is None else f", max_patches={self.max_patches}"
        return f"CohortDataset({self.cohort!r}{limit})"

    def __len__(self) -> int:
        return len(self.cohort)

    def __getitem__(self, position: int) -> Batch:
        if not -len(self) <= position < len(self):
            raise IndexError(f"patient {position} of a cohort of {len(self)}")
        position = int(position) % len(self)
        rng = self._draw(position) if self.max_patches else None
        inputs = {name: reader(position, rng) for name, reader in self._readers.items()}
        outcomes, labels = (
            {name: values[position] for name, values in columns.items()}
            for columns in (self._outcomes, self._labels)
        )
        return Batch(inputs, outcomes, labels, self._ids[position])

    def set_epoch(self, epoch: int) -> None:
        """Draw patches as in this epoch (0-based) from here on.

        A process counts the epochs of its patients by itself. Call this after a restart, and before every epoch where
        several processes share the patients, each of which sees other ones every time.
        """
        self._served.fill_(epoch)

    def lengths(self) -> NDArray[np.int64]:
        """(n,) patches served per patient, over all modalities of slides: what `LengthBuckets` sorts by."""
        total = np.zeros(len(self), dtype=np.int64)
        for name in self.cohort.modalities:
            patches = self.cohort.modality(name).lengths()
            total += patches if self.max_patches is None else np.minimum(patches, self.max_patches)
        return total

    def batch(self, positions: Sequence[int] | NDArray[np.intp] | NDArray[np.bool_] | None = None) -> Batch:
        """Patients by position or bool mask in one batch, all by default: for evaluation, or a small cohort."""
        everyone = np.arange(len(self))
        chosen = everyone if positions is None else everyone[positions]
        return collate([self[int(position)] for position in chosen])

    def _draw(self, position: int) -> np.random.Generator:
        """The random source of one patient in one epoch."""
        epoch = int(self._served[position])
        self._served[position] += 1
        identity = int.from_bytes(self.cohort.patients[position].encode())
        return np.random.default_rng([self.seed, epoch, identity])
