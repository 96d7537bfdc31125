"""Matrices of features and samples, as Xena, cBioPortal and GDC publish them: `read_matrix`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healnet._files import shown
from healnet.data.checks import shorten
from healnet.data.tables.parquet_table import open_table
from healnet.data.tables.text_table import MAX_BYTES

__all__ = ["read_matrix"]

log = logging.getLogger(__name__)

# Columns beside the samples in cBioPortal's, GISTIC's and GCT's matrices with genes in rows.
_ANNOTATIONS = (
    "Description",
    "Entrez_Gene_Id",
    "Entrez Gene Id",
    "Gene ID",
    "Locus ID",
    "Cytoband",
    "Gene_Symbol",
)


def read_matrix(
    path: str | Path,
    *,
    genes_in_rows: bool,
    duplicates: Literal["raise", "first", "mean"] = "raise",
    names: str | None = None,
    leave_out: Sequence[str] = _ANNOTATIONS,
    max_bytes: int = MAX_BYTES,
) -> pd.DataFrame:
    r"""A matrix of numbers with one row per sample, as a modality of `Cohort` needs it.

    Separated by tabs, commas or semicolons, told by the header; plain, gzip or zip; or parquet. Lines of comments before the
    header, which begin with `#`, are skipped, and so is the line of sizes in a GCT file. Empty cells, NA and NaN are
    missing. Ids of samples stay as they are: `tcga_patients` turns TCGA's barcodes into patients.

    Args:
        path: The file.
        genes_in_rows: Orientation, which files do not say: features in rows and samples in columns (Xena's and cBioPortal's
            molecular data), or samples in rows.
        duplicates: Treatment of features that occur twice, as symbols of genes do in cBioPortal's matrices: "raise"
            refuses them, "first" keeps the first, "mean" averages them without their missing cells.
        names: Column of the features' names (with `genes_in_rows`) or of the samples' ids; the first by default.
        leave_out: Columns that are neither, where there are any; with `genes_in_rows` the other identifiers of genes.
        max_bytes: Limit of the unpacked text.

    Returns:
        (samples, features) float64, in the order of the file. Features without a name are left out and logged.

    Raises:
        FileNotFoundError: No such file.
        ImportError: A parquet file without pyarrow.
        ValueError: A file that cannot be read whole, a cell that is no number, a sample that occurs twice, a feature
            that does with `duplicates="raise"`, no column `names`. The message names the file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "data_mrna_seq_v2_rsem.txt"
        >>> _ = path.write_text(
        ...     "Hugo_Symbol\tEntrez_Gene_Id\tTCGA-OR-A5J1-01\tTCGA-OR-A5J2-01\n"
        ...     "TP53\t7157\t10.5\t3\n"
        ...     "MYC\t4609\t\t8\n"
        ... )
        >>> read_matrix(path, genes_in_rows=True)
                         TP53  MYC
        TCGA-OR-A5J1-01  10.5  NaN
        TCGA-OR-A5J2-01   3.0  8.0
    """
    path = Path(path)
    if duplicates not in ("raise", "first", "mean"):
        raise ValueError(f"expected duplicates to be 'raise', 'first' or 'mean', got {duplicates!r}")
    table = open_table(path, max_bytes, delimiter=None, comment="#")
    names = table.header[0] if names is None else names
    if names not in table.header:
        raise ValueError(f"{shown(path)}: no column {names!r}; it has {shorten(table.header)}")
    columns = [name for name in table.header if name != names and name not in leave_out]
    if not columns:
        raise ValueError(f"{shown(path)}: expected columns of numbers beside {names!r}, got none")
    text, values = table.read([names], columns)
    rows = ["" if name is None else name.strip() for name in text[names]]
    samples, features = (columns, rows) if genes_in_rows else (rows, columns)
    values = values.T if genes_in_rows else values
    _refuse_repeated(path, samples)
    features, values = _one_each(path, features, values, duplicates)
    return pd.DataFrame(
        np.ascontiguousarray(values),
        index=pd.Index(samples, dtype=object),
        columns=pd.Index(features, dtype=object),
    )


def _refuse_repeated(path: Path, samples: list[str]) -> None:
    index = pd.Index(samples)
    if "" in samples:
        raise ValueError(f"{shown(path)}: sample {samples.index('') + 1} of {len(samples)} has no id")
    if index.has_duplicates:
        twice = index[index.duplicated()].unique()
        raise ValueError(f"{shown(path)}: sample {shorten(twice)} occurs more than once")


def _one_each(
    path: Path, features: list[str], values: NDArray[np.float64], duplicates: str
) -> tuple[list[str], NDArray[np.float64]]:
    """Features with a name, each once, in the order of their first appearance."""
    named = np.array([bool(name) for name in features])
    if not named.all():
        log.info("%s: %d features without a name are left out", shown(path), int((~named).sum()))
        features, values = [name for name in features if name], values[:, named]
    codes, unique = pd.factorize(np.array(features, dtype=object))
    if len(unique) == len(features):
        return features, values
    if duplicates == "raise":
        twice = unique[np.bincount(codes) > 1]
        raise ValueError(
            f"{shown(path)}: feature {shorten(twice)} occurs more than once; "
            'duplicates="first" keeps the first, "mean" averages'
        )
    first = np.unique(codes, return_index=True)[1]
    joined = values[:, first].copy()
    if duplicates == "mean":
        for code in np.flatnonzero(np.bincount(codes) > 1):
            same = values[:, codes == code]
            known = (~np.isnan(same)).sum(axis=1)
            total = np.nansum(same, axis=1)
            joined[:, code] = np.where(known > 0, total / np.maximum(known, 1), np.nan)
    return list(unique), joined
