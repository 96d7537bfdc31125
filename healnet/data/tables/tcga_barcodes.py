"""TCGA's barcodes of samples, aliquots and slides to patients: `tcga_patients` and `tcga_slides`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, overload

import pandas as pd

from healnet.data.checks import shorten
from healnet.slides.slide_files import slide_name

__all__ = ["slide_kinds", "tcga_patients", "tcga_slides"]

# Tumors, the primary one first: primary solid, of blood (peripheral, marrow), further primary, recurrent, metastatic.
_TUMORS = ("01", "03", "09", "05", "02", "40", "04", "06", "07")
_BARCODE = re.compile(r"(TCGA-[0-9A-Z]{2}-[0-9A-Z]{4})(?:-(\d{2})([A-Z]?)(-.+)?)?")

# Patient, sample type, vial, portion, and the kind of slide with its number: TCGA-OR-A5J1-01Z-00-DX1.
_SLIDE = re.compile(
    r"(TCGA-[0-9A-Z]{2}-[0-9A-Z]{4})-(\d{2})[A-Z]?-[0-9A-Z]{2}-(DX|TS|BS|MS)([0-9A-Z]*)(?:\..*)?"
)


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


def tcga_slides(
    slides: Iterable[str | Path],
    *,
    sample_types: Sequence[str] = ("01",),
    kinds: Sequence[str] = ("DX",),
    which: Literal["all", "one", "largest"] = "all",
) -> dict[str, tuple[str, ...]]:
    """Slides by patient, by TCGA's names: diagnostic slides of primary tumors by default.

    For `Cohort.with_patches(folder, slides=tcga_slides)`, or with other choices
    ``slides=functools.partial(tcga_slides, sample_types=["06"])``.

    Args:
        slides: Names or files of slides or of their features, as ``TCGA-OR-A5J1-01Z-00-DX1.<uuid>.svs``.
        sample_types: Two-digit codes of samples: 01 is the primary tumor, 06 a metastasis (most of TCGA-SKCM), 11 normal
            tissue.
        kinds: Kinds of slides: DX is diagnostic (formalin-fixed), TS, MS and BS are frozen sections from the top, middle and
            bottom.
        which: Slides of a patient who has several: "all"; "one", the first by the order of `sample_types`, of `kinds` and of
            names; or "largest", by the size of the file, for which `slides` must be paths.

    Returns:
        Patient -> names without folder and suffix, sorted; patients without such a slide are left out.

    Raises:
        ValueError: A name that is no slide's of TCGA, no slide of the wanted kinds, "largest" of names that are no files.

    Example:
        >>> names = ["TCGA-AA-0001-01Z-00-DX1", "TCGA-AA-0001-01A-01-TS1", "TCGA-AA-0001-11A-01-TS1"]
        >>> tcga_slides(names)
        {'TCGA-AA-0001': ('TCGA-AA-0001-01Z-00-DX1',)}
    """
    if which not in ("all", "one", "largest"):
        raise ValueError(f"expected which to be 'all', 'one' or 'largest', got {which!r}")
    found: dict[str, list[tuple[int, int, str, Path]]] = {}
    given = [Path(slide) for slide in slides]
    for path in given:
        patient, sample, kind = _parts(path.name)
        if sample in sample_types and kind in kinds:
            rank = (sample_types.index(sample), kinds.index(kind), _name(path), path)
            found.setdefault(patient, []).append(rank)
    if given and not found:
        raise ValueError(
            f"none of {len(given)} slides, such as {_name(given[0])!r}, is a slide {' or '.join(kinds)} of a sample "
            f"{' or '.join(sample_types)}"
        )
    chosen: dict[str, tuple[str, ...]] = {}
    for patient, every in sorted(found.items()):
        if which == "largest":
            absent = [path for *_, path in every if not path.is_file()]
            if absent:
                raise ValueError(
                    f"expected files of which to take the largest, got {str(absent[0])!r}, which is none"
                )
            every = [max(every, key=lambda slide: (slide[3].stat().st_size, slide[2]))]
        elif which == "one":
            every = [min(every)]
        chosen[patient] = tuple(sorted({name for _, _, name, _ in every}))
    return chosen


def slide_kinds(slides: Iterable[str]) -> dict[str, list[str]]:
    """Slides of TCGA by what they show: "tumor" or "normal tissue", and "diagnostic" or "frozen"; others are left out."""
    kinds: dict[str, list[str]] = {}
    for slide in slides:
        match = _SLIDE.fullmatch(slide.upper())
        if match:
            kinds.setdefault(
                "normal tissue" if match[2] in ("10", "11", "12", "13", "14") else "tumor", []
            ).append(slide)
            kinds.setdefault("diagnostic" if match[3] == "DX" else "frozen", []).append(slide)
    return kinds


def _parts(name: str) -> tuple[str, str, str]:
    match = _SLIDE.fullmatch(name.upper())
    if match is None:
        raise ValueError(f"expected a slide of TCGA such as 'TCGA-OR-A5J1-01Z-00-DX1', got {name!r}")
    return match[1], match[2], match[3]


def _name(path: Path) -> str:
    """Name of the slide, with its UUID and without the suffix of the file."""
    return path.name[: -len(path.suffix)] if path.suffix in (".h5", ".pt") else slide_name(path.name)
