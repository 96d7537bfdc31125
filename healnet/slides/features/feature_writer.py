"""Write feature files in TRIDENT's or CLAM's layout, atomically, and recognize them when a run resumes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch

from healnet._files import atomic_path, shown
from healnet.slides.features.hdf5 import reading_h5
from healnet.slides.features.trident_clam_reader import read_patches
from healnet.slides.quality_table import SlideResult
from healnet.slides.slide_scale import magnification_of
from healnet.slides.tile_encoder import FeatureKind, TileEncoder
from healnet.slides.tiles import PixelSource, Tiles

__all__ = ["ExtractionSettings", "FeatureFolder", "FeatureWriter", "Layout", "finished_result"]

logger = logging.getLogger(__name__)
Array = np.ndarray[Any, Any]
Layout = Literal["trident", "clam"]

# HDF5 1.10 is the first version with checksums of its own structure; h5py has had it since 2.9 (2018).
VERSION = ("v110", "v110")
CHUNK_BYTES = 1 << 18  # a row drawn at random costs one chunk, a whole bag a call per chunk


@dataclass(frozen=True)
class ExtractionSettings:
    """Settings that decide the features of a slide beside its encoder, and must agree between the runs that fill one folder.

    Attributes:
        size: Side length of a tile in pixels; None = as the coordinates' files say.
        mpp: Microns per pixel of a tile; None = as the coordinates' files say.
        overlap: Overlap of neighboring tiles, in pixels.
        tissue_fraction: Least part of a tile that is tissue.
        min_sharpness: Least `sharpness` of a tile.

    Raises:
        ValueError: Sizes that no tile can have.
    """

    size: int | None
    mpp: float | None
    overlap: int
    tissue_fraction: float
    min_sharpness: float

    def __post_init__(self) -> None:
        sizes = self.size is None or (self.size >= 1 and 0 <= self.overlap < self.size)
        scale = self.mpp is None or (math.isfinite(self.mpp) and self.mpp > 0)
        if not sizes or not scale or not 0 <= self.tissue_fraction <= 1 or not self.min_sharpness >= 0:
            raise ValueError(
                "expected size >= 1, 0 <= overlap < size, mpp > 0, 0 <= tissue_fraction <= 1 and min_sharpness >= 0, got "
                f"size {self.size}, overlap {self.overlap}, mpp {self.mpp}, tissue_fraction {self.tissue_fraction}, "
                f"min_sharpness {self.min_sharpness}"
            )

    def attributes(self) -> dict[str, int | float]:
        """The settings as they are written beside the coordinates; what the coordinates' files decide is left out."""
        values = {
            "patch_size": self.size,
            "mpp": self.mpp,
            "overlap": self.overlap,
            "tissue_fraction": float(self.tissue_fraction),
            "min_sharpness": float(self.min_sharpness),
        }
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class FeatureFolder:
    """Folder of one encoder's features.

    Attributes:
        folder: Folder of the feature files.
        encoder: Name of the encoder, written into the files.
        encode: The encoder.
        kind: Output of the encoder on the probe.
        layout: "trident": ``<slide>.h5``; "clam": ``h5_files/``, ``pt_files/`` and ``patches/``.
    """

    folder: Path
    encoder: str
    encode: TileEncoder
    kind: FeatureKind
    layout: Layout

    def path(self, slide: str) -> Path:
        """The HDF5 file of a slide, which appears last: where it is, the slide is done."""
        return self.files(slide)[-1]

    def files(self, slide: str) -> list[Path]:
        """All files of a slide, in the order in which they appear."""
        if self.layout == "trident":
            return [self.folder / f"{slide}.h5"]
        names = ("pt_files", f"{slide}.pt"), ("patches", f"{slide}.h5"), ("h5_files", f"{slide}.h5")
        return [self.folder / place / name for place, name in names]


class FeatureWriter:
    """Writes one slide's features batch by batch, with TRIDENT's datasets and attributes. Made by `writing`."""

    def __init__(
        self, file: Any, target: FeatureFolder, tiles: Tiles, settings: ExtractionSettings, selection: str
    ) -> None:
        self._file, self._target, self._tiles = file, target, tiles
        self._settings, self._selection = settings, selection
        dim = target.kind.dim
        rows = max(1, min(len(tiles), CHUNK_BYTES // max(1, dim * target.kind.dtype.itemsize)))
        self._features = file.create_dataset(
            "features",
            (len(tiles), dim),
            target.kind.dtype,
            chunks=(rows, dim),
            maxshape=(None, dim),
            fletcher32=True,
        )
        self._rows = 0

    @classmethod
    @contextmanager
    def writing(
        cls, target: FeatureFolder, tiles: Tiles, settings: ExtractionSettings, selection: str
    ) -> Iterator[FeatureWriter]:
        """A writer whose files appear, whole, when the block ends well, and not at all when it does not."""
        path = target.path(tiles.slide.name)
        with atomic_path(path) as temporary:
            with h5py.File(temporary, "w", libver=VERSION) as file:
                writer = cls(file, target, tiles, settings, selection)
                yield writer
            if target.layout == "clam":
                writer._write_clam(temporary)

    def append(self, features: Array) -> None:
        """Write the features of the next tiles.

        Raises:
            ValueError: Features that are not finite or have another width or type than those of the probe.
        """
        name, kind = self._tiles.slide.name, self._target.kind
        if (features.shape[1], features.dtype) != (kind.dim, kind.dtype):
            raise ValueError(
                f"{name}: expected {kind.dtype} features of width {kind.dim}, as of the test pattern, got {features.dtype} "
                f"of width {features.shape[1]}"
            )
        if not np.isfinite(features).all():
            row = self._rows + int(np.argmin(np.isfinite(features).all(axis=1)))
            raise ValueError(
                f"{name}: the encoder made features that are not finite of the tile in row {row}"
            )
        self._features[self._rows : self._rows + len(features)] = features
        self._rows += len(features)

    def finish(self, kept: Array, notes: dict[str, float]) -> None:
        """Write coordinates and attributes, once all tiles are encoded.

        Args:
            kept: (n,) bool, the tiles that were encoded.
            notes: Attributes of the whole file, the quality table's numbers.

        Raises:
            ValueError: Another number of rows than of kept tiles.
        """
        tiles, slide = self._tiles, self._tiles.slide
        if self._rows != np.count_nonzero(kept):
            raise ValueError(
                f"{slide.name}: expected features of {np.count_nonzero(kept)} tiles, got {self._rows}"
            )
        self._features.resize(self._rows, axis=0)
        coords = self._file.create_dataset(
            "coords",
            data=tiles.coords[kept],
            chunks=(max(1, min(self._rows, 1 << 14)), 2),
            maxshape=(None, 2),
            fletcher32=True,
        )
        own = math.nan if slide.mpp is None else slide.mpp
        # TRIDENT computes a tile's level-0 side as patch_size x level0_magnification / target_magnification. Scanners' names
        # for magnifications are round numbers, so the level-0 one is written as that which gives the true side.
        target = magnification_of(tiles.mpp) if tiles.mpp else math.nan
        where = shown(self._target.folder)
        attributes: dict[str, Any] = {
            "patch_size": tiles.size,
            "mpp": tiles.mpp if tiles.mpp else math.nan,
            **self._settings.attributes(),
            "overlap": tiles.overlap,
            "patch_size_level0": tiles.footprint,
            "level0_magnification": target * tiles.footprint / tiles.size,
            "target_magnification": target,
            "level0_mpp": own,
            "level0_width": slide.width,
            "level0_height": slide.height,
            **_bounds(slide),
            "selection": _text(self._selection),
            "name": _text(slide.name),
            "savetodir": _text(where),
        }
        coords.attrs.update(attributes)
        self._features.attrs.update(
            {
                "name": _text(slide.name),
                "encoder": _text(self._target.encoder),
                "savetodir": _text(where),
                "probe": self._target.kind.probe,
            }
        )
        self._file.attrs.update(notes)

    def _write_clam(self, written: Path) -> None:
        """The tensor and the coordinates' file that CLAM keeps beside the features."""
        name = self._tiles.slide.name
        with h5py.File(written) as file:
            features, coords = file["features"][:], file["coords"][:]
        tensor, patches, _ = self._target.files(name)
        with atomic_path(tensor) as temporary:
            torch.save(torch.from_numpy(features.astype(np.float32, copy=False)), temporary)
        slide, side = self._tiles.slide, self._tiles.footprint
        size = (slide.width, slide.height)
        with (
            atomic_path(patches) as temporary,
            h5py.File(temporary, "w", libver=VERSION) as file,
        ):
            stored = file.create_dataset(
                "coords", data=coords, chunks=(max(1, len(coords)), 2), maxshape=(None, 2)
            )
            # Tiles are cut from level 0, so CLAM's product patch_size x downsample is the side in level-0 pixels.
            stored.attrs.update(
                {
                    "patch_size": side,
                    "patch_level": 0,
                    "downsample": (1.0, 1.0),
                    "downsampled_level_dim": size,
                }
                | _bounds(slide)
                | {"level_dim": size, "name": _text(name), "save_path": _text(shown(patches.parent))}
            )


def finished_result(
    target: FeatureFolder,
    slide: str,
    settings: ExtractionSettings,
    selection: str,
    *,
    slide_mpp: float | None = None,
    slide_size: tuple[int, int] | None = None,
) -> SlideResult | None:
    """The result of a slide that an earlier run finished; None if there is no such file or it is damaged.

    Args:
        target: Folder of its features.
        slide: Name of the slide.
        settings: Settings of this run.
        selection: Source of the tiles of this run, as `SlideJob.selection` names it.
        slide_mpp: The slide's scale as the user of this run gives it, if they do.
        slide_size: Width and height of the slide's level 0, if they are known.

    Raises:
        OSError: The file cannot be read; it is left alone.
        ValueError: The file was made with other settings, by another encoder or tool, or of another slide.
    """
    path = target.path(slide)
    if not path.exists():
        return None
    with path.open("rb"):  # no permission, a disk that fails: raised here, and not taken for a damaged file
        pass
    try:
        bag = read_patches(path)
        with reading_h5(path, "the attributes of a finished slide") as file:
            notes = dict(file["coords"].attrs) if "coords" in file else {}
            probe = file["features"].attrs.get("probe")
            root = dict(file.attrs)
    except ValueError as error:
        logger.warning("%s; it is made again", error)
        return None
    expected: dict[str, Any] = settings.attributes() | {"selection": selection}
    found = {key: notes.get(key) for key in expected}
    found["selection"] = _plain(found["selection"])
    found["encoder"], expected["encoder"] = bag.encoder, target.encoder
    if slide_mpp is not None:
        found["level0_mpp"], expected["level0_mpp"] = notes.get("level0_mpp"), float(slide_mpp)
    if slide_size is not None:
        found["size of the slide"] = (notes.get("level0_width"), notes.get("level0_height"))
        expected["size of the slide"] = slide_size
    other = {key: value for key, value in found.items() if value != expected[key]}
    difference = ""
    if other:
        difference = f"{_listed(other)}, this run has {_listed({key: expected[key] for key in other})}"
    else:
        difference = target.kind.differs(bag.dim, None if probe is None else np.asarray(probe))
    if difference:
        raise ValueError(
            f"{shown(path)}: made with {difference}; write to another folder, or remove the old files"
        )
    numbers = {key: float(root.get(key, math.nan)) for key in SlideResult.numbers()}
    return SlideResult(bag.slide, bag.num_patches, error="", **numbers)


def _text(text: str) -> Any:
    """Text of fixed length: HDF5 keeps text of variable length in a heap, and can hang on a damaged one."""
    data = text.encode()
    return np.array(data, dtype=h5py.string_dtype("utf-8", max(1, len(data))))


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_readable(value)}" for key, value in values.items())


def _readable(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _bounds(slide: PixelSource) -> dict[str, Any]:
    """The bounds of a slide as they are written beside its coordinates; nothing of a slide that was scanned whole."""
    return {} if slide.bounds == (0, 0, slide.width, slide.height) else {"level0_bounds": slide.bounds}
