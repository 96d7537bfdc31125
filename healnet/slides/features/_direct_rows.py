"""Read rows of an HDF5 dataset that is stored without filters straight from their places in the file.

CLAM and TRIDENT store every row as a chunk of its own, which HDF5 looks up and reads by itself. To list the places of all
chunks, and to read neighbors in one call, takes a third of the time (`tests/benchmarks/test_loader.py`).
"""

from __future__ import annotations

import itertools
import math
from io import FileIO
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

__all__ = ["read_rows", "row_places"]

Index = NDArray[np.int64]

SPARSE = 6  # HDF5 takes this many times longer to look up and read one chunk than to list one
RUN = 16  # rows that follow one another, on average, are read to where they belong; fewer by way of a block
# Rows this near to one another are read with all between: 4 KB cost 0.5 us, another call more, above all on a network disk.
BLOCK_BYTES, GAP_BYTES = 1 << 20, 1 << 16


def row_places(dataset: Any, rows: Index) -> Index | None:
    """Bytes from the start of the file to each row; None where HDF5 has to unpack or convert, or is faster.

    Args:
        dataset: Open dataset (n, d) or (1, n, d).
        rows: (k,) row numbers.

    Raises:
        ValueError: A chunk of these rows that is missing, or has another size than its rows.
    """
    as_stored = dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype))
    # Releases of HDF5 differ in whether they count a user's block in front.
    if not as_stored or dataset.file.userblock_size or dataset.id.get_create_plist().get_nfilters():
        return None
    length, width = dataset.shape[-2:]
    size = width * dataset.dtype.itemsize
    if dataset.chunks is None:
        start = dataset.id.get_offset()
        return None if start is None else start + rows * size
    per_chunk, columns = dataset.chunks[-2:]
    if (columns, math.prod(dataset.chunks)) != (width, per_chunk * width) or SPARSE * len(
        rows
    ) * per_chunk < length:
        return None
    starts = np.full(-(-length // per_chunk), -1, np.int64)

    def note(chunk: Any) -> None:
        if chunk.size == per_chunk * size:
            starts[chunk.chunk_offset[-2] // per_chunk] = chunk.byte_offset

    dataset.id.chunk_iter(note)
    places = starts[rows // per_chunk]
    if (places < 0).any():
        raise ValueError(f"a chunk is missing, or not of {per_chunk * size} bytes")
    return places + rows % per_chunk * size


def read_rows(file: FileIO, places: Index, size: int) -> NDArray[np.uint8]:
    """(k, size) bytes: the rows of so many bytes at these places of a file.

    Raises:
        EOFError: The file ends before a row does.
    """
    result = np.empty((len(places), size), np.uint8)
    if not result.size:
        return result
    breaks = np.flatnonzero(np.diff(places) != size) + 1
    if RUN * len(breaks) <= len(places):
        for first, last in itertools.pairwise([0, *breaks, len(places)]):
            _fill(result[first:last].reshape(-1), file, int(places[first]))
        return result
    order = np.argsort(places, kind="stable")
    inside = places[order]
    ends = np.flatnonzero((np.diff(inside) > size + GAP_BYTES) | (np.diff(inside // BLOCK_BYTES) > 0)) + 1
    block = np.empty(BLOCK_BYTES + size, np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(block, size)
    for rows in np.split(order, ends):
        start = int(places[rows[0]])
        offsets = places[rows] - start
        _fill(block[: offsets[-1] + size], file, start)
        result[rows] = windows[offsets]
    return result


def _fill(buffer: NDArray[np.uint8], file: FileIO, start: int) -> None:
    file.seek(start)
    while len(buffer):  # one call reads at most 2 GiB
        count = file.readinto(buffer.data)
        if not count:
            raise EOFError(f"expected {len(buffer)} more bytes at {file.tell()}, got the end of the file")
        buffer = buffer[count:]
