"""Read rows of a table that stays on disk, such as the features of a `PatchFile`.

No file stays open between reads. The values are cheap to copy and to pickle, and a DataLoader's workers never share a
handle, which neither HDF5 nor a memory map of a half-closed file forgives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from healnet._files import shown
from healnet.slides.features.torch_file import load_array

__all__ = ["Array", "Rows", "Selection", "TensorRows", "count_rows", "table_shape"]

Array = np.ndarray[Any, Any]
Selection = slice | Array | list[int] | None


@dataclass(frozen=True)
class Rows(ABC):
    """A (rows, width) table in a file, of which any rows can be read.

    Attributes:
        path: Path of the file.
        shape: (rows, width).
        dtype: Type of the stored numbers, by name, as "float16".
    """

    path: Path
    shape: tuple[int, int]
    dtype: str

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: Selection = None, dtype: torch.dtype | None = None) -> Array:
        """The chosen rows, in the given order; all of them by default.

        Args:
            rows: A slice, an array of row numbers (repeats are allowed), or a bool mask over all rows.
            dtype: Floating-point type of the result; None keeps the stored type.

        Shape:
            (len(rows), width); bfloat16, which NumPy lacks, comes as float32.

        Raises:
            ValueError: Rows that do not exist, a value that is not finite, in the file or in `dtype`; a file that was
                damaged or replaced since it was opened.
        """
        wanted = _resolved(rows, len(self), self.path)
        values = self._read(wanted)
        if values.shape != (count_rows(wanted), self.shape[1]):
            raise ValueError(
                f"{shown(self.path)}: expected {count_rows(wanted)} rows of {self.shape[1]} values, got {values.shape}; "
                "the file has changed since it was opened"
            )
        values = values.astype(values.dtype.newbyteorder("="), copy=False)  # torch takes no other byte order
        if values.dtype.kind == "f":
            tensor = torch.from_numpy(values)
            converted = tensor if dtype is None else tensor.to(dtype)
            # The extremes are NaN or infinite if any value is, and take a third of the time of asking each.
            if converted.numel() and not torch.stack(converted.aminmax()).isfinite().all():
                self._refuse_non_finite(values, wanted, dtype)
            values = converted.numpy()
        return values

    @abstractmethod
    def _read(self, wanted: slice | Array) -> Array:
        """The rows of a resolved selection: a slice of step 1 or an array of valid row numbers."""

    def _refuse_non_finite(self, values: Array, wanted: slice | Array, dtype: torch.dtype | None) -> None:
        finite = np.asarray(np.isfinite(values).all(axis=1))
        if finite.all():
            raise ValueError(f"{shown(self.path)}: features of {self.dtype} overflow {dtype}")
        first = int(np.argmin(finite))
        row = wanted.start + first if isinstance(wanted, slice) else int(wanted[first])
        bad = values[first][~np.isfinite(values[first])][0]
        raise ValueError(
            f"{shown(self.path)}: expected finite features, got {bad} in row {row} "
            f"({int((~finite).sum())} such rows among the {len(finite)} read)"
        )


@dataclass(frozen=True)
class TensorRows(Rows):
    """Rows of the one tensor or array of a PyTorch file; memory-mapped for tensors in `torch.save`'s zip format."""

    def _read(self, wanted: slice | Array) -> Array:
        tensor = load_array(self.path)
        if tensor.dim() == 3:
            tensor = tensor[0]
        if tensor.dim() == 1 and len(self):
            tensor = tensor[None]
        if tensor.shape != self.shape and count_rows(wanted):
            return np.empty((0, 0))
        tensor = tensor.reshape(self.shape)
        chosen = (
            tensor[wanted.start : wanted.stop]
            if isinstance(wanted, slice)
            else tensor[torch.from_numpy(wanted)]
        )
        # clone: a slice of a memory map would fault, not raise, once the file is gone.
        chosen = chosen.float() if chosen.dtype == torch.bfloat16 else chosen.clone()
        return np.asarray(chosen)


def count_rows(wanted: slice | Array) -> int:
    """The number of rows in a resolved selection."""
    return wanted.stop - wanted.start if isinstance(wanted, slice) else len(wanted)


def _resolved(rows: Selection, length: int, path: Path) -> slice | Array:
    if rows is None:
        return slice(0, length)
    if isinstance(rows, slice):
        start, stop, step = rows.indices(length)
        return slice(start, max(start, stop)) if step == 1 else np.arange(start, stop, step)
    wanted = np.asarray(rows)
    if wanted.dtype == np.bool_ and wanted.shape == (length,):
        return np.flatnonzero(wanted)
    if wanted.size == 0:
        return np.empty(0, np.int64)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or wanted.min() < 0 or wanted.max() >= length:
        raise ValueError(
            f"{shown(path)}: expected rows as a slice, a bool mask of {length} or row numbers from 0 to {length - 1}, "
            f"got {wanted.dtype} of shape {wanted.shape}"
            + (f" from {wanted.min()} to {wanted.max()}" if wanted.dtype.kind in "iuf" else "")
        )
    return wanted.astype(np.int64)


def table_shape(path: Path, name: str, shape: tuple[int, ...], width: int | None = None) -> tuple[int, int]:
    """(n, d) of a stored shape: (n, d), (1, n, d), (0,) for a slide without patches, (d,) for an embedding of a slide.

    Raises:
        ValueError: Any other shape, or a width that is not `width`.
    """
    table = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if shape == (0,):
        return 0, width or 0
    if len(shape) == 1 and width in (None, shape[0]):
        return 1, shape[0]
    if len(table) != 2 or (table[0] and not table[1]) or (width is not None and table[1] != width):
        wanted = f"(n, {width})" if width is not None else "(n, d), (1, n, d) or (d,)"
        raise ValueError(f"{shown(path)}: expected `{name}` of shape {wanted}, got {shape}")
    return table[0], table[1]
