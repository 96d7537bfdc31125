"""Read HDF5 datasets that may be damaged or hostile: checked before they are trusted, and read in blocks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from healnet._files import shown
from healnet.slides.features._direct_rows import read_rows, row_places
from healnet.slides.features._heap_check import HeapCheckedFile
from healnet.slides.features.patch_rows import Array, Rows, count_rows, table_shape

__all__ = ["H5Rows", "h5_attributes", "h5_rows", "open_h5", "reading_h5"]

MAX_CHUNK = 1 << 28  # bytes; tools of the field write chunks of one row up to 1 MiB
MANY = 16  # values of an attribute; the longest that is read has two
BLOCK_BYTES = 1 << 22  # 4 MiB at a time: large enough for a network disk, small beside any bag

# Rows this near to one another are read with all between: a call costs 9 us, a chunk of one row 5 us; of a chunk of more
# rows HDF5 reads all in any case.
CHUNK_GAP = 2


@contextmanager
def open_h5(path: Path) -> Iterator[Any]:
    """An HDF5 file, open for reading its structure and attributes; text in it is read by way of `HeapCheckedFile`.

    Raises:
        OSError: Not an HDF5 file, or a truncated one.
        ValueError: A file whose lengths do not have 8 bytes, as `HeapCheckedFile` takes them.
    """
    # Files are replaced whole and never written in place, so no lock is needed; network disks often offer none.
    with HeapCheckedFile(path) as raw, h5py.File(raw, "r", locking=False) as file:
        _, length = file.id.get_create_plist().get_sizes()
        if length != 8:
            raise ValueError(f"lengths of {length} bytes, as no known tool writes them")
        yield file


@contextmanager
def reading_h5(path: Path, expected: str) -> Iterator[Any]:
    """An HDF5 file opened by `open_h5`, in whose block any error becomes one that names the file.

    Raises:
        ValueError: "<path>: expected <expected>, got a damaged HDF5 file (...)", or what the block itself raised with the
            path in front.
    """
    with _naming(path, expected), open_h5(path) as file:
        yield file


@contextmanager
def _naming(path: Path, expected: str) -> Iterator[None]:
    """HDF5 answers damage with a dozen types, ValueError without a file's name among them."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{shown(path)}: no such file any more; it was there when it was opened"
        ) from error
    except Exception as error:
        if str(error).startswith(f"{shown(path)}: "):
            raise
        raise ValueError(f"{shown(path)}: expected {expected}, got a damaged HDF5 file ({error})") from error


@dataclass(frozen=True)
class H5Rows(Rows):
    """Rows of one dataset of an HDF5 file, stored as (n, d), (1, n, d) or, one row, (d,)."""

    dataset: str
    leading: bool = False

    def _read(self, wanted: slice | Array) -> Array:
        # Numbers lie outside the heaps, and HDF5's own driver reads them faster than a Python file.
        with (
            _naming(self.path, f"readable values of `{self.dataset}`"),
            self.path.open("rb", buffering=0) as raw,
            h5py.File(self.path, "r", locking=False) as file,
        ):
            if not os.path.samestat(os.fstat(raw.fileno()), self.path.stat()):
                raise ValueError("one that was replaced while it was opened")
            return self._read_rows(file[self.dataset], raw, wanted)

    def _read_rows(self, dataset: Any, raw: FileIO, wanted: slice | Array) -> Array:
        shape = (1, *dataset.shape) if len(dataset.shape) == 1 else dataset.shape[-2:]
        if shape != self.shape and count_rows(wanted):
            return np.empty((0, 0))  # replaced by another file; `read` says so
        if len(dataset.shape) == 1:
            values: Array = dataset[:].reshape(self.shape)[wanted]
            return values
        rows = np.arange(wanted.start, wanted.stop) if isinstance(wanted, slice) else wanted
        places = row_places(dataset, rows)
        size = max(1, self.shape[1] * dataset.dtype.itemsize)
        if places is not None:
            return read_rows(raw, places, size).view(dataset.dtype)
        if isinstance(wanted, slice):
            return self._slice(dataset, wanted.start, wanted.stop)
        # HDF5's own row lists take time quadratic in their length; reading whole blocks does not.
        step = max(1, BLOCK_BYTES // size)
        near = CHUNK_GAP if dataset.chunks is None else max(CHUNK_GAP, dataset.chunks[-2])
        result = np.empty((len(wanted), self.shape[1]), dataset.dtype)
        order = np.argsort(wanted, kind="stable")
        rows = wanted[order]
        ends = np.flatnonzero((np.diff(rows) > near) | (np.diff(rows // step) > 0)) + 1
        for part in np.split(order, ends) if len(order) else ():
            first, last = int(wanted[part[0]]), int(wanted[part[-1]])
            result[part] = self._slice(dataset, first, last + 1)[wanted[part] - first]
        return result

    def _slice(self, dataset: Any, start: int, stop: int) -> Array:
        values: Array = dataset[0, start:stop] if self.leading else dataset[start:stop]
        return values.reshape(stop - start, self.shape[1])


def h5_rows(path: Path, file: Any, name: str, kinds: str, width: int | None = None) -> Rows:
    """The rows of a dataset, once its type, shape and presence in the file are certain.

    Args:
        path: Path of the open `file`, for messages.
        file: Open HDF5 file.
        name: Name of the dataset.
        kinds: NumPy's letters of the types that are accepted, as "f" or "iu".
        width: Number of columns, if it is known beforehand.

    Raises:
        ValueError: No such dataset, values of another type or shape, values outside the file or never written.
    """
    # A soft link too can lead to another file, through an external one.
    if isinstance(file.get(name, getlink=True), h5py.ExternalLink | h5py.SoftLink):
        raise ValueError(f"{shown(path)}: `{name}` is a link to another place, which is not followed")
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        held = sorted(shown(key) for key in file)[:8]
        raise ValueError(f"{shown(path)}: expected a dataset `{name}`, got {held}")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{shown(path)}: the values of `{name}` lie in another file, which is not followed")
    if dataset.dtype.kind not in kinds or dataset.dtype.itemsize > 8 or dataset.shape is None:
        wanted = "floating-point" if kinds == "f" else "integer"
        raise ValueError(
            f"{shown(path)}: expected `{name}` to be {wanted}, got {dataset.dtype} of shape {dataset.shape}"
        )
    shape = table_shape(path, name, dataset.shape, width)
    if not _written(dataset):
        raise ValueError(
            f"{shown(path)}: `{name}` claims shape {dataset.shape}, but not all of it was ever written"
        )
    _refuse_bombs(path, name, dataset)
    return H5Rows(path, shape, str(dataset.dtype), name, len(dataset.shape) == 3)


def _written(dataset: Any) -> bool:
    """True if the file holds all that its header claims: a few bytes can claim terabytes of fill values."""
    if dataset.chunks is None:
        return bool(dataset.id.get_storage_size() >= dataset.nbytes)
    chunks = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    return bool(dataset.id.get_num_chunks() == chunks)


def _refuse_bombs(path: Path, name: str, dataset: Any) -> None:
    """Refuse chunks that unpack to far more than the values read: HDF5 unpacks a chunk whole, whatever its size."""
    if dataset.chunks is None:
        return
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk > MAX_CHUNK:
        raise ValueError(f"{shown(path)}: expected chunks of `{name}` up to {MAX_CHUNK} bytes, got {chunk}")
    values = dataset.id.get_num_chunks() * chunk
    stored = dataset.id.get_storage_size()
    if stored > 1.1 * values + 4096:  # what no filter shrinks grows by a few bytes a chunk
        raise ValueError(
            f"{shown(path)}: expected at most {values} bytes of `{name}` in its chunks, got {stored} to unpack"
        )


def h5_attributes(path: Path, dataset: Any) -> dict[str, Any]:
    """The attributes that readers need, as text, float, and for `downsample` and `level0_bounds` a vector.

    Raises:
        ValueError: Text that is not UTF-8, or something else where a number should be.
    """
    known = (
        "name",
        "encoder",
        "patch_size",
        "patch_size_level0",
        "patch_level",
        "downsample",
        "level0_bounds",
    )
    found: dict[str, Any] = {}
    for key in (*known, "level0_magnification", "target_magnification"):
        if key in dataset.attrs:
            found[key] = _plain(path, key, dataset.attrs)
    return found


def _plain(path: Path, key: str, attributes: Any) -> Any:
    text = key in {"name", "encoder"}
    wanted = "text in UTF-8" if text else "numbers"
    stored = attributes.get_id(key)
    kind, shape = stored.get_type().get_class(), stored.shape
    held = {h5py.h5t.STRING: "text", h5py.h5t.INTEGER: "integers", h5py.h5t.FLOAT: "floats"}.get(
        kind, "another type"
    )
    # Before the value is touched: the HDF5 library crashes on values whose type was damaged into another.
    if (
        kind not in ((h5py.h5t.STRING,) if text else (h5py.h5t.INTEGER, h5py.h5t.FLOAT))
        or shape is None
        or math.prod(shape) > MANY
    ):
        raise ValueError(
            f"{shown(path)}: expected the attribute `{key}` to be {wanted}, got {held} of shape {shape}"
        )
    value = np.asarray(attributes[key]).reshape(-1)
    if not text:
        numbers = value.astype(np.float64)
        if key in ("downsample", "level0_bounds"):
            return numbers
        return float(numbers[0]) if len(numbers) else math.nan
    try:
        name = value[0].decode() if isinstance(value[0], bytes) else str(value[0])
        name.encode()  # h5py hands over stray bytes as lone surrogates
    except (UnicodeError, IndexError) as error:
        raise ValueError(
            f"{shown(path)}: expected the attribute `{key}` to be {wanted}, got {value.tolist()!r}"
        ) from error
    return name
