"""Read the patch features of a slide, whichever tool wrote them: CLAM, TRIDENT or `extract_features`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from healnet._files import shown
from healnet.slides.features.hdf5 import h5_attributes, h5_rows, reading_h5
from healnet.slides.features.patch_geometry import (
    MAX_COORDINATE,
    PatchGeometry,
    agreed_name,
    bounds_of,
    find_patches_file,
    footprint_of,
    read_coords,
    read_patch_geometry,
    size_of,
)
from healnet.slides.features.patch_rows import Rows, Selection, TensorRows, table_shape
from healnet.slides.features.torch_file import load_array
from healnet.slides.slide_bounds import Bounds
from healnet.streams import Pieces

__all__ = ["PatchFile", "read_patches"]

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
TORCH_SIGNATURES = (b"PK\x03\x04", b"\x80")  # a zip archive; a pickle of protocol 2 or later
EXPECTED = (
    "expected a feature file of CLAM or TRIDENT: HDF5 with `features` (n, d) and `coords` (n, 2), "
    "or a PyTorch file of one (n, d) tensor"
)


@dataclass(frozen=True)
class PatchFile:
    """The patches of one slide, left on disk until they are read. Made by `read_patches`.

    An embedding of the whole slide is one row without coordinates.

    A plain value: it can be pickled, keeps no file open, and holds none of the features.

    Attributes:
        path: The feature file.
        slide: The slide's name.
        encoder: The name of the model that made the features, None if it was not recorded.
        features: The (n, d) rows; ``features.read(rows)`` reads some of them as NumPy.
        positions: The rows of the (n, 2) coordinates, or None.
        footprint: Side length of a patch in level-0 pixels, or None if no file says it.
        bounds: The slide's `Slide.bounds`, which `extract_features` writes where the slide states them; else None.
        patch_size: Side length of a patch in its own pixels, or None if no file says it.
        magnification: Magnification at which patches were read, or None if no file says it.
    """

    path: Path
    slide: str
    encoder: str | None
    features: Rows
    positions: Rows | None
    footprint: float | None
    bounds: Bounds | None = None
    patch_size: int | None = None
    magnification: float | None = None

    @property
    def num_patches(self) -> int:
        """Number of patches of the slide; 0 for a slide without tissue."""
        return self.features.shape[0]

    @property
    def dim(self) -> int:
        """Width of the features; 0 where an empty file does not say it."""
        return self.features.shape[1]

    @property
    def coords(self) -> np.ndarray[Any, np.dtype[np.int64]] | None:
        """(n, 2) int64, (x, y) of each patch's top-left corner in level-0 pixels; read from disk at every call."""
        return None if self.positions is None else read_coords(self.positions)

    def load(
        self, rows: Selection = None, *, dtype: torch.dtype | None = torch.float32
    ) -> tuple[Tensor, Tensor | None]:
        """Features and coordinates of the chosen rows, all by default.

        Args:
            rows: a slice, row numbers, or a bool mask, as `Rows.read` takes them.
            dtype: Type of the returned features; None keeps that of the file.

        Shape:
            (n, d) floating point and (n, 2) int64, or None where the file has no coordinates.

        Raises:
            ValueError: a value that is not finite, in the file or in `dtype`; a file damaged since it was opened.
        """
        features = torch.from_numpy(self.features.read(rows, dtype))
        if self.positions is None:
            return features, None
        return features, torch.from_numpy(read_coords(self.positions, rows))

    def pieces(self, rows: int = 8192, *, dtype: torch.dtype | None = torch.float32) -> Pieces:
        """The patches for a `healnet.Stream`, which reads so many rows at once: a bag that need not fit in memory.

        Args:
            rows: Number of patches that are read at once.
            dtype: Type of the features; None keeps that of the file.

        Example::

            file = read_patches("features/slide-1.h5")
            log_hazard = model({"slide": Stream([file.pieces()])})
        """
        return Pieces(_FeatureSource(self.features, dtype), (rows,), coords=self.coords)


@dataclass(frozen=True)
class _FeatureSource:
    """Rows of a file as `Pieces` slice them."""

    rows: Rows
    dtype: torch.dtype | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape

    def __getitem__(self, where: tuple[slice]) -> np.ndarray[Any, Any]:
        return self.rows.read(where[0], self.dtype)


def read_patches(
    path: str | Path,
    *,
    patches: str | Path | None = None,
    footprint: float | None = None,
    slide: str | None = None,
) -> PatchFile:
    """Open the patch features of one slide; nothing is read but the structure and, where two files meet, coordinates.

    Recognized by content, not by extension: CLAM ``h5_files/*.h5`` and ``pt_files/*.pt``, TRIDENT ``features_*/*.h5``
    (also (1, n, d), float16 and empty) and its pickled NumPy ``.pt``, and the PyTorch format of before 1.6. CLAM keeps the
    geometry in another file: ``../patches/<slide>.h5`` (TRIDENT: ``<slide>_patches.h5``) is used where it exists, and gives
    ``.pt`` files their coordinates, whose order both tools keep. One vector (d,) per slide, as in TRIDENT's
    ``slide_features_*``, is one row; the coordinates of the patches that it was made from are not read. With the
    coordinates of one patch it is that patch.

    Args:
        path: The feature file.
        patches: The patches file, or the folder that holds it, if it lies elsewhere.
        footprint: Side length of a patch in level-0 pixels, if no file says it.
        slide: The slide's name, if it is not the file's.

    Raises:
        FileNotFoundError: No such file.
        ValueError: a file that is empty, damaged, of another format, or holds values of another shape or type; a
            patches file of other patches; a name inside that is not the file's. The message names the file. Code inside
            a file is never executed, and links to other files are not followed.

    Example:
        >>> import h5py, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "slide-1.h5"
        >>> with h5py.File(path, "w") as file:
        ...     file["features"] = np.ones((5, 3), np.float32)
        ...     file["coords"] = np.arange(10).reshape(5, 2)
        >>> bag = read_patches(path, footprint=512)
        >>> bag.slide, bag.num_patches, bag.dim, bag.footprint
        ('slide-1', 5, 3, 512.0)
        >>> features, coords = bag.load(slice(1, 3))
        >>> coords.tolist()
        [[2, 3], [4, 5]]
    """
    path = Path(path)
    signature = _signature(path)
    of_slides = path.absolute().parent.name.startswith("slide_features_")
    if HDF5_SIGNATURE in signature:
        features, positions, notes = _open_h5_features(path, of_slides)
    elif signature.startswith(TORCH_SIGNATURES):
        features, positions, notes = _open_torch_features(path), None, {}
    else:
        raise ValueError(f"{shown(path)}: {EXPECTED}; got a file that starts with {signature[:8]!r}")
    name = slide if slide is not None else agreed_name(path, notes, path.stem)
    encoder = _encoder(path, notes)
    found, bounds = footprint_of(notes, path), bounds_of(notes, path)
    size, magnification = size_of(notes)
    beside = None if of_slides and patches is None else find_patches_file(path, patches)
    if beside is not None and (patches is not None or positions is None or found is None):
        geometry = _join(path, features, positions, beside)
        positions = geometry.positions
        if slide is None:
            agreed_name(beside, {"name": geometry.name}, path.stem)
        found = geometry.footprint if found is None else found
        bounds = geometry.bounds if bounds is None else bounds
        size, magnification = size or geometry.size, magnification or geometry.magnification
    if footprint is not None:
        if not 0 < footprint <= MAX_COORDINATE or (found is not None and found != footprint):
            raise ValueError(f"{shown(path)}: got a footprint of {footprint}, but its files say {found}")
        found = float(footprint)
    return PatchFile(path, name, encoder, features, positions, found, bounds, size, magnification)


def _signature(path: Path) -> bytes:
    """The first bytes; HDF5 may start after a block of the user's own, at 512, 1024, ..."""
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{shown(path)}: expected a file name in UTF-8, which names the slide") from error
    if not path.exists():
        raise FileNotFoundError(f"{shown(path)}: no such file; {EXPECTED}")
    if not path.is_file():  # a pipe would wait for its writer for ever
        raise ValueError(f"{shown(path)}: {EXPECTED}; got a folder, pipe or device")
    with path.open("rb") as file:
        start = file.read(8)
        if not start:
            raise ValueError(f"{shown(path)}: {EXPECTED}; got an empty file")
        for offset in (512, 1024, 2048):
            file.seek(offset)
            if file.read(8) == HDF5_SIGNATURE:
                return HDF5_SIGNATURE
    return start


def _open_torch_features(path: Path) -> Rows:
    tensor = load_array(path)
    return TensorRows(
        path, table_shape(path, "features", tuple(tensor.shape)), str(tensor.dtype).removeprefix("torch.")
    )


def _open_h5_features(path: Path, of_slides: bool) -> tuple[Rows, Rows | None, dict[str, Any]]:
    """Features, coordinates and what the attributes say, of CLAM's or TRIDENT's feature file."""
    with reading_h5(path, EXPECTED.removeprefix("expected ")) as file:
        if "features" not in file and "coords" in file:
            others = sorted(shown(name) for name in file if name != "coords")
            got = "coordinates alone, as a patches file has them"
            if others:
                got = f"the datasets `coords` and {', '.join(f'`{name}`' for name in others[:8])}"
            if "feats" in others:
                got += ", as STAMP writes them, in microns; write `features`, and `coords` in level-0 pixels"
            raise ValueError(f"{shown(path)}: {EXPECTED}; got {got}")
        features = h5_rows(path, file, "features", "f")
        # A vector is a whole slide's, or the one patch of a slide whose axis a tool squeezed away.
        one_patch = "coords" in file and file["coords"].shape in ((1, 2), (2,))
        whole = of_slides or (len(file["features"].shape) == 1 == len(features) and not one_patch)
        positions = h5_rows(path, file, "coords", "iu", 2) if "coords" in file and not whole else None
        notes = h5_attributes(path, file["coords"]) if positions is not None else {}
        own = h5_attributes(path, file["features"])
        names = [notes.get("name"), own.get("name")]
        notes = own | notes | {"names": names}
    if positions is not None and len(positions) != len(features):
        raise ValueError(
            f"{shown(path)}: expected a coordinate for every patch, got {len(features)} features and {len(positions)} coords"
        )
    return features, positions, notes


def _encoder(path: Path, notes: Mapping[str, Any]) -> str | None:
    name = notes.get("encoder")
    if name in (None, "None", ""):  # TRIDENT writes None as text; its folder still says it
        folder = path.absolute().parent.name.removeprefix("slide_")
        return folder.removeprefix("features_") if folder.startswith("features_") else None
    return str(name)


def _join(path: Path, features: Rows, positions: Rows | None, beside: Path) -> PatchGeometry:
    """The coordinates of a patches file, once they are known to be those of the features."""
    geometry = read_patch_geometry(beside)
    coords = geometry.positions
    if len(coords) != len(features):
        raise ValueError(
            f"{shown(beside)}: expected the {len(features)} patches of {shown(path)}, got {len(coords)} coordinates"
        )
    if positions is not None and not np.array_equal(coords.read(), positions.read()):
        raise ValueError(f"{shown(beside)}: expected the coordinates of {shown(path)}, got others")
    return geometry
