"""Ids that do not meet the cohort's: refused, or left out, with the likely cause in the message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import pandas as pd

from healnet._warnings import warn
from healnet.data.checks import shorten

__all__ = ["left_out"]


def left_out(
    owner: str,
    ids: pd.Index,
    patients: pd.Index,
    unknown: Literal["raise", "drop"],
    columns: Iterable[str] = (),
) -> tuple[str, ...]:
    """The ids that are not among the patients, once it is plain that they may be left out.

    Args:
        owner: Name of the source, for messages.
        ids: Unique ids of the source's rows.
        patients: Unique ids of the cohort.
        unknown: Treatment of ids that are not the cohort's: "raise" refuses them, "drop" leaves them out.
        columns: Names of the source's columns, which are ids where a table should have been transposed.

    Raises:
        ValueError: No id is the cohort's; or `unknown="raise"` and some are not.

    Warns:
        UserWarning: Fewer than half of the ids that could be the cohort's are (half of the source, or of the cohort where
            that is smaller).
    """
    strangers = ids.difference(patients, sort=False)
    if len(ids) and not len(strangers):
        return ()
    kept = len(ids) - len(strangers)
    cause = _cause(strangers, patients, list(columns), kept)
    if not kept:
        such = f" of its {len(ids)} ids, such as {ids[0]!r}," if len(ids) else ""
        like = f", whose patients are such as {patients[0]!r}" if len(patients) else ""
        raise ValueError(f"{owner}: none{such} is in the cohort{like}{cause}")
    few = 2 * kept < min(len(ids), len(patients))
    if unknown == "raise":
        advice = cause if few or cause else '; unknown="drop" leaves such patients out'
        raise ValueError(f"{owner}: patient {shorten(strangers)} is not in the cohort{advice}")
    if few:
        warn(
            f"{owner}: {kept} of its {len(ids)} ids are in the cohort of {len(patients)} patients, "
            f"{len(strangers)} such as {strangers[0]!r} are left out{cause}"
        )
    return tuple(strangers)


def _cause(strangers: pd.Index, patients: pd.Index, columns: list[str], kept: int) -> str:
    """Return the most likely mistake, as the end of a message; empty where nothing explains most of the ids."""
    rows = _hits(strangers, patients)
    in_columns = max(_hits(columns, patients).values())
    if in_columns > max(kept, *rows.values()):
        return f"; {in_columns} of its columns are patients: patients are in columns, so pass the transpose (table.T)"
    how = max(rows, key=lambda name: rows[name])
    if len(strangers) and not rows[how] and list(strangers) == [str(i) for i in range(len(strangers))]:
        return (
            "; its ids are the numbers of rows: make the column of ids the index (index_col=0, or set_index)"
        )
    return _ADVICE[how] if rows[how] and 2 * rows[how] >= len(strangers) else ""


_ADVICE = {
    "exact": "",
    "zeros": "; they differ from the cohort's ids in zeros in front only: read ids as text (dtype=str)",
    "case": "; they differ from the cohort's ids in upper and lower case only",
    "separators": "; they differ from the cohort's ids in case, separators or spaces only ('.', '_' for '-', as R writes)",
    "barcode": "; they begin with the cohort's ids: sample or aliquot barcodes (tcga_patients picks one each)",
    "shorter": "; the cohort's ids begin with them: are the cohort's ids sample or aliquot barcodes?",
}


def _hits(ids: Iterable[str], patients: pd.Index) -> dict[str, int]:
    """Count the ids that meet a patient, exactly and by each of the usual mistakes."""
    exact = set(patients)
    lower = {name.lower() for name in patients}
    short = {name.lstrip("0") for name in patients}
    plain = {_plain(name) for name in patients}
    beginnings = {start for name in patients for start in _beginnings(name)}
    count = dict.fromkeys(_ADVICE, 0)
    for name in ids:
        count["exact"] += name in exact
        count["zeros"] += name.lstrip("0") in short
        count["case"] += name.lower() in lower
        count["separators"] += _plain(name) in plain
        count["barcode"] += any(_plain(start) in plain for start in _beginnings(name))
        count["shorter"] += name in beginnings
    return count


def _plain(name: str) -> str:
    return re.sub(r"[-._ ]+", "-", name.strip()).lower()


def _beginnings(name: str) -> list[str]:
    """Return the text before each separator: TCGA, TCGA-OR, TCGA-OR-A5J1 of TCGA-OR-A5J1-01A."""
    return [name[: match.start()] for match in re.finditer(r"[-._]", name)]
