"""Cohorts with different features and modalities as one: `join_cohorts` and `join_splits`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd

from healnet._warnings import warn
from healnet.data.checks import shorten
from healnet.data.cohort import Cohort
from healnet.data.labels import Labels
from healnet.data.modalities.modality import Modality
from healnet.data.modalities.table import Features, Table
from healnet.data.splits import Split
from healnet.survival.target import SurvivalTarget

__all__ = ["join_cohorts", "join_splits"]

_DAYS = {"days": 1.0, "weeks": 7.0, "months": 365.25 / 12, "years": 365.25}


def join_cohorts(
    cohorts: Mapping[str, Cohort],
    *,
    time_unit: str | Mapping[str, str] | None = None,
    label: str = "cohort",
    modality: str | None = None,
) -> Cohort:
    """One cohort of all patients of several, such as all cancers of TCGA.

    Of each table the features of all cohorts are kept, in the order of their first appearance; a feature that a cohort
    does not have is a missing cell of all its patients, and a modality that it does not have is absent. Which cohort a
    patient is from becomes a label of classes, so that it travels with every batch: pass
    `strata=batch.labels["cohort"]` to `cox_nll`, `strata=cohort.label_tensors()["cohort"]` to `balanced_event_sampler`,
    and `within="cohort"` to `Cohort.folds`, which gives every cohort the folds that it has alone. To standardize each
    cohort by itself, transform before joining.

    Args:
        cohorts: Cohorts by name, with outcomes all of them or none. No patient may be in two.
        time_unit: Unit of follow-up, "days", "weeks", "months" or "years": one for all cohorts, or one for each by name;
            times are then converted to the unit of the first cohort. Nothing in a cohort tells months from days, so it
            must be said where there are outcomes.
        label: Name of the label that holds the cohort's name; its classes are in the order of `cohorts`.
        modality: Name of a table of one 0/1 column per cohort to add as the last modality; None for no such input.

    Raises:
        ValueError: No cohorts, a patient of two cohorts, outcomes in some cohorts only, no or another `time_unit`, a name
            that is taken, a modality that is of different kinds, integer labels that a cohort lacks.

    Warns:
        UserWarning: A cohort shares not one feature of a table with the others, as when genes are named otherwise.

    Example:
        >>> def cohort(ids, **genes):
        ...     rna = pd.DataFrame(genes, index=ids)
        ...     return Cohort({"rna": rna}, SurvivalTarget([1.0, 2.0], [True, False]), ids)
        >>> blca = cohort(["a", "b"], TP53=[1.0, 2.0], MYC=[0.0, 1.0])
        >>> brca = cohort(["c", "d"], TP53=[3.0, 4.0], GATA3=[5.0, 6.0])
        >>> both = join_cohorts({"blca": blca, "brca": brca}, time_unit="years")
        >>> both
        Cohort(4 patients, 2 events, label cohort, rna 4x3)
        >>> both.table("rna").loc["c"].tolist(), both.label_tensors()["cohort"].tolist()
        ([3.0, nan, 5.0], [0, 0, 1, 1])
    """
    if not isinstance(cohorts, Mapping):
        raise ValueError(f"expected cohorts by name, as in {{'blca': blca}}, got {type(cohorts).__name__}")
    if not cohorts:
        raise ValueError("expected at least one cohort to join")
    _refuse_shared_patients(cohorts)
    names, parts = [str(name) for name in cohorts], list(cohorts.values())
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"expected cohorts of different names, got {shorten(twice)} more than once")
    sizes = [len(part) for part in parts]
    patients = pd.Index(np.concatenate([part.patients for part in parts]), dtype=object, name="patient")
    labels = Labels.concat([part.labels for part in parts], patients)
    if label in labels.frame:
        raise ValueError(f"the cohorts already have a label {label!r}; pass another label=")
    origin = pd.Categorical.from_codes(
        np.repeat(np.arange(len(names)), sizes), dtype=pd.CategoricalDtype(names)
    )
    modalities: dict[str, Modality] = {}
    for name in dict.fromkeys(chain.from_iterable(part.modalities for part in parts)):
        held = [part.modality(name) if name in part.modalities else len(part) for part in parts]
        first = next(one for one in held if isinstance(one, Modality))
        _warn_about_names(name, names, held)
        modalities[name] = first.concat(name, held, patients)
    if modality is not None:
        if modality in modalities:
            raise ValueError(f"the cohorts already have a modality {modality!r}")
        rows = np.eye(len(names))[origin.codes]
        modalities[modality] = Table.owning(rows, patients, pd.Index(names, dtype=object))
    slides = {patient: ids for part in parts for patient, ids in part.slides.items()}
    labels = Labels(labels.frame.assign(**{label: origin}))
    return Cohort.unchecked(modalities, _target(cohorts, time_unit), patients, labels, slides)


def join_splits(splits: Mapping[str, Sequence[Split]]) -> list[Split]:
    """Each cohort's own folds as folds of the joined cohort: the first of all, the second of all, ...

    Raises:
        ValueError: No splits, or cohorts with different numbers of folds.

    Example:
        >>> from pathlib import Path
        >>> a, b = Split(0, ("a1",), ("a2",), (), (), Path("a.csv")), Split(0, ("b1",), ("b2",), (), (), Path("b.csv"))
        >>> join_splits({"a": [a], "b": [b]})[0].train
        ('a1', 'b1')
    """
    counts = {name: len(folds) for name, folds in splits.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"expected the same number of folds of every cohort, got {counts or 'none'}")
    joined = []
    for folds in zip(*splits.values(), strict=True):
        train, val, test, unknown = (
            tuple(chain.from_iterable(getattr(fold, side) for fold in folds))
            for side in ("train", "val", "test", "unknown")
        )
        joined.append(Split(folds[0].fold, train, val, test, unknown, folds[0].path))
    return joined


def _refuse_shared_patients(cohorts: Mapping[str, Cohort]) -> None:
    owner: dict[str, str] = {}
    for name, cohort in cohorts.items():
        shared = [patient for patient in cohort.patients if patient in owner]
        if shared:
            raise ValueError(
                f"patient {shorten(shared)} of cohort {name!r} is in cohort {owner[shared[0]]!r} too; "
                "ids must differ between the cohorts that are joined"
            )
        owner |= dict.fromkeys(cohort.patients, name)


def _target(
    cohorts: Mapping[str, Cohort], time_unit: str | Mapping[str, str] | None
) -> SurvivalTarget | None:
    known = [name for name, cohort in cohorts.items() if cohort.has_target]
    if not known:
        return None
    if len(known) < len(cohorts):
        without = [name for name in cohorts if name not in known]
        raise ValueError(f"cohort {shorten(without)} has no outcomes, cohort {shorten(known)} has")
    if time_unit is None:
        raise ValueError(
            'expected the unit of follow-up, time_unit="months" or time_unit={name: unit} where cohorts differ, got none'
        )
    units = dict.fromkeys(known, time_unit) if isinstance(time_unit, str) else dict(time_unit)
    if set(units) != set(known) or not set(units.values()) <= set(_DAYS):
        raise ValueError(
            f"expected time_unit as one of {shorten(_DAYS)} for each of {shorten(known)}, got {time_unit}"
        )
    first = _DAYS[units[known[0]]]
    # A factor of exactly 1 where units agree, so that times stay what they were to the last bit.
    times = [cohort.target.time * (_DAYS[units[name]] / first) for name, cohort in cohorts.items()]
    events = [cohort.target.event for cohort in cohorts.values()]
    return SurvivalTarget.unchecked(np.concatenate(times), np.concatenate(events))


def _warn_about_names(name: str, cohorts: list[str], held: Sequence[Modality | int]) -> None:
    columns = {
        cohort: set(table.columns)
        for cohort, table in zip(cohorts, held, strict=True)
        if isinstance(table, Features)
    }
    alone = [
        cohort
        for cohort, own in columns.items()
        if len(columns) > 1
        and own.isdisjoint(chain(*(others for other, others in columns.items() if other != cohort)))
    ]
    if alone:
        warn(
            f"modality {name!r}: no feature of cohort {shorten(alone)}, such as {min(columns[alone[0]])!r}, is in another "
            "cohort; are the features named alike?"
        )
