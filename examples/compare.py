"""Every model on the same folds: deep ones through one loop, classical ones at their best.

    python examples/compare.py --dataset mini-acc --output compared
    python examples/compare.py --tables tcga --splits tcga/splits --output compared --workers 8
    python examples/compare.py --tables tcga --splits tcga/splits --output compared --risks pan_cancer/risks.csv \
        --models "healnet averaged,elastic net,random survival forest"

A folder of cohorts holds `tcga_NAME_all_clean.csv.zip`, one of splits `tcga_NAME`, and so does one of patch features.
`results.csv` has a row per cohort, fold and model: Harrell's and Uno's C, integrated Brier score, p of D-calibration,
seconds of processor time. The first model is compared with each other one: over cohorts by Wilcoxon's signed-rank test
(`healnet.survival.compare_cohorts`), over folds by the corrected t-test (`compare_folds`), which over the folds of several
cohorts errs to the side of caution, as those of two cohorts share no patients. Holm's correction is for the number of
models. With n cohorts and k models no corrected p over cohorts is below k / 2^(n-1), so that eleven models need nine
cohorts: name the few that matter in `--models`.

`--risks` adds the models of `pan_cancer.py`: they are not fitted here, but scored by the same code, on the same patients.

It goes on where its output folder stands; `--shard 0/4` does every fourth job, for machines that share the folder.
"""

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import jobs
import numpy as np
import pandas as pd
from classical import clinical_cox, elastic_net, forest, ridge
from contenders import DEEP, fit_deep
from matplotlib.figure import Figure
from mini_acc import DATASETS
from mini_acc import RECIPE as SMALL_RECIPE
from scipy import stats
from scoring import METRICS, predictions, score
from tcga import RECIPE as TCGA_RECIPE

from healnet.data import Cohort, read_omics, read_splits
from healnet.survival import FoldComparison, compare_cohorts, compare_folds
from healnet.training import Recipe

CLASSICAL = {
    "elastic net": elastic_net,
    "bootstrapped elastic nets": elastic_net,
    "table-weighted ridge": ridge,
    "random survival forest": forest,
    "clinical Cox": clinical_cox,
}
MODELS = (*DEEP, *CLASSICAL)
RECIPES = dict.fromkeys(DATASETS, SMALL_RECIPE)
TEST_SHARE = 0.2  # five folds
# Designs around slides. Without any they read the genes of the widest table one by one, slowly: only on request.
SLIDES = ("attention MIL", "MCAT", "MOTCat", "SurvPath")


@dataclass(frozen=True)
class Plan:
    """Settings that results depend on."""

    recipe: Recipe
    budget: int
    seed: int
    dataset: str | None = None
    repeats: int = 1
    tables: Path | None = None
    splits: Path | None = None
    features: Path | None = None
    clinical: tuple[str, ...] = ()


def folds_of(plan: Plan) -> dict[str, list[int]]:
    """The numbers of the folds of each cohort, without reading any table."""
    if plan.dataset:
        return {plan.dataset: list(range(5 * plan.repeats))}
    assert plan.tables is not None
    assert plan.splits is not None
    tables = sorted(plan.tables.glob("tcga_*_all_clean.csv.zip"))
    if not tables:
        sys.exit(f"{plan.tables}: expected tcga_NAME_all_clean.csv.zip, found none")
    names = [path.name.removeprefix("tcga_").removesuffix("_all_clean.csv.zip") for path in tables]
    return {name: [split.fold for split in read_splits(plan.splits / f"tcga_{name}")] for name in names}


@lru_cache(maxsize=2)
def load(plan: Plan, name: str) -> tuple[Cohort, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """A cohort and the (train, test) positions of its folds."""
    if plan.dataset:
        cohort = DATASETS[name]()
        drawn = [fold for repeat in range(plan.repeats) for fold in cohort.folds(5, seed=plan.seed + repeat)]
        return cohort, dict(enumerate(drawn))
    assert plan.tables is not None
    assert plan.splits is not None
    table = plan.tables / f"tcga_{name}_all_clean.csv.zip"
    cohort = read_omics(table, clinical=list(plan.clinical), missing_outcome="drop")
    if plan.features:
        cohort = cohort.with_patches(plan.features / f"tcga_{name}")
    splits = read_splits(plan.splits / f"tcga_{name}", cohort)
    return cohort, {s.fold: (cohort.locate(s.train), cohort.locate(s.held_out)) for s in splits}


def fit(model: str, seen: Cohort, plan: Plan, seed: int):
    """Fit a model to training patients."""
    if model in DEEP:
        return fit_deep(model, seen, plan.recipe, seed, plan.budget)
    members = {"members": plan.recipe.members} if "bootstrapped" in model else {}
    return CLASSICAL[model](seen, seed, **members)


def run_job(plan: Plan, job: jobs.Job) -> list[dict]:
    """Fit and score one model on one fold."""
    name, fold, model = job
    cohort, folds = load(plan, name)
    train, test = folds[int(fold)]
    start = time.process_time()
    fitted = fit(model, cohort[train], plan, plan.seed * len(folds) + int(fold))
    seen, new = cohort[train], cohort[test]
    table = predictions(fitted.predict(new), partial(fitted.survival, new), seen, new)
    row = {"cohort": name, "fold": int(fold), "model": model, **score(table, seen, new)}
    return [row | {"seconds": round(time.process_time() - start, 2)}]


def read_risks(path: Path | None, models: list[str]) -> pd.DataFrame:
    """The rows of these models in a `risks.csv`; none without a file."""
    if path is None:
        return pd.DataFrame(columns=["cohort", "fold", "model", "patient"])
    table = pd.read_csv(path, dtype={"cohort": str, "patient": str})
    return table[table["model"].isin(models)]


def score_risks(plan: Plan, risks: pd.DataFrame, folds: dict[str, list[int]]) -> list[dict]:
    """Score what another script predicted, refusing it where its held-out patients are not those of the folds."""
    rows, parts = [], dict(list(risks.groupby(["model", "cohort", "fold"])))
    for model in risks["model"].unique():
        for name, fold in [(name, fold) for name, found in folds.items() for fold in found]:
            cohort, positions = load(plan, name)
            train, test = positions[fold]
            seen, new = cohort[train], cohort[test]
            part = parts.get((model, name, fold), risks[:0]).set_index("patient")
            if sorted(part.index) != sorted(new.patients):
                sys.exit(
                    f"--risks: expected {model!r} to have predicted the {len(new)} held-out patients of fold {fold} of "
                    f"{name}, got {len(part)} predictions, {part.index.isin(new.patients).sum()} of them of such patients"
                )
            table = part.loc[list(new.patients)].reset_index()
            row = {"cohort": name, "fold": fold, "model": model, **score(table, seen, new)}
            rows.append(row | {"seconds": np.nan})
    return rows


def holm(p: pd.Series) -> pd.Series:
    """Holm's correction: the i-th smallest of k p-values times k - i + 1, and never below a smaller one's."""
    order = p.sort_values()
    return (order * np.arange(len(order), 0, -1)).cummax().clip(upper=1).reindex(p.index)


def against(c: pd.DataFrame, first: str) -> pd.DataFrame:
    """One model less each other: mean difference of C, 95% interval, p and Holm's p; over cohorts, or the folds of one.

    With several cohorts `p_folds` is Holm's p of the test over all their folds.
    """
    rows = {model: compare_folds(c[first], c[model], TEST_SHARE) for model in c.columns.drop(first)}
    folds = pd.DataFrame.from_dict(rows, "index", columns=FoldComparison._fields)
    folds["p_holm"] = holm(folds["p_value"])
    by_cohort = c.groupby("cohort").mean()
    if len(by_cohort) == 1:
        return folds
    table = compare_cohorts(by_cohort, first)
    spread = (-by_cohort.drop(columns=first)).add(by_cohort[first], axis=0).sem()
    half = stats.t.ppf(0.975, len(by_cohort) - 1) * spread
    low, high = table["difference"] - half, table["difference"] + half
    return table.assign(low=low, high=high, p_folds=folds["p_holm"])


def draw(c: pd.DataFrame, first: str, tests: pd.DataFrame, path: Path) -> None:
    """One model less each other: a dot per cohort (or fold), the mean with its interval, mean C and p in figures."""
    by_cohort = c.groupby("cohort").mean()
    single = len(by_cohort) == 1
    values = c if single else by_cohort
    order = by_cohort.mean().sort_values(ascending=False).index
    figure = Figure(figsize=(8.5, 1.2 + 0.34 * len(order)), layout="constrained")
    axes = figure.subplots()
    for row, model in enumerate(order):
        text = f"{by_cohort[model].mean():.3f}"
        if model != first:
            d, t = values[first] - values[model], tests.loc[model]
            axes.plot(d, np.full(len(d), row), ".", color="0.65", markersize=5, zorder=1)
            axes.plot([t["low"], t["high"]], [row, row], color="#0072B2", linewidth=2, solid_capstyle="butt")
            axes.plot(t["difference"], row, "s", color="#0072B2", markersize=6, zorder=3)
            text += "   < 0.001" if t["p_holm"] < 0.001 else f"   {t['p_holm']:.3f}"
        else:
            axes.plot(0, row, "D", color="#D55E00", markersize=7, zorder=3)
        axes.annotate(text, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize="small")
    axes.axvline(0, color="#D55E00", linestyle="--", linewidth=1, zorder=0)
    axes.annotate(
        "C         p (Holm)", (1.02, -0.9), xycoords=("axes fraction", "data"), va="center", fontsize="small"
    )
    axes.set_yticks(range(len(order)), order)
    unit = "folds" if single else "cohorts"
    axes.set(
        ylim=(len(order) - 0.4, -0.6),
        xlabel=f"Harrell's C of {first} less the model's: {len(values)} {unit}, mean and 95% interval",
    )
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    for suffix in (".png", ".pdf"):
        figure.savefig(path.with_suffix(suffix), dpi=200)


def report(results: pd.DataFrame, first: str, output: Path) -> None:
    """Write `results.csv`; print the table and draw the picture of those folds that every model has finished."""
    jobs.write(output / "results.csv", results.to_csv(index=False))
    c = results.pivot(index=["cohort", "fold"], columns="model", values="c_index")
    whole = c.dropna()
    if not len(whole):
        print("no fold is finished by every model yet")
        return
    if len(whole) < len(c):
        print(f"{len(c) - len(whole)} of {len(c)} folds are not finished by every model, and left out below")
    kept = results.set_index(["cohort", "fold"]).loc[whole.index].reset_index()
    means = kept.groupby(["cohort", "model"])[[*METRICS, "d_calibration_p"]].mean().groupby("model").mean()
    table = whole.groupby("cohort").mean().T
    if len(table.columns) > 1:
        table["mean C"] = means["c_index"]
    table["Uno's C"], table["IBS"] = means["uno"], means["ibs"]
    table["D-calibrated"] = kept.assign(ok=kept["d_calibration_p"] > 0.05).groupby("model")["ok"].mean()
    table["seconds"] = kept.groupby("model")["seconds"].mean()
    if first in whole and len(whole.columns) > 1 and len(whole) > 1:
        tests = against(whole, first)
        table = table.join(tests.drop(columns=["low", "high", "wins", "cohorts"], errors="ignore"))
        draw(whole, first, tests, output / "comparison")
    table = table.loc[means["c_index"].sort_values(ascending=False).index]
    cohorts = whole.groupby("cohort").ngroups
    print(f"\nHarrell's C of held-out patients, {len(whole)} folds of {cohorts} cohort(s)\n")
    print(table.to_string(float_format="{:.3f}".format, na_rep=""))


def add_cohorts(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which cohorts and folds."""
    parser.add_argument("--dataset", choices=DATASETS, help="a cohort that comes with the package")
    parser.add_argument(
        "--repeats", type=int, default=3, help="how often a dataset's five folds are drawn anew"
    )
    parser.add_argument("--tables", type=Path, help="folder of cohorts")
    parser.add_argument("--splits", type=Path, help="folder of folders of splits")
    parser.add_argument("--features", type=Path, help="folder of folders tcga_NAME of patch features")
    parser.add_argument("--clinical", default="age,is_female", help="clinical columns; default: %(default)s")
    parser.add_argument("--cohorts", help="some of the folder, as in blca,brca; default: all")
    parser.add_argument("--folds", help="some of them, as in 0,1; default: all")


def read_plan(
    parser: argparse.ArgumentParser, args: argparse.Namespace, budget: int = 1
) -> tuple[Plan, dict[str, list[int]]]:
    """Read the plan from the arguments, and the folds of each cohort to do."""
    if (args.dataset is None) == (args.tables is None) or (args.tables is None) != (args.splits is None):
        parser.error("expected either --dataset, or --tables and --splits")
    plan = Plan(
        RECIPES.get(args.dataset, TCGA_RECIPE),
        budget,
        args.seed,
        args.dataset,
        1 if args.quick or not args.dataset else args.repeats,
        args.tables,
        args.splits,
        args.features,
        tuple(args.clinical.split(",")),
    )
    folds = folds_of(plan)
    if args.cohorts:
        wanted = args.cohorts.split(",")
        if missing := [name for name in wanted if name not in folds]:
            parser.error(f"--cohorts: expected some of {', '.join(folds)}, got {missing[0]!r}")
        folds = {name: folds[name] for name in wanted}
    if args.folds:
        chosen = {int(fold) for fold in args.folds.split(",")}
        folds = {name: [fold for fold in found if fold in chosen] for name, found in folds.items()}
    return plan, folds


def main() -> None:
    """Run what is still to do, then report on all that is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs.add_arguments(parser)
    add_cohorts(parser)
    parser.add_argument(
        "--models",
        help=f"some of: {', '.join(MODELS)}; default: all, or without --features all but {', '.join(SLIDES)}",
    )
    parser.add_argument("--risks", type=Path, help="risks.csv of pan_cancer.py, for its models in --models")
    parser.add_argument(
        "--budget",
        type=int,
        default=3,
        help="training lengths that each deep model may choose from; default: 3",
    )
    args = parser.parse_args()
    if args.models is None:
        models = [model for model in MODELS if args.features or model not in SLIDES]
    else:
        models = args.models.split(",")
    risks = read_risks(args.risks, models)
    known = list(dict.fromkeys([*MODELS, *risks["model"]]))
    unknown = [model for model in models if model not in known]
    if unknown:
        parser.error(f"--models: expected some of {', '.join(known)}, got {unknown[0]!r}")
    if "attention MIL" in models and not args.features:
        parser.error("attention MIL is a model of slides: give their --features")
    plan, folds = read_plan(parser, args, 1 if args.quick else args.budget)
    jobs.check_settings(args.output, asdict(plan))
    # Fold by fold, all models of each: a run that was stopped then has whole folds to compare.
    fitted = [model for model in models if model not in set(risks["model"])]
    todo = [(name, str(fold), model) for name, found in folds.items() for fold in found for model in fitted]
    given = pd.DataFrame(score_risks(plan, risks, folds))
    results = jobs.run(todo, partial(run_job, plan), args.output, args.workers, args.shard)
    if len(results) + len(given):
        report(pd.concat([given, results]), models[0], args.output)


if __name__ == "__main__":
    main()
