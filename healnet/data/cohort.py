"""Patients, what was measured of each, what became of them, and what is to be predicted: `Cohort`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from healnet.data.checks import check_ids, check_table, check_target, shorten
from healnet.data.folds import grouped_folds, stratified_folds, stratified_holdout
from healnet.data.id_matching import left_out
from healnet.data.labels import Labels
from healnet.data.missing_codes import warn_of_missing_codes
from healnet.data.modalities.modality import Index, Modality
from healnet.data.modalities.modality_source import Source, as_modality, check_source
from healnet.data.modalities.slide_bags import Bags
from healnet.data.modalities.slide_folder import (
    find_slides,
    list_feature_files,
    slides_of_cohort,
    slides_of_patients,
    warn_of_mixtures,
)
from healnet.data.modalities.table import Features, Table
from healnet.data.outcome_columns import warn_of_outcomes
from healnet.data.patient_positions import indexed_patients, patients_by_id
from healnet.data.summary import Summary, patterns, summarize
from healnet.survival.target import SurvivalTarget

__all__ = ["Cohort"]

log = logging.getLogger(__name__)


class Cohort:
    """Named modalities of n patients with their survival and labels, joined by patient id. Immutable.

    A modality is one of

    - a table: a DataFrame indexed by patient id, one numeric column per feature, or an AnnData, which stays sparse until
      a batch if it is. It may lack patients: they are *absent* there, and so is a patient whose row is all NaN. A NaN in a
      row that is otherwise filled is a *missing cell*.
    - slides: a mapping from patient id to patch files (paths, or what `read_patches` returns), one or several each.
      Files are checked now and read when a batch needs them. A patient whose files have no patches is absent.
    - values of any other kind: a mapping from patient id to an array or tensor, a NamedTuple of tensors
      with a `mask`, or a function without arguments that reads one of these. A patient left out is absent.

    The patients' order is that of `patients` in every modality. Indexing gives the cohort of those patients (slice,
    integer array, bool mask, one integer); `select` that of those modalities. Tables that it returns are read-only.

    Args:
        modalities: Tables or mappings by name, or a MuData. Patients are found by id; ids are compared as strings.
        target: Follow-up of the patients, in the order of `patients`; None for a cohort without outcomes.
        patients: (n,) unique ids; None for those of the target if it knows them (`SurvivalTarget.from_frame`), or, without
            a target, for all patients of the modalities.
        labels: Classes and numbers to predict: a DataFrame indexed by patient id, or name -> Series or mapping by patient
            id, or a sequence in the order of `patients`. Text, bool and categories are classes, numbered in sorted or
            in the categories' own order (`classes`); integers stay as they are; floats are numbers. Patients may lack some.
        unknown: Treatment of patients of a modality or label who are not in `patients`: "raise" refuses them, because
            they are most often a sign of ids of another kind (slides, aliquots); "drop" leaves them out and lists them
            in `dropped`.
        slides: Slide ids by patient, which `with_patches` looks for; readers of tables fill it. With them the modalities may
            be none at first.
        channels_first: Modalities whose arrays are (c, *axes), for encoders built so; others are (*axes, c).

    Raises:
        ValueError: An id that occurs twice (naming the modality), lengths that differ, ids in another order than those of
            the target, a column that is not numeric, an infinite cell, an unknown patient, a modality none of whose patients
            is in the cohort, a patient without any modality, no patient, a file that cannot be used, a target of another
            type.

    Warns:
        UserWarning: Fewer than half of the patients who could be found in a modality are, with `unknown="drop"`; a column of
            a table that is the follow-up time or the event itself, from 20 patients on; a column with a number that
            may stand for "not known", such as -999.

    Example:
        >>> rna = pd.DataFrame({"TP53": [0.5, 1.5], "MYC": [2.0, None]}, index=["p1", "p3"])
        >>> age = pd.DataFrame({"age": [61, 47, 70]}, index=["p1", "p2", "p3"])
        >>> target = SurvivalTarget([5.0, 3.0, 8.0], [True, False, True])
        >>> cohort = Cohort({"clinical": age, "rna": rna}, target, ["p1", "p2", "p3"])
        >>> cohort
        Cohort(3 patients, 2 events, clinical 3x1, rna 2x2)
        >>> cohort.missing()["rna"].tolist()
        [False, True, False]
        >>> cohort[cohort.complete()].patients.tolist()
        ['p1', 'p3']
        >>> Cohort({"rna": rna}, labels={"grade": {"p1": "low", "p3": "high"}})
        Cohort(2 patients, label grade, rna 2x2)
    """

    def __init__(
        self,
        modalities: Mapping[str, pd.DataFrame | Mapping[str, Any]],
        target: SurvivalTarget | None = None,
        patients: Iterable[str] | None = None,
        *,
        labels: pd.DataFrame | Mapping[str, Any] | None = None,
        unknown: Literal["raise", "drop"] = "raise",
        slides: Mapping[str, Sequence[str]] | None = None,
        channels_first: Sequence[str] = (),
    ) -> None:
        if unknown not in ("raise", "drop"):
            raise ValueError(f"expected unknown to be 'raise' or 'drop', got {unknown!r}")
        given = type(modalities).__name__
        modalities = getattr(modalities, "mod", modalities)  # MuData's modalities
        if not isinstance(modalities, Mapping):
            raise ValueError(f'expected modalities by name, as {{"rna": table}}, got {given}')
        if not modalities and not slides:
            raise ValueError("expected at least one modality, got none")
        if isinstance(patients, str | pd.DataFrame):
            raise ValueError(f"expected patients as a sequence of ids, got {type(patients).__name__}")
        sources = {name: check_source(name, source) for name, source in modalities.items()}
        if patients is None and target is None:
            patients = dict.fromkeys(chain.from_iterable(source.ids for source in sources.values()))
        elif patients is None:
            patients = getattr(target, "patients", None)
            if patients is None:
                raise ValueError("expected the ids of the patients beside the target, in its order")
        index = check_ids(patients, "cohort")
        if not len(index):
            raise ValueError("expected at least one patient, got none")
        self._patients = index
        self._target = _of_patients(target, index)
        self._slides: dict[str, Sequence[str]] = dict(slides or {})
        self._dropped: dict[str, tuple[str, ...]] = {}
        self._modalities: dict[str, Modality] = {}
        for name, source in sources.items():
            self._modalities[name], strangers = _matched(name, source, index, unknown, name in channels_first)
            if strangers:
                self._dropped[name] = strangers
        self._labels = Labels.of({} if labels is None else labels, index, unknown)
        nothing = index[self.missing().all(axis=1).to_numpy()]
        if len(nothing) and modalities:  # slides alone come with `with_patches`
            raise ValueError(f"patient {shorten(nothing)} has no modality at all; leave such patients out")
        warn_of_outcomes(self._modalities, target, self._labels)
        warn_of_missing_codes(self._modalities)

    @classmethod
    def unchecked(
        cls,
        modalities: dict[str, Modality],
        target: SurvivalTarget | None,
        patients: pd.Index,
        labels: Labels,
        slides: dict[str, tuple[str, ...]],
    ) -> Cohort:
        """Build a cohort from parts known to be right and in the patients' order, as those of other cohorts are."""
        cohort = object.__new__(cls)
        known = _of_patients(target, patients)
        parts = {"modalities": modalities, "target": known, "patients": patients, "labels": labels}
        return cohort._with(**parts, slides=slides, dropped={})

    @property
    def patients(self) -> pd.Index:
        """(n,) ids, in the order of every modality."""
        return self._patients

    @property
    def target(self) -> SurvivalTarget:
        """Follow-up of the n patients, whose ids it knows (`SurvivalTarget.patients`).

        Raises:
            ValueError: A cohort without outcomes; `has_target` tells.
        """
        if self._target is None:
            raise ValueError("the cohort has no outcomes; it was built without a target")
        return self._target

    @property
    def has_target(self) -> bool:
        """True if follow-up is known."""
        return self._target is not None

    @property
    def labels(self) -> pd.DataFrame:
        """(n, labels) classes (as categories), integers and floats; a copy."""
        return self._labels.frame.copy()

    @property
    def classes(self) -> dict[str, tuple[Any, ...]]:
        """The classes of each label that has any, in the order of their numbers in a batch."""
        return self._labels.classes

    def label_tensors(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Label -> (n,) as a batch carries it: int64 for classes (-100 = unknown) and integers, `dtype` for floats."""
        return self._labels.tensors(dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """(patients, modalities): with it scikit-learn's splitters index a cohort."""
        return len(self), len(self._modalities)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities' names, in the order given."""
        return tuple(self._modalities)

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of those modalities that are tables."""
        return tuple(name for name, modality in self._modalities.items() if isinstance(modality, Features))

    @property
    def widths(self) -> dict[str, int]:
        """Features per patient of each table, and per patch of slides: what encoders are built with."""
        return {name: m.width for name, m in self._modalities.items() if m.width is not None}

    @property
    def slides(self) -> dict[str, tuple[str, ...]]:
        """Slide ids of each patient, where a reader found them."""
        return {patient: tuple(self._slides.get(patient, ())) for patient in self._patients}

    @property
    def dropped(self) -> dict[str, tuple[str, ...]]:
        """Per modality, the ids that `unknown="drop"` left out."""
        return dict(self._dropped)

    def modality(self, name: str) -> Modality:
        """Return a modality as the cohort holds it: a `Table`, `Bags` or `Values`.

        Raises:
            ValueError: A modality the cohort does not have.
        """
        self._check_names([name])
        return self._modalities[name]

    def table(self, name: str) -> pd.DataFrame:
        """One modality's (n, features) table, read-only: a row of NaN where the patient lacks it.

        Raises:
            ValueError: A modality the cohort does not have, or one that is not a table.
        """
        modality = self.modality(name)
        if not isinstance(modality, Features):
            raise ValueError(
                f"modality {name!r} is not a table; tables are {', '.join(map(repr, self.tables))}"
            )
        return modality.frame

    def to_frame(self) -> pd.DataFrame:
        """All tables side by side, columns `modality:feature`, NaN where missing.

        What scikit-survival's models take once it is imputed.
        """
        frames = [pd.DataFrame(index=self._patients)]
        return pd.concat(frames + [self.table(name).add_prefix(f"{name}:") for name in self.tables], axis=1)

    def files(self, name: str = "slide") -> pd.DataFrame:
        """One row per slide: `patient`, `slide`, `status` ("ok", "empty", "not found"), `patches`, `footprint`, `path`.

        Raises:
            ValueError: A modality the cohort does not have, or one without files.
        """
        modality = self.modality(name)
        if not isinstance(modality, Bags):
            raise ValueError(f"modality {name!r} has no patch files")
        return modality.report(self._patients)

    def missing(self) -> pd.DataFrame:
        """Return the absent modalities: (n, modalities) bool, True where the patient lacks the modality."""
        columns = {name: modality.missing() for name, modality in self._modalities.items()}
        return pd.DataFrame(columns, index=self._patients)

    def patterns(self) -> pd.DataFrame:
        """Count the patients with each combination of modalities, the most frequent first."""
        return patterns(self.missing())

    def complete(self) -> Index:
        """Positions of the patients who have every modality."""
        return np.flatnonzero(~self.missing().any(axis=1).to_numpy())

    def summary(self) -> Summary:
        """Patients, events, median follow-up, each modality's size and gaps, and who lacks what, as text.

        Example:
            >>> from healnet.datasets import load_mini_acc
            >>> load_mini_acc().select(["clinical", "rna", "protein"]).summary()
            92 patients, 34 events (37%), median follow-up 1857 (reverse Kaplan-Meier)
            <BLANKLINE>
            modality  patients  features  missing cells
            clinical        92         5       6 (1.3%)
            rna             79       198              0
            protein         46        33              0
            <BLANKLINE>
            patients  clinical  rna  protein
                  46         ●    ●        ●
                  33         ●    ●        ·
                  13         ●    ·        ·
        """
        missing = self.missing()
        rows = {}
        for name, modality in self._modalities.items():
            gaps = "-"
            if isinstance(modality, Features):
                cells, total = modality.missing_cells()
                gaps = f"{cells} ({cells / total:.1%})" if cells else "0"
            rows[name] = (int((~missing[name]).sum()), modality.width or "-", gaps)
        table = pd.DataFrame.from_dict(
            rows, orient="index", columns=["patients", "features", "missing cells"]
        )
        return summarize(self._target, self._labels.frame, missing, table.rename_axis("modality"))

    def locate(self, patients: Iterable[str]) -> Index:
        """Positions of these patient ids, in the order given.

        Raises:
            ValueError: An id the cohort does not have.
        """
        return patients_by_id(patients, self._patients)

    def select(self, names: Sequence[str]) -> Cohort:
        """The same patients with these modalities only, in this order.

        No patient is left out, so that models of different modalities can be compared on the same folds: a patient who has
        none of them gets the model's answer to nothing.

        Raises:
            ValueError: No name, or a modality the cohort does not have.
        """
        names = [names] if isinstance(names, str) else list(names)
        self._check_names(names)
        return self._with(modalities={name: self._modalities[name] for name in names})

    def replace(self, tables: Mapping[str, pd.DataFrame | Features]) -> Cohort:
        """The same patients with other numbers in some of the tables, as a transform gives them back.

        Args:
            tables: DataFrames by name, which are checked and copied, or what `modality` returns of tables, taken as it is.

        Raises:
            ValueError: An unknown modality, other patients than the cohort's, or cells the constructor would refuse.
        """
        self._check_names(list(tables))
        changed = dict(self._modalities)
        for name, table in tables.items():
            frame = table if isinstance(table, Features) else check_table(name, table)
            if not (frame.patients if isinstance(frame, Features) else frame.index).equals(self._patients):
                raise ValueError(
                    f"modality {name!r}: the new table must have the cohort's patients, in their order"
                )
            changed[name] = frame if isinstance(frame, Features) else Table.of(frame, self._patients)
        return self._with(modalities=changed)

    def with_target(self, target: SurvivalTarget | None) -> Cohort:
        """The same patients with other outcomes, in their order, or without any.

        Raises:
            ValueError: A target of another type or length, or whose own ids are in another order.
        """
        target = _of_patients(target, self._patients)
        warn_of_outcomes(self._modalities, target)
        return self._with(target=target)

    def with_modality(
        self,
        name: str,
        source: pd.DataFrame | Mapping[str, Any],
        *,
        unknown: Literal["raise", "drop"] = "raise",
        channels_first: bool = False,
    ) -> Cohort:
        """The same patients with one more modality, which comes last: a table or mapping as the constructor takes it.

        Raises:
            ValueError: A name that is taken, or what the constructor would refuse.
        """
        if name in self._modalities:
            raise ValueError(f"the cohort already has a modality {name!r}")
        modality, strangers = _matched(
            name, check_source(name, source), self._patients, unknown, channels_first
        )
        warn_of_outcomes({name: modality}, self._target, self._labels)
        warn_of_missing_codes({name: modality})
        dropped = self._dropped | ({name: strangers} if strangers else {})
        return self._with(modalities={**self._modalities, name: modality}, dropped=dropped)

    def with_patches(
        self,
        folder: str | Path,
        name: str = "slide",
        *,
        patient_of: Callable[[str], str] | None = None,
        slides: Callable[[Sequence[Path]], Mapping[str, Sequence[str]]] | None = None,
    ) -> Cohort:
        """The same patients with the patch files of their slides as one more modality.

        Files are found by the slide ids that a reader put in `slides`, or by `patient_of` or `slides` from the files' names.
        Each is opened and checked, and nothing of it kept. Slides that have no file or no patches are listed by `files`.

        Args:
            folder: Folder of feature files (CLAM, TRIDENT), or CLAM's output folder with `h5_files` and `pt_files` in it; or
                of one vector per slide (TRIDENT's ``slide_features_*``), for `PatchEncoder(dim, positions=False)`.
            name: Name of the new modality, which comes last.
            patient_of: Function from a slide's name to a patient id; files of other patients are left out.
            slides: Function from all files to the slides that are wanted by patient, as `healnet.data.tcga_slides` for TCGA,
                whose folders also hold frozen sections and normal tissue.

        Raises:
            ValueError: A name that is taken, no slide ids and no `patient_of`, no files at all, files that cannot be
                used, that belong to two patients, or that differ in width, encoder or coordinates.

        Warns:
            UserWarning: Fewer than half of the patients or slides are found; slides of TCGA of normal tissue beside tumors,
                or frozen sections beside diagnostic slides.
        """
        folder = Path(folder)
        if name in self._modalities:
            raise ValueError(f"the cohort already has a modality {name!r}")
        wanted: Mapping[str, Sequence[str]] = self.slides
        if patient_of is not None and slides is not None:
            raise ValueError("expected patient_of or slides, got both")
        if patient_of is None and slides is None and not any(wanted.values()):
            raise ValueError(
                "the cohort has no slide ids; pass patient_of to find a patient by a slide's name"
            )
        files = list_feature_files(folder)
        if slides is not None:
            wanted = slides_of_cohort(folder, slides(list(files.values())), list(self._patients))
        elif patient_of is not None:
            wanted = slides_of_cohort(folder, slides_of_patients(files, patient_of), list(self._patients))
        found = find_slides(folder, files, wanted)
        bags = Bags.of(name, found, self._patients)
        report = bags.report(self._patients)
        warn_of_mixtures(name, report["slide"][report["status"] != "not found"])
        status = report["status"].value_counts()
        log.info(
            "modality %r: slides %s", name, ", ".join(f"{count} {kind}" for kind, count in status.items())
        )
        return self._with(modalities={**self._modalities, name: bags})

    def folds(
        self,
        n_splits: int = 5,
        seed: int = 0,
        *,
        stratify: str | Sequence[str] | None = None,
        within: str | None = None,
        groups: str | None = None,
    ) -> list[tuple[Index, Index]]:
        """Cross-validation folds of patients: `n_splits` pairs (train, test) of positions.

        Args:
            n_splits: Number of folds.
            seed: Random seed of the shuffle.
            stratify: "event", a label of classes, or several of these, whose shares are the same in every fold; by
                default the event where outcomes are known, else the label where there is one alone, of classes with a
                patient for every fold.
            within: Label of classes each of which is split by itself. In a joined cohort `within="cohort"` gives every
                cohort the folds that it has alone.
            groups: Label of classes, such as the hospital, none of which is in two test folds: what is learned of one is
                tested on others. Sizes and shares are then as even as the groups allow.

        Raises:
            ValueError: Fewer patients of what is stratified by, or fewer groups, than folds; `within` and `groups` at once.
        """
        strata = self._strata(stratify, n_splits)
        if groups is not None:
            if within is not None:
                raise ValueError("expected within or groups, got both")
            return grouped_folds(strata, self._labels.named(groups), n_splits, seed)
        classes = None if within is None else self._labels.codes(within)
        return stratified_folds(strata, n_splits, seed, classes)

    def holdout(
        self, fraction: float = 0.2, seed: int = 0, *, stratify: str | Sequence[str] | None = None
    ) -> tuple[Index, Index]:
        """One split, stratified as `folds`: positions of the rest and of the `fraction` held out."""
        return stratified_holdout(self._strata(stratify), fraction, seed)

    def __len__(self) -> int:
        return len(self._patients)

    def __getitem__(self, index: Any) -> Cohort:
        positions = indexed_patients(index, self._patients)
        return self._with(
            modalities={name: modality.take(positions) for name, modality in self._modalities.items()},
            target=None if self._target is None else self._target[positions],
            labels=self._labels.take(positions),
            patients=self._patients[positions],
            dropped={},
        )

    def __repr__(self) -> str:
        parts = [f"{len(self)} patients"]
        parts += [] if self._target is None else [f"{int(self._target.event.sum())} events"]
        parts += [f"label {name}" for name in self._labels.frame]
        parts += [f"{name} {modality}" for name, modality in self._modalities.items()]
        return f"Cohort({', '.join(parts)})"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def _with(self, **changes: Any) -> Cohort:
        """The same cohort but for some of its attributes."""
        other = copy.copy(self)
        vars(other).update({f"_{name}": value for name, value in changes.items()})
        return other

    def _strata(self, stratify: str | Sequence[str] | None, least: int = 2) -> NDArray[np.generic]:
        """(n,) what each patient is stratified by, for folds."""
        if stratify is None and self._target is not None:
            return self._target.event
        if stratify is None:
            labels = [str(name) for name in self._labels.frame]
            if len(labels) == 1 and labels[0] in self.classes:
                named = np.array(self._labels.named(labels[0]))
                if np.unique(named, return_counts=True)[1].min() >= least:
                    return named
            return np.zeros(len(self), np.int64)
        names = [stratify] if isinstance(stratify, str) else list(stratify)
        if names == ["event"]:
            return self.target.event
        seen = {"event": np.where(self.target.event, "event", "censored")} if "event" in names else {}
        columns = [seen[name] if name in seen else self._labels.named(name) for name in names]
        return np.array([", ".join(row) for row in zip(*columns, strict=True)])

    def _check_names(self, names: Sequence[str]) -> None:
        if not names:
            raise ValueError("expected at least one modality")
        for name in names:
            if name not in self._modalities:
                raise ValueError(
                    f"unknown modality {name!r}; the cohort has {', '.join(map(repr, self._modalities))}"
                )


def _matched(
    name: str,
    source: Source,
    patients: pd.Index,
    unknown: Literal["raise", "drop"],
    channels_first: bool,
) -> tuple[Modality, tuple[str, ...]]:
    """The modality in the patients' order, and the ids in it that are left out."""
    strangers = left_out(f"modality {name!r}", source.ids, patients, unknown, source.columns)
    if strangers:
        log.info("modality %r: %d patients are not in the cohort", name, len(strangers))
    return as_modality(name, source, patients, channels_first), strangers


def _of_patients(target: SurvivalTarget | None, patients: pd.Index) -> SurvivalTarget | None:
    """The outcomes with the ids of the patients, by which risks of a Series in another order are noticed.

    Raises:
        ValueError: As `check_target`.
    """
    check_target(target, patients)
    return (
        None if target is None else SurvivalTarget.unchecked(target.time, target.event, patients.to_numpy())
    )
