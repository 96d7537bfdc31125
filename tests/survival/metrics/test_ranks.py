"""Metrics of order know risks by their ranks, and tie what float32 cannot tell apart."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from healnet.survival import SurvivalTarget, compare, concordance, evaluate
from healnet.survival.metrics._ranks import TIED, ranks


def cohort(seed, n=60):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    target = SurvivalTarget(rng.exponential(np.exp(-risk)), rng.random(n) < 0.7)
    return risk + rng.normal(size=n), target


def c_index(risk, target):
    """Pair by pair, of risks as they are."""
    won = [
        1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
        for i, j in itertools.permutations(range(len(target)), 2)
        if target.event[i]
        and (target.time[i] < target.time[j] or (target.time[i] == target.time[j] and not target.event[j]))
    ]
    return float(np.mean(won))


def every_metric(risk, target):
    table = evaluate(risk, target, target, times=np.quantile(target.time[target.event], [0.3, 0.6]))
    return table["value"].tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "change",
    [
        np.exp,
        lambda r: 1e-12 * np.exp(r),
        lambda r: 1e12 * r,
        lambda r: np.where(r == r.max(), 1e6, 1e-6 * np.exp(r)),  # one large risk among small probabilities
        lambda r: np.argsort(np.argsort(r)) - 30.0,
    ],
)
def test_a_monotone_function_of_the_risk_changes_no_metric(seed, change):
    risk, target = cohort(seed)
    assert concordance(risk, target) == c_index(risk, target)
    assert every_metric(change(risk), target) == every_metric(risk, target)
    result = compare(change(risk), risk, target, bootstrap=20)
    assert (result.c_a, result.difference, result.low, result.high) == (c_index(risk, target), 0, 0, 0)


@pytest.mark.parametrize("size", [0.64, -0.64, 3e-7, 1e5])
@pytest.mark.parametrize("seed", range(5))
def test_copies_of_one_patient_that_differ_by_rounding_are_tied(seed, size):
    _, target = cohort(seed)
    rng = np.random.default_rng(seed)
    ulps = rng.integers(-2, 3, len(target)) * np.spacing(np.float32(size))
    risk = np.float32(size) + ulps.astype(np.float32)
    assert len(np.unique(risk)) > 1
    assert concordance(risk, target) == 0.5
    assert concordance(risk.astype(np.float64), target) == 0.5
    assert every_metric(risk, target) == [0.5] * 5
    assert compare(risk, np.zeros(len(target)), target, bootstrap=10).difference == 0


@given(st.lists(st.floats(-1e300, 1e300) | st.sampled_from([0.0, 1.0, 1 + TIED / 2, 1 + TIED, 1 + 2 * TIED])))
def test_groups_are_in_order_and_no_wider_than_a_tie(values):
    risk = np.array(values)
    rank = ranks(risk)
    assert sorted(set(rank.tolist())) == list(range(len(set(rank.tolist()))))
    for i, j in itertools.permutations(range(len(risk)), 2):
        if risk[i] <= risk[j]:
            assert rank[i] <= rank[j]
        if rank[i] == rank[j]:
            assert abs(risk[i] - risk[j]) <= TIED * max(abs(risk[i]), abs(risk[j]))


def test_a_chain_of_close_risks_is_not_one_tie():
    risk = 1 + TIED * np.arange(100_000) / 4
    started = time.process_time()
    rank = ranks(risk)
    assert time.process_time() - started < 2
    assert rank[-1] == pytest.approx(100_000 / 5, rel=0.1)
    assert ranks(np.empty(0)).tolist() == []
