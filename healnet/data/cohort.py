"""Patients, what was measured of each, and what became of them: `Cohort`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healnet.data.folds import stratified_folds, stratified_holdout
from healnet.data.tables import check_ids, check_table, shorten
from healnet.survival.target import SurvivalTarget

__all__ = ["Cohort"]

Index = NDArray[np.intp]


class Cohort:
    """Named modalities of n patients with their survival, joined by patient id. Immutable.

    A modality is a table (a DataFrame indexed by patient id, one numeric column per feature). It may lack patients: they
    are *absent* there, and so is a patient whose row is all NaN. A NaN in a row that is otherwise filled is a *missing
    cell*. The patients' order is that of `patients`, in every modality, whatever the order of its rows.

    Indexing gives the cohort of those patients (slice, integer array, bool mask, one integer); `select` that of those
    modalities. Nothing is copied back: tables handed out are read-only.

    Args:
        modalities: name -> table. Rows are found by id; ids are compared as strings.
        target: follow-up of the patients, in the order of `patients`.
        patients: (n,) unique ids.
        unknown: what to do with rows of patients who are not in `patients` (no outcome, so no use in training):
            "raise" refuses them, because they are most often a sign of ids of another kind (slides, aliquots);
            "drop" leaves them out and lists them in `dropped`.

    Raises:
        ValueError: an id that occurs twice (naming the modality), lengths that differ, a column that is not numeric, an
            infinite cell, an unknown patient, a patient without any modality.

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
    """

    def __init__(
        self,
        modalities: Mapping[str, pd.DataFrame],
        target: SurvivalTarget,
        patients: Iterable[str],
        *,
        unknown: Literal["raise", "drop"] = "raise",
    ) -> None:
        index = check_ids(patients, "cohort")
        if len(index) != len(target):
            raise ValueError(f"the cohort has {len(index)} patient ids but {len(target)} survival times")
        if not modalities:
            raise ValueError("a cohort needs at least one modality")
        dropped: dict[str, tuple[str, ...]] = {}
        tables: dict[str, pd.DataFrame] = {}
        for name, table in modalities.items():
            if not isinstance(table, pd.DataFrame):
                raise ValueError(
                    f"modality {name!r}: expected a pandas DataFrame, got {type(table).__name__}"
                )
            checked = check_table(name, table)
            strangers = tuple(checked.index.difference(index, sort=False))
            if strangers and unknown == "raise":
                raise ValueError(
                    f"modality {name!r}: patient {shorten(strangers)} has no survival; "
                    'unknown="drop" leaves such patients out'
                )
            if strangers:
                dropped[name] = strangers
            tables[name] = _frozen(checked.reindex(index))
        self._fill(tables, target, index, dropped)
        nothing = index[self.missing().all(axis=1).to_numpy()]
        if len(nothing):
            raise ValueError(f"patient {shorten(nothing)} has no modality at all; leave such patients out")

    def _fill(
        self,
        tables: dict[str, pd.DataFrame],
        target: SurvivalTarget,
        patients: pd.Index,
        dropped: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._tables = tables
        self._target = target
        self._patients = patients
        self._dropped = dict(dropped)

    @property
    def patients(self) -> pd.Index:
        """(n,) ids, in the order of every table."""
        return self._patients

    @property
    def target(self) -> SurvivalTarget:
        """Follow-up of the n patients."""
        return self._target

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities' names, in the order given."""
        return tuple(self._tables)

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of those modalities that are tables."""
        return tuple(self._tables)

    @property
    def dropped(self) -> dict[str, tuple[str, ...]]:
        """Per modality, the ids that `unknown="drop"` left out."""
        return dict(self._dropped)

    def table(self, name: str) -> pd.DataFrame:
        """One modality's (n, features) table, read-only: a row of NaN where the patient lacks it.

        Raises:
            ValueError: a modality the cohort does not have.
        """
        self._check_names([name])
        return self._tables[name].copy(deep=False)

    def to_frame(self) -> pd.DataFrame:
        """All tables side by side, columns `modality:feature`, NaN where missing.

        What scikit-survival's models take once it is imputed.
        """
        return pd.concat([table.add_prefix(f"{name}:") for name, table in self._tables.items()], axis=1)

    def missing(self) -> pd.DataFrame:
        """Who lacks what: (n, modalities) bool, True where the patient lacks the modality."""
        return pd.DataFrame({name: table.isna().all(axis=1) for name, table in self._tables.items()})

    def complete(self) -> Index:
        """Positions of the patients who have every modality."""
        return np.flatnonzero(~self.missing().any(axis=1).to_numpy())

    def locate(self, patients: Iterable[str]) -> Index:
        """Positions of these patient ids, in the order asked for.

        Raises:
            ValueError: an id the cohort does not have.
        """
        wanted = [str(patient) for patient in patients]
        found = self._patients.get_indexer(pd.Index(wanted, dtype=object))
        unknown = [patient for patient, position in zip(wanted, found, strict=True) if position < 0]
        if unknown:
            raise ValueError(f"patient {shorten(unknown)} is not in the cohort")
        return np.asarray(found, dtype=np.intp)

    def select(self, names: Sequence[str]) -> Cohort:
        """The same patients with these modalities only, in this order.

        Nobody is left out, so that models of different modalities can be compared on the same folds: a patient who has
        none of them gets the model's answer to nothing.

        Raises:
            ValueError: no name, or a modality the cohort does not have.
        """
        names = [names] if isinstance(names, str) else list(names)
        self._check_names(names)
        return self._with({name: self._tables[name] for name in names})

    def replace(self, tables: Mapping[str, pd.DataFrame]) -> Cohort:
        """The same patients with other numbers in some of the tables, as a transform gives them back.

        Raises:
            ValueError: an unknown modality, other patients than the cohort's, or cells the constructor would refuse.
        """
        self._check_names(list(tables))
        changed = dict(self._tables)
        for name, table in tables.items():
            checked = check_table(name, table)
            if not checked.index.equals(self._patients):
                raise ValueError(
                    f"modality {name!r}: the new table must have the cohort's patients, in their order"
                )
            changed[name] = _frozen(checked)
        return self._with(changed)

    def folds(self, n_splits: int = 5, seed: int = 0) -> list[tuple[Index, Index]]:
        """Cross-validation folds of patients, stratified by event: `n_splits` pairs (train, test) of positions."""
        return stratified_folds(self._target.event, n_splits, seed)

    def holdout(self, fraction: float = 0.2, seed: int = 0) -> tuple[Index, Index]:
        """One split stratified by event: positions of the rest and of the `fraction` held out."""
        return stratified_holdout(self._target.event, fraction, seed)

    def __len__(self) -> int:
        return len(self._patients)

    def __getitem__(self, index: Any) -> Cohort:
        positions = np.atleast_1d(np.arange(len(self))[index])
        patients = self._patients[positions]
        if patients.has_duplicates:
            raise ValueError(
                f"patient {shorten(patients[patients.duplicated()].unique())} is asked for more than once"
            )
        tables = {name: _frozen(table.iloc[positions]) for name, table in self._tables.items()}
        part = object.__new__(Cohort)
        part._fill(tables, self._target[positions], patients, {})
        return part

    def __repr__(self) -> str:
        have = (~self.missing()).sum()
        parts = [f"{name} {have[name]}x{table.shape[1]}" for name, table in self._tables.items()]
        return f"Cohort({len(self)} patients, {int(self._target.event.sum())} events, {', '.join(parts)})"

    def _with(self, tables: dict[str, pd.DataFrame]) -> Cohort:
        other = object.__new__(Cohort)
        other._fill(tables, self._target, self._patients, self._dropped)
        return other

    def _check_names(self, names: Sequence[str]) -> None:
        if not names:
            raise ValueError("expected at least one modality")
        for name in names:
            if name not in self._tables:
                raise ValueError(
                    f"unknown modality {name!r}; the cohort has {', '.join(map(repr, self._tables))}"
                )


def _frozen(table: pd.DataFrame) -> pd.DataFrame:
    """The table over memory that cannot be written."""
    values = np.array(table.to_numpy(dtype=np.float64))
    values.flags.writeable = False
    return pd.DataFrame(values, index=table.index, columns=table.columns, copy=False)
