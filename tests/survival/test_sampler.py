"""Every patient once, and an event in every batch as long as there are enough."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from healnet.survival import SurvivalTarget, balanced_event_sampler


@settings(max_examples=80, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 50))
def test_laws(event, batch_size):
    sampler = balanced_event_sampler(event, batch_size)
    batches = list(sampler)
    assert len(batches) == len(sampler) == math.ceil(len(event) / batch_size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(event)))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    events = [sum(event[i] for i in batch) for batch in batches]
    assert max(events) - min(events) <= 1
    assert (min(events) >= 1) == (sum(event) >= len(batches))


def test_each_pass_is_new_and_a_generator_repeats_it():
    event = torch.arange(40) < 10
    sampler = balanced_event_sampler(event, 8, torch.Generator().manual_seed(3))
    first, second = list(sampler), list(sampler)
    assert first != second
    assert list(balanced_event_sampler(event, 8, torch.Generator().manual_seed(3))) == first


def test_events_do_not_always_stand_first():
    event = torch.arange(40) < 10
    sampler = balanced_event_sampler(event, 4, torch.Generator().manual_seed(0))
    leads = [bool(event[batch[0]]) for _ in range(20) for batch in sampler]
    assert 0.15 < sum(leads) / len(leads) < 0.35


def test_in_a_data_loader():
    target = SurvivalTarget(range(6), [True, False, False, True, False, False])
    data = TensorDataset(torch.tensor(target.event))
    loader = DataLoader(data, batch_sampler=balanced_event_sampler(target.event, 3))
    assert [batch.sum().item() for (batch,) in loader] == [1, 1]


@pytest.mark.parametrize(
    ("event", "size", "message"),
    [
        ([True], 0, "expected batch_size >= 1, got 0"),
        ([], 2, "expected event of shape (n,) or (n, 1), n >= 1, got (0,)"),
        ([[True, False]], 2, "expected event of shape (n,) or (n, 1), n >= 1, got (1, 2)"),
        ([0, 2], 2, "expected event to be bool or exactly 0 or 1, got 2 at position 1 (1 of 2 are wrong)"),
    ],
)
def test_refused(event, size, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        balanced_event_sampler(event, size)
    assert str(error.value) == message


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=60),
    st.integers(1, 70),
    st.integers(1, 9),
)
def test_strata_keep_the_sizes_and_draw_everybody(rows, batch_size, fewest):
    event, strata = ([row[i] for row in rows] for i in (0, 1))
    batches = list(balanced_event_sampler(event, batch_size, strata=strata, min_per_stratum=fewest))
    assert len(batches) == math.ceil(len(rows) / batch_size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(rows)))
    assert all(len(batch) <= batch_size for batch in batches)


def useless(sizes, batch_size, seed):
    """For each stratum of each batch: whether it has no event or nobody to compare with."""
    strata = torch.repeat_interleave(torch.arange(len(sizes)) * 7, torch.tensor(sizes))
    event = torch.cat([torch.arange(size) < 4 + size // 4 for size in sizes])
    generator = torch.Generator().manual_seed(seed)
    for batch in balanced_event_sampler(event, batch_size, generator, strata=strata, min_per_stratum=6):
        for stratum in strata[batch].unique():
            here = event[batch][strata[batch] == stratum]
            yield not here.any() or len(here) == 1


def test_strata_in_a_batch_have_an_event_and_company():
    """Sizes come first, so in a full batch a stratum may be left with one place; that is rare."""
    rng = np.random.default_rng(0)
    found = [
        value
        for seed in range(60)
        for value in useless(
            rng.integers(20, 90, rng.integers(1, 7)).tolist(), int(rng.integers(24, 64)), seed
        )
    ]
    assert len(found) > 500
    assert np.mean(found) < 0.01


@pytest.mark.parametrize("seed", range(5))
def test_a_stratum_that_needs_more_batches_takes_its_events_there(seed):
    assert not any(useless([20, 20, 20, 20], 24, seed))


def test_a_stratum_with_few_events_keeps_to_few_batches():
    strata = torch.tensor([0] * 40 + [1] * 40)
    event = torch.cat([torch.arange(40) < 2, torch.arange(40) < 20])
    batches = list(balanced_event_sampler(event, 20, strata=strata, min_per_stratum=2))
    assert len(batches) == 4
    assert sum(any(i < 40 for i in batch) for batch in batches) == 2


def passes(workers, persistent=False, shared=False):
    """Two passes over a loader, with draws from torch's global generator between the batches as dropout makes them."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(4) if shared else None
    sampler = balanced_event_sampler(torch.arange(24) % 3 == 0, 5, generator)
    loader = DataLoader(
        TensorDataset(torch.arange(24)),
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=persistent,
        generator=generator,
    )
    drawn = []
    for _ in range(2):
        for (batch,) in loader:
            drawn.append(batch.tolist())
            torch.rand(3)
    return drawn


def test_batches_do_not_depend_on_the_number_of_workers():
    for shared in (
        False,
        True,
    ):  # the loader draws from the same generator, less often with persistent workers
        expected = passes(0, shared=shared)
        assert passes(1, shared=shared) == passes(2, shared=shared) == expected
        assert passes(2, persistent=True, shared=shared) == expected
        assert expected[:5] != expected[5:]


@pytest.mark.parametrize(
    ("strata", "fewest", "message"),
    [
        ([0, 1], 0, "expected min_per_stratum >= 1, got 0"),
        ([0, 1, 1], 1, "expected strata of shape (2,) or (2, 1)"),
        ([0, np.nan], 1, "expected strata of every patient to be a number, got nan at position 1 (1 of 2"),
    ],
)
def test_strata_that_cannot_be_are_refused(strata, fewest, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        balanced_event_sampler([True, False], 2, strata=strata, min_per_stratum=fewest)


@pytest.mark.parametrize(("fewest", "batches_with_it"), [(1, 4), (15, 2), (20, 2), (40, 1)])
def test_a_stratum_keeps_enough_company(fewest, batches_with_it):
    """40 of 160 patients, all with events, in 4 batches of 40."""
    strata = torch.tensor([0] * 40 + [1] * 120)
    batches = list(balanced_event_sampler([True] * 160, 40, strata=strata, min_per_stratum=fewest))
    assert len(batches) == 4
    assert sum(any(i < 40 for i in batch) for batch in batches) == batches_with_it


def test_batches_with_strata_differ_by_one_patient_at_most():
    rng = np.random.default_rng(0)
    for seed in range(300):
        n = int(rng.integers(2, 90))
        event, strata = rng.random(n) < rng.uniform(0.1, 0.9), rng.integers(0, rng.integers(1, 9), n)
        size, fewest = int(rng.integers(1, 20)), int(rng.integers(1, 9))
        batches = list(
            balanced_event_sampler(
                event, size, torch.Generator().manual_seed(seed), strata=strata, min_per_stratum=fewest
            )
        )
        sizes = [len(batch) for batch in batches]
        assert len(sizes) == -(-n // size)
        assert max(sizes) - min(sizes) <= 1
        assert sorted(i for batch in batches for i in batch) == list(range(n))
