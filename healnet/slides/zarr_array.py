"""Read the chunks of one uint8 array of a Zarr store in a folder, which may be damaged or hostile (format 2 or 3).

The package `zarr` (3.1.6 was tried) does not fit here: it returns zeros, without an error, for the end of a Blosc chunk
that was cut off, as by a copy that did not finish; it unpacks a chunk to whatever size it has (a file of 1 MB: 2 GB of
memory); and it reads by threads that stay, beside which worker processes cannot safely be forked. Here a chunk is unpacked,
by the calling thread, into the memory of one chunk, and only by the codecs that pixels are stored with.
"""

from __future__ import annotations

import json
import math
import os
import stat
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from healnet._files import need, shown

__all__ = ["ZarrArray", "read_json"]

Array = np.ndarray[Any, Any]

MAX_CHUNK = (
    1 << 28
)  # bytes; slides are stored in chunks of 256 x 256 to 4096 x 4096 pixels, the last of 48 MiB
MAX_SIDE = 1 << 24  # elements along one axis: a slide of 4 meters at 40x
MAX_JSON = 1 << 24  # bytes
MAX_INDEX = 1 << 22  # bytes: a shard of 262,144 chunks
DEFLATE = ("gzip", "zlib")  # by the standard library; the others, with their own headers, by `numcodecs`
HEADERS = {"blosc": 16, "zstd": 6, "lz4": 4}  # bytes
CODECS = (*HEADERS, *DEFLATE)
MISSING = (1 << 64) - 1  # offset and length of a chunk that its shard does not hold
FILES = (".zarray", ".zattrs", "zarr.json")


class _Shards(NamedTuple):
    """How chunks lie in the files of shards (Zarr 3, "sharding_indexed")."""

    shape: tuple[int, ...]  # elements of a shard
    index_bytes: int
    checked: bool  # a CRC-32C follows the index
    at_start: bool


@dataclass(eq=False)
class ZarrArray:
    """A uint8 array in a folder, of which chunks are read one at a time.

    Attributes:
        root: Folder of the store, without symbolic links; nothing outside of it is read.
        name: Path of the array in the store.
        shape: Elements along each axis.
        chunk: Elements of a chunk along each axis.
        fill: Value of chunks that are not there, or None if the file does not say it.
        codec: What packs the chunks, or None.
        axes: Order of the axes in the bytes of a chunk.
        prefix: Beginning of the names of chunks.
        separator: What stands between the numbers in the names of chunks.
        shards: Shards that hold the chunks, or None if each is a file.
    """

    root: Path
    name: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    fill: int | None
    codec: str | None
    axes: tuple[int, ...]
    prefix: str
    separator: str
    shards: _Shards | None

    def __post_init__(self) -> None:
        self._index = lru_cache(16)(self._read_index)  # the shards across a slide: each holds many chunks

    @classmethod
    def open(cls, root: Path, name: str) -> ZarrArray:
        """The array of a path in a store.

        Raises:
            OSError: Files that are no regular files, or that lie outside of the store.
            ValueError: No array there, or one of another type, an impossible shape or an unknown codec.
            ImportError: The codec needs `numcodecs`, which is absent.
        """
        if (meta := read_json(root, f"{name}/zarr.json")) is not None:
            array = _format_3(root, name, meta)
        elif (meta := read_json(root, f"{name}/.zarray")) is not None:
            array = _format_2(root, name, meta)
        else:
            raise ValueError(f"expected an array {name!r}, got none")
        if len(array.chunk) != len(array.shape):
            raise ValueError(f"expected chunks of {len(array.shape)} axes, got {len(array.chunk)}")
        if math.prod(array.chunk) > MAX_CHUNK:
            raise ValueError(f"expected chunks of up to {MAX_CHUNK} bytes, got {math.prod(array.chunk)}")
        if array.codec in HEADERS:
            need("numcodecs", "'healnet[zarr]'", "this OME-Zarr slide")
        # Chunks that hold nothing but the fill value need not be there. An array without any is an unfinished copy.
        if all(entry.name in FILES for entry in (root / name).iterdir()):
            raise ValueError(f"expected chunks of the array {name!r}, got none")
        return array

    def read(self, place: tuple[int, ...]) -> Array | None:
        """The chunk of a place in the grid of chunks, whole also where it hangs over the edge; None if it is not there.

        Raises:
            OSError: A damaged chunk, or a file that is no regular file or lies outside of the store.
        """
        data = self._stored(place)
        if data is None:
            return None
        stored = [self.chunk[axis] for axis in self.axes]
        try:
            values = _unpacked(self.codec, data, math.prod(stored))
        except (ValueError, RuntimeError, zlib.error) as error:
            raise OSError(f"chunk {_key('', '/', place)} of {self.name!r}: {error}") from error
        return values.reshape(stored).transpose(np.argsort(self.axes))

    def _stored(self, place: tuple[int, ...]) -> bytes | None:
        most = int(1.1 * math.prod(self.chunk)) + 4096  # what no codec shrinks grows by a few bytes
        if self.shards is None:
            file = f"{self.name}/{_key(self.prefix, self.separator, place)}"
            return _read_file(self.root, file, 0, None, most)
        per_shard = [s // c for s, c in zip(self.shards.shape, self.chunk, strict=True)]
        file = f"{self.name}/{_key(self.prefix, self.separator, [p // n for p, n in zip(place, per_shard, strict=True)])}"
        index = self._index(file, self.shards)
        if index is None:
            return None
        inside = tuple(p % n for p, n in zip(place, per_shard, strict=True))
        start, length = (int(number) for number in index[np.ravel_multi_index(inside, per_shard)])
        if start == length == MISSING:
            return None
        return _read_file(self.root, file, start, length, most)

    def _read_index(self, file: str, shards: _Shards) -> Array | None:
        """Offset and length of each chunk in the file of a shard, (n, 2); None if there is no such file."""
        size = shards.index_bytes + 4 * shards.checked
        data = _read_file(self.root, file, 0 if shards.at_start else -size, size, size)
        if data is None:
            return None
        index = data[: shards.index_bytes]
        if shards.checked and _crc32c(index) != int.from_bytes(data[shards.index_bytes :], "little"):
            raise OSError(f"{shown(file)}: the checksum of the shard's index is wrong")
        return np.frombuffer(index, "<u8").reshape(-1, 2)


def read_json(root: Path, file: str) -> dict[str, Any] | None:
    """A JSON file of a store; None if it is not there.

    Raises:
        OSError: No regular file, or one outside of the store.
        ValueError: No JSON object.
    """
    data = _read_file(root, file, 0, None, MAX_JSON)
    if data is None:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in {file}, got something else ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object in {file}, got a {type(value).__name__}")
    return value


def _read_file(root: Path, file: str, start: int, length: int | None, most: int) -> bytes | None:
    """A part of a file of the store, None if there is no such file; refused if it is longer than `most`."""
    path = root / file
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(root):
        raise OSError(f"{shown(file)}: expected a file in the slide's folder, got a link to another place")
    try:
        status = real.stat()
    except FileNotFoundError:
        if real != path:  # as where the content of a data set was never fetched
            raise OSError(f"{shown(file)}: expected a file, got a link to nothing") from None
        return None
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for its writer for ever
        raise OSError(f"{shown(file)}: expected a regular file, got a folder, pipe or device")
    start = start if start >= 0 else status.st_size + start
    length = status.st_size - start if length is None else length
    if not 0 <= length <= most:
        raise OSError(f"{shown(file)}: expected up to {most} bytes, got {length}")
    if not 0 <= start <= status.st_size - length:
        raise OSError(f"{shown(file)}: expected {max(start, 0) + length} bytes, got {status.st_size}")
    with real.open("rb") as stream:
        stream.seek(start)
        return stream.read(length)


def _key(prefix: str, separator: str, place: Sequence[int]) -> str:
    return prefix + separator.join(map(str, place))


def _unpacked(codec: str | None, data: bytes, size: int) -> Array:
    """The bytes of a chunk, never more than `size`."""
    if codec in DEFLATE:
        inflate = zlib.decompressobj(47)  # gzip or zlib, by the header
        data = inflate.decompress(data, size + 1)
        if not inflate.eof and len(data) == size:
            raise ValueError(f"expected the end of the data after {size} bytes")
        codec = None
    if codec is None:
        if len(data) != size:
            raise ValueError(f"expected {size} bytes, got {len(data)}")
        return np.frombuffer(data, np.uint8)
    # Of a size that is too small the rest of the output would be left as it was, and Blosc reads its input as far as its
    # header says, even beyond the end.
    if len(data) < HEADERS[codec]:
        raise ValueError(f"expected {HEADERS[codec]} bytes at least, got {len(data)}")
    if codec == "blosc" and int.from_bytes(data[12:16], "little") != len(data):
        raise ValueError(f"expected {int.from_bytes(data[12:16], 'little')} bytes of Blosc, got {len(data)}")
    at = {"blosc": slice(4, 8), "lz4": slice(4)}.get(codec)
    claimed = _zstd_size(data) if at is None else int.from_bytes(data[at], "little")
    if claimed not in (size, None):
        raise ValueError(f"expected {size} bytes, got {claimed}")
    import numcodecs

    result = np.empty(size, np.uint8)
    # Blosc's own threads would outlast this call, beside worker processes that are forked later.
    before, numcodecs.blosc.use_threads = numcodecs.blosc.use_threads, False
    try:
        numcodecs.get_codec({"id": codec}).decode(data, out=result)
    finally:
        numcodecs.blosc.use_threads = before
    return result


def _zstd_size(data: bytes) -> int | None:
    """Size of the content as a Zstandard frame says it (RFC 8878, 3.1.1.1); None if it does not."""
    flags = data[4]
    single = flags >> 5 & 1
    width = (single, 2, 4, 8)[flags >> 6]
    start = 6 - single + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(data[start : start + width], "little")
    return None if width == 0 else size + 256 if width == 2 else size


@lru_cache(1)
def _crc32c_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [(value >> 1) ^ (0x82F63B78 if value & 1 else 0) for value in table]
    return table


def _crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, B.4), which no module of Python's own has."""
    table, value = _crc32c_table(), 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ table[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF


def _format_2(root: Path, name: str, meta: dict[str, Any]) -> ZarrArray:
    """An array as ``.zarray`` describes it (Zarr 2)."""
    kind, filters, compressor = meta.get("dtype"), meta.get("filters"), meta.get("compressor")
    if kind not in ("|u1", "<u1", ">u1", "u1"):
        raise ValueError(f"expected pixels of type uint8, got {kind!r}")
    if filters not in (None, []):
        raise ValueError(f"expected no filters, got {filters}")
    codec = None if compressor is None else _codec(_entry(compressor, "id")[0])
    shape = _sizes("shape", meta.get("shape"))
    order, separator = meta.get("order"), meta.get("dimension_separator", ".")
    if order not in ("C", "F") or separator not in (".", "/"):
        raise ValueError(f"expected order C or F and separator . or /, got {order!r} and {separator!r}")
    axes = tuple(range(len(shape)))[:: 1 if order == "C" else -1]
    fill = _fill(meta.get("fill_value"))
    return ZarrArray(
        root, name, shape, _sizes("chunks", meta.get("chunks")), fill, codec, axes, "", separator, None
    )


def _format_3(root: Path, name: str, meta: dict[str, Any]) -> ZarrArray:
    """An array as ``zarr.json`` describes it (Zarr 3)."""
    if meta.get("node_type") != "array":
        raise ValueError(f"expected an array {name!r}, got a {meta.get('node_type')}")
    if meta.get("data_type") != "uint8":
        raise ValueError(f"expected pixels of type uint8, got {meta.get('data_type')!r}")
    shape = _sizes("shape", meta.get("shape"))
    grid, settings = _entry(meta.get("chunk_grid"))
    if grid != "regular" or meta.get("storage_transformers"):
        raise ValueError(f"expected a regular grid of chunks and no storage transformers, got {grid!r}")
    chunk = _sizes("chunk_shape", settings.get("chunk_shape"))
    encoding, settings_of_keys = _entry(meta.get("chunk_key_encoding"))
    separator = settings_of_keys.get("separator", "." if encoding == "v2" else "/")
    if encoding not in ("default", "v2") or separator not in (".", "/"):
        raise ValueError(f"expected chunk keys of the encoding default or v2, got {encoding!r}")
    codecs = [_entry(codec) for codec in _list("codecs", meta.get("codecs"))]
    shards = None
    if codecs and codecs[0][0] == "sharding_indexed":
        chunk, codecs, shards = _shards(chunk, codecs)
    axes, codec = _pipeline(codecs, len(shape))
    prefix = f"c{separator}" if encoding == "default" else ""
    return ZarrArray(
        root, name, shape, chunk, _fill(meta.get("fill_value")), codec, axes, prefix, separator, shards
    )


Codecs = list[tuple[str, dict[str, Any]]]


def _shards(shape: tuple[int, ...], codecs: Codecs) -> tuple[tuple[int, ...], Codecs, _Shards]:
    """Shape of the chunks in a shard of some shape, their codecs, and the shards."""
    settings = codecs[0][1]
    chunk = _sizes("chunk_shape", settings.get("chunk_shape"))
    if len(codecs) > 1 or len(chunk) != len(shape) or any(s % c for s, c in zip(shape, chunk, strict=True)):
        raise ValueError(f"expected shards of whole chunks alone, got {shape} of {chunk}")
    of_index = [_entry(codec) for codec in _list("index_codecs", settings.get("index_codecs"))]
    checked = [name for name, _ in of_index] == ["bytes", "crc32c"]
    if not (checked or [name for name, _ in of_index] == ["bytes"]) or of_index[0][1].get("endian") == "big":
        raise ValueError(f"expected an index of little-endian bytes, got {of_index}")
    index_bytes = 16 * math.prod(s // c for s, c in zip(shape, chunk, strict=True))
    if index_bytes > MAX_INDEX:
        raise ValueError(f"expected an index of up to {MAX_INDEX} bytes, got {index_bytes}")
    inner = [_entry(codec) for codec in _list("codecs", settings.get("codecs"))]
    at_start = settings.get("index_location", "end") == "start"
    return chunk, inner, _Shards(shape, index_bytes, checked, at_start)


def _pipeline(codecs: Codecs, ndim: int) -> tuple[tuple[int, ...], str | None]:
    """Order of the axes in the bytes of a chunk, and the name of what packs them."""
    axes = tuple(range(ndim))
    rest = list(codecs)
    while rest and rest[0][0] == "transpose":
        order = rest.pop(0)[1].get("order")
        if not isinstance(order, list) or sorted(map(str, order)) != sorted(map(str, range(ndim))):
            raise ValueError(f"expected an order of {ndim} axes, got {order}")
        axes = tuple(axes[axis] for axis in order)
    names = [name for name, _ in rest]
    if names[:1] != ["bytes"] or len(names) > 2:
        raise ValueError(f"expected the codecs bytes and one of {', '.join(CODECS)}, got {names}")
    return axes, _codec(names[1]) if len(names) == 2 else None


def _codec(name: str) -> str:
    if name not in CODECS:  # among those that `numcodecs` knows is one that runs what a file says
        raise ValueError(f"expected chunks packed by one of {', '.join(CODECS)}, got {name!r}")
    return name


def _entry(value: Any, key: str = "name") -> tuple[str, dict[str, Any]]:
    """Name and settings of an extension; the name alone may stand for both."""
    if isinstance(value, str):
        return value, {}
    settings = value.get("configuration", {}) if isinstance(value, dict) else None
    if not isinstance(settings, dict) or not isinstance(value.get(key), str):
        raise ValueError(f"expected an object with a {key}, got {value!r}"[:200])
    return value[key], settings


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"expected {name} as a list, got {value!r}"[:200])
    return value


def _sizes(name: str, value: Any) -> tuple[int, ...]:
    numbers = _list(name, value)
    if not 2 <= len(numbers) <= 5 or not all(type(n) is int and 1 <= n <= MAX_SIDE for n in numbers):
        raise ValueError(f"expected {name} of 2 to 5 numbers from 1 to {MAX_SIDE}, got {numbers}"[:200])
    return tuple(numbers)


def _fill(value: Any) -> int | None:
    if value is None or (type(value) is int and 0 <= value <= 255):
        return value
    raise ValueError(f"expected a fill value from 0 to 255, got {value!r}"[:200])
