"""Check the global heaps of an HDF5 file, which hold text of variable length, before the HDF5 library parses them."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

__all__ = ["HeapCheckedFile"]

# Section III.E, "Global Heap", of the HDF5 file format specification, version 3.0, where lengths have 8 bytes.
SIGNATURE = (
    b"GCOL\x01"  # with the version; the library itself refuses another, and a text may begin with the letters
)
COLLECTION = struct.Struct("<4sB3xQ")  # signature, version, size of all
OBJECT = struct.Struct("<H6xQ")  # index, references and reserved bytes, size
MAX_OBJECTS = 1 << 16  # an index has 16 bits


class HeapCheckedFile(io.FileIO):
    """A file for `h5py.File` in which a damaged global heap raises an error; the HDF5 library itself would never return.

    Tools that pass a `str` to h5py write text of variable length, which HDF5 keeps in collections of objects. The library
    (1.14.4 and 2.0.0 were tried) finds the next object by adding the size of this one, whatever it is: a size of 0, or one
    near 2^64, makes it parse the same bytes for ever, and no signal reaches Python. h5py's driver for Python files has no
    cache of its own, so every collection arrives by a read that begins with its signature.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the file.

        Raises:
            EOFError: The file ends before; h5py would go on with the bytes that are missing.
            ValueError: A global heap whose objects do not follow one another to its end.
        """
        start = self.tell()
        count = super().readinto(buffer)
        if count != len(buffer):
            raise EOFError(f"expected {len(buffer)} bytes at {start}, got {count}")
        image = memoryview(buffer)  # Cython's views, which h5py passes, are equal to no bytes
        if (
            image[: len(SIGNATURE)] == SIGNATURE
            and count >= COLLECTION.size
            and not self._is_filled(start, bytes(image))
        ):
            raise ValueError(f"the objects of the global heap at byte {start} do not fill it")
        return count

    def _is_filled(self, start: int, image: bytes) -> bool:
        """True if the objects of a collection follow one another to its end, given its start in the file and first bytes."""
        size = COLLECTION.unpack_from(image)[-1]
        if size > os.fstat(self.fileno()).st_size - start:
            return False
        image = image[:size] + self.read(max(0, size - len(image)))
        place = COLLECTION.size
        for _ in range(MAX_OBJECTS):
            if place + OBJECT.size > size:
                return place <= size  # too few bytes for another header: free space
            index, needed = OBJECT.unpack_from(image, place)
            if index:
                place += OBJECT.size + -(-needed // 8) * 8
            elif needed >= OBJECT.size:  # object 0 is free space, whose size includes its header
                place += needed
            else:
                return False
        return False
