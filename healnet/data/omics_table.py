"""Tables of clinical and omic data with survival, as MCAT, PORPOISE and SurvPath publish them: `read_omics`."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from healnet._files import need, shown
from healnet.data.checks import shorten
from healnet.data.cohort import Cohort
from healnet.data.csv_file import MAX_BYTES, check_csv, read_csv_bytes
from healnet.data.slide_bags import slide_name
from healnet.survival.target import SurvivalTarget

__all__ = ["SUFFIXES", "read_omics"]

log = logging.getLogger(__name__)

SUFFIXES = {"_rnaseq": "rna", "_cnv": "cnv", "_mut": "mutations"}
# How outcomes, and the split that some releases carry along, are called: never inputs, whoever asks for them.
_OUTCOMES = ("survival", "censorship", "vital_status", "days_to_death", "days_to_last")
_PARQUET = b"PAR1"


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
        path: `.csv`, a zip archive of one, or `.parquet`, told apart by content.
        suffixes: suffix -> name of the modality; by default `_rnaseq` -> "rna", `_cnv` -> "cnv", `_mut` -> "mutations". A
            suffix that no column has gives no modality.
        clinical: columns of the modality "clinical", in this order; none for no such modality.
        patient: column of patient ids.
        slide: column of slide ids, kept for `Cohort.with_patches`; None, or a column that is not there, for tables
            without slides.
        time: column of follow-up times.
        censorship: column with 1 = the event was *not* seen, 0 = it was.
        missing_outcome: patients without time or censorship are refused ("raise"), or left out and logged ("drop").
        max_bytes: limit of the unpacked text.

    Returns:
        The patients in the order of their first rows. `Cohort.summary` tells how many cells are missing.

    Raises:
        FileNotFoundError: no such file.
        ImportError: a parquet file without pyarrow.
        ValueError: a file that cannot be read whole; columns that are absent, not numeric, or outcomes asked for as
            inputs; rows of one patient that differ; a slide of two patients; outcomes that cannot be. The message names
            the file.
    """
    path = Path(path)
    if missing_outcome not in ("raise", "drop"):
        raise ValueError(f"expected missing_outcome to be 'raise' or 'drop', got {missing_outcome!r}")
    suffixes = SUFFIXES if suffixes is None else suffixes
    clinical = [clinical] if isinstance(clinical, str) else list(clinical)
    outcome = [time, censorship]
    keys = [patient] if slide is None else [patient, slide]
    frame = _read(path, keys, max_bytes)
    _need_columns(path, frame, [patient, *outcome, *clinical], suffixes)
    columns = _inputs(path, list(frame.columns), suffixes, clinical, [patient, slide, *outcome])
    ids = _ids(path, frame, patient)
    slides = _slides(path, frame, ids, slide)
    wanted = [*outcome, *dict.fromkeys(column for chosen in columns.values() for column in chosen)]
    numbers = _one_row_each(path, _numbers(path, frame, wanted), ids)
    unknown = numbers.index[numbers[outcome].isna().any(axis=1)]
    if len(unknown):
        if missing_outcome == "raise":
            raise ValueError(
                f"{shown(path)}: patient {shorten(unknown)} has no {time!r} or no {censorship!r}; "
                'missing_outcome="drop" leaves such patients out'
            )
        log.warning("%s: %d patients have no outcome and are left out", shown(path), len(unknown))
        numbers = numbers.drop(index=unknown)
    try:
        target = SurvivalTarget.from_censorship(numbers[time].to_numpy(), numbers[censorship].to_numpy())
        tables = {
            name: numbers[list(chosen)].set_axis(list(chosen.values()), axis=1)
            for name, chosen in columns.items()
        }
        cohort = Cohort(tables, target, numbers.index, slides=slides)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error
    _log_gaps(path, cohort)
    return cohort


def _read(path: Path, keys: list[str], max_bytes: int) -> pd.DataFrame:
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == _PARQUET:
                return _read_parquet(path, max_bytes)
    data = read_csv_bytes(path, max_bytes)
    header = check_csv(path, data)
    try:
        # Ids stay text: 0012 is not 12.
        text = {key: str for key in keys if key in header}
        return pd.read_csv(
            io.BytesIO(data), dtype=text, low_memory=False, encoding="utf-8-sig", index_col=False
        )
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{shown(path)}: expected CSV text, got what pandas cannot parse ({error})"
        ) from error


def _read_parquet(path: Path, max_bytes: int) -> pd.DataFrame:
    parquet = need("pyarrow.parquet", "pyarrow", "reading a parquet table")
    arrow = need("pyarrow", "pyarrow", "reading a parquet table")
    try:
        with parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
            # Dictionaries and runs unpack to far more than the file says, so cells count as well.
            size = max(sum(groups), file.metadata.num_rows * file.metadata.num_columns)
            if size > max_bytes:
                raise ValueError(
                    f"{shown(path)}: expected at most {max_bytes} bytes, got {size}; raise max_bytes"
                )
            table = file.read()
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{shown(path)}: expected a parquet table, got a damaged one ({error})") from error
    names = table.column_names
    if len(set(names)) != len(names):
        raise ValueError(
            f"{shown(path)}: two columns are named {shorten({n for n in names if names.count(n) > 1})}"
        )
    frame: pd.DataFrame = table.to_pandas()
    return frame.reset_index() if any(frame.index.names) else frame


def _need_columns(path: Path, frame: pd.DataFrame, names: list[str], suffixes: Mapping[str, str]) -> None:
    absent = [name for name in names if name not in frame.columns]
    if absent:
        others = [str(name) for name in frame.columns if not str(name).endswith(tuple(suffixes))]
        raise ValueError(
            f"{shown(path)}: no column {shorten(absent)}; beside the omics it has {shorten(others, 20)}"
        )


def _inputs(
    path: Path,
    columns: list[str],
    suffixes: Mapping[str, str],
    clinical: Sequence[str],
    reserved: list[str | None],
) -> dict[str, dict[str, str]]:
    """Modality -> {column: feature}, without any that would give the answer away."""
    chosen: dict[str, dict[str, str]] = {}
    if clinical:
        chosen["clinical"] = {name: name for name in clinical}
    for suffix, name in suffixes.items():
        found = {column: column.removesuffix(suffix) for column in columns if column.endswith(suffix)}
        if found:
            chosen[name] = chosen.get(name, {}) | found
    if not chosen:
        raise ValueError(
            f"{shown(path)}: no column ends in {shorten(suffixes)}, and no clinical column is named"
        )
    for name, features in chosen.items():
        for column in features:
            named_so = column == "train" or any(word in column.lower() for word in _OUTCOMES)
            if column in reserved or (name == "clinical" and named_so):
                raise ValueError(
                    f"{shown(path)}: column {column!r} is an outcome, an id or a split, not an input (modality {name!r})"
                )
    return chosen


def _ids(path: Path, frame: pd.DataFrame, patient: str) -> pd.Series[str]:
    ids = frame[patient]
    empty = np.flatnonzero(ids.isna() | (ids.astype(str).str.strip() == ""))
    if len(empty):
        raise ValueError(f"{shown(path)}: row {empty[0] + 1} has no {patient!r}")
    names = ids.astype(str).str.strip()
    slides = [name for name in names.unique() if slide_name(name) != name]
    if slides:
        raise ValueError(f"{shown(path)}: expected patients in {patient!r}, got the slide {slides[0]!r}")
    return names


def _slides(
    path: Path, frame: pd.DataFrame, ids: pd.Series[str], slide: str | None
) -> dict[str, tuple[str, ...]]:
    if slide is None or slide not in frame.columns:
        return {}
    owner: dict[str, str] = {}
    slides: dict[str, list[str]] = {}
    for patient, name in zip(ids, frame[slide], strict=True):
        if not isinstance(name, str) or not name.strip():
            continue
        name = name.strip()
        if owner.setdefault(name, patient) != patient:
            raise ValueError(
                f"{shown(path)}: the slide {name!r} belongs to patient {owner[name]!r} and to {patient!r}; "
                "are the columns of patients and slides exchanged?"
            )
        if name not in slides.setdefault(patient, []):
            slides[patient].append(name)
    return {patient: tuple(names) for patient, names in slides.items()}


def _numbers(path: Path, frame: pd.DataFrame, wanted: list[str]) -> pd.DataFrame:
    chosen = frame[wanted]
    # Yes and no with gaps between them are objects to pandas.
    objects = chosen.select_dtypes("object")
    gappy = [name for name in objects if objects[name].map(_is_yes_no).all()]
    chosen = chosen.astype(dict.fromkeys(gappy, np.float64))
    for column, dtype in chosen.dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
            values = chosen[column].dropna()
            text = values[pd.to_numeric(values, errors="coerce").isna()]
            got = repr(text.iloc[0]) if len(text) else str(dtype)
            raise ValueError(f"{shown(path)}: expected numbers in column {column!r}, got {got}")
    return chosen.astype(np.float64)


def _is_yes_no(cell: object) -> bool:
    return isinstance(cell, bool) or cell is None or (isinstance(cell, float) and np.isnan(cell))


def _one_row_each(path: Path, numbers: pd.DataFrame, ids: pd.Series[str]) -> pd.DataFrame:
    """One row per patient, in the order of their first rows."""
    codes, names = pd.factorize(ids)
    index = pd.Index(names, dtype=object, name="patient")
    if len(index) == len(numbers):
        return numbers.set_axis(index, axis=0)
    merged = numbers.groupby(codes, sort=True).first()  # the first cell that is not missing
    values, kept = numbers.to_numpy(), merged.to_numpy()[codes]
    differ = np.argwhere(~np.isnan(values) & (values != kept))
    if len(differ):
        row, column = differ[0]
        patients = len(np.unique(codes[differ[:, 0]]))
        raise ValueError(
            f"{shown(path)}: the rows of patient {names[codes[row]]!r} differ in column {numbers.columns[column]!r}: "
            f"{kept[row, column]:g} and {values[row, column]:g} ({patients} patients have such rows)"
        )
    return merged.set_axis(index, axis=0)


def _log_gaps(path: Path, cohort: Cohort) -> None:
    absent = cohort.missing().sum()
    for name in cohort.tables:
        cells = int(cohort.table(name).isna().to_numpy().sum()) - int(absent[name]) * cohort.widths[name]
        if cells or absent[name]:
            log.info(
                "%s: %s: %d cells missing, %d patients absent", shown(path), name, cells, int(absent[name])
            )
