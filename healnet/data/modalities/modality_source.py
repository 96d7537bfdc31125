"""Modalities as a user gives them (a table, files, arrays), checked and put into the patients' order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from healnet.data.checks import check_ids, check_table
from healnet.data.modalities.modality import Modality
from healnet.data.modalities.slide_bags import Bags
from healnet.data.modalities.slide_folder import SlideFile
from healnet.data.modalities.sparse_table import SparseTable
from healnet.data.modalities.table import Table
from healnet.data.modalities.values import Values
from healnet.slides.features.trident_clam_reader import PatchFile

__all__ = ["Source", "as_modality", "check_source"]


@dataclass(frozen=True)
class Source:
    """A source with its ids, and the names of its columns where it is a table."""

    ids: pd.Index
    content: Any
    columns: pd.Index | tuple[()] = ()


def check_source(name: str, source: Any) -> Source:
    """Check what a user gives as a modality, and return it by its ids.

    Args:
        name: Name of the modality, for messages.
        source: A DataFrame, an AnnData (`obs_names` are the patients, `X` the numbers, which stay sparse if they are), or a
            mapping from patient id.

    Raises:
        ValueError: Ids or cells that `check_ids` and `check_table` refuse, or a source of another type.
    """
    if hasattr(source, "obs_names") and hasattr(source, "var_names") and hasattr(source, "X"):
        source = source.to_memory() if getattr(source, "isbacked", False) else source
        if not sparse.issparse(source.X):
            source = pd.DataFrame(source.X, index=source.obs_names, columns=source.var_names)
        else:
            edge = check_table(
                name, pd.DataFrame(index=source.obs_names, columns=source.var_names, dtype=np.float64)
            )
            rows = sparse.csr_array(source.X, dtype=np.float64)
            if np.isinf(rows.data).any():
                raise ValueError(f"modality {name!r}: infinite value; missing values are NaN")
            return Source(edge.index, rows, edge.columns)
    if isinstance(source, pd.DataFrame):
        table = check_table(name, source)
        return Source(table.index, table, table.columns)
    if not isinstance(source, Mapping):
        raise ValueError(
            f"modality {name!r}: expected a pandas DataFrame, an AnnData or a mapping from patient id, "
            f"got {type(source).__name__}"
        )
    ids = check_ids(source, f"modality {name!r}")
    return Source(ids, dict(zip(ids, source.values(), strict=True)))


def as_modality(name: str, source: Source, patients: pd.Index, channels_first: bool = False) -> Modality:
    """A checked source as a modality of these patients, by what its entries are.

    Args:
        name: Name of the modality, for messages.
        source: What `check_source` returns.
        patients: Ids of the cohort.
        channels_first: Whether arrays are (c, *axes).

    Raises:
        ValueError: Files or values that cannot be used.
    """
    content = source.content
    if isinstance(content, pd.DataFrame):
        return Table.of(content, patients)
    if sparse.issparse(content):
        return SparseTable.of(content, source.ids, pd.Index(source.columns), patients)
    kept = {patient: content[patient] for patient in patients if patient in content}
    files = [_is_files(entry) for entry in kept.values() if entry is not None]
    if files and all(files):
        return Bags.of(name, kept, patients)
    return Values.of(name, kept, patients, channels_first)


def _is_files(entry: Any) -> bool:
    kinds = str | Path | PatchFile | SlideFile
    return isinstance(entry, kinds) or (
        isinstance(entry, list | tuple) and all(isinstance(e, kinds) for e in entry)
    )
