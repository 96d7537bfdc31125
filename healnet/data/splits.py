"""Published cross-validation splits, as MCAT (patients) and CLAM (slides) write them: `read_splits`."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from healnet._files import shown
from healnet.data.checks import shorten
from healnet.data.cohort import Cohort
from healnet.data.tables.text_table import open_text_table
from healnet.slides.slide_files import slide_name

__all__ = ["Split", "read_splits"]

log = logging.getLogger(__name__)

# CLAM writes splits_0_bool.csv and splits_0_descriptor.csv beside splits_0.csv; only the last is one.
_NAME = re.compile(r"splits_(\d+)\.csv")
_FLOAT = re.compile(r"\d+\.0")
_SIDES = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """One fold: ids to train, to validate and to test on. `cohort[cohort.locate(split.train)]` are the patients.

    Attributes:
        fold: Number in the file's name.
        train: Ids to train on.
        val: Ids to validate on. MCAT's splits have no test set; there this is the fold to report.
        test: Ids to test on; empty in MCAT's splits.
        unknown: Ids of the file that the cohort does not have; left out of the three above.
        path: The file.
    """

    fold: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    unknown: tuple[str, ...]
    path: Path

    @property
    def held_out(self) -> tuple[str, ...]:
        """The ids to report: `test`, or `val` where the split has no test set."""
        return self.test or self.val


def read_splits(folder: str | Path, cohort: Cohort | None = None) -> list[Split]:
    """The splits of a folder, in the order of their numbers: `splits_0.csv`, `splits_1.csv`, ...

    Args:
        folder: Folder with `splits_<i>.csv`, with columns `train`, `val` and perhaps `test`, padded with empty cells.
        cohort: Cohort of the patients. Slide ids (CLAM's layout) become patient ids, ids that the cohort does not
            have are counted, logged and left out, and no patient may be on two sides. Without it ids stay as they are.

    Raises:
        ValueError: No splits in the folder; a file that cannot be read, lacks a column or has an empty side; an id that
            is listed twice; a patient on two sides, if only by two of their slides; a side none of whose ids the cohort has.
            The message names the file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{shown(folder)}: expected a folder of splits, and there is none")
    found = sorted(
        (int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))
    )
    if not found:
        raise ValueError(f"{shown(folder)}: expected splits_0.csv, splits_1.csv, ..., found none")
    return [_read_split(fold, path, cohort) for fold, path in found]


def _read_split(fold: int, path: Path, cohort: Cohort | None) -> Split:
    table = open_text_table(path)
    absent = [side for side in _SIDES[:2] if side not in table.header]
    if absent:
        raise ValueError(f"{shown(path)}: no column {shorten(absent)}; it has {shorten(table.header)}")
    columns, _ = table.read([side for side in _SIDES if side in table.header], [])
    listed = {side: _ids(columns.get(side, [])) for side in _SIDES}
    for side in ("train", "val"):
        if not listed[side]:
            raise ValueError(f"{shown(path)}: the column {side!r} has no ids")
    _check_apart(path, listed)
    unknown: list[str] = []
    if cohort is not None:
        owner = _owners(cohort)
        unknown = [name for names in listed.values() for name in names if slide_name(name) not in owner]
        for side, names in listed.items():
            if names and all(slide_name(name) not in owner for name in names):
                raise ValueError(
                    f"{shown(path)}: none of the {len(names)} ids in {side!r}, such as {names[0]!r}, is in the cohort"
                )
        if unknown:
            total = sum(map(len, listed.values()))
            log.warning(
                "%s: %d of %d ids are not in the cohort: %s",
                shown(path),
                len(unknown),
                total,
                shorten(unknown),
            )
        # Slides of one patient on one side are one patient.
        patients = {
            side: [owner[slide_name(name)] for name in names if slide_name(name) in owner]
            for side, names in listed.items()
        }
        listed = {side: list(dict.fromkeys(names)) for side, names in patients.items()}
        _check_apart(path, listed)
    sides = [tuple(listed[side]) for side in _SIDES]
    return Split(fold, sides[0], sides[1], sides[2], tuple(unknown), path)


def _ids(column: list[str | None]) -> list[str]:
    names = [name.strip() for name in column if name is not None and name.strip()]
    # Whole numbers that pandas wrote beside a longer column, whose padding made them floats.
    floats = all(_FLOAT.fullmatch(name) for name in names)
    return [name.removesuffix(".0") for name in names] if floats else names


def _owners(cohort: Cohort) -> dict[str, str]:
    """Patient of every id a split may use: their own, and those of their slides."""
    owner = {slide_name(name): patient for patient, names in cohort.slides.items() for name in names}
    return owner | {patient: patient for patient in cohort.patients}


def _check_apart(path: Path, listed: dict[str, list[str]]) -> None:
    seen: dict[str, str] = {}
    for side, names in listed.items():
        for name in names:
            if name in seen:
                where = (
                    f"on both sides, in {seen[name]!r} and {side!r}"
                    if seen[name] != side
                    else f"twice in {side!r}"
                )
                raise ValueError(f"{shown(path)}: {name!r} is {where}")
            seen[name] = side
