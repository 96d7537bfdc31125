"""A sampler of batches that each hold an event: `balanced_event_sampler`."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from healnet.survival._checks import ArrayOrTensor, as_event, as_strata, as_tensor, check_least, column

__all__ = ["balanced_event_sampler"]


def balanced_event_sampler(
    event: ArrayOrTensor,
    batch_size: int,
    generator: torch.Generator | None = None,
    *,
    strata: ArrayOrTensor | None = None,
    min_per_stratum: int = 8,
) -> Sampler[list[int]]:
    """Return a sampler for `DataLoader(batch_sampler=...)` that spreads the events evenly over the batches.

    A Cox batch without an event has no gradient. Every pass draws each patient once, in a new random order;
    the events are spread so that two batches of one size differ by at most one, and every batch has at least
    one as long as there are as many events as batches. Batch sizes differ by at most one, too.

    With strata, patients are compared within their stratum only, so one without an event in the batch teaches
    nothing, and neither does one that is alone. Each stratum is spread over as many batches as it has events, and
    over no more than leave it `min_per_stratum` patients in each; other batches do without it. Batches keep to
    their size, which comes first where both cannot be (a stratum of one event and more patients than a batch).

    The batches of every pass are drawn at once from a generator of the sampler's own, so they do not depend on a
    loader's workers.

    Args:
        event: Events of the patients, (n,), True = observed.
        batch_size: Largest number of patients in a batch.
        generator: Source of the seed, which is drawn now; torch's global generator by default.
        strata: Numbers of the strata, (n,), as `cox_nll` takes them.
        min_per_stratum: Number of patients that a batch should have of each stratum in it.

    Raises:
        ValueError: A batch size or `min_per_stratum` below 1, labels other than 0 and 1, no patients, strata of
            another length or NaN.

    Example:
        >>> event = torch.tensor([True, False, False, True, False, False])
        >>> batches = list(balanced_event_sampler(event, batch_size=3))
        >>> [event[batch].sum().item() for batch in batches]
        [1, 1]
    """
    check_least("batch_size", batch_size, 1)
    check_least("min_per_stratum", min_per_stratum, 1)
    given = as_tensor(event)
    labels = column(given)
    if labels.dim() != 1 or not len(labels):
        raise ValueError(f"expected event of shape (n,) or (n, 1), n >= 1, got {tuple(given.shape)}")
    groups = None
    if strata is not None:
        groups = torch.unique(as_strata(strata, labels), return_inverse=True)[1].cpu().numpy()
    return _EventBatches(
        as_event(labels, labels).cpu().numpy(), groups, batch_size, min_per_stratum, generator
    )


class _EventBatches(Sampler[list[int]]):
    def __init__(
        self,
        event: NDArray[np.bool_],
        strata: NDArray[np.intp] | None,
        batch_size: int,
        min_per_stratum: int,
        generator: torch.Generator | None,
    ) -> None:
        self.event = event
        self.strata = strata
        self.num_batches = math.ceil(len(event) / batch_size)
        self.min_per_stratum = min_per_stratum
        # Of its own: a loader draws from a generator that it shares with the sampler, and how often depends on its workers.
        self.generator = torch.Generator().manual_seed(_draw(generator))

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng(_draw(self.generator))
        batches: list[list[int]] = [[] for _ in range(self.num_batches)]
        # Of each batch; together they are as many as the patients, so that all are filled.
        sizes = len(self.event) // self.num_batches + (
            rng.permutation(self.num_batches) < len(self.event) % self.num_batches
        )
        if self.strata is None:
            self._distribute(rng.permutation(len(self.event)), self.num_batches, batches, sizes, rng)
        else:
            events = np.bincount(self.strata, self.event).astype(int)
            most = np.bincount(self.strata) // self.min_per_stratum
            shares = np.clip(np.minimum(events, most), 1, self.num_batches)
            # The strata that fit into few batches choose first; the others even out the sizes.
            for stratum in np.lexsort((rng.random(len(shares)), shares)):
                members = rng.permutation(np.flatnonzero(self.strata == stratum))
                self._distribute(members, int(shares[stratum]), batches, sizes, rng)
        for place in rng.permutation(self.num_batches):
            yield rng.permutation(batches[place]).tolist()

    def _distribute(
        self,
        members: NDArray[np.intp],
        share: int,
        batches: list[list[int]],
        sizes: NDArray[np.intp],
        rng: np.random.Generator,
    ) -> None:
        """Spread patients over the `share` emptiest batches, or more where these are full: events in turn, then the rest."""
        tie = rng.permutation(len(batches)).tolist()
        ranked = sorted(
            (len(batch) - size, tie[place], place)
            for place, (batch, size) in enumerate(zip(batches, sizes.tolist(), strict=True))
        )
        free_places = np.cumsum([-short for short, *_ in ranked])
        chosen = ranked[: max(share, int(np.searchsorted(free_places, len(members))) + 1)]
        left = members[~self.event[members]].tolist()
        for number, patient in enumerate(members[self.event[members]].tolist()):
            place = chosen[number % len(chosen)][2]
            (batches[place] if len(batches[place]) < sizes[place] else left).append(patient)
        for places in (chosen, ranked):  # where all of the chosen are full, to the emptiest of all
            heap = [(len(batches[place]) - int(sizes[place]), order, place) for _, order, place in places]
            heapq.heapify(heap)
            while left and heap[0][0] < 0:
                short, order, place = heap[0]
                batches[place].append(left.pop())
                heapq.heapreplace(heap, (short + 1, order, place))


def _draw(generator: torch.Generator | None) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator))
