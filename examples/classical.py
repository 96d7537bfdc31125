"""Classical survival models of a cohort's tables, each at its best: what the other examples compare HEALNet with.

Each function takes the training patients, and returns what predicts any patients: `.predict(cohort)` a risk, larger = worse,
`.survival(cohort, times)` curves, as `healnet.training.TrainedModel` does. Whatever is chosen (penalties, sizes of leaves)
is chosen by cross-validation among the training patients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sksurv.ensemble import RandomSurvivalForest
from sksurv.linear_model import CoxnetSurvivalAnalysis

from healnet.baselines import LinearCox
from healnet.data import Cohort, CohortDataset, Standardizer
from healnet.survival import BreslowBaseline, SurvivalTarget, concordance

INNER_FOLDS = 5
L1_RATIO = 0.1  # of the elastic nets; thousands of correlated genes want little


class SideBySide:
    """All tables side by side, gaps filled with training means, standardized."""

    def __init__(self, seen: Cohort) -> None:
        self.tables = list(seen.tables)
        frame = seen.select(self.tables).to_frame()
        self.fill = frame.mean().fillna(0)
        filled = frame.fillna(self.fill)
        self.mean, self.std = filled.mean(), filled.std(ddof=0).replace(0, 1)

    def __call__(self, cohort: Cohort) -> np.ndarray:
        """(n, f) of any patients."""
        frame = cohort.select(self.tables).to_frame().fillna(self.fill)
        return ((frame - self.mean) / self.std).to_numpy()


@dataclass(frozen=True)
class Cox:
    """A Cox model of any kind: its log hazard, and Breslow's baseline of the training patients."""

    predict: Callable[[Cohort], np.ndarray]
    baseline: BreslowBaseline

    @classmethod
    def of(cls, predict: Callable[[Cohort], np.ndarray], seen: Cohort) -> "Cox":
        """Make the model with the baseline of these patients."""
        return cls(predict, BreslowBaseline.fit(predict(seen), seen.target))

    def survival(self, cohort: Cohort, times: Sequence[float]) -> np.ndarray:
        """(n, t) probabilities of surviving beyond the times."""
        return self.baseline.survival(self.predict(cohort), np.asarray(times, dtype=float)).numpy()


def best(
    candidates: Sequence[float],
    predict: Callable[[Cohort, Cohort, Sequence[float]], list[np.ndarray]],
    seen: Cohort,
    seed: int,
    num_folds: int = INNER_FOLDS,
) -> float:
    """The candidate with the largest mean C over folds of the training patients.

    `predict(train, test, candidates)` gives the risks of the test patients under each.
    """
    events = int(seen.target.event.sum())
    folds = seen.folds(max(2, min(num_folds, events, len(seen) - events)), seed=seed)
    scores = [
        [concordance(risk, seen.target[test]) for risk in predict(seen[train], seen[test], candidates)]
        for train, test in folds
    ]
    return candidates[int(np.nanmean(scores, axis=0).argmax())]


def net_path(
    x: np.ndarray, target: SurvivalTarget, penalties: Sequence[float] | None
) -> CoxnetSurvivalAnalysis:
    """An elastic net along a path of penalties: 30 of its own choice, or those given."""
    path = {"n_alphas": 30} if penalties is None else {"alphas": list(penalties)}
    return CoxnetSurvivalAnalysis(l1_ratio=L1_RATIO, **path).fit(x, target.to_structured())


def net_risks(train: Cohort, test: Cohort, penalties: Sequence[float]) -> list[np.ndarray]:
    """Risks of the test patients under each penalty."""
    columns = SideBySide(train)
    x, model = columns(test), net_path(columns(train), train.target, penalties)
    return [model.predict(x, alpha=penalty) for penalty in penalties]


def elastic_net(seen: Cohort, seed: int = 0, *, members: int = 0, middle: bool = False) -> Cox:
    """Elastic-net Cox with its penalty by inner cross-validation, or at the `middle` of its path.

    With `members`, the mean of so many nets, each fitted to patients drawn with replacement.
    """
    columns = SideBySide(seen)
    x = columns(seen)
    path = net_path(x, seen.target, None)
    penalties = [float(penalty) for penalty in path.alphas_]
    chosen = penalties[len(penalties) // 2] if middle else best(penalties, net_risks, seen, seed)
    if not members:
        return Cox.of(lambda cohort: path.predict(columns(cohort), alpha=chosen), seen)
    draw, models = np.random.default_rng(seed), []
    while len(models) < members:
        rows = draw.integers(len(seen), size=len(seen))
        if seen.target.event[rows].any():
            steps = [penalty for penalty in penalties if penalty >= chosen]
            models.append(net_path(x[rows], seen.target[rows], steps))

    def risk(cohort: Cohort) -> np.ndarray:
        rows = columns(cohort)
        return np.mean([model.predict(rows, alpha=chosen) for model in models], axis=0)

    return Cox.of(risk, seen)


PENALTIES = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


def ridge_path(seen: Cohort, penalties: Sequence[float]) -> list[Callable[[Cohort], np.ndarray]]:
    """Risks under each penalty, as functions of any patients."""
    tables = list(seen.tables)
    scaler = Standardizer().fit(seen.select(tables))

    def inputs(cohort: Cohort) -> dict:
        return CohortDataset(scaler.transform(cohort.select(tables)), torch.float64).batch().inputs

    def risk(cohort: Cohort, model: LinearCox) -> np.ndarray:
        with torch.no_grad():
            return model(inputs(cohort))[:, 0].numpy()

    known, time, event = inputs(seen), torch.tensor(seen.target.time), torch.tensor(seen.target.event)
    widths = {name: seen.widths[name] for name in tables}
    models = [LinearCox(widths).double().fit(known, time, event, penalty=penalty) for penalty in penalties]
    return [partial(risk, model=model) for model in models]


def ridge(seen: Cohort, seed: int = 0) -> Cox:
    """Ridge Cox, each table scaled so that all share the penalty alike, and the penalty by inner cross-validation."""

    def risks(train: Cohort, test: Cohort, penalties: Sequence[float]) -> list[np.ndarray]:
        return [risk(test) for risk in ridge_path(train, penalties)]

    return Cox.of(ridge_path(seen, [best(PENALTIES, risks, seen, seed)])[0], seen)


def clinical_cox(seen: Cohort, seed: int = 0) -> Cox:
    """Ridge Cox of the clinical table alone."""
    model = ridge(seen.select(["clinical"]), seed)
    return Cox(lambda cohort: model.predict(cohort.select(["clinical"])), model.baseline)


@dataclass(frozen=True)
class Forest:
    """A random survival forest with the columns it takes."""

    model: RandomSurvivalForest
    columns: SideBySide

    def predict(self, cohort: Cohort) -> np.ndarray:
        """(n,) risks."""
        return self.model.predict(self.columns(cohort))

    def survival(self, cohort: Cohort, times: Sequence[float]) -> np.ndarray:
        """(n, t) probabilities of surviving beyond the times."""
        curves = self.model.predict_survival_function(self.columns(cohort), return_array=True)
        last = np.searchsorted(self.model.unique_times_, times, side="right")
        return np.concatenate((np.ones((len(curves), 1)), curves), axis=1)[:, last]


LEAVES = [3, 10, 30]


def grow(seen: Cohort, leaf: float, trees: int, seed: int, cores: int = 1) -> Forest:
    """A forest whose leaves hold so many patients at least."""
    columns = SideBySide(seen)
    model = RandomSurvivalForest(trees, min_samples_leaf=int(leaf), random_state=seed, n_jobs=cores)
    model.fit(columns(seen), seen.target.to_structured())
    # Threads would add the trees up in an order of their own.
    return Forest(model.set_params(n_jobs=1), columns)


def forest(
    seen: Cohort, seed: int = 0, *, trees: int = 200, leaf: int | None = None, cores: int = 1
) -> Forest:
    """Random survival forest with the size of its leaves by inner cross-validation, or as given."""

    def risks(train: Cohort, test: Cohort, leaves: Sequence[float]) -> list[np.ndarray]:
        return [grow(train, size, max(1, trees // 4), seed).predict(test) for size in leaves]

    chosen = best(LEAVES, risks, seen, seed, 3) if leaf is None else leaf
    return grow(seen, chosen, trees, seed, cores)
