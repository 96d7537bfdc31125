"""What a user gives as a modality (a table, files, arrays), checked and put into the patients' order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from healnet.data.checks import check_ids, check_table
from healnet.data.modality import Modality
from healnet.data.slide_bags import Bags
from healnet.data.slide_folder import SlideFile
from healnet.data.table import Table
from healnet.data.values import Values
from healnet.slides.trident_clam_reader import PatchFile

__all__ = ["as_modality", "check_source"]


def check_source(name: str, source: Any) -> tuple[pd.Index, pd.DataFrame | dict[str, Any]]:
    """The ids of a source, and itself by those ids.

    Raises:
        ValueError: ids or cells that `check_ids` and `check_table` refuse, or a source of another type.
    """
    if isinstance(source, pd.DataFrame):
        table = check_table(name, source)
        return table.index, table
    if not isinstance(source, Mapping):
        raise ValueError(
            f"modality {name!r}: expected a pandas DataFrame or a mapping from patient id, got {type(source).__name__}"
        )
    ids = check_ids(source, f"modality {name!r}")
    return ids, dict(zip(ids, source.values(), strict=True))


def as_modality(name: str, source: pd.DataFrame | dict[str, Any], patients: pd.Index) -> Modality:
    """A checked source as a modality of these patients, by what its entries are.

    Raises:
        ValueError: files or values that cannot be used.
    """
    if isinstance(source, pd.DataFrame):
        return Table.of(source, patients)
    kept = {patient: source[patient] for patient in patients if patient in source}
    files = [_is_files(entry) for entry in kept.values() if entry is not None]
    return (Bags if files and all(files) else Values).of(name, kept, patients)


def _is_files(entry: Any) -> bool:
    kinds = str | Path | PatchFile | SlideFile
    return isinstance(entry, kinds) or (
        isinstance(entry, list | tuple) and all(isinstance(e, kinds) for e in entry)
    )
