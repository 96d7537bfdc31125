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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sksurv.compare import compare_survival
from sksurv.ensemble import RandomSurvivalForest
from sksurv.linear_model import CoxnetSurvivalAnalysis
from sksurv.nonparametric import kaplan_meier_estimator
from tqdm import tqdm

from healnet import HEALNet
from healnet.data import Cohort, CohortDataset, ModalityDropout, Standardizer
from healnet.datasets import load_breast_cancer, load_mini_acc
from healnet.encoders import OmicEncoder
from healnet.survival import concordance, cox_nll

DATASETS = {"mini-acc": load_mini_acc, "breast-cancer": load_breast_cancer}
# One setting for every HEALNet below. Small cohorts want few steps, strong dropout and an average over seeds.
STEPS, LEARNING_RATE, WEIGHT_DECAY, MODALITY_DROPOUT, MEMBERS = 15, 1e-3, 0.3, 0.3, 4


def build(cohort: Cohort) -> HEALNet:
    """Four learned tokens per table, read by 16 latents in two fusion layers, into one log hazard."""
    encoders = {
        name: OmicEncoder(cohort.table(name).shape[1], tokens=4, input_dropout=0.5) for name in cohort.tables
    }
    return HEALNet(encoders, depth=2, num_latents=16, latent_dim=32, num_heads=1, self_attention=0, ff_mult=2)


def train(cohort: Cohort, seed: int, report: Callable[[float], None]) -> HEALNet:
    """A plain training loop. The cohort is one batch, so Cox's risk sets are whole."""
    torch.manual_seed(seed)
    model, hide = build(cohort), ModalityDropout(MODALITY_DROPOUT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    batch = CohortDataset(cohort).batch()
    for _ in range(STEPS):
        loss = cox_nll(model(hide(batch.inputs)), batch.time, batch.event)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        report(loss.item())
    return model.eval()


@torch.no_grad()
def predict(model: HEALNet, cohort: Cohort) -> np.ndarray:
    """Log hazard per patient, whatever each of them lacks."""
    return model(CohortDataset(cohort).batch().inputs).squeeze(1).numpy()


def healnet(
    train_cohort: Cohort, test_cohort: Cohort, seed: int, report: Callable[[float], None]
) -> np.ndarray:
    """Test risks, averaged over members that differ by their seed, in units of the training patients' spread."""
    scaler = Standardizer().fit(train_cohort)
    train_cohort, test_cohort = scaler.transform(train_cohort), scaler.transform(test_cohort)
    risks = []
    for member in range(MEMBERS):
        model = train(train_cohort, seed * MEMBERS + member, report)
        seen = predict(model, train_cohort)
        risks.append((predict(model, test_cohort) - seen.mean()) / seen.std())
    return np.mean(risks, axis=0)


def flat(train_cohort: Cohort, test_cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """All tables side by side, gaps filled with training means, standardised: what the baselines take."""
    seen, new = train_cohort.to_frame(), test_cohort.to_frame()
    seen, new = (frame.fillna(seen.mean()).fillna(0) for frame in (seen, new))
    mean, std = seen.mean(), seen.std(ddof=0).replace(0, 1)
    return ((seen - mean) / std).to_numpy(), ((new - mean) / std).to_numpy()


def elastic_net(train_cohort: Cohort, test_cohort: Cohort) -> np.ndarray:
    """Elastic-net Cox at the middle of its path."""
    seen, new = flat(train_cohort, test_cohort)
    model = CoxnetSurvivalAnalysis(l1_ratio=0.1, n_alphas=30).fit(seen, train_cohort.target.to_structured())
    return model.predict(new, alpha=model.alphas_[len(model.alphas_) // 2])


def forest(train_cohort: Cohort, test_cohort: Cohort, seed: int) -> np.ndarray:
    """Random survival forest."""
    seen, new = flat(train_cohort, test_cohort)
    model = RandomSurvivalForest(n_estimators=200, min_samples_leaf=5, random_state=seed)
    return model.fit(seen, train_cohort.target.to_structured()).predict(new)


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
    risks["elastic-net Cox"] = elastic_net(train_cohort, test_cohort)
    risks["random survival forest"] = forest(train_cohort, test_cohort, seed)
    return risks


def write_csv(rows: list[dict], path: Path) -> None:
    """The whole file or the old one, never half of it."""
    part = path.with_suffix(".part")
    pd.DataFrame(rows).to_csv(part, index=False)
    part.replace(path)


def draw_groups(ax: Axes, table_ax: Axes, risk: pd.Series, cohort: Cohort) -> None:
    """Kaplan-Meier curves of the halves of lower and higher out-of-fold risk, numbers at risk below."""
    target, unit = cohort.target, 365.25
    high = (risk > risk.median()).to_numpy()
    p = compare_survival(target.to_structured(), high)[1]
    ticks = np.arange(0, target.time.max() / unit, 2)
    for row, (label, group, color) in enumerate(
        (("low risk", ~high, "#0072B2"), ("high risk", high, "#D55E00"))
    ):
        part = target[group]
        times, curve, (lower, upper) = kaplan_meier_estimator(part.event, part.time, conf_type="log-log")
        times = np.insert(times, 0, 0) / unit
        curve, lower, upper = (np.insert(values, 0, 1) for values in (curve, lower, upper))
        ax.step(times, curve, where="post", color=color, label=f"{label} ({len(part)} patients)")
        ax.fill_between(times, lower, upper, step="post", color=color, alpha=0.15, linewidth=0)
        for tick in ticks:
            table_ax.text(
                tick, -row, str((part.time >= tick * unit).sum()), ha="center", va="center", color=color
            )
    ax.set(ylabel="surviving", ylim=(0, 1.02), xticks=ticks)
    ax.set_title(f"Halves by out-of-fold risk, log-rank p = {p:.2g}")
    ax.legend(frameon=False, loc="lower left")
    table_ax.set(
        yticks=[0, -1], yticklabels=["low", "high"], ylim=(-1.6, 0.6), xlabel="years (below: numbers at risk)"
    )


def draw_forest(ax: Axes, results: pd.DataFrame) -> None:
    """Every fold as a dot, mean and standard deviation of each model beside it."""
    for row, (model, scores) in enumerate(results.groupby("model", sort=False)["c_index"]):
        fused = model.startswith("fused")
        color = (
            "#D55E00"
            if fused
            else "#666666"
            if model in ("elastic-net Cox", "random survival forest")
            else "#0072B2"
        )
        ax.plot(scores, np.full(len(scores), row), "o", color=color, alpha=0.25, markersize=4)
        ax.errorbar(scores.mean(), row, xerr=scores.std(), fmt="D", color=color, capsize=3)
    names = results["model"].unique()
    ax.set(
        yticks=range(len(names)), yticklabels=names, xlabel="Harrell's C: folds, mean and standard deviation"
    )
    ax.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    ax.invert_yaxis()


def draw(results: pd.DataFrame, risk: pd.Series, cohort: Cohort, output: Path) -> None:
    """`survival_curves.png` of those with an out-of-fold risk, and `forest.png`."""
    known = risk.notna().to_numpy()
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    curves, table = figure.subplots(2, 1, sharex=True, height_ratios=[6, 1])
    draw_groups(curves, table, risk[known], cohort[known])
    figure.savefig(output / "survival_curves.png", dpi=150)
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    draw_forest(figure.subplots(), results)
    figure.savefig(output / "forest.png", dpi=150)


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
    steps = (len(cohort.modalities) + 2) * MEMBERS * STEPS
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
