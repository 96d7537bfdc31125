"""Batches that hold at least one event wherever there are enough: `balanced_event_sampler`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from healnet.survival._inputs import ArrayOrTensor, as_event, as_tensor

__all__ = ["balanced_event_sampler"]


def balanced_event_sampler(
    event: ArrayOrTensor, batch_size: int, generator: torch.Generator | None = None
) -> Sampler[list[int]]:
    """Batches of positions for `DataLoader(batch_sampler=...)` with the events dealt out evenly.

    A Cox batch without an event has no gradient. Every pass draws each patient once, in a new random order;
    the events are spread so that two batches of one size differ by at most one, and every batch has at least
    one as long as there are as many events as batches. Batch sizes differ by at most one, too.

    Args:
        event: (n,) bool, True = the event was observed.
        batch_size: the largest batch.
        generator: the source of the order; torch's global one if left out.

    Raises:
        ValueError: a batch size below 1, labels other than 0 and 1, no patients.

    Example:
        >>> event = torch.tensor([True, False, False, True, False, False])
        >>> batches = list(balanced_event_sampler(event, batch_size=3))
        >>> [event[batch].sum().item() for batch in batches]
        [1, 1]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    labels = as_tensor(event)
    if labels.dim() != 1 or not len(labels):
        raise ValueError(f"event must have shape (n,) with n >= 1, got {tuple(labels.shape)}")
    return _EventBatches(as_event(labels, labels).cpu(), batch_size, generator)


class _EventBatches(Sampler[list[int]]):
    def __init__(self, event: Tensor, batch_size: int, generator: torch.Generator | None) -> None:
        self.event = event
        self.num_batches = math.ceil(len(event) / batch_size)
        self.generator = generator

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        shuffled = torch.randperm(len(self.event), generator=self.generator)
        seen = self.event[shuffled]
        # Dealt like cards, events first: card i goes to batch i mod num_batches.
        deck = torch.cat([shuffled[seen], shuffled[~seen]])
        batches = [deck[i :: self.num_batches] for i in range(self.num_batches)]
        for i in torch.randperm(self.num_batches, generator=self.generator).tolist():
            batch = batches[i]
            yield batch[torch.randperm(len(batch), generator=self.generator)].tolist()
