"""A cohort as a PyTorch dataset: `CohortDataset`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from healnet.data.batch import Batch, encode_ids
from healnet.data.cohort import Cohort
from healnet.data.collate_fn import collate
from healnet.data.modality import Modality, Table, Values
from healnet.data.slide_bags import Bags
from healnet.inputs import Masked, PatchBag
from healnet.slides.trident_clam_reader import PatchFile

__all__ = ["CohortDataset"]


class CohortDataset(Dataset[Batch]):
    """One item per patient, ready for `torch.utils.data.DataLoader`.

    - Tables become `Masked(values, mask)` with one mask element per feature: a missing cell, or an absent patient's whole
      row, is value 0 and mask False. No NaN reaches a batch.
    - Slides become a `PatchBag`: the patches of all of a patient's slides, read from disk when the item is asked for,
      coords (n, 3) with the slide's number last. An absent patient has 0 patches.
    - Arrays become `Masked` volumes; NamedTuples stay what they are. Of an absent patient every axis has length 0, or
      where all arrays have one shape, there are zeros of that shape.

    A cohort of tables works with the loader's default collation; with slides or anything else whose size differs
    between patients give the loader `collate_fn=collate`.

    Args:
        cohort: whose patients to serve, in its order. Standardise it before.
        dtype: of tables' values and of patch features.
        max_patches: for training, a random subset of so many patches of a patient who has more, drawn anew each time from
            torch's generator (seeded per worker and epoch by the loader); None serves all.

    Raises:
        ValueError: `max_patches` below 1.

    Example:
        >>> from healnet.datasets import load_mini_acc
        >>> cohort = load_mini_acc()
        >>> loader = torch.utils.data.DataLoader(CohortDataset(cohort), batch_size=8, shuffle=True)
        >>> batch = next(iter(loader))
        >>> batch.inputs["rna"].values.shape, batch.event.dtype
        (torch.Size([8, 198]), torch.bool)
    """

    def __init__(
        self, cohort: Cohort, dtype: torch.dtype = torch.float32, *, max_patches: int | None = None
    ) -> None:
        if max_patches is not None and max_patches < 1:
            raise ValueError(f"expected max_patches >= 1 or None, got {max_patches}")
        self.cohort = cohort
        self.max_patches = max_patches
        self._readers = {
            name: _reader(cohort.modality(name), dtype, max_patches) for name in cohort.modalities
        }
        self._outcomes: dict[str, Tensor] = {}
        if cohort.has_target:
            self._outcomes["time"] = torch.tensor(cohort.target.time, dtype=torch.float64)
            self._outcomes["event"] = torch.tensor(cohort.target.event)
        self._labels = cohort.label_tensors(dtype)
        self._ids = encode_ids(cohort.patients)

    def __len__(self) -> int:
        return len(self.cohort)

    def __getitem__(self, position: int) -> Batch:
        if not -len(self) <= position < len(self):
            raise IndexError(f"patient {position} of a cohort of {len(self)}")
        position = int(position) % len(self)
        inputs = {name: reader(position) for name, reader in self._readers.items()}
        outcomes, labels = (
            {name: values[position] for name, values in columns.items()}
            for columns in (self._outcomes, self._labels)
        )
        return Batch(inputs, outcomes, labels, self._ids[position])

    def lengths(self) -> NDArray[np.int64]:
        """(n,) patches served per patient, over all modalities of slides: what `LengthBuckets` sorts by."""
        total = np.zeros(len(self), dtype=np.int64)
        for name in self.cohort.modalities:
            modality = self.cohort.modality(name)
            if isinstance(modality, Bags):
                patches = modality.lengths()
                total += patches if self.max_patches is None else np.minimum(patches, self.max_patches)
        return total

    def batch(self, positions: Sequence[int] | NDArray[np.intp] | NDArray[np.bool_] | None = None) -> Batch:
        """Patients by position or bool mask in one batch, everybody by default: for evaluation, or a small cohort."""
        everybody = np.arange(len(self))
        chosen = everybody if positions is None else everybody[positions]
        return collate([self[int(position)] for position in chosen])


def _reader(modality: Modality, dtype: torch.dtype, max_patches: int | None) -> Any:
    """A function position -> one patient's input; a class, because a loader's workers may have to pickle it."""
    if isinstance(modality, Table):
        values = modality.frame.to_numpy()
        mask = ~np.isnan(values)
        return _TableReader(torch.tensor(np.where(mask, values, 0.0), dtype=dtype), torch.tensor(mask))
    if isinstance(modality, Bags):
        return _BagReader(modality, modality.dim, dtype, max_patches)
    assert isinstance(modality, Values)
    return _ValuesReader(modality, _read(modality.example))


@dataclass(frozen=True)
class _TableReader:
    values: Tensor
    mask: Tensor

    def __call__(self, position: int) -> Masked:
        return Masked(self.values[position], self.mask[position])


@dataclass(frozen=True)
class _BagReader:
    bags: Bags
    width: int
    dtype: torch.dtype
    max_patches: int | None

    def __call__(self, position: int) -> PatchBag:
        files = self.bags.files(position)
        features, coords = [], []
        for number, (file, rows) in enumerate(zip(files, self._choose(files), strict=True)):
            part, corners = file.load(rows, dtype=self.dtype)
            # float32 holds level-0 coordinates exactly: the largest slides have some 2^18 pixels a side, of 2^24.
            place = torch.zeros(len(part), 3)
            if corners is not None:
                place[:, :2] = corners
            place[:, 2] = number
            features.append(part)
            coords.append(place)
        if not files:
            features, coords = [torch.empty(0, self.width, dtype=self.dtype)], [torch.empty(0, 3)]
        bag = features[0] if len(features) == 1 else torch.cat(features)
        return PatchBag(bag, torch.cat(coords), torch.ones(len(bag), dtype=torch.bool))

    def _choose(self, files: list[PatchFile]) -> list[NDArray[np.int64] | None]:
        """Rows of each file, in order; None = all. Even over all patches of the patient, not over slides."""
        lengths = [file.num_patches for file in files]
        total = sum(lengths)
        if self.max_patches is None or total <= self.max_patches:
            return [None] * len(lengths)
        chosen = torch.randperm(total)[: self.max_patches].sort().values.numpy()
        starts = np.cumsum([0, *lengths])
        return [chosen[(chosen >= a) & (chosen < b)] - a for a, b in itertools.pairwise(starts)]


@dataclass(frozen=True)
class _ValuesReader:
    values: Values
    example: Any

    def __call__(self, position: int) -> Any:
        entry = self.values.entries[position]
        present = entry is not None
        value = _read(entry) if present else self._absent()
        if not isinstance(value, Tensor):
            return value
        # Arrays of one shape need no mask per element: one flag says whether the patient has it.
        axes = 0 if self.values.alike else max(1, value.dim() - 1)
        return Masked(value, torch.full(value.shape[:axes], present))

    def _absent(self) -> Any:
        if isinstance(self.example, Tensor):
            kept = self.example.shape if self.values.alike else (0,) * max(1, self.example.dim() - 1)
            return self.example.new_zeros((*kept, *self.example.shape[len(kept) :]))
        axes = self.example.mask.dim()
        fields = [
            field.new_zeros((*(0,) * min(axes, field.dim()), *field.shape[axes:])) for field in self.example
        ]
        return type(self.example)(*fields)


def _read(entry: Any) -> Any:
    value = entry() if callable(entry) else entry
    # A copy, for a memory map that cannot be written makes a tensor that torch warns of.
    return torch.from_numpy(np.array(value, dtype=np.float32)) if isinstance(value, np.ndarray) else value
