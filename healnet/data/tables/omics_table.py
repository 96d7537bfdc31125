"""Tables of clinical and omic data with survival, as MCAT, PORPOISE and SurvPath publish them: `read_omics`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healnet._files import shown
from healnet.data.checks import shorten
from healnet.data.cohort import Cohort
from healnet.data.outcome_columns import is_outcome_name
from healnet.data.tables.parquet_table import open_table
from healnet.data.tables.text_table import MAX_BYTES
from healnet.slides.slide_files import slide_name
from healnet.survival.target import SurvivalTarget

__all__ = ["SUFFIXES", "read_omics"]

log = logging.getLogger(__name__)

SUFFIXES = {"_rnaseq": "rna", "_cnv": "cnv", "_mut": "mutations"}


def read_omics(
    path: str | Path,
    *,
    suffixes: Mapping[str, str] | None = None,
    clinical: Sequence[str] = ("age", "is_female"),
    patient: str = "case_id",
    slide: str | None = "slide_id",
    time: str = "survival_months",
    censorship: str = "censorship",
    missing_outcome: Literal["raise", "drop"] = "raise",
    max_bytes: int = MAX_BYTES,
) -> Cohort:
    """A cohort from one table with a row per slide or per patient.

    Columns are found by name. Inputs are those that end in one of `suffixes` (their names without it) and those named in
    `clinical`; nothing else. Rows of one patient become one, and must agree in everything that is read; a cell that only
    one of them has is taken from there. The time keeps its unit (MCAT: months).

    Args:
        path: A `.csv` file, a zip archive of one, its gzip, or `.parquet`, told apart by content.
        suffixes: Name of the modality by suffix; by default `_rnaseq` -> "rna", `_cnv` -> "cnv", `_mut` -> "mutations". A
            suffix that no column has gives no modality.
        clinical: Columns of the modality "clinical", in this order; none for no such modality. A table of outcomes and
            slides alone is a cohort to which `Cohort.with_patches` adds the slides.
        patient: Column of patient ids.
        slide: Column of slide ids, kept for `Cohort.with_patches`; None, or a column that is not there, for tables
            without slides.
        time: Column of follow-up times.
        censorship: Column with 1 = the event was *not* seen, 0 = it was.
        missing_outcome: Treatment of patients without time or censorship: "raise" refuses them, "drop" leaves them out and
            logs it.
        max_bytes: Limit of the unpacked text.

    Returns:
        The patients in the order of their first rows. `Cohort.summary` tells how many cells are missing.

    Raises:
        FileNotFoundError: No such file.
        ImportError: A parquet file without pyarrow.
        ValueError: A file that cannot be read whole; columns that are absent, not numeric, or outcomes named as
            inputs; rows of one patient that differ; a slide of two patients; outcomes that cannot be. The message names
            the file.
    """
    path = Path(path)
    if missing_outcome not in ("raise", "drop"):
        raise ValueError(f"expected missing_outcome to be 'raise' or 'drop', got {missing_outcome!r}")
    slides_alone = suffixes is None
    suffixes = SUFFIXES if suffixes is None else suffixes
    clinical = [clinical] if isinstance(clinical, str) else list(clinical)
    outcome = [time, censorship]
    table = open_table(path, max_bytes)
    _need_columns(path, table.header, [patient, *outcome, *clinical], suffixes)
    columns = _inputs(
        path,
        table.header,
        suffixes,
        clinical,
        [patient, slide, *outcome],
        slides_alone and slide in table.header,
    )
    wanted = list(dict.fromkeys([*outcome, *(column for chosen in columns.values() for column in chosen)]))
    slide = slide if slide in table.header else None
    text, numbers = table.read([patient] if slide is None else [patient, slide], wanted)
    ids = _ids(path, text[patient], patient)
    slides = {} if slide is None else _slides(path, ids, text[slide])
    index, numbers = _one_row_each(path, wanted, numbers, ids)
    place = {column: at for at, column in enumerate(wanted)}
    follow_up = numbers[:, [place[time], place[censorship]]]
    known = np.asarray(~np.isnan(follow_up).any(axis=1))
    if not known.all():
        if missing_outcome == "raise":
            raise ValueError(
                f"{shown(path)}: patient {shorten(index[~known])} has no {time!r} or no {censorship!r}; "
                'missing_outcome="drop" leaves such patients out'
            )
        log.warning("%s: %d patients have no outcome and are left out", shown(path), int((~known).sum()))
        index, numbers, follow_up = index[known], numbers[known], follow_up[known]
    try:
        target = SurvivalTarget.from_censorship(*follow_up.T)
        tables = {
            name: pd.DataFrame(
                numbers[:, [place[column] for column in chosen]], index=index, columns=list(chosen.values())
            )
            for name, chosen in columns.items()
        }
        cohort = Cohort(tables, target, index, slides=slides)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error
    _log_gaps(path, cohort)
    return cohort


def _need_columns(path: Path, header: list[str], names: list[str], suffixes: Mapping[str, str]) -> None:
    absent = [name for name in names if name not in header]
    if absent:
        others = [name for name in header if name and not name.endswith(tuple(suffixes))]
        raise ValueError(
            f"{shown(path)}: no column {shorten(absent)}; beside the omics it has {shorten(others, 20)}"
        )


def _inputs(
    path: Path,
    columns: list[str],
    suffixes: Mapping[str, str],
    clinical: Sequence[str],
    reserved: list[str | None],
    none_is_right: bool,
) -> dict[str, dict[str, str]]:
    """Modality -> {column: feature}, without any that would give the answer away."""
    chosen: dict[str, dict[str, str]] = {}
    if clinical:
        chosen["clinical"] = {name: name for name in clinical}
    for suffix, name in suffixes.items():
        found = {column: column.removesuffix(suffix) for column in columns if column.endswith(suffix)}
        if found:
            chosen[name] = chosen.get(name, {}) | found
    if not chosen and not none_is_right:
        raise ValueError(
            f"{shown(path)}: no column ends in {shorten(suffixes)}, and no clinical column is named"
        )
    for name, features in chosen.items():
        for column in features:
            named_so = column == "train" or is_outcome_name(column)
            if column in reserved or (name == "clinical" and named_so):
                raise ValueError(
                    f"{shown(path)}: column {column!r} is an outcome, an id or a split, not an input (modality {name!r})"
                )
    return chosen


def _ids(path: Path, cells: list[str | None], patient: str) -> list[str]:
    names = ["" if cell is None else cell.strip() for cell in cells]
    if "" in names:
        raise ValueError(f"{shown(path)}: row {names.index('') + 1} has no {patient!r}")
    slides = [name for name in dict.fromkeys(names) if slide_name(name) != name]
    if slides:
        raise ValueError(f"{shown(path)}: expected patients in {patient!r}, got the slide {slides[0]!r}")
    return names


def _slides(path: Path, ids: list[str], cells: list[str | None]) -> dict[str, tuple[str, ...]]:
    owner: dict[str, str] = {}
    slides: dict[str, list[str]] = {}
    for patient, cell in zip(ids, cells, strict=True):
        if cell is None or not cell.strip():
            continue
        name = cell.strip()
        if owner.setdefault(name, patient) != patient:
            raise ValueError(
                f"{shown(path)}: the slide {name!r} belongs to patient {owner[name]!r} and to {patient!r}; "
                "are the columns of patients and slides exchanged?"
            )
        if name not in slides.setdefault(patient, []):
            slides[patient].append(name)
    return {patient: tuple(names) for patient, names in slides.items()}


def _one_row_each(
    path: Path, columns: list[str], numbers: NDArray[np.float64], ids: list[str]
) -> tuple[pd.Index, NDArray[np.float64]]:
    """One row per patient, in the order of their first rows; a cell that only another of their rows has is taken."""
    codes, names = pd.factorize(np.array(ids, dtype=object))
    index = pd.Index(names, dtype=object, name="patient")
    if len(index) == len(numbers):
        return index, numbers
    first = np.unique(codes, return_index=True)[1]
    kept = numbers[first]
    differ: dict[int, tuple[int, int]] = {}
    for row in np.setdiff1d(np.arange(len(numbers)), first):
        values, own = numbers[row], kept[codes[row]]  # a view: filling it fills the patient's row
        np.copyto(own, values, where=np.isnan(own))
        wrong = np.flatnonzero(~np.isnan(values) & (values != own))
        if len(wrong):
            differ.setdefault(int(codes[row]), (int(row), int(wrong[0])))
    if differ:
        patient, (row, column) = next(iter(differ.items()))
        raise ValueError(
            f"{shown(path)}: the rows of patient {names[patient]!r} differ in column {columns[column]!r}: "
            f"{kept[patient, column]:g} and {numbers[row, column]:g} ({len(differ)} patients have such rows)"
        )
    return index, kept


def _log_gaps(path: Path, cohort: Cohort) -> None:
    absent = cohort.missing().sum()
    for name in cohort.tables:
        cells = int(cohort.table(name).isna().to_numpy().sum()) - int(absent[name]) * cohort.widths[name]
        if cells or absent[name]:
            log.info(
                "%s: %s: %d cells missing, %d patients absent", shown(path), name, cells, int(absent[name])
            )
