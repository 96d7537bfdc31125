"""Compare ways to treat missing modalities, as more and more of them are missing: in training, at test, in both.

    python examples/missing.py --dataset mini-acc --output missing
    python examples/missing.py --tables tcga --splits tcga/splits --cohorts blca,brca --output missing

Besides the gaps that a cohort has, each modality is hidden from a share of the patients, drawn modality by modality;
each patient keeps one. The network (but for MultiModN), the loop, folds and what is hidden are the same for all: HEALNet,
which passes over what is missing; HEALNet after zeros, or the training mean, were put in its place; HEALNet trained on
complete patients alone; MultiModN.

Writes `missing.csv`, a row per cohort, fold, way, place and share, and a figure.
"""

import argparse
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path

import compare
import jobs
import numpy as np
import pandas as pd
from contenders import DEEP, build_model
from matplotlib.figure import Figure

from healnet.data import Cohort
from healnet.survival import concordance
from healnet.training import fit_ensemble

SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
PLACES = {"training": "missing in training", "test": "missing at test", "both": "missing in both"}
WAYS = ("healnet", "zeros", "training means", "complete patients", "MultiModN")
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "0.4")  # Okabe and Ito (2008)
FEWEST_EVENTS = 5  # among complete patients, to train on them


def hidden(cohort: Cohort, share: float, seed: int) -> Cohort:
    """The cohort without each modality in that share of its patients; every patient keeps one of those they have."""
    draw = np.random.default_rng(seed)
    has = ~cohort.missing()[list(cohort.tables)].to_numpy()
    order = draw.random(has.shape)  # one draw for all shares: what is missing at 30% is missing at 50% too
    kept = np.where(has, order, -1).argmax(axis=1)
    gone = has & (order < share)
    lost = ~(has & ~gone).any(axis=1)
    gone[lost, kept[lost]] = False
    return cohort.replace(
        {
            name: cohort.table(name).mask(gone[:, [j]].repeat(cohort.widths[name], 1))
            for j, name in enumerate(cohort.tables)
        }
    )


def filled(cohort: Cohort, values: pd.Series | float, name: str) -> pd.DataFrame:
    """A table without gaps."""
    return cohort.table(name).fillna(values).fillna(0)


def prepared(way: str, seen: Cohort, new: list[Cohort]) -> tuple[Cohort, list[Cohort]]:
    """Training and new patients as this way takes them."""
    if way == "complete patients":
        return seen[seen.complete()], new
    if way not in ("zeros", "training means"):
        return seen, new
    means = {name: seen.table(name).mean() if way == "training means" else 0.0 for name in seen.tables}
    every = [c.replace({name: filled(c, means[name], name) for name in c.tables}) for c in (seen, *new)]
    return every[0], every[1:]


def run_job(plan: compare.Plan, shares: tuple[float, ...], job: jobs.Job) -> list[dict]:
    """Train every way with one share hidden in training; score it where that counts."""
    name, fold, text = job
    cohort, folds = compare.load(plan, name)
    train, test = folds[int(fold)]
    share, seed = float(text), plan.seed * len(folds) + int(fold)
    at_test = shares if share == 0 else (0.0, share)
    seen, new = hidden(cohort[train], share, seed), [hidden(cohort[test], s, seed + 1000) for s in at_test]
    rows = []
    for way in WAYS:
        fitting, scoring = prepared(way, seen, new)
        if int(fitting.target.event.sum()) < FEWEST_EVENTS:
            continue
        model = fit_ensemble(fitting, plan.recipe, seed, build=DEEP.get(way, build_model))
        for tested, patients in zip(at_test, scoring, strict=True):
            with warnings.catch_warnings():
                # Where 0 stands for what is hidden, features are as far from those of training as they are said to be.
                warnings.filterwarnings("ignore", "modality .*(are they in other units|far from those)")
                c = concordance(model.predict(patients), patients.target)
            counts = {"training": tested == 0, "test": share == 0, "both": share == tested}
            rows += [
                {
                    "cohort": name,
                    "fold": int(fold),
                    "way": way,
                    "place": place,
                    "share": max(share, tested),
                    "c_index": c,
                }
                for place in PLACES
                if counts[place]
            ]
    return rows


def draw(results: pd.DataFrame, path: Path) -> None:
    """A panel per cohort and place: C against the share, mean and standard error over folds."""
    cohorts, shares = list(dict.fromkeys(results["cohort"])), sorted(set(results["share"]))
    figure = Figure(figsize=(9.5, 0.9 + 2.7 * len(cohorts)), layout="constrained")
    panels = figure.subplots(len(cohorts), len(PLACES), sharey="row", squeeze=False)
    for cohort, row in zip(cohorts, panels, strict=True):
        for place, axes in zip(PLACES, row, strict=True):
            part = results[(results["cohort"] == cohort) & (results["place"] == place)]
            for way, color in zip(WAYS, COLORS, strict=True):
                values = part[part["way"] == way].groupby("share")["c_index"].agg(["mean", "sem"])
                ours = way == WAYS[0]
                mean, error = values["mean"], values["sem"].fillna(0)
                axes.plot(
                    mean, color=color, marker="o", markersize=3, linewidth=2.2 if ours else 1.2, label=way
                )
                if ours:
                    axes.fill_between(
                        mean.index, mean - error, mean + error, color=color, alpha=0.15, linewidth=0
                    )
            axes.axhline(0.5, color="0.7", linewidth=0.8, linestyle="--", zorder=0)
            axes.set_xticks(shares, [f"{100 * share:.0f}" for share in shares])
            axes.spines[["top", "right"]].set_visible(False)
            if cohort == cohorts[0]:
                axes.set_title(PLACES[place], fontsize="medium")
        row[0].set_ylabel(f"{cohort}\nHarrell's C")
    figure.supxlabel("Share of patients from whom each modality is hidden (%)", fontsize="medium")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(WAYS), frameon=False)
    for suffix in (".png", ".pdf"):
        figure.savefig(path.with_suffix(suffix), dpi=200)


def main() -> None:
    """Run what is still to do, then report on all that is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs.add_arguments(parser)
    compare.add_cohorts(parser)
    args = parser.parse_args()
    plan, folds = compare.read_plan(parser, args)
    shares = (0.0, 0.5, 0.9) if args.quick else SHARES
    jobs.check_settings(args.output, asdict(plan) | {"shares": shares})
    todo = [
        (name, str(fold), str(share)) for name, found in folds.items() for fold in found for share in shares
    ]
    results = jobs.run(todo, partial(run_job, plan, shares), args.output, args.workers, args.shard)
    if not len(results):
        return
    jobs.write(args.output / "missing.csv", results.to_csv(index=False))
    draw(results, args.output / "missing")
    table = results.pivot_table(
        index=["cohort", "place", "way"], columns="share", values="c_index", sort=False
    )
    print("\nHarrell's C, mean over folds, by the share of patients from whom each modality is hidden\n")
    print(table.to_string(float_format="{:.3f}".format, na_rep=""))


if __name__ == "__main__":
    main()
