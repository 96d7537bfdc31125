"""A cohort's slides: the patch files of each patient, checked when the cohort is built, read when a batch needs them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from healnet._files import shown
from healnet.data.modalities.modality import Index, Modality, Reader, of_one_kind
from healnet.data.modalities.open_patch_files import open_files
from healnet.data.modalities.slide_folder import SlideFile
from healnet.inputs import PatchBag
from healnet.slides.features.trident_clam_reader import PatchFile

__all__ = ["Bags"]


@dataclass(frozen=True, eq=False)
class Bags(Modality):
    """The slides of each patient, in the order given. A patient without any patch is absent.

    Attributes:
        slides: Slides of each patient.
        dim: Width of the features, which a part of the cohort keeps though no patient in it has any.
    """

    slides: tuple[tuple[SlideFile, ...], ...]
    dim: int

    @classmethod
    def of(cls, name: str, source: Mapping[str, Any], patients: pd.Index) -> Bags:
        """Open every file, and check that they are of one kind.

        Args:
            name: Name of the modality, for messages.
            source: By patient a path, `PatchFile`, `SlideFile`, or several of them.
            patients: Ids of the cohort.

        Raises:
            ValueError: A file that cannot be used, that belongs to two patients, or whose patches have another width,
                encoder, size or magnification than the rest; coordinates in some files only; no patches in any file.
        """
        listed = [_several(source.get(patient)) for patient in patients]
        paths = [Path(entry) for entries in listed for entry in entries if isinstance(entry, str | Path)]
        opened = dict(zip(paths, open_files(paths), strict=True))
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

    def reader(self, dtype: torch.dtype, max_patches: int | None) -> Reader:
        """Reads one `PatchBag` of all slides, coords (n, 3) with the slide's number last; none of an absent patient."""
        return _BagReader(self, dtype, max_patches)

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
    for what, one, other in (
        ("patches of {:g} pixels", file.patch_size, first.patch_size),
        ("patches at {:g}x", file.magnification, first.magnification),
    ):
        # 0.5 and 0.499 microns per pixel are one magnification.
        if one is not None and other is not None and abs(one - other) > 0.02 * other:
            raise ValueError(
                f"modality {name!r}: {shown(file.path)} has {what.format(one)}, {shown(first.path)} {what.format(other)}; "
                "give each kind a modality of its own"
            )
    if (file.positions is None) != (first.positions is None):
        without, has = (file, first) if file.positions is None else (first, file)
        raise ValueError(
            f"modality {name!r}: {shown(without.path)} has no coordinates, {shown(has.path)} has"
        )


@dataclass(frozen=True)
class _BagReader:
    bags: Bags
    dtype: torch.dtype
    max_patches: int | None

    def __call__(self, position: int, rng: np.random.Generator | None) -> PatchBag:
        files = self.bags.files(position)
        features, coords = [], []
        for number, (file, rows) in enumerate(zip(files, self._choose(files, rng), strict=True)):
            part, corners = file.load(rows, dtype=self.dtype)
            # float32 holds level-0 coordinates exactly: the largest slides have some 2^18 pixels a side, of 2^24.
            place = torch.zeros(len(part), 3)
            if corners is not None:
                place[:, :2] = corners
            place[:, 2] = number
            features.append(part)
            coords.append(place)
        if not files:
            features, coords = [torch.empty(0, self.bags.dim, dtype=self.dtype)], [torch.empty(0, 3)]
        bag = features[0] if len(features) == 1 else torch.cat(features)
        return PatchBag(bag, torch.cat(coords), torch.ones(len(bag), dtype=torch.bool))

    def _choose(
        self, files: list[PatchFile], rng: np.random.Generator | None
    ) -> list[NDArray[np.int64] | None]:
        """Rows of each file, in order; None = all. Even over all patches of the patient, not over slides."""
        lengths = [file.num_patches for file in files]
        total = sum(lengths)
        if self.max_patches is None or rng is None or total <= self.max_patches:
            return [None] * len(lengths)
        chosen = np.sort(rng.choice(total, self.max_patches, replace=False, shuffle=False))
        starts = np.cumsum([0, *lengths])
        return [chosen[(chosen >= a) & (chosen < b)] - a for a, b in itertools.pairwise(starts)]
