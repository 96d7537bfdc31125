"""TCGA's barcodes of samples and aliquots to patients: `tcga_patients`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, overload

import pandas as pd

from healnet.data.checks import shorten

__all__ = ["tcga_patients"]

# Tumors, the primary one first: primary solid, of blood (peripheral, marrow), further primary, recurrent, metastatic.
_TUMORS = ("01", "03", "09", "05", "02", "40", "04", "06", "07")
_BARCODE = re.compile(r"(TCGA-[0-9A-Z]{2}-[0-9A-Z]{4})(?:-(\d{2})([A-Z]?)(-.+)?)?")


@overload
def tcga_patients(
    source: pd.DataFrame, *, sample_types: Sequence[str] = ..., aliquot: Literal["last", "first"] = ...
) -> pd.DataFrame: ...


@overload
def tcga_patients(
    source: Iterable[str], *, sample_types: Sequence[str] = ..., aliquot: Literal["last", "first"] = ...
) -> dict[str, str]: ...


def tcga_patients(
    source: pd.DataFrame | Iterable[str],
    *,
    sample_types: Sequence[str] = _TUMORS,
    aliquot: Literal["last", "first"] = "last",
) -> pd.DataFrame | dict[str, str]:
    """One sample per patient: `TCGA-OR-A5J1` for `TCGA-OR-A5J1-01A-11R-A29S-07`.

    Of a patient's samples the first type in `sample_types` is taken; of those of one type the first vial, and of one
    vial's aliquots the last by portion, analyte and plate (later plates repeat runs that failed; Broad's GDAC breaks
    ties so), or the first. Barcodes may be written with dots and in lower case, as R and file names do.

    Args:
        source: A table indexed by barcodes, or the barcodes alone.
        sample_types: Two-digit codes that are wanted, the most wanted first; by default tumors, the primary one first.
            Others are left out: normal tissue has 10 to 14. A barcode of a patient, without a sample, is always taken.
        aliquot: Aliquot to take of several, "last" or "first".

    Returns:
        The table with one row per patient, or patient -> chosen barcode, in the order of the patients' first samples.

    Raises:
        ValueError: An id that is no barcode of TCGA, two equal ones, no sample of a type that is wanted.

    Example:
        >>> tcga_patients(["TCGA-OR-A5J1-11A", "TCGA-OR-A5J1-01A", "TCGA-OR-A5J2-06A"])
        {'TCGA-OR-A5J1': 'TCGA-OR-A5J1-01A', 'TCGA-OR-A5J2': 'TCGA-OR-A5J2-06A'}
    """
    if aliquot not in ("last", "first"):
        raise ValueError(f"expected aliquot 'last' or 'first', got {aliquot!r}")
    barcodes = [str(name) for name in (source.index if isinstance(source, pd.DataFrame) else source)]
    index = pd.Index(barcodes)
    if index.has_duplicates:
        raise ValueError(f"barcode {shorten(index[index.duplicated()].unique())} occurs more than once")
    samples: dict[str, list[tuple[int, str, str, str]]] = {}
    for barcode in barcodes:
        match = _BARCODE.fullmatch(barcode.strip().replace(".", "-").upper())
        if match is None:
            raise ValueError(f"expected a barcode of TCGA such as 'TCGA-OR-A5J1-01A', got {barcode!r}")
        patient, kind, vial, rest = match.groups()
        if kind is None or kind in sample_types:
            rank = -1 if kind is None else sample_types.index(kind)
            samples.setdefault(patient, []).append((rank, vial or "", rest or "", barcode))
    if barcodes and not samples:
        raise ValueError(f"none of {len(barcodes)} barcodes is of a sample type in {', '.join(sample_types)}")
    chosen: dict[str, str] = {}
    for patient, candidates in samples.items():
        best = min(candidates)[:2]
        same = sorted(candidate for candidate in candidates if candidate[:2] == best)
        chosen[patient] = same[-1 if aliquot == "last" else 0][3]
    if not isinstance(source, pd.DataFrame):
        return chosen
    rows = index.get_indexer(pd.Index(list(chosen.values())))
    return source.iloc[rows].set_axis(pd.Index(list(chosen), dtype=object, name="patient"), axis=0)
