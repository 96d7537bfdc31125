import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.data import LengthBuckets


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=60),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_every_patient_comes_once_an_epoch(lengths, batch_size, pool, seed):
    sampler = LengthBuckets(lengths, batch_size, pool=pool, seed=seed)
    for _ in range(2):
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        assert sum(len(batch) < batch_size for batch in batches) <= 1


def test_batches_hold_similar_lengths():
    lengths = np.random.default_rng(0).integers(100, 10_000, 512)

    def padding(batches):
        return sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum() - 1

    mixed = np.random.default_rng(1).permutation(512).reshape(-1, 8)
    assert padding([list(batch) for batch in mixed]) > 0.5
    assert padding(list(LengthBuckets(lengths, 8))) < 0.05
    assert padding(list(LengthBuckets(lengths, 8, pool=4))) < 0.4


def test_epochs_differ_and_the_seed_repeats_them():
    lengths = [5] * 40
    first, again, other = (
        LengthBuckets(lengths, 4),
        LengthBuckets(lengths, 4),
        LengthBuckets(lengths, 4, seed=1),
    )
    one, two = list(first), list(first)
    assert one != two
    assert [list(again), list(again)] == [one, two]
    assert list(other) != one


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LengthBuckets([], 4), "expected one length per patient (n,), got shape (0,)"),
        (lambda: LengthBuckets([[1, 2]], 4), "expected one length per patient (n,), got shape (1, 2)"),
        (lambda: LengthBuckets([1, 2], 0), "expected batch_size >= 1 and pool >= 1, got 0 and 32"),
        (lambda: LengthBuckets([1, 2], 2, pool=0), "expected batch_size >= 1 and pool >= 1, got 2 and 0"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
