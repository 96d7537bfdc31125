"""Every patient once, and an event in every batch as long as there are enough."""

import math

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
        ([True], 0, "batch_size must be at least 1, got 0"),
        ([], 2, "event must have shape (n,) with n >= 1, got (0,)"),
        ([[True]], 2, "event must have shape (n,) with n >= 1, got (1, 1)"),
        ([0, 2], 2, "event must be bool or exactly 0 or 1 (1 = the event was observed)"),
    ],
)
def test_refused(event, size, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        balanced_event_sampler(event, size)
    assert str(error.value) == message
