"""Find the slide files of a run: in folders and their subfolders, and in lists."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

import openslide

from healnet._files import shown
from healnet._warnings import warn
from healnet.slides.ome_zarr import is_ome_zarr, is_zarr

__all__ = [
    "SLIDE_SUFFIXES",
    "UNREAD_SUFFIXES",
    "count_suffixes",
    "find_slide_files",
    "match_slide_mpp",
    "named_slides",
    "read_slide_list",
    "slide_name",
    "slide_stem",
]

# What slide files end in; only these are cut off ids, for the names themselves hold dots (TCGA's UUIDs).
SLIDE_SUFFIXES = (
    ".svs",
    ".tif",
    ".tiff",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".svslide",
    ".vms",
    ".vmu",
    ".bif",
    ".dcm",
    ".czi",
    ".zarr",
)

# Of slides in formats of which no reader is here.
UNREAD_SUFFIXES = (
    ".vsi",
    ".ets",
    ".isyntax",
    ".i2syntax",
    ".kfb",
    ".sdpc",
    ".mds",
    ".tmap",
    ".tron",
    ".lif",
    ".nd2",
    ".zvi",
)


def slide_name(slide: str) -> str:
    """A slide id without the suffix of a slide file.

    Example:
        >>> slide_name("TCGA-2V-A95S-01Z-00-DX1.9DFA6FC7.svs"), slide_name("TCGA-2V-A95S-01Z-00-DX1.9DFA6FC7")
        ('TCGA-2V-A95S-01Z-00-DX1.9DFA6FC7', 'TCGA-2V-A95S-01Z-00-DX1.9DFA6FC7')
    """
    suffix = Path(slide).suffix
    if suffix.lower() not in SLIDE_SUFFIXES:
        return slide
    suffix = slide[-9:] if slide.lower().endswith(".ome.zarr") else suffix
    return slide[: -len(suffix)] or slide


def slide_stem(path: Path) -> str:
    """The name of a slide's file without its last suffix, whatever that is, or of its folder without ``.ome.zarr``."""
    return slide_name(path.name) if path.suffix.lower() == ".zarr" else path.stem


def find_slide_files(folder: Path) -> list[Path]:
    """The files below a folder that look like slides, in order: by their suffix, or because OpenSlide recognizes them.

    An OME-Zarr folder is one slide, also where it is the given one. A damaged or unreadable slide with a slide's suffix is
    among them, so that a run reports it. Of a DICOM slide, whose files share a folder, the first is taken. Hidden files and
    folders are left out.

    Warns:
        UserWarning: Files of formats of slides that cannot be read, by their suffixes.
    """
    if is_zarr(folder):
        return [folder] if is_ome_zarr(folder) else []
    found: list[Path] = []
    every: list[str] = []
    for name, folders, files in os.walk(folder):
        place = Path(name)
        folders[:] = [one for one in folders if not one.startswith(".")]
        stores = [one for one in folders if is_zarr(place / one)]
        found += [place / one for one in stores if is_ome_zarr(place / one)]
        folders[:] = [one for one in folders if one not in stores]  # each may hold 100,000 files
        paths = [place / file for file in sorted(files) if not file.startswith(".")]
        every += [path.name for path in paths]
        dicom = [path for path in paths if path.suffix.lower() == ".dcm"]
        found += dicom[:1]
        found += [path for path in paths if path not in dicom and _looks_like_a_slide(path)]
    unread = count_suffixes(every, UNREAD_SUFFIXES)
    if unread:
        warn(f"{shown(folder)}: {unread} look like slides of formats that cannot be read, and are left out")
    return sorted(found)


def count_suffixes(names: Iterable[str], suffixes: Container[str]) -> str:
    """How many files end in each of some suffixes, the most common first: "12 .vsi, 1 .mds"; empty if none does."""
    count = Counter(suffix for name in names if (suffix := Path(name).suffix.lower()) in suffixes)
    return ", ".join(f"{number} {suffix}" for suffix, number in count.most_common())


def named_slides(slides: Iterable[str | Path]) -> list[tuple[str, Path]]:
    """Names and paths of slides in the order of names, so that every run goes through them alike.

    A slide's name is that of its file without the last suffix; of a DICOM slide, that of its folder; of an OME-Zarr folder,
    its own without ``.ome.zarr``.

    Raises:
        ValueError: Two slides of one name, or a name that is not UTF-8.
    """
    named: dict[str, Path] = {}
    for path in map(Path, slides):
        name = path.absolute().parent.name if path.suffix.lower() == ".dcm" else slide_stem(path)
        other = named.setdefault(name, path)
        if other != path:
            raise ValueError(f"expected slides of different names, got {shown(other)} and {shown(path)}")
    return sorted(named.items())


def match_slide_mpp(
    slide_mpp: float | Mapping[str, float] | None, names: Iterable[str]
) -> dict[str, float | None]:
    """Microns per level-0 pixel of each slide, as the user gives them for all or by name, with or without suffix.

    Raises:
        ValueError: A name that is none of the slides', or one slide with two values.
    """
    names = list(names)
    if not isinstance(slide_mpp, Mapping):
        return dict.fromkeys(names, None if slide_mpp is None else float(slide_mpp))
    found: dict[str, float | None] = dict.fromkeys(names)
    for key, value in slide_mpp.items():
        name = key if key in found else slide_name(key)
        if name not in found:
            near = next((other for other in names if other.lower() == name.lower()), None)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ValueError(f"expected slide_mpp of slides of this run, got {key!r}{hint}")
        if found[name] is not None and found[name] != float(value):
            raise ValueError(f"expected one slide_mpp for {name!r}, got {found[name]} and {value}")
        found[name] = float(value)
    return found


def read_slide_list(path: Path) -> tuple[list[Path], dict[str, float]]:
    """Slides of a CSV file with a column `slide` or, as TRIDENT's lists have it, `wsi`, and perhaps one `mpp`.

    Paths that are not absolute are taken from the list's own folder.

    Returns:
        The slides, and their microns per pixel by name where the list has them.

    Raises:
        ValueError: No such column, an mpp that is no number, or a slide with two.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    column = next((name for name in ("slide", "wsi") if rows and name in rows[0]), None)
    if column is None:
        columns = list(rows[0]) if rows else []
        raise ValueError(f"{shown(path)}: expected a CSV file with a column `slide` or `wsi`, got {columns}")
    slides: list[Path] = []
    scales: dict[str, float] = {}
    for row in rows:
        slide = path.parent / row[column].strip()
        slides.append(slide)
        text = (row.get("mpp") or "").strip()
        if not text:
            continue
        try:
            value = float(text)
        except ValueError as error:
            raise ValueError(
                f"{shown(path)}: expected a number as mpp of {row[column]}, got {text!r}"
            ) from error
        if scales.setdefault(slide_name(slide.name), value) != value:
            raise ValueError(f"{shown(path)}: expected one mpp for {row[column]}, got two")
    return slides, scales


def _looks_like_a_slide(path: Path) -> bool:
    if path.suffix.lower() in SLIDE_SUFFIXES:
        return True
    try:
        return path.is_file() and openslide.OpenSlide.detect_format(path) is not None
    except openslide.OpenSlideError:  # it looks like a slide, and is damaged
        return True
