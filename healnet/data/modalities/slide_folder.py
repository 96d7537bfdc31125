"""A folder of patch features: which file is which slide's, and which slide whose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from healnet._files import shown
from healnet._warnings import warn
from healnet.data.checks import shorten
from healnet.data.tables.tcga_barcodes import slide_kinds
from healnet.slides.features.trident_clam_reader import PatchFile
from healnet.slides.slide_files import SLIDE_SUFFIXES, UNREAD_SUFFIXES, count_suffixes, slide_name

__all__ = [
    "SlideFile",
    "find_slides",
    "list_feature_files",
    "slides_of_cohort",
    "slides_of_patients",
    "warn_of_mixtures",
]

OTHER_FEATURES = (
    ".npy",
    ".npz",
    ".pkl",
    ".pickle",
    ".pth",
    ".csv",
    ".parquet",
    ".feather",
    ".hdf5",
    ".safetensors",
)


@dataclass(frozen=True)
class SlideFile:
    """One slide of a patient: its name, and its patch file or None where there is none."""

    slide: str
    file: PatchFile | None

    @property
    def status(self) -> str:
        """Outcome of the search: "ok", "empty" (a file without patches) or "not found"."""
        if self.file is None:
            return "not found"
        return "ok" if self.file.num_patches else "empty"


def list_feature_files(folder: Path) -> dict[str, Path]:
    """Slide name -> feature file; one listing per folder, because asking for each name is slow on network disks.

    The folder may be CLAM's output with `h5_files` and `pt_files` in it. Where a slide has both, the h5 file is taken,
    for it has coordinates.

    Raises:
        ValueError: No such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{shown(folder)}: expected a folder of feature files, and there is none")
    places = (folder, folder / "h5_files", folder / "pt_files")
    listed = [path for place in places if place.is_dir() for path in sorted(place.iterdir())]
    files: dict[str, Path] = {}
    for suffix in (".h5", ".pt"):
        for path in listed:
            if path.suffix == suffix and not path.name.startswith("."):
                files.setdefault(path.stem, path)
    return files


def find_slides(
    folder: Path, files: Mapping[str, Path], slides: Mapping[str, Sequence[str]]
) -> dict[str, tuple[SlideFile | Path, ...]]:
    """Each patient's patch files, by slide name; a slide without a file is kept as "not found".

    Args:
        folder: The folder, for messages.
        files: Feature file by slide name, from `list_feature_files`.
        slides: Slide ids by patient.

    Raises:
        ValueError: None of the slides has a file.

    Warns:
        UserWarning: Fewer than half of the slides have a file, or of the files a slide, where those are fewer.
    """
    wanted = [slide_name(name) for names in slides.values() for name in names]
    found = sum(name in files for name in wanted)
    if not found:
        example = f" such as {wanted[0]}.h5 or {wanted[0]}.pt" if wanted else ""
        raise ValueError(
            f"{shown(folder)}: expected feature files named after the cohort's slides{example}, "
            f"found none of {len(wanted)} slides among {len(files)} files{_examples(files)}{_other_formats(folder)}"
        )
    if 2 * found < min(len(wanted), len(files)):
        lost = next(name for name in wanted if name not in files)
        _warn_of_few(
            folder, f"{found} of {len(wanted)} slides have a file", lost, set(files).difference(wanted)
        )
    return {
        patient: tuple(files.get(name, SlideFile(name, None)) for name in map(slide_name, names))
        for patient, names in slides.items()
    }


def slides_of_cohort(
    folder: Path, slides: Mapping[str, Sequence[str]], patients: Sequence[str]
) -> dict[str, Sequence[str]]:
    """Slides in a folder by patient, as they are found there, of the cohort's patients alone.

    Raises:
        ValueError: None of the patients has a slide.

    Warns:
        UserWarning: Fewer than half of the patients have slides; where fewer have any in the folder, half of these.
    """
    found = [patient for patient in patients if slides.get(patient)]
    strangers = set(slides).difference(patients)
    if not found:
        raise ValueError(
            f"{shown(folder)}: expected slides of the cohort's patients, such as {patients[0]!r}, got slides of "
            f"{len(strangers)} others{_examples(strangers)}{_other_formats(folder)}"
        )
    if 2 * len(found) < min(len(patients), len(slides)):
        lost = next(patient for patient in patients if not slides.get(patient))
        _warn_of_few(folder, f"{len(found)} of {len(patients)} patients have slides", lost, strangers)
    return {patient: slides.get(patient, ()) for patient in patients}


def _warn_of_few(folder: Path, what: str, lost: str, strangers: Iterable[str]) -> None:
    warn(
        f"{shown(folder)}: {what}; {lost!r} for example has none{_examples(strangers)}{_other_formats(folder)}"
    )


def _examples(names: Iterable[str]) -> str:
    first = sorted(names)[:3]
    return f", the folder has {shorten(first)}" if first else ""


def _other_formats(folder: Path) -> str:
    """How many files of formats that are not read look like slides or features, as the end of a message."""
    files = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    found = count_suffixes(files, {*OTHER_FEATURES, *SLIDE_SUFFIXES, *UNREAD_SUFFIXES})
    return f"; it also has {found}, which are no feature files that can be read" if found else ""


def slides_of_patients(files: Iterable[str], patient_of: Callable[[str], str]) -> dict[str, tuple[str, ...]]:
    """The slides by the patient that `patient_of` says their name belongs to."""
    slides: dict[str, list[str]] = {}
    for name in sorted(files):
        slides.setdefault(patient_of(name), []).append(name)
    return {patient: tuple(names) for patient, names in slides.items()}


def warn_of_mixtures(name: str, slides: Iterable[str]) -> None:
    """Warn of slides of TCGA that show different things, which patients have for reasons of their own.

    Warns:
        UserWarning: Normal tissue beside tumors, frozen sections beside diagnostic slides.
    """
    kinds = slide_kinds(slides)
    for one, other in (("normal tissue", "tumor"), ("frozen", "diagnostic")):
        if one in kinds and other in kinds:
            warn(
                f"modality {name!r}: {len(kinds[one])} slides are {one}, such as {kinds[one][0]!r}, and {len(kinds[other])} "
                f"{other}, such as {kinds[other][0]!r}; slides=healnet.data.tcga_slides takes those of one kind"
            )
