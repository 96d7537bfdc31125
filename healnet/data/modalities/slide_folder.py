"""A folder of patch features: which file is which slide's, and which slide whose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from healnet._files import shown
from healnet.slides.features.trident_clam_reader import PatchFile
from healnet.slides.slide_files import slide_name

__all__ = ["SlideFile", "find_slides", "list_feature_files", "slides_of_patients"]


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
    """
    wanted = [slide_name(name) for names in slides.values() for name in names]
    if not any(name in files for name in wanted):
        example = f" such as {wanted[0]}.h5 or {wanted[0]}.pt" if wanted else ""
        raise ValueError(
            f"{shown(folder)}: expected feature files named after the cohort's slides{example}, "
            f"found none of {len(wanted)} slides among {len(files)} files"
        )
    return {
        patient: tuple(files.get(name, SlideFile(name, None)) for name in map(slide_name, names))
        for patient, names in slides.items()
    }


def slides_of_patients(files: Iterable[str], patient_of: Callable[[str], str]) -> dict[str, tuple[str, ...]]:
    """The slides by the patient that `patient_of` says their name belongs to."""
    slides: dict[str, list[str]] = {}
    for name in sorted(files):
        slides.setdefault(patient_of(name), []).append(name)
    return {patient: tuple(names) for patient, names in slides.items()}
