"""Tests that keep their level after cross-validation, where folds share their training patients.

With outcomes shuffled, so that nothing can be learned, a test at 0.05 should fall below it in 5% of runs. In five-fold
cross-validation of linear Cox models on 100 patients, 400 times over, that happened in 4.5% by `compare_folds`, 15% by the
plain paired t test over folds, 11% by the log-rank test of halves by out-of-fold risk, and 12% by `compare` of pooled
out-of-fold risks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from healnet.survival._checks import Floats, Index, check_inside, check_least, check_values
from healnet.survival._order import check_same_order
from healnet.survival.target import SurvivalTarget

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FoldComparison", "PermutationTest", "compare_cohorts", "compare_folds", "permutation_test"]


class FoldComparison(NamedTuple):
    """Mean difference a - b of two models' scores over folds, its confidence interval and p; of `compare_folds`."""

    difference: float
    low: float
    high: float
    p_value: float


def compare_folds(
    scores_a: ArrayLike, scores_b: ArrayLike, test_share: float, confidence: float = 0.95
) -> FoldComparison:
    r"""Compare two models by their scores on the same test folds: the corrected resampled t test.

    Folds share most of their training patients, so their scores vary less than those of independent cohorts would. With J
    differences of mean $\bar d$ and variance $s^2$,

    $$t = \bar d / \sqrt{(1 / J + n_{test} / n_{train}) s^2}$$

    has about a t distribution with J - 1 degrees of freedom (Nadeau and Bengio 2003, Machine Learning 52:239, sec. 3;
    Bouckaert and Frank 2004, PAKDD, for repeated cross-validation).

    Args:
        scores_a: Scores of one model, one for each fold of each repeat.
        scores_b: Scores of the other on the same folds.
        test_share: Share of the patients in a test fold: 1/5 for five folds.
        confidence: Confidence of the interval.

    Shape:
        scores_a, scores_b: (j,)

    Raises:
        ValueError: Fewer than two folds, lengths that differ, Series in different orders of folds, a score that is not
            finite, a share or confidence outside (0, 1).

    Example:
        >>> result = compare_folds([0.71, 0.66, 0.70, 0.68, 0.73], [0.68, 0.65, 0.66, 0.66, 0.69], test_share=1 / 5)
        >>> round(result.difference, 3), round(result.p_value, 3)
        (0.028, 0.033)
    """
    from scipy.stats import t as law

    check_same_order(scores_a, scores_b, "scores_a and scores_b")
    a = np.asarray(scores_a, dtype=np.float64)
    check_least("number of folds", a.size, 2)
    a, b = check_values(a, a.size, "scores_a"), check_values(scores_b, a.size, "scores_b")
    check_inside("test_share", test_share)
    check_inside("confidence", confidence)
    d = a - b
    error = math.sqrt((1 / len(d) + test_share / (1 - test_share)) * d.var(ddof=1))
    mean, reach = float(d.mean()), float(law.ppf((1 + confidence) / 2, len(d) - 1)) * error
    if error == 0:
        return FoldComparison(mean, mean, mean, float(mean == 0))
    p_value = 2 * float(law.sf(abs(mean) / error, len(d) - 1))
    return FoldComparison(mean, mean - reach, mean + reach, p_value)


def compare_cohorts(scores: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Compare one model with each other over independent cohorts: Wilcoxon's signed-rank test, Holm's correction.

    Two-sided, paired by cohort (Demsar 2006, JMLR 7:1). Holm's p bounds the chance of any false finding among all rows
    (Holm 1979, Scand J Stat 6:65). p is exact, also where differences tie, which then share a rank; differences of zero
    are left out (Wilcoxon 1945). With n cohorts no p is below 2 / 2^n. Differences are compared to nine digits of the
    scores, since 0.69 - 0.68 and 0.71 - 0.70 are not the same number in a computer.

    Args:
        scores: Table with one row for each cohort and one column for each model, as
            `results.pivot_table("c_index", "cohort", "model")` gives it: a mean over folds.
        reference: Column of the model that the others are compared with.

    Returns:
        One row for each other model, with the columns `difference` (mean, reference minus model), `wins` (cohorts in which
        the reference is better), `cohorts`, `p_value` and `p_holm`.

    Raises:
        ValueError: A reference that is no column, fewer than two models, a score missing or not finite.

    Example:
        >>> import pandas as pd
        >>> scores = pd.DataFrame({"ours": [0.70, 0.66, 0.61, 0.73], "forest": [0.68, 0.60, 0.58, 0.72]})
        >>> compare_cohorts(scores, "ours").round(3).loc["forest"].to_dict()
        {'difference': 0.03, 'wins': 4.0, 'cohorts': 4.0, 'p_value': 0.125, 'p_holm': 0.125}
    """
    import pandas as pd

    others = [model for model in scores.columns if model != reference]
    if len(others) == len(scores.columns) or not others:
        raise ValueError(
            f"expected {reference!r} and another model among the columns, got {list(scores.columns)}"
        )
    values = scores.to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(
            f"expected a score of every model on every cohort, got {values[row, column]} for "
            f"{scores.columns[column]!r} on {scores.index[row]!r}"
        )
    rows = []
    for model in others:
        d = _rounded((scores[reference] - scores[model]).to_numpy(dtype=np.float64), np.abs(values).max())
        p = _signed_rank_p(d[d != 0])
        rows.append((d.mean(), int((d > 0).sum()), len(d), p, p))
    table = pd.DataFrame(rows, others, ["difference", "wins", "cohorts", "p_value", "p_holm"])
    ordered = table["p_value"].sort_values()
    holm = (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)
    return table.assign(p_holm=holm)


def _rounded(differences: Floats, largest: float) -> Floats:
    """Differences to nine digits of the largest score."""
    decimals = 9 - math.ceil(math.log10(largest)) if largest > 0 else 0
    rounded: Floats = np.round(differences, decimals)
    return rounded


def _signed_rank_p(differences: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test: the share of all signs with a sum of ranks as far from the middle.

    scipy's `wilcoxon` takes a normal approximation where differences tie.
    """
    from scipy.stats import rankdata

    twice = (2 * rankdata(np.abs(differences))).astype(np.int64)  # whole numbers, also for shared ranks
    share = np.ones(1)  # share[s] of all signs have the sum s of the positive ones' ranks
    for rank in twice.tolist():
        share = (np.pad(share, (0, rank)) + np.pad(share, (rank, 0))) / 2
    positive = int(twice[differences > 0].sum())
    return min(1.0, 2 * float(min(share[: positive + 1].sum(), share[positive:].sum())))


class PermutationTest(NamedTuple):
    """The statistic, its p, and its values on shuffled outcomes, (permutations,); the result of `permutation_test`."""

    statistic: float
    p_value: float
    null: Floats


def permutation_test(
    statistic: Callable[[SurvivalTarget], float],
    target: SurvivalTarget,
    permutations: int = 99,
    seed: int = 0,
) -> PermutationTest:
    """Test whether a whole procedure learned anything, by running it again on shuffled outcomes.

    Outcomes (time and event together) are assigned to patients at random, and everything that depends on them is repeated:
    choice of settings, training of every fold, the statistic. p is the share of runs that reach the observed statistic,
    which counts as one of them (Phipson and Smyth 2010, Stat Appl Genet Mol Biol 9:39), so it keeps its level exactly,
    whatever the folds share, and is at least 1 / (1 + permutations). Time: 1 + `permutations` runs of the procedure.

    Args:
        statistic: Function that runs the procedure with the outcomes it is given, in the order of the patients, and returns
            a number, larger = more learned: the mean C over folds, or the log-rank statistic of out-of-fold halves.
        target: Outcomes of the patients.
        permutations: Number of shuffled runs.
        seed: Random seed of the shuffles.

    Raises:
        ValueError: Fewer than one permutation, a statistic that is not finite.

    Example:
        >>> from healnet.survival import concordance
        >>> target = SurvivalTarget([1, 2, 3, 4, 5, 6, 7], [True] * 7)
        >>> risk = [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]  # of one fixed model; a procedure would train its models here
        >>> permutation_test(lambda shuffled: concordance(risk, shuffled), target, permutations=19).p_value
        0.05
    """
    from tqdm.auto import tqdm

    check_least("permutations", permutations, 1)
    observed = _finite(statistic(target))
    rng = np.random.default_rng(seed)
    null = np.array(
        [
            _finite(statistic(_shuffled(target, rng.permutation(len(target)))))
            for _ in tqdm(range(permutations), desc="permutations", disable=None)
        ]
    )
    return PermutationTest(observed, float((1 + (null >= observed).sum()) / (1 + permutations)), null)


def _shuffled(target: SurvivalTarget, order: Index) -> SurvivalTarget:
    """Outcomes of other patients: the patients themselves, whom risks may know by their ids, stay where they are."""
    return SurvivalTarget.unchecked(target.time[order], target.event[order], target.patients)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"expected a finite statistic, got {value}")
    return float(value)
