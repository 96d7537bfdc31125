"""Patients of one training step: `Batch`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from healnet.inputs import move

__all__ = ["Batch"]


class Batch(NamedTuple):
    """What a model and a loss take: the inputs of b patients, and their survival.

    An item of `CohortDataset` is one of these without the axis b, so PyTorch's default collation, pinning and transfer
    work on it.

    Shape:
        inputs: modality -> Tensor, `Masked`, `PatchBag` or another NamedTuple of tensors, each with a leading axis b.
        time: (b,) float64. Not float32, in which a time may round to the other side of the bin edge it defines.
        event: (b,) bool, True = observed.
        index: (b,) int64, positions in the cohort: `cohort.patients[batch.index.numpy()]` are the ids. (pandas
            takes a tensor of one element for an integer, hence `numpy()`.)
    """

    inputs: dict[str, Any]
    time: Tensor
    event: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a batch

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Everything on that device. Where it has no float64 (mps), times become float32."""
        time = self.time.float() if torch.device(device).type == "mps" else self.time
        inputs = {name: move(value, device, non_blocking) for name, value in self.inputs.items()}
        rest = [tensor.to(device, non_blocking=non_blocking) for tensor in (time, self.event, self.index)]
        return Batch(inputs, *rest)

    def __len__(self) -> int:
        return len(self.event)
