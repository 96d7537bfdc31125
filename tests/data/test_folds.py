import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.data.folds import stratified_folds, stratified_holdout


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(0, 40), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_folds_are_a_partition_with_equal_shares_of_events(n_splits, events, censored, seed):
    events, censored = events + n_splits, censored + n_splits
    event = np.random.default_rng(seed).permutation(np.arange(events + censored) < events)
    folds = stratified_folds(event, n_splits, seed)
    assert np.array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(len(event)))
    for train, test in folds:
        assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(event)))
        assert np.all(np.diff(train) > 0)
        assert np.all(np.diff(test) > 0)
    sizes = [len(test) for _, test in folds]
    counts = [int(event[test].sum()) for _, test in folds]
    assert max(sizes) - min(sizes) <= 1
    assert max(counts) - min(counts) <= 1


def test_the_seed_decides_the_folds():
    event = np.arange(40) % 3 == 0
    first, same, other = (stratified_folds(event, 4, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a[1], b[1]) for a, b in zip(first, other, strict=True))


def test_a_cohort_in_which_all_had_the_event_can_be_split():
    assert [len(test) for _, test in stratified_folds([True] * 7, 3)] == [3, 2, 2]


@pytest.mark.parametrize(
    ("event", "n_splits", "message"),
    [
        ([True, False], 1, "expected n_splits >= 2, got 1"),
        (
            [True] * 2 + [False] * 9,
            3,
            "3 folds need at least 3 patients with an event, got 2",
        ),
        ([True] * 9 + [False] * 2, 3, "3 folds need at least 3 censored patients, got 2"),
        ([False] * 2, 3, "3 folds need at least 3 censored patients, got 2"),
    ],
)
def test_too_few_for_the_folds(event, n_splits, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        stratified_folds(event, n_splits)


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 60), st.integers(5, 60), st.floats(0.1, 0.9), st.integers(0, 1000))
def test_a_holdout_takes_its_share_of_both(events, censored, fraction, seed):
    event = np.arange(events + censored) < events
    rest, held = stratified_holdout(event, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([rest, held])), np.arange(len(event)))
    assert abs(len(held) - fraction * len(event)) <= 1
    assert abs(event[held].sum() - fraction * events) <= 1


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (0.0, "expected a fraction between 0 and 1, got 0.0"),
        (1.0, "expected a fraction between 0 and 1, got 1.0"),
        (0.01, "a fraction of 0.01 of 4 patients leaves one side empty"),
    ],
)
def test_a_holdout_of_nobody_is_refused(fraction, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        stratified_holdout([True, True, False, False], fraction)


def test_a_patient_of_no_part_is_refused():
    with pytest.raises(ValueError, match=r"^expected a part of each patient in within, got NaN$"):
        stratified_folds(np.arange(8) % 2, 2, within=[0, 0, 0, 0, 1, 1, 1, np.nan])
