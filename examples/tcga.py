"""The paper's experiment on a TCGA cohort: tables, or tables and slides, in; risks of held-out patients out.

    python examples/tcga.py --table tcga_blca_all_clean.csv.zip --splits splits/tcga_blca --output blca
    python examples/tcga.py --tables tcga --splits tcga/splits --output all_cohorts

The table is MCAT's or PORPOISE's: `--features` adds a folder of CLAM or TRIDENT patch features as one more modality.
`--tables` is a folder of `tcga_NAME_all_clean.csv.zip`, each run into a folder NAME of the output, with `--splits` a folder
of folders `tcga_NAME`; `results.csv` then has all cohorts.

Each finished fold is kept: a run that was stopped, or had `--folds 0,1` only, goes on where it ended.
"""

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from classical import elastic_net, forest
from matplotlib.figure import Figure
from tqdm import tqdm

from healnet.data import Cohort, read_omics, read_splits
from healnet.survival import SurvivalTarget, concordance
from healnet.survival.plots import plot_kaplan_meier
from healnet.training import Recipe, fit_ensemble

# One setting for every cohort, and for compare.py and pan_cancer.py. The horizon is in months, the unit of these tables.
RECIPE = Recipe(
    members=8,
    epochs=8,
    batch_size=64,
    narrow=16,
    max_patches=1024,
    horizon=60.0,
    standardize="rank",
    clip=5.0,
)
MODELS = ("healnet", "elastic-net Cox", "random survival forest")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def healnet(seen: Cohort, new: Cohort, seed: int, report: Callable[[float], None]) -> np.ndarray:
    """Risks of new patients: `healnet/training/loop.py` is the loop."""
    return fit_ensemble(seen, RECIPE, seed, device=DEVICE, progress=report).predict(new).to_numpy()


def baselines(seen: Cohort, new: Cohort, seed: int) -> Iterator[np.ndarray]:
    """Elastic-net Cox at the middle of its path, then a forest."""
    yield elastic_net(seen, middle=True).predict(new)
    yield forest(seen, seed, trees=100, leaf=5, cores=-1).predict(new)


def manifest(args: argparse.Namespace) -> dict:
    """Everything that a run depends on: settings, seed, inputs by hash, versions."""

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    inputs = {path.name: digest(path) for path in [args.table, *sorted(args.splits.glob("splits_*.csv"))]}
    if args.features:  # too large to read twice: names and sizes
        files = sorted(
            (str(p.relative_to(args.features)), p.stat().st_size) for p in args.features.rglob("*.*")
        )
        inputs["features"] = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    packages = ("healnet", "torch", "numpy", "pandas", "scikit-survival")
    versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
    settings = asdict(RECIPE) | {"clinical": args.clinical.split(",")}
    return {"settings": settings, "seed": args.seed, "inputs": inputs, "versions": versions}


def check_manifest(path: Path, current: dict) -> None:
    """Write it, or refuse to mix folds of runs that differ; versions may."""
    text = json.dumps(current, indent=2)
    if path.exists():
        before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
        changed = [key for key in ("settings", "seed", "inputs") if before[key] != now[key]]
        if changed:
            sys.exit(
                f"{path.parent} holds folds of a run with other {' and '.join(changed)}; choose another --output"
            )
    path.write_text(text, encoding="utf-8")


def score(folds: pd.DataFrame) -> pd.DataFrame:
    """One row per fold and model."""
    rows = []
    for fold, part in folds.groupby("fold"):
        target = SurvivalTarget.unchecked(part["time"].to_numpy(), part["event"].to_numpy())
        rows += [
            {"model": model, "repeat": 0, "fold": fold, "c_index": concordance(part[model], target)}
            for model in MODELS
        ]
    return pd.DataFrame(rows)


def draw(folds: pd.DataFrame, path: Path) -> None:
    """Kaplan-Meier curves of the halves of lower and higher out-of-fold risk."""
    target = SurvivalTarget(folds["time"].to_numpy(), folds["event"].to_numpy())
    upper = folds["healnet"].rank(method="first") > (len(folds) + 1) / 2  # halves even where risks are tied
    halves = np.where(upper, "high risk", "low risk")
    figure = Figure(figsize=(7, 5), layout="constrained")
    order = ["low risk", "high risk"]
    plot_kaplan_meier(target, halves, unit="months", order=order, ax=figure.subplots())
    figure.savefig(path, dpi=150)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """The whole file or the old one, never half of it."""
    part = path.with_suffix(".part")
    table.to_csv(part, index=False)
    part.replace(path)


def main() -> None:
    """Run the folds that are still to do, then report on all that are there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = parser.add_mutually_exclusive_group(required=True)
    tables.add_argument("--table", type=Path, help="CSV (zipped or not) or parquet")
    tables.add_argument("--tables", type=Path, help="folder of cohorts")
    parser.add_argument(
        "--splits", type=Path, required=True, help="folder with splits_0.csv, splits_1.csv, ..."
    )
    parser.add_argument("--features", type=Path, help="folder of patch features")
    parser.add_argument("--clinical", default="age,is_female", help="clinical columns; default: %(default)s")
    parser.add_argument("--output", type=Path, required=True, help="folder of results and pictures")
    parser.add_argument("--folds", help="some of them, as in 0,1; default: all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.table:
        run_cohort(parser, args, cohort_name(args.table))
        return
    files = sorted(args.tables.glob("tcga_*_all_clean.csv.zip"))
    if not files:
        parser.error(f"{args.tables}: expected tcga_NAME_all_clean.csv.zip, found none")
    if args.features:
        parser.error("--features goes with --table: each cohort has its own folder of features")
    results = []
    for table in files:
        name = cohort_name(table)
        own = {"table": table, "splits": args.splits / f"tcga_{name}", "output": args.output / name}
        results.append(run_cohort(parser, argparse.Namespace(**{**vars(args), **own}), name))
        write_csv(pd.concat(results), args.output / "results.csv")
    means = pd.concat(results).groupby(["cohort", "model"])["c_index"].mean().unstack()[list(MODELS)]
    means.loc["mean"] = means.mean()
    print(f"\nHarrell's C of held-out patients, by cohort\n\n{means.to_string(float_format='{:.3f}'.format)}")


def cohort_name(table: Path) -> str:
    """NAME of `tcga_NAME_all_clean.csv.zip`; of another file its name up to the first dot."""
    return table.name.split(".")[0].removeprefix("tcga_").removesuffix("_all_clean")


def run_cohort(parser: argparse.ArgumentParser, args: argparse.Namespace, name: str) -> pd.DataFrame:
    """Run a cohort's folds that are still to do; returns its results."""
    cohort = read_omics(args.table, clinical=args.clinical.split(","), missing_outcome="drop")
    if args.features:
        cohort = cohort.with_patches(args.features)
    print(cohort.summary())
    splits = {split.fold: split for split in read_splits(args.splits, cohort)}
    wanted = list(splits) if args.folds is None else [int(fold) for fold in args.folds.split(",")]
    unknown = [fold for fold in wanted if fold not in splits]
    if unknown:
        parser.error(f"--folds {args.folds}: {args.splits} has {list(splits)}, not {unknown}")
    if not args.features:
        torch.set_num_threads(1)  # operations this small only wait for a second thread
    args.output.mkdir(parents=True, exist_ok=True)
    check_manifest(args.output / "manifest.json", manifest(args))

    paths = {fold: args.output / f"fold_{fold}.csv" for fold in splits}
    todo = [fold for fold in wanted if not paths[fold].exists()]
    with tqdm(total=len(todo) * RECIPE.members * RECIPE.epochs, unit="epoch") as bar:
        for fold in todo:
            bar.set_description(f"fold {fold}")

            def report(loss: float) -> None:
                bar.set_postfix(loss=f"{loss:.3f}")
                bar.update()

            seen, new = (cohort[cohort.locate(ids)] for ids in (splits[fold].train, splits[fold].held_out))
            if not seen.target.event.any():
                sys.exit(f"{splits[fold].path}: none of its {len(seen)} training patients had the event")
            seed = args.seed * len(splits) + fold
            risks = [healnet(seen, new, seed, report), *baselines(seen, new, seed)]
            table = pd.DataFrame(
                {"patient": new.patients, "fold": fold, **dict(zip(MODELS, risks, strict=True))}
            )
            write_csv(table.assign(time=new.target.time, event=new.target.event), paths[fold])

    folds = pd.concat([pd.read_csv(path, dtype={"patient": str}) for path in paths.values() if path.exists()])
    results = score(folds).assign(cohort=name)[["cohort", "model", "repeat", "fold", "c_index"]]
    write_csv(results, args.output / "results.csv")
    risks = folds.rename(columns={"healnet": "risk"})[["patient", "fold", "risk", "time", "event"]]
    write_csv(risks, args.output / "risks.csv")
    draw(folds, args.output / "survival_curves.png")
    table = results.pivot(index="fold", columns="model", values="c_index")[list(MODELS)]
    for model in MODELS[1:]:
        table[f"healnet - {model}"] = table["healnet"] - table[model]
    table = pd.concat([table, table.agg(["mean", "std"])])
    print(f"\nHarrell's C of held-out patients of {name}\n\n{table.to_string(float_format='{:.3f}'.format)}")
    return results


if __name__ == "__main__":
    main()
