"""Six tables of a real cohort with real gaps: HEALNet fused, HEALNet on each table alone, and two baselines.

    python examples/mini_acc.py --output results

Five-fold cross-validation by patient, repeated over three seeds, Harrell's C on the same test folds for every model.
`--quick` runs one repeat; `--dataset breast-cancer` another cohort. Ctrl-C keeps the folds that were finished.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from classical import elastic_net, forest
from matplotlib.figure import Figure
from tqdm import tqdm

from healnet.data import Cohort
from healnet.datasets import load_breast_cancer, load_mini_acc
from healnet.survival import SurvivalTarget, concordance
from healnet.survival.plots import plot_forest, plot_kaplan_meier
from healnet.training import Recipe, fit_ensemble

DATASETS = {"mini-acc": load_mini_acc, "breast-cancer": load_breast_cancer}
RECIPE = Recipe()  # one setting for every HEALNet below: the defaults, which were chosen for this cohort


def healnet(
    train_cohort: Cohort, test_cohort: Cohort, seed: int, report: Callable[[float], None]
) -> np.ndarray:
    """Test risks of an ensemble: `healnet/training/loop.py` is the loop."""
    return fit_ensemble(train_cohort, RECIPE, seed, progress=report).predict(test_cohort).to_numpy()


def run_fold(
    train_cohort: Cohort, test_cohort: Cohort, seed: int, report: Callable[[float], None]
) -> dict[str, np.ndarray]:
    """Test risks of every model, all trained on the same training patients."""
    fit = partial(healnet, seed=seed, report=report)
    risks = {
        name: fit(train_cohort.select([name]), test_cohort.select([name])) for name in train_cohort.modalities
    }
    risks["fused (complete cases)"] = fit(train_cohort[train_cohort.complete()], test_cohort)
    risks["fused (all patients)"] = fit(train_cohort, test_cohort)
    risks["elastic-net Cox"] = elastic_net(train_cohort, middle=True).predict(test_cohort)
    risks["random survival forest"] = forest(train_cohort, seed, leaf=5).predict(test_cohort)
    return risks


def write_csv(rows: list[dict], path: Path) -> None:
    """The whole file or the old one, never half of it."""
    part = path.with_suffix(".part")
    pd.DataFrame(rows).to_csv(part, index=False)
    part.replace(path)


def draw(results: pd.DataFrame, risk: pd.Series, cohort: Cohort, output: Path) -> None:
    """`forest.png` of the table, `survival_curves.png` of those with an out-of-fold risk."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    plot_forest(results, label="Harrell's C: test folds, mean and standard deviation", ax=figure.subplots())
    figure.savefig(output / "forest.png", dpi=150)
    known = risk.notna().to_numpy()
    target, risk = cohort.target[known], risk[known]
    halves = np.where(risk > risk.median(), "high risk", "low risk")
    figure = Figure(figsize=(7, 5), layout="constrained")
    years = SurvivalTarget(target.time / 365.25, target.event)
    order = ["low risk", "high risk"]
    plot_kaplan_meier(years, halves, unit="years", order=order, ax=figure.subplots())
    figure.savefig(output / "survival_curves.png", dpi=150)


def main() -> None:
    """Run the folds, write results after each, end with the table and the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("mini_acc"), help="folder of results and pictures"
    )
    parser.add_argument("--dataset", choices=DATASETS, default="mini-acc")
    parser.add_argument("--repeats", type=int, default=3, help="how often the five folds are drawn anew")
    parser.add_argument("--quick", action="store_true", help="one repeat")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # operations this small only wait for a second thread

    cohort = DATASETS[args.dataset]()
    repeats = 1 if args.quick else args.repeats
    folds = [(r, f, *split) for r in range(repeats) for f, split in enumerate(cohort.folds(5, seed=r))]
    steps = (len(cohort.modalities) + 2) * RECIPE.members * RECIPE.epochs
    rows: list[dict] = []
    out_of_fold = pd.DataFrame(index=cohort.patients, columns=range(repeats), dtype=float)
    try:
        with tqdm(total=len(folds) * steps, unit="step") as bar:
            for repeat, fold, seen, new in folds:
                bar.set_description(f"repeat {repeat + 1}/{repeats} fold {fold + 1}/5")

                def report(loss: float) -> None:
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                    bar.update()

                risks = run_fold(cohort[seen], cohort[new], 5 * repeat + fold, report)
                out_of_fold.iloc[new, repeat] = risks["fused (all patients)"]
                for model, risk in risks.items():
                    score = concordance(risk, cohort.target[new])
                    rows.append({"model": model, "repeat": repeat, "fold": fold, "c_index": score})
                write_csv(rows, args.output / "results.csv")
    except KeyboardInterrupt:
        tqdm.write("stopped: what follows is of the folds that were finished")
    if not rows:
        return
    results = pd.DataFrame(rows)
    table = results.groupby("model", sort=False)["c_index"].agg(["mean", "std", "count"])
    print(
        f"\nHarrell's C on the same test folds, {args.dataset}\n\n{table.to_string(float_format='{:.3f}'.format)}"
    )
    draw(results, out_of_fold.mean(axis=1), cohort, args.output)


if __name__ == "__main__":
    main()
