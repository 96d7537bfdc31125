"""One model of all cancers, alone and averaged with each cancer's own.

    python examples/pan_cancer.py --tables tcga --splits tcga/splits --output pan_cancer

A folder of cohorts holds `tcga_NAME_all_clean.csv.zip`, one of splits `tcga_NAME`; fold i of all cohorts together is fold i
of each. The cohorts are joined: the union of their features, masked where a cohort does not have them, each cohort's columns
standardized by itself, patients compared within their cohort (strata). `results.csv` has Harrell's C of

- healnet: the cohort's own model, the recipe of `tcga.py`;
- healnet pan-cancer: HEALNet for all, the mean of one that sees all tables and one of clinical columns and RNA alone;
- linear Cox pan-cancer: a linear model for all with a ridge penalty, the mean of the same two;
- healnet averaged: the mean of these three;
- healnet transfer, with `--transfer`: HEALNet trained on the other cancers alone, all tables.

Risks are averaged in units of the training patients' spread, and so are survival curves, each from Breslow's baseline of
the cohort's training patients: `risks.csv` has both, for `compare.py --risks`. It goes on where its output folder stands.
"""

import argparse
import sys
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import jobs
import numpy as np
import pandas as pd
from scoring import predictions
from tcga import RECIPE

from healnet.baselines import LinearCox
from healnet.data import Cohort, CohortDataset, Standardizer, join_cohorts, read_omics, read_splits
from healnet.survival import BreslowBaseline, concordance
from healnet.training import Recipe, TrainedModel, fit_ensemble

OWN, PAN, LINEAR, AVERAGED, TRANSFER = (
    "healnet",
    "healnet pan-cancer",
    "linear Cox pan-cancer",
    "healnet averaged",
    "healnet transfer",
)
PARTS = (OWN, PAN, LINEAR)
# Tables that the cohorts share; names of copy numbers and mutations mostly differ.
NARROW = ("clinical", "rna")
ALL = "all"  # the cohort of jobs that concern every cohort
PAN_RECIPE = replace(
    RECIPE,
    members=4,
    batch_size=256,
    learning_rate=2e-3,
    strata="cohort",
    standardize="mean",  # each cohort's columns have become normal scores before
)


@dataclass(frozen=True)
class Plan:
    """Settings that results depend on."""

    tables: Path
    splits: Path
    names: tuple[str, ...]
    clinical: tuple[str, ...]
    recipe: Recipe
    pan_recipe: Recipe
    seed: int


def table_of(plan: Plan, name: str) -> Path:
    """The file of a cohort."""
    return plan.tables / f"tcga_{name}_all_clean.csv.zip"


@cache
def load(plan: Plan, name: str) -> tuple[Cohort, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """A cohort and the (train, test) positions of its folds."""
    cohort = read_omics(table_of(plan, name), clinical=list(plan.clinical), missing_outcome="drop")
    splits = read_splits(plan.splits / f"tcga_{name}", cohort)
    return cohort, {s.fold: (cohort.locate(s.train), cohort.locate(s.held_out)) for s in splits}


def rows_of(
    plan: Plan, name: str, fold: int, model: str, members: list[np.ndarray], *, curves: bool = True
) -> list[dict]:
    """Mean risk and mean survival of held-out patients, from members' log hazards of all patients of the cohort.

    Risks are in units of the spread of the training patients' risks. Without `curves` no outcome is looked at.
    """
    cohort, folds = load(plan, name)
    train, test = folds[fold]

    def survival(times: np.ndarray) -> np.ndarray:
        if not curves:
            return np.full((len(test), len(times)), np.nan)
        seen = cohort.target[train]
        fitted = [(BreslowBaseline.fit(each[train], seen), each[test]) for each in members]
        return np.mean([baseline.survival(each, times).numpy() for baseline, each in fitted], axis=0)

    risk = np.mean([standardized(each, train) for each in members], axis=0)
    table = predictions(standardized(risk, train)[test], survival, cohort[train], cohort[test])
    return table.assign(cohort=name, fold=fold, model=model).to_dict("records")


def standardized(risk: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Risks in units of the training patients' spread."""
    return (risk - risk[train].mean()) / (risk[train].std() or 1.0)


def log_hazards(model: TrainedModel, cohort: Cohort) -> list[np.ndarray]:
    """(n,) of each member, in float64."""
    return [output[:, 0].numpy() for output in model.outputs(cohort)]


def own(plan: Plan, name: str, fold: int) -> list[dict]:
    """The cohort's own ensemble."""
    cohort, folds = load(plan, name)
    ensemble = fit_ensemble(cohort[folds[fold][0]], plan.recipe, plan.seed * len(folds) + fold)
    return rows_of(plan, name, fold, OWN, log_hazards(ensemble, cohort))


def joined(cohorts: dict[str, Cohort]) -> Cohort:
    """All cohorts as one; their names are a label, not an input."""
    return join_cohorts(cohorts, time_unit="months", label="cohort")


def pan(plan: Plan, fold: int) -> list[dict]:
    """HEALNet and linear models of the training patients of all cohorts that have this fold."""
    loaded = {name: load(plan, name) for name in plan.names}
    loaded = {name: (cohort, folds[fold]) for name, (cohort, folds) in loaded.items() if fold in folds}
    scaled = {
        name: Standardizer("rank", PAN_RECIPE.clip).fit(cohort[train]).transform(cohort)
        for name, (cohort, (train, _)) in loaded.items()
    }
    everybody = joined(scaled)
    starts = dict(zip(scaled, np.cumsum([0, *map(len, scaled.values())])[:-1], strict=True))
    train = np.concatenate([starts[name] + loaded[name][1][0] for name in scaled])
    narrow = [table for table in NARROW if table in everybody.modalities]
    members: dict[str, list[np.ndarray]] = {PAN: [], LINEAR: []}
    for tables in [list(everybody.modalities)] + [narrow] * (0 < len(narrow) < len(everybody.modalities)):
        part = everybody.select(tables)
        seen, inputs = part[train], CohortDataset(part).batch().inputs
        horizon = plan.pan_recipe.horizon
        ended = seen if horizon is None else seen.with_target(seen.target.censored_at(horizon))
        batch = CohortDataset(ended).batch()
        strata = batch.labels["cohort"]
        linear = LinearCox(seen.widths).fit(batch.inputs, batch.time, batch.event, strata=strata)
        ensemble = fit_ensemble(seen, plan.pan_recipe, plan.seed * 1000 + fold)
        members[PAN] += log_hazards(ensemble, part)
        members[LINEAR].append(linear(inputs).detach().squeeze(1).double().numpy())
    rows = []
    for model, found in members.items():
        for name, (cohort, _) in loaded.items():
            patients = slice(starts[name], starts[name] + len(cohort))
            rows += rows_of(plan, name, fold, model, [everyone[patients] for everyone in found])
    return rows


def transfer(plan: Plan, name: str) -> list[dict]:
    """A model of all patients of the other cohorts, on this cohort's held-out patients.

    Of this cohort it sees the tables of the fold's training patients, to standardize by, and no outcome.
    """
    cohort, folds = load(plan, name)
    others = {other: load(plan, other)[0] for other in plan.names if other != name}
    scaled = {
        other: Standardizer("rank", PAN_RECIPE.clip).fit(part).transform(part)
        for other, part in others.items()
    }
    everybody = joined(scaled)
    ensemble = fit_ensemble(everybody, plan.pan_recipe, plan.seed)
    rows = []
    for fold, (train, _) in folds.items():
        new = Standardizer("rank", PAN_RECIPE.clip).fit(cohort[train]).transform(cohort)
        # Joined with the others it has their columns, and not those that are its own.
        both = joined({**scaled, name: new})
        known = {table: everybody.table(table).columns for table in everybody.tables}
        kept = both.select(list(everybody.modalities))
        kept = kept.replace({table: kept.table(table)[columns] for table, columns in known.items()})
        found = log_hazards(ensemble, kept[len(everybody) :])
        rows += rows_of(plan, name, fold, TRANSFER, found, curves=False)
    return rows


def run_job(plan: Plan, job: jobs.Job) -> list[dict]:
    """Fit one model, and predict held-out patients."""
    name, fold, model = job
    if model == OWN:
        return own(plan, name, int(fold))
    return transfer(plan, name) if model == TRANSFER else pan(plan, int(fold))


def average(risks: pd.DataFrame) -> pd.DataFrame:
    """Risks and curves with those of `healnet averaged` beside them, where all parts are there."""
    parts = risks[risks["model"].isin(PARTS)].groupby(["cohort", "fold", "patient"])
    mean = parts.mean(numeric_only=True)[parts.size() == len(PARTS)]
    return pd.concat([risks, mean.reset_index().assign(model=AVERAGED)], ignore_index=True)


def score(plan: Plan, risks: pd.DataFrame) -> pd.DataFrame:
    """Harrell's C by cohort, fold and model."""
    rows = []
    for (name, fold, model), part in risks.groupby(["cohort", "fold", "model"]):
        cohort = load(plan, name)[0]
        target = cohort.target[cohort.locate(part["patient"])]
        c = concordance(part["risk"].to_numpy(), target)
        rows.append({"cohort": name, "fold": fold, "model": model, "c_index": c})
    return pd.DataFrame(rows)


def main() -> None:
    """Run what is still to do, then report on all that is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs.add_arguments(parser)
    parser.add_argument("--tables", type=Path, required=True, help="folder of cohorts")
    parser.add_argument("--splits", type=Path, required=True, help="folder of folders of splits")
    parser.add_argument("--clinical", default="age,is_female", help="clinical columns; default: %(default)s")
    parser.add_argument("--transfer", action="store_true", help="also leave out each cancer in turn")
    args = parser.parse_args()

    files = sorted(args.tables.glob("tcga_*_all_clean.csv.zip"))
    names = tuple(path.name.removeprefix("tcga_").removesuffix("_all_clean.csv.zip") for path in files)
    if len(names) < 2:
        parser.error(f"{args.tables}: expected two or more tcga_NAME_all_clean.csv.zip, found {len(names)}")
    recipe, pan_recipe = RECIPE, PAN_RECIPE
    if args.quick:
        recipe, pan_recipe = (replace(one, members=1, epochs=2) for one in (recipe, pan_recipe))
    clinical = tuple(args.clinical.split(","))
    plan = Plan(args.tables, args.splits, names, clinical, recipe, pan_recipe, args.seed)
    jobs.check_settings(args.output, asdict(plan))
    folds = {name: [split.fold for split in read_splits(args.splits / f"tcga_{name}")] for name in names}
    todo: list[jobs.Job] = [(ALL, str(fold), PAN) for fold in sorted(set().union(*folds.values()))]
    todo += [(name, str(fold), OWN) for name in names for fold in folds[name]]
    todo += [(name, ALL, TRANSFER) for name in names if args.transfer]
    risks = jobs.run(todo, partial(run_job, plan), args.output, args.workers, args.shard)
    if not len(risks):
        sys.exit("no fold is finished yet")
    risks = average(risks)
    results = score(plan, risks)
    jobs.write(args.output / "risks.csv", risks.to_csv(index=False))
    jobs.write(args.output / "results.csv", results.to_csv(index=False))
    table = results.groupby(["cohort", "model"])["c_index"].mean().unstack()
    table.loc["mean"] = table.mean()
    print(f"\nHarrell's C of held-out patients\n\n{table.to_string(float_format='{:.3f}'.format)}")


if __name__ == "__main__":
    main()
