"""Batches of patients with bags of similar length: `LengthBuckets`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import Sampler

__all__ = ["LengthBuckets"]


class LengthBuckets(Sampler[list[int]]):
    """A batch sampler that spares padding: each batch holds patients of similar length, and every epoch mixes them anew.

    Patients are shuffled, cut into pools of `pool` batches, sorted by length within each pool and cut into batches, whose
    order is shuffled. The larger the pool, the less padding and the less random the batches. Every patient comes exactly
    once an epoch, in a batch of `batch_size` but for one. Patients without any tokens mostly share batches, in which the
    modality is then absent for all.

    Args:
        lengths: (n,) tokens per patient, as `CohortDataset.lengths` gives them.
        batch_size: Number of patients in a batch.
        pool: Number of batches that are sorted together.
        seed: Random seed, which with the number of the epoch decides the order; epochs are counted from the first iteration.

    Raises:
        ValueError: No patients, or sizes below 1.

    Example:
        >>> sorted(map(sorted, LengthBuckets([9, 1, 8, 2], batch_size=2)))
        [[0, 2], [1, 3]]
    """

    def __init__(self, lengths: ArrayLike, batch_size: int, *, pool: int = 32, seed: int = 0) -> None:
        self.lengths = np.asarray(lengths)
        if self.lengths.ndim != 1 or not len(self.lengths):
            raise ValueError(f"expected one length per patient (n,), got shape {self.lengths.shape}")
        if batch_size < 1 or pool < 1:
            raise ValueError(f"expected batch_size >= 1 and pool >= 1, got {batch_size} and {pool}")
        self.batch_size = batch_size
        self.pool = pool
        self.seed = seed
        self.epoch = 0

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        self.epoch += 1
        order = generator.permutation(len(self.lengths))
        step = self.batch_size * self.pool
        batches: list[list[int]] = []
        for start in range(0, len(order), step):
            members = order[start : start + step]
            # Stable, so that patients of one length (no slides at all) stay shuffled.
            members = members[np.argsort(self.lengths[members], kind="stable")]
            batches += [
                members[at : at + self.batch_size].tolist() for at in range(0, len(members), self.batch_size)
            ]
        return (batches[place] for place in generator.permutation(len(batches)))

    def __len__(self) -> int:
        # Only the last pool can end in a short batch, for a whole pool is a multiple of the batch size.
        return -(-len(self.lengths) // self.batch_size)
