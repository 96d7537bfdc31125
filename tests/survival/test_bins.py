"""Bins: where edges lie, what falls on them, MCAT's labels, and what is refused."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.survival import SurvivalTarget, TimeBins


def cohort(seed=0, n=60):
    rng = np.random.default_rng(seed)
    return rng.exponential(30, n).round(2), rng.random(n) < 0.5


def test_quantiles_of_event_times_only():
    time = [1, 2, 3, 4, 5, 6, 7, 8, 1000]
    event = [True] * 8 + [False]
    bins = TimeBins.fit(time, event, num_bins=4)
    assert bins.edges.tolist() == [0, 2.75, 4.5, 6.25, 1000]
    assert bins.num_bins == 4


def test_the_ends():
    bins = TimeBins([0, 10, 20, 30])
    assert bins.transform([0, 9.99, 10, 19.99, 20, 30, 31, 1e9]).tolist() == [0, 0, 1, 1, 2, 2, 2, 2]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_labels_are_mcats_on_the_cohort_they_were_fitted_on(seed, k):
    """pandas' qcut of the event times and cut of everybody, as MCAT's dataset_survival does it, rounding of edges aside."""
    time, event = cohort(seed)
    _, edges = pd.qcut(time[event], q=k, retbins=True, labels=False)
    nearest = time[np.abs(edges[:, None] - time).argmin(axis=1)]
    edges = np.where(np.isclose(edges, nearest, rtol=1e-12, atol=0), nearest, edges)
    edges[0], edges[-1] = time.min() - 1e-6, time.max() + 1e-6
    theirs = pd.cut(time, bins=edges, labels=False, right=False, include_lowest=True)
    assert TimeBins.fit(time, event, num_bins=k).transform(time).tolist() == theirs.tolist()


def test_uniform():
    bins = TimeBins.fit([3.0, 8.0], [False, False], num_bins=4, method="uniform")
    assert bins.edges.tolist() == [0, 2, 4, 6, 8]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_tensors_of_either_precision_get_the_labels_of_arrays(seed):
    time, event = cohort(seed)
    time = time.astype(np.float32).astype(np.float64)
    bins = TimeBins.fit(torch.tensor(time), torch.tensor(event), num_bins=5)
    bins = TimeBins(
        [0, *np.unique(time[(time > 0) & (time < bins.edges[-1])])[::7], bins.edges[-1]]
    )  # edges that are times
    labels = bins.transform(time)
    assert labels.dtype == np.int64
    for dtype in (torch.float32, torch.float64):
        y = bins.transform(torch.tensor(time, dtype=dtype))
        assert y.dtype == torch.int64
        assert y.tolist() == labels.tolist()


def test_a_float32_time_that_was_an_edge_stays_one():
    """0.7 in float32 is below 0.7 in float64."""
    bins = TimeBins([0, 0.7, 1])
    assert float(np.float32(0.7)) < 0.7
    assert bins.transform(torch.tensor([0.7])).tolist() == bins.transform([0.7]).tolist() == [1]


def test_whole_days_as_integers():
    assert TimeBins([0, 10, 20]).transform(torch.tensor([9, 10])).tolist() == [0, 1]


def test_json_pickle_and_equality():
    time, event = cohort()
    bins = TimeBins.fit(time, event, num_bins=3)
    assert TimeBins.from_dict(json.loads(json.dumps(bins.to_dict()))) == bins
    assert pickle.loads(pickle.dumps(bins)) == bins
    assert hash(TimeBins(bins.edges)) == hash(bins)
    assert bins != TimeBins([0, 1])
    assert bins != "bins"


def test_edges_are_kept_apart_from_the_callers():
    edges = np.array([0.0, 1.0, 2.0])
    bins = TimeBins(edges)
    edges[1] = 9
    assert bins.edges.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"^assignment destination is read-only$"):
        bins.edges[0] = 1


FIT_REFUSED = [
    (([1, 2], [False, False]), {}, "expected at least one observed event for quantile bins, got none"),
    (
        ([5, 5, 5, 6], [True] * 4),
        {"num_bins": 2},
        "expected events that fill 2 quantile bins, got 4 at 2 distinct times and edges [0, 5, 6]; take fewer bins, "
        "uniform bins, or give edges",
    ),
    (
        ([1, 2], [True, True]),
        {"num_bins": 4},
        "expected events that fill 4 quantile bins, got 2 at 2 distinct times and edges [0, 1.25, 1.5, 1.75, 2]; take "
        "fewer bins, uniform bins, or give edges",
    ),
    (
        ([3, 3, 3], [True] * 3),
        {"num_bins": 2},
        "expected events that fill 2 quantile bins, got 3 at 1 distinct times and edges [0, 3, 3]; take fewer bins, "
        "uniform bins, or give edges",
    ),
    (([1, 2], [True, True]), {"num_bins": 0}, "expected num_bins >= 1, got 0"),
    (([1, 2], [True, True]), {"method": "log"}, "expected method 'quantile' or 'uniform', got 'log'"),
    (([0, 0], [True, True]), {"method": "uniform"}, "expected a time above 0 for uniform bins, got none"),
    (
        ([1, -2], [True, True]),
        {},
        "expected time to be finite and >= 0, got -2 at position 1 (1 of 2 are wrong)",
    ),
    (
        ([1, 2], [0, 3]),
        {},
        "expected event to be bool or exactly 0 or 1, got 3 at position 1 (1 of 2 are wrong)",
    ),
]


@pytest.mark.parametrize(("data", "options", "message"), FIT_REFUSED)
def test_fit_refuses(data, options, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        TimeBins.fit(*data, **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([1, 2], "expected edges that are finite and increase strictly from 0, got [1, 2]"),
        ([0, 2, 2], "expected edges that are finite and increase strictly from 0, got [0, 2, 2]"),
        ([0, np.inf], "expected edges that are finite and increase strictly from 0, got [0, inf]"),
        ([0], "expected edges of at least two times, got shape (1,)"),
        (4, "expected edges of at least two times, got shape ()"),
    ],
)
def test_wrong_edges(edges, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        TimeBins(edges)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "times", [[0.0, -1.0], [0.0, np.nan], torch.tensor([0.0, -1.0]), torch.tensor([0.0, torch.nan])]
)
def test_wrong_times(times):
    with pytest.raises(
        ValueError, match=r"^expected times to be >= 0, got (-1|nan) at position 1 \(1 of 2 are wrong\)$"
    ):
        TimeBins([0, 1]).transform(times)


def test_a_targets_own_arrays_fit():
    target = SurvivalTarget([1, 2, 3, 4], [True, True, True, True])
    assert TimeBins.fit(target.time, target.event, num_bins=2).transform(target.time).tolist() == [0, 0, 1, 1]


def test_an_event_at_a_quantile_is_in_the_bin_that_begins_there():
    """Interpolation between 0.3 and 0.3 gives a number beside 0.3 where it is weighed by tenths."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        time = rng.integers(1, 400, 16) / 10
        bins = (
            TimeBins.fit(np.append(time, time.max() + 1), [True] * 16 + [False], num_bins=5)
            if len(np.unique(time)) == 16
            else None
        )
        if bins is None:
            continue
        ranked = np.sort(time)
        # The 3rd, 6th, 9th and 12th of 15 steps: every edge is an event time itself.
        assert bins.edges[1:-1].tolist() == ranked[[3, 6, 9, 12]].tolist()
        assert np.bincount(bins.transform(time)).tolist() == [3, 3, 3, 3, 4]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_time_that_is_an_edge_is_one_in_any_precision(dtype):
    bins = TimeBins([0, 0.3, 0.7, 3])
    times = np.array([0.3, 0.7, 0.2, 0.5])
    assert bins.transform(times).tolist() == [1, 2, 0, 1]
    assert bins.transform(times.astype(dtype)).tolist() == [1, 2, 0, 1]


def test_float32_arrays_and_tensors_agree_with_float64_on_cohorts_in_tenths_of_a_month():
    rng = np.random.default_rng(1)
    for _ in range(100):
        time = rng.integers(1, 900, 60) / 10
        bins = TimeBins.fit(time, rng.random(60) < 0.6)
        expected = bins.transform(time).tolist()
        assert bins.transform(time.astype(np.float32)).tolist() == expected
        assert bins.transform(torch.tensor(time, dtype=torch.float32)).tolist() == expected
