"""A cohort's slides: the patch files of each patient, checked when the cohort is built, read when a batch needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healnet._files import shown
from healnet.data.modality import Index, Modality, of_one_kind
from healnet.data.open_patch_files import open_files
from healnet.slides.trident_clam_reader import PatchFile

__all__ = ["Bags", "SlideFile", "find_slides", "slide_name", "slides_in"]

# What slide ids in tables end in; only these are cut off, for the names themselves hold dots (TCGA's UUIDs).
_EXTENSIONS = (
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
)


@dataclass(frozen=True)
class SlideFile:
    """One slide of a patient: its name, and its patch file or None where there is none."""

    slide: str
    file: PatchFile | None

    @property
    def status(self) -> str:
        """What became of it: "ok", "empty" (a file without patches) or "not found"."""
        if self.file is None:
            return "not found"
        return "ok" if self.file.num_patches else "empty"


@dataclass(frozen=True, eq=False)
class Bags(Modality):
    """The slides of each patient, in the order given. A patient without any patch is absent.

    Attributes:
        slides: of each patient.
        dim: width of the features, which a part of the cohort keeps though nobody in it has any.
    """

    slides: tuple[tuple[SlideFile, ...], ...]
    dim: int

    @classmethod
    def of(
        cls,
        name: str,
        source: Mapping[str, Any],
        patients: pd.Index,
        *,
        workers: int | None = None,
        cache: Path | None = None,
    ) -> Bags:
        """Open every file, and check that they are of one kind.

        Args:
            name: of the modality, for messages.
            source: patient -> path, `PatchFile`, `SlideFile`, or several of them.
            patients: the cohort's.
            workers: see `open_files`.
            cache: see `open_files`.

        Raises:
            ValueError: a file that cannot be used, that belongs to two patients, or whose features have another width
                or encoder than the rest; coordinates in some files only; no patches in any file.
        """
        listed = [_several(source.get(patient)) for patient in patients]
        paths = [Path(entry) for entries in listed for entry in entries if isinstance(entry, str | Path)]
        opened = dict(zip(paths, open_files(paths, workers=workers, cache=cache), strict=True))
        slides = tuple(
            tuple(_as_slide(opened[Path(e)] if isinstance(e, str | Path) else e) for e in entries)
            for entries in listed
        )
        first = next((s.file for of in slides for s in of if s.file is not None and s.file.num_patches), None)
        if first is None:
            raise ValueError(f"modality {name!r}: expected patches, and none of {len(paths)} files has any")
        bags = cls(slides, first.dim)
        bags._check(name, patients)
        return bags

    def missing(self) -> NDArray[np.bool_]:
        """(n,) True where the patient has no patch on any slide."""
        return self.lengths() == 0

    def take(self, positions: Index) -> Bags:
        """These patients' slides."""
        return Bags(tuple(self.slides[position] for position in positions), self.dim)

    def concat(self, name: str, parts: Sequence[Modality | int], patients: pd.Index) -> Bags:
        """All patients' slides, once they are known to be of one kind and of one patient each."""
        slides: list[tuple[SlideFile, ...]] = []
        for part in of_one_kind(name, Bags, parts):
            slides += [()] * part if isinstance(part, int) else part.slides
        bags = Bags(tuple(slides), self.dim)
        bags._check(name, patients)
        return bags

    @property
    def width(self) -> int:
        """Width of the features."""
        return self.dim

    def files(self, position: int) -> list[PatchFile]:
        """The files with patches of one patient."""
        return [
            slide.file for slide in self.slides[position] if slide.file is not None and slide.file.num_patches
        ]

    def lengths(self) -> NDArray[np.int64]:
        """(n,) patches per patient, over all slides."""
        return np.array(
            [sum(file.num_patches for file in self.files(i)) for i in range(len(self.slides))], dtype=np.int64
        )

    def report(self, patients: pd.Index) -> pd.DataFrame:
        """One row per slide: `patient`, `slide`, `status`, `patches`, `footprint`, `path`."""
        rows = [
            (
                patient,
                slide.slide,
                slide.status,
                0 if slide.file is None else slide.file.num_patches,
                None if slide.file is None else slide.file.footprint,
                None if slide.file is None else str(slide.file.path),
            )
            for patient, slides in zip(patients, self.slides, strict=True)
            for slide in slides
        ]
        return pd.DataFrame(rows, columns=["patient", "slide", "status", "patches", "footprint", "path"])

    def _check(self, name: str, patients: pd.Index) -> None:
        owner: dict[Path, str] = {}
        first: PatchFile | None = None
        for position, patient in enumerate(patients):
            for file in self.files(position):
                first = first or file
                _check_alike(name, first, file)
            for path in {
                slide.file.path.resolve() for slide in self.slides[position] if slide.file is not None
            }:
                if owner.setdefault(path, patient) != patient:
                    raise ValueError(
                        f"modality {name!r}: {shown(path)} is given to patient {owner[path]!r} and to {patient!r}"
                    )


def find_slides(folder: Path, slides: Mapping[str, Sequence[str]]) -> dict[str, tuple[SlideFile | Path, ...]]:
    """Each patient's patch files in a folder, by slide name; a slide without a file is kept as "not found".

    The folder may be CLAM's output with `h5_files` and `pt_files` in it. Where a slide has both, the h5 file is taken,
    for it has coordinates.

    Raises:
        ValueError: no such folder, or none of the slides has a file in it.
    """
    files = _feature_files(folder)
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


def slides_in(folder: Path, patient_of: Callable[[str], str]) -> dict[str, tuple[str, ...]]:
    """The slides of a folder's feature files, by the patient that `patient_of` says their name belongs to."""
    slides: dict[str, list[str]] = {}
    for name in sorted(_feature_files(folder)):
        slides.setdefault(patient_of(name), []).append(name)
    return {patient: tuple(names) for patient, names in slides.items()}


def slide_name(slide: str) -> str:
    """A slide id without the extension of a slide file.

    Example:
        >>> slide_name("TCGA-2V-A95S-01Z-00-DX1.9DFA6FC7.svs"), slide_name("TCGA-2V-A95S-01Z-00-DX1.9DFA6FC7")
        ('TCGA-2V-A95S-01Z-00-DX1.9DFA6FC7', 'TCGA-2V-A95S-01Z-00-DX1.9DFA6FC7')
    """
    path = Path(slide)
    return slide[: -len(path.suffix)] if path.suffix.lower() in _EXTENSIONS else slide


def _feature_files(folder: Path) -> dict[str, Path]:
    """Slide name -> feature file; one listing per folder, because asking for each name is slow on network disks."""
    if not folder.is_dir():
        raise ValueError(f"{shown(folder)}: expected a folder of feature files, and there is none")
    files: dict[str, Path] = {}
    for suffix in (".h5", ".pt"):
        for place in (folder, folder / "h5_files", folder / "pt_files"):
            for path in sorted(place.iterdir()) if place.is_dir() else ():
                if path.suffix == suffix and not path.name.startswith("."):
                    files.setdefault(path.stem, path)
    return files


def _several(entry: Any) -> list[Any]:
    if entry is None:
        return []
    return [entry] if isinstance(entry, str | Path | PatchFile | SlideFile) else list(entry)


def _as_slide(entry: PatchFile | SlideFile) -> SlideFile:
    return entry if isinstance(entry, SlideFile) else SlideFile(entry.slide, entry)


def _check_alike(name: str, first: PatchFile, file: PatchFile) -> None:
    if file.dim != first.dim:
        raise ValueError(
            f"modality {name!r}: {shown(file.path)} has features of width {file.dim}, {shown(first.path)} of {first.dim}"
        )
    if None not in (file.encoder, first.encoder) and file.encoder != first.encoder:
        raise ValueError(
            f"modality {name!r}: {shown(file.path)} was made by {file.encoder!r}, {shown(first.path)} by {first.encoder!r}"
        )
    if (file.positions is None) != (first.positions is None):
        without, has = (file, first) if file.positions is None else (first, file)
        raise ValueError(
            f"modality {name!r}: {shown(without.path)} has no coordinates, {shown(has.path)} has"
        )
