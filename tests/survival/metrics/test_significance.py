"""Tests after cross-validation: by hand, against scipy, and their level on outcomes in which there is nothing to learn."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, ttest_rel, wilcoxon

from healnet.survival import (
    SurvivalTarget,
    compare,
    compare_cohorts,
    compare_folds,
    concordance,
    logrank_p,
    permutation_test,
)


def test_the_corrected_t_by_hand():
    """Differences 1, 2, 3, 4: mean 2.5, variance 5/3; one fifth of the patients in a fold: n_test / n_train = 1/4."""
    result = compare_folds([2.0, 4, 6, 8], [1.0, 2, 3, 4], test_share=0.2)
    t = 2.5 / np.sqrt((1 / 4 + 1 / 4) * 5 / 3)
    # Student's t with 3 degrees of freedom in closed form
    x = t / np.sqrt(3)
    assert result.p_value == pytest.approx(1 - 2 / np.pi * (np.arctan(x) + x / (1 + x**2)), abs=1e-12)
    assert result.difference == 2.5
    half = 3.182446305284263 * 2.5 / t
    assert (result.low, result.high) == pytest.approx((2.5 - half, 2.5 + half))


def test_without_shared_patients_it_is_the_paired_t_test():
    a, b = np.random.default_rng(0).normal(size=(2, 10))
    plain = ttest_rel(a, b)
    result = compare_folds(a, b, test_share=1e-12, confidence=0.9)
    assert result.p_value == pytest.approx(plain.pvalue)
    assert (result.low, result.high) == pytest.approx(tuple(plain.confidence_interval(0.9)))
    assert compare_folds(a, b, test_share=0.2).p_value > plain.pvalue


def test_folds_that_do_not_differ():
    assert compare_folds([0.6, 0.7], [0.6, 0.7], 0.5) == (0, 0, 0, 1)
    assert compare_folds([0.75, 1.0], [0.5, 0.75], 0.5) == (0.25, 0.25, 0.25, 0)


def test_cohorts_by_hand():
    """All six cohorts on one side: 2 of the 64 signings are as extreme; R's p.adjust(c(1/32, 1, 1/16), "holm")."""
    ours = np.array([0.6, 0.62, 0.64, 0.66, 0.68, 0.70])
    scores = pd.DataFrame(
        {
            "forest": ours - [0.01, 0.02, 0.03, 0.04, 0.05, 0.06],
            "ours": ours,
            "same": ours,
            "close": ours - [-0.01, 0.02, 0.03, 0.04, 0.05, 0.06],
        },
        index=list("ABCDEF"),
    )
    table = compare_cohorts(scores, "ours")
    assert table.index.tolist() == ["forest", "same", "close"]
    assert table["p_value"].tolist() == pytest.approx([2 / 64, 1, 4 / 64])
    assert table["p_holm"].tolist() == pytest.approx([3 / 32, 1, 2 / 16])
    assert table["wins"].tolist() == [6, 0, 5]
    assert table["difference"].tolist() == pytest.approx([0.035, 0, 0.19 / 6])


def test_holm_keeps_the_order_and_one():
    """R: p.adjust(c(0.02, 0.021, 0.04), "holm") is 0.06, 0.06, 0.06 from 0.06, 0.042, 0.04 by the running maximum."""
    rng = np.random.default_rng(3)
    scores = pd.DataFrame(rng.normal(size=(9, 5)), columns=list("abcde"))
    scores["a"] += [0.9] * 9
    table = compare_cohorts(scores, "a").sort_values("p_value")
    expected, largest = [], 0.0
    for rank, p in enumerate(table["p_value"]):
        largest = max(largest, min(1, (4 - rank) * p))
        expected.append(largest)
    assert table["p_holm"].tolist() == pytest.approx(expected)


def test_a_permutation_test_by_hand():
    """Of the 6 orders of three patients one has the observed C of 1: p is near 1/6 for many shuffles."""
    target = SurvivalTarget([1, 2, 3], [True, True, True])
    result = permutation_test(lambda shuffled: concordance([3.0, 2.0, 1.0], shuffled), target, 599)
    assert result.statistic == 1
    assert set(result.null.round(6)) == {0, round(1 / 3, 6), round(2 / 3, 6), 1}
    assert result.p_value == (1 + (result.null == 1).sum()) / 600
    assert result.p_value == pytest.approx(1 / 6, abs=0.04)


@pytest.mark.parametrize("known", [False, True])
def test_p_is_the_same_where_the_target_knows_its_patients(known):
    names = [f"p{i}" for i in range(7)]
    frame = pd.DataFrame({"OS.time": range(1, 8), "OS": [1] * 7}, index=names)
    target = SurvivalTarget.from_frame(frame.iloc[:], "OS.time", "OS")
    risk = pd.Series(-frame["OS.time"], index=names)
    if not known:
        target, risk = target.without_patients(), risk.to_numpy()
    result = permutation_test(lambda shuffled: concordance(risk, shuffled), target, 19)
    assert result.p_value == 0.05
    assert (result.null < 1).all()


def test_outcomes_are_shuffled_together_and_the_seed_repeats_them():
    target = SurvivalTarget([1, 2, 3, 4], [True, False, True, False])
    seen = []

    def statistic(shuffled):
        seen.append(shuffled)
        return 0.0

    assert permutation_test(statistic, target, 5, seed=1).p_value == 1
    first = seen.copy()
    assert first[0] is target
    for shuffled in first[1:]:
        assert sorted(zip(shuffled.time, shuffled.event, strict=True)) == list(
            zip(target.time, target.event, strict=True)
        )
    permutation_test(statistic, target, 5, seed=1)
    assert seen[6:] == first
    permutation_test(statistic, target, 5, seed=2)
    assert seen[12:] != first


def enumerated_p(a, b):
    """Wilcoxon's p over all signs of whole hundredths, zeros left out."""
    d = [round(100 * x) - round(100 * y) for x, y in zip(a, b, strict=True)]
    d = np.array([x for x in d if x])
    if not len(d):
        return 1.0
    rank = np.array(
        [np.mean([int(abs(e) < abs(x)) + int(abs(e) <= abs(x)) for e in d]) * len(d) / 2 + 0.5 for x in d]
    )
    middle = rank.sum() / 2
    observed = abs(rank[d > 0].sum() - middle)
    sums = np.array([rank @ signs for signs in itertools.product([0, 1], repeat=len(d))])
    return float((np.abs(sums - middle) >= observed - 1e-9).mean())


def test_the_signed_rank_p_is_that_of_enumeration():
    """Scores of two decimals, whose differences tie and vanish, though not in binary."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(2, 9))
        a, b = (rng.integers(60, 70, n) / 100 for _ in range(2))
        table = compare_cohorts(pd.DataFrame({"a": a, "b": b}), "a")
        assert table.loc["b", "p_value"] == pytest.approx(enumerated_p(a, b), abs=1e-12)
        again = compare_cohorts(pd.DataFrame({"a": a + 3, "b": b + 3}), "a")
        assert again.loc["b", "p_value"] == table.loc["b", "p_value"]


def test_the_signed_rank_p_is_scipys_without_ties():
    rng = np.random.default_rng(1)
    for n in (5, 12, 30):
        a, b = rng.normal(size=n), rng.normal(0.3, 1, size=n)
        p = compare_cohorts(pd.DataFrame({"a": a, "b": b}), "a").loc["b", "p_value"]
        assert p == pytest.approx(wilcoxon(a - b, method="exact").pvalue, abs=1e-12)


REFUSED = [
    (lambda: compare_folds([1.0], [1.0], 0.2), "expected number of folds >= 2, got 1"),
    (
        lambda: compare_folds([1.0, 2.0], [1.0], 0.2),
        "expected scores_b of shape (2,) or (2, 1), one value per patient, got (1,)",
    ),
    (
        lambda: compare_folds([1.0, 2.0], [1.0, np.nan], 0.2),
        "expected scores_b to be finite, got nan at position 1 (1 of 2 are wrong)",
    ),
    (lambda: compare_folds([1.0, 2.0], [1.0, 2.0], 5), "expected test_share in (0, 1), got 5"),
    (lambda: compare_folds([1.0, 2.0], [1.0, 2.0], 0.2, 95), "expected confidence in (0, 1), got 95"),
    (
        lambda: compare_cohorts(pd.DataFrame({"a": [1.0]}), "b"),
        "expected 'b' and another model among the columns, got ['a']",
    ),
    (
        lambda: compare_cohorts(pd.DataFrame({"a": [1.0]}), "a"),
        "expected 'a' and another model among the columns, got ['a']",
    ),
    (
        lambda: compare_cohorts(pd.DataFrame({"a": [1.0, 2], "b": [1.0, None]}, index=["BLCA", "BRCA"]), "a"),
        "expected a score of every model on every cohort, got nan for 'b' on 'BRCA'",
    ),
    (
        lambda: permutation_test(lambda _: 1.0, SurvivalTarget([1], [True]), 0),
        "expected permutations >= 1, got 0",
    ),
    (
        lambda: permutation_test(lambda _: np.nan, SurvivalTarget([1], [True])),
        "expected a finite statistic, got nan",
    ),
]


@pytest.mark.parametrize(("refused", "message"), REFUSED)
def test_refused(refused, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        refused()
    assert str(error.value) == message


class Shuffled:
    """Five-fold cross-validation of linear Cox models, one gradient step from zero, where no outcome can be predicted."""

    def __init__(self, seed, n=100, p=30):
        self.rng = np.random.default_rng(seed)
        self.x = self.rng.normal(size=(2, n, p))  # two models with columns of their own
        self.target = SurvivalTarget(self.rng.exponential(size=n), self.rng.random(n) < 0.6)
        self.folds = np.array_split(self.rng.permutation(n), 5)

    def risks(self, target):
        """Out-of-fold risks of both models, (2, n): x' times the martingale residuals of the training patients."""
        risks = np.zeros(self.x.shape[:2])
        for new in self.folds:
            seen = np.setdiff1d(np.arange(len(target)), new)
            order = seen[np.argsort(target.time[seen])]
            at_risk = np.arange(len(order), 0, -1)
            residual = target.event[order] - np.cumsum(target.event[order] / at_risk)
            weights = np.einsum("mnp,n->mp", self.x[:, order], residual)
            risks[:, new] = np.einsum("mnp,mp->mn", self.x[:, new], weights)
        return risks

    def scores(self, target):
        risks = self.risks(target)
        return np.array([[concordance(risk[new], target[new]) for new in self.folds] for risk in risks])


def between(rejected, runs, low, high):
    """Whether the count agrees with a rate in [low, high], at three standard deviations."""
    return binom.ppf(0.001, runs, low) <= rejected <= binom.ppf(0.999, runs, high)


@pytest.mark.slow
def test_levels_after_cross_validation():
    """5% by the tests that are made for it, twice as much or more by those that are not: the docstrings' figures."""
    runs, p = 300, {"folds": [], "logrank": [], "pooled": []}
    for seed in range(runs):
        shuffled = Shuffled(seed)
        target, (a, b) = shuffled.target, shuffled.risks(shuffled.target)
        p["folds"].append(compare_folds(*shuffled.scores(target), test_share=1 / 5).p_value)
        p["logrank"].append(logrank_p(a > np.median(a), target))
        p["pooled"].append(compare(a, b, target, bootstrap=200).p_value)
    rejected = {name: int((np.array(values) < 0.05).sum()) for name, values in p.items()}
    assert between(rejected["folds"], runs, 0.03, 0.06)
    assert between(rejected["logrank"], runs, 0.09, 0.14)
    assert between(rejected["pooled"], runs, 0.09, 0.15)


@pytest.mark.slow
def test_the_level_of_a_permuted_procedure():
    runs, rejected = 150, 0
    for seed in range(runs):
        shuffled = Shuffled(seed, p=10)
        procedure = lambda target, run=shuffled: run.scores(target)[0].mean()  # noqa: E731
        rejected += permutation_test(procedure, shuffled.target, permutations=19, seed=seed).p_value <= 0.05
    assert between(rejected, runs, 0.05, 0.05)


def test_a_procedure_that_learns_is_found():
    shuffled = Shuffled(0)
    risk = shuffled.x[0] @ np.ones(30) / 3
    target = SurvivalTarget(np.random.default_rng(1).exponential(np.exp(-risk)), np.arange(100) % 3 > 0)
    assert permutation_test(lambda t: shuffled.scores(t)[0].mean(), target, permutations=19).p_value == 0.05
    assert compare_folds(*shuffled.scores(target), test_share=1 / 5).p_value < 0.02
