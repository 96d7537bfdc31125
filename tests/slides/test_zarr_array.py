"""Chunks as the package `zarr` writes them, and damaged or hostile ones, refused before memory is taken."""

import asyncio
import json
import os
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.api import asynchronous

from healnet.slides.zarr_array import ZarrArray, read_json

SHAPE = (3, 130, 170)
VALUES = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
CHUNK = (3, 64, 64)
SIZE = 3 * 64 * 64


def write(folder, values=VALUES, **settings):
    """An array by the package `zarr`, whose threads end with `asyncio.run`."""

    async def written():
        group = await asynchronous.open_group(folder, mode="w", zarr_format=settings.pop("zarr_format"))
        array = await group.create_array("0", shape=values.shape, dtype="u1", **settings)
        await array.setitem(slice(None), values)

    asyncio.run(written())
    return folder / "0"


def read_whole(array):
    """All chunks of an array, put together; fill values where one is not there."""
    grid = [-(-n // c) for n, c in zip(array.shape, array.chunk, strict=True)]
    whole = np.full([n * c for n, c in zip(grid, array.chunk, strict=True)], array.fill, np.uint8)
    for place in np.ndindex(*grid):
        chunk = array.read(place)
        if chunk is not None:
            part = tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, array.chunk, strict=True))
            whole[part] = chunk
    return whole[tuple(slice(n) for n in array.shape)]


LAYOUTS = {
    "2, Blosc": dict(zarr_format=2, chunks=CHUNK),
    "2, Blosc with Zstandard": dict(
        zarr_format=2, chunks=CHUNK, compressors=numcodecs.Blosc("zstd", shuffle=2)
    ),
    "2, none": dict(zarr_format=2, chunks=CHUNK, compressors=None),
    "2, Fortran": dict(zarr_format=2, chunks=(1, 64, 50), order="F", compressors=numcodecs.Zlib()),
    "2, folders": dict(
        zarr_format=2,
        chunks=(2, 70, 64),
        compressors=numcodecs.LZ4(),
        chunk_key_encoding={"name": "v2", "separator": "/"},
    ),
    "2, gzip": dict(zarr_format=2, chunks=SHAPE, compressors=numcodecs.GZip()),
    "2, Zstandard": dict(zarr_format=2, chunks=CHUNK, compressors=numcodecs.Zstd()),
    "3, Zstandard": dict(zarr_format=3, chunks=CHUNK),
    "3, Blosc": dict(zarr_format=3, chunks=(1, 64, 64), compressors=zarr.codecs.BloscCodec(cname="lz4")),
    "3, dots": dict(
        zarr_format=3,
        chunks=CHUNK,
        compressors=zarr.codecs.GzipCodec(),
        chunk_key_encoding={"name": "default", "separator": "."},
    ),
    "3, names of 2": dict(
        zarr_format=3, chunks=CHUNK, compressors=None, chunk_key_encoding={"name": "v2", "separator": "."}
    ),
    "3, transposed": dict(
        zarr_format=3, chunks=(3, 60, 64), filters=zarr.codecs.TransposeCodec(order=(1, 2, 0))
    ),
    "3, shards": dict(zarr_format=3, chunks=(3, 32, 32), shards=(3, 96, 64)),
    "3, shards, index first": dict(
        zarr_format=3,
        chunks=(3, 96, 64),
        filters=None,
        compressors=None,
        serializer=zarr.codecs.ShardingCodec(
            chunk_shape=(1, 32, 32),
            codecs=[
                zarr.codecs.TransposeCodec(order=(2, 0, 1)),
                zarr.codecs.BytesCodec(),
                zarr.codecs.GzipCodec(),
            ],
            index_codecs=[zarr.codecs.BytesCodec()],
            index_location="start",
        ),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("empty", [False, True], ids=["whole", "with chunks left out"])
def test_what_zarr_writes_is_read(layout, empty, tmp_path):
    values = VALUES.copy()
    if empty:
        values[:, :96] = 7  # of one value, the fill value, so that `zarr` writes no chunk
    write(tmp_path, values, fill_value=7, **LAYOUTS[layout])
    array = ZarrArray.open(tmp_path, "0")
    assert (array.shape, array.fill) == (SHAPE, 7)
    assert np.array_equal(read_whole(array), values)


def test_a_zstandard_frame_that_does_not_say_its_size(tmp_path):
    """As streaming writers end it: the header's flags say one segment of no size, and a window of 1 MiB."""
    file = write(tmp_path, zarr_format=2, chunks=CHUNK, compressors=numcodecs.Zstd()) / "0.0.0"
    data = file.read_bytes()
    assert data[4] >> 5 == 0b011  # two bytes of size, in a single segment
    file.write_bytes(data[:4] + bytes([data[4] & 0b0001_1111, 0x50]) + data[7:])
    assert np.array_equal(ZarrArray.open(tmp_path, "0").read((0, 0, 0)), VALUES[:, :64, :64])


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_outlives_a_read(tmp_path):
    """Worker processes are forked later. Blosc would unpack in threads of its own, once started for the whole process."""
    values = np.random.default_rng(0).integers(0, 4, (1024, 1024, 3)).astype(np.uint8)
    write(tmp_path, values, zarr_format=2, chunks=values.shape)
    code = f"""
from pathlib import Path
import numcodecs
from healnet.slides.zarr_array import ZarrArray
tasks = lambda: len(list(Path("/proc/self/task").iterdir()))
before = tasks()
chunk = ZarrArray.open(Path({str(tmp_path)!r}), "0").read((0, 0, 0))
print(tasks() - before, int(chunk.sum()), numcodecs.blosc.use_threads)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["0", str(values.sum()), "None"]


# Damaged chunks


def zstd(claimed):
    # Magic number, eight bytes of size in a single segment, and one block of a repeated byte.
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", claimed) + b"\x03\x00\x00\x00"


CODECS = {
    "blosc": numcodecs.Blosc(),
    "zstd": numcodecs.Zstd(),
    "lz4": numcodecs.LZ4(),
    "zlib": numcodecs.Zlib(),
    None: None,
}


@pytest.mark.parametrize(
    ("codec", "damaged", "problem"),
    [
        ("zlib", lambda data: zlib.compress(bytes(1 << 24), 9), f"expected {SIZE} bytes, got {SIZE + 1}"),
        ("zlib", lambda data: zlib.compress(bytes(5)), f"expected {SIZE} bytes, got 5"),
        ("zlib", lambda data: data[:-4], f"expected the end of the data after {SIZE} bytes"),
        (
            "blosc",
            lambda data: data[:4] + struct.pack("<I", 2**31 - 1) + data[8:],
            f"expected {SIZE} bytes, got {2**31 - 1}",
        ),
        ("blosc", lambda data: data[:-1], f"expected {SIZE + 16} bytes of Blosc, got {SIZE + 15}"),
        ("blosc", lambda data: b"", "expected 16 bytes at least, got 0"),
        ("zstd", lambda data: zstd(2**50), f"expected {SIZE} bytes, got {2**50}"),
        ("zstd", lambda data: zstd(SIZE), "Zstd decompression error: "),
        ("zstd", lambda data: data[:2], "expected 6 bytes at least, got 2"),
        ("lz4", lambda data: struct.pack("<I", 2**31) + data[4:], f"expected {SIZE} bytes, got {2**31}"),
        (None, lambda data: data[:7], f"expected {SIZE} bytes, got 7"),
    ],
)
def test_a_chunk_is_refused_before_its_memory_is_taken(tmp_path, codec, damaged, problem):
    file = write(tmp_path, zarr_format=2, chunks=CHUNK, compressors=CODECS[codec]) / "0.1.0"
    file.write_bytes(damaged(file.read_bytes()))
    array = ZarrArray.open(tmp_path, "0")
    tracemalloc.start()
    with pytest.raises(OSError, match="^" + re.escape(f"chunk 0/1/0 of '0': {problem}")):
        array.read((0, 1, 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22
    assert np.array_equal(array.read((0, 0, 1)), VALUES[:, :64, 64:128])  # the others stay readable


@pytest.fixture(scope="module", params=["blosc", "zstd", "lz4", "zlib"])
def packed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    values = (np.arange(SIZE) % 50).astype(np.uint8).reshape(CHUNK)
    write(folder, values, zarr_format=2, chunks=CHUNK, compressors=CODECS[request.param])
    return ZarrArray.open(folder, "0"), (folder / "0" / "0.0.0").read_bytes()


@settings(derandomize=True)  # Blosc's library parses these bytes: what it survived once it survives again
@given(data=st.data())
def test_a_changed_byte_is_refused_or_read_as_one_chunk(packed, data):
    array, whole = packed
    where = data.draw(st.integers(0, len(whole) - 1))
    file = array.root / "0" / "0.0.0"
    file.write_bytes(whole[:where] + bytes([data.draw(st.integers(0, 255))]) + whole[where + 1 :])
    try:
        chunk = array.read((0, 0, 0))
    except OSError as error:
        problem = str(error)
    else:
        problem = f"chunk 0/0/0 of '0': {chunk.shape}"
    assert problem.startswith("chunk 0/0/0 of '0': ")


# Shards


@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        (
            lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
            "the checksum of the shard's index is wrong",
        ),
        (lambda data: b"short", "expected 36 bytes, got 5"),
    ],
)
def test_a_damaged_index_of_a_shard(tmp_path, damaged, problem):
    file = write(tmp_path, zarr_format=3, chunks=(3, 64, 64), shards=(3, 64, 128)) / "c/0/0/0"
    file.write_bytes(damaged(file.read_bytes()))
    with pytest.raises(OSError, match=f"^{re.escape(f'0/c/0/0/0: {problem}')}$"):
        ZarrArray.open(tmp_path, "0").read((0, 0, 0))


@pytest.mark.parametrize(
    ("offset", "length", "problem"),
    [
        (0, 2**40, f"expected up to {int(1.1 * SIZE) + 4096} bytes, got {2**40}"),
        (2**63, 5, f"expected {2**63 + 5} bytes, got "),
    ],
)
def test_a_shard_that_points_out_of_itself(tmp_path, offset, length, problem):
    serializer = zarr.codecs.ShardingCodec(
        chunk_shape=CHUNK, codecs=[zarr.codecs.BytesCodec()], index_codecs=[zarr.codecs.BytesCodec()]
    )
    settings = dict(zarr_format=3, chunks=(3, 64, 128), serializer=serializer, filters=None, compressors=None)
    file = write(tmp_path, **settings) / "c/0/0/0"
    file.write_bytes(file.read_bytes()[:-32] + struct.pack("<QQQQ", offset, length, 0, 0))
    with pytest.raises(OSError, match=f"^{re.escape(f'0/c/0/0/0: {problem}')}"):
        ZarrArray.open(tmp_path, "0").read((0, 0, 0))


# Files that are none, or lie elsewhere


def replaced_by_a_pipe(file):
    os.mkfifo(file)


def replaced_by_a_link_outside(file):
    (file.parents[2] / "secret").write_bytes(bytes(SIZE))
    file.symlink_to(file.parents[2] / "secret")


def replaced_by_a_link_to_nothing(file):
    file.symlink_to(file.parent / "annex")


@pytest.mark.posix
@pytest.mark.parametrize(
    ("replaced", "problem"),
    [
        (replaced_by_a_pipe, "expected a regular file, got a folder, pipe or device"),
        (replaced_by_a_link_outside, "expected a file in the slide's folder, got a link to another place"),
        (replaced_by_a_link_to_nothing, "expected a file, got a link to nothing"),
        (
            lambda file: file.write_bytes(bytes(2 * SIZE)),
            f"expected up to {int(1.1 * SIZE) + 4096} bytes, got {2 * SIZE}",
        ),
    ],
)
def test_chunks_that_are_no_files_of_the_store(tmp_path, replaced, problem):
    store = tmp_path / "store"
    file = write(store, zarr_format=2, chunks=CHUNK, compressors=None) / "0.0.0"
    file.unlink()
    replaced(file)
    with pytest.raises(OSError, match=f"^{re.escape(f'0/0.0.0: {problem}')}$"):
        ZarrArray.open(store, "0").read((0, 0, 0))


@pytest.mark.posix
def test_links_within_the_store_are_followed(tmp_path):
    """As in data sets that git-annex keeps."""
    file = write(tmp_path, zarr_format=2, chunks=CHUNK) / "0.0.0"
    file.rename(tmp_path / "annex")
    file.symlink_to("../annex")
    assert np.array_equal(ZarrArray.open(tmp_path, "0").read((0, 0, 0)), VALUES[:, :64, :64])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "expected JSON in a.json, got something else (maximum recursion depth exceeded"),
        (
            "nonsense",
            "expected JSON in a.json, got something else (Expecting value: line 1 column 1 (char 0))",
        ),
        ("[1]", "expected a JSON object in a.json, got a list"),
    ],
)
def test_what_is_no_json(tmp_path, text, problem):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}"):
        read_json(tmp_path, "a.json")


# Metadata

NUMBERS = f"of 2 to 5 numbers from 1 to {1 << 24}"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"dtype": "<u2"}, "expected pixels of type uint8, got '<u2'"),
        ({"shape": [3, -130, 170]}, f"expected shape {NUMBERS}, got [3, -130, 170]"),
        ({"shape": [3, 2**40, 170]}, f"expected shape {NUMBERS}, got [3, {2**40}, 170]"),
        ({"shape": [True, 130, 170]}, f"expected shape {NUMBERS}, got [True, 130, 170]"),
        ({"shape": [130]}, f"expected shape {NUMBERS}, got [130]"),
        ({"shape": "big"}, "expected shape as a list, got 'big'"),
        ({"chunks": [3, 0, 64]}, f"expected chunks {NUMBERS}, got [3, 0, 64]"),
        ({"chunks": [64, 64]}, "expected chunks of 3 axes, got 2"),
        ({"chunks": [3, 2**20, 2**20]}, f"expected chunks of up to {1 << 28} bytes, got {3 << 40}"),
        ({"fill_value": 256}, "expected a fill value from 0 to 255, got 256"),
        ({"filters": [{"id": "pickle"}]}, "expected no filters, got [{'id': 'pickle'}]"),
        (
            {"compressor": {"id": "pickle"}},
            "expected chunks packed by one of blosc, zstd, lz4, gzip, zlib, got 'pickle'",
        ),
        ({"compressor": 5}, "expected an object with a id, got 5"),
        ({"order": "A"}, "expected order C or F and separator . or /, got 'A' and '.'"),
        ({"dimension_separator": "/../"}, "expected order C or F and separator . or /, got 'C' and '/../'"),
    ],
)
def test_arrays_of_format_2_that_are_refused(tmp_path, change, problem):
    file = write(tmp_path, zarr_format=2, chunks=CHUNK) / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        ZarrArray.open(tmp_path, "0")


def sharded(**change):
    settings = {
        "chunk_shape": [3, 32, 32],
        "codecs": ["bytes"],
        "index_codecs": ["bytes", "crc32c"],
    }
    return {"codecs": [{"name": "sharding_indexed", "configuration": settings | change}]}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"node_type": "group"}, "expected an array '0', got a group"),
        ({"data_type": "uint16"}, "expected pixels of type uint8, got 'uint16'"),
        (
            {"chunk_grid": {"name": "rectangular"}},
            "expected a regular grid of chunks and no storage transformers, got 'rectangular'",
        ),
        ({"chunk_grid": "regular"}, "expected chunk_shape as a list, got None"),
        ({"chunk_grid": None}, "expected an object with a name, got None"),
        (
            {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "../"}}},
            "expected chunk keys of the encoding default or v2, got 'default'",
        ),
        ({"codecs": None}, "expected codecs as a list, got None"),
        (
            {"codecs": ["bytes", "zstd", "crc32c"]},
            "expected the codecs bytes and one of blosc, zstd, lz4, gzip, zlib, got ['bytes', 'zstd', 'crc32c']",
        ),
        (
            {"codecs": ["bytes", "lzma"]},
            "expected chunks packed by one of blosc, zstd, lz4, gzip, zlib, got 'lzma'",
        ),
        (
            {"codecs": [{"name": "transpose", "configuration": {"order": [0, 0, 1]}}, "bytes"]},
            "expected an order of 3 axes, got [0, 0, 1]",
        ),
        (
            sharded(chunk_shape=[3, 30, 32]),
            "expected shards of whole chunks alone, got (3, 64, 64) of (3, 30, 32)",
        ),
        (
            sharded(index_codecs=["zstd"]),
            "expected an index of little-endian bytes, got [('zstd', {})]",
        ),
        (
            sharded(chunk_shape=[1, 1, 1])
            | {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, 2**10, 2**10]}}},
            f"expected an index of up to {1 << 22} bytes, got {3 << 24}",
        ),
    ],
)
def test_arrays_of_format_3_that_are_refused(tmp_path, change, problem):
    file = write(tmp_path, zarr_format=3, chunks=CHUNK) / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        ZarrArray.open(tmp_path, "0")


def test_no_array_and_an_array_without_chunks(tmp_path):
    place = write(tmp_path, zarr_format=2, chunks=SHAPE)
    with pytest.raises(ValueError, match=r"^expected an array '1', got none$"):
        ZarrArray.open(tmp_path, "1")
    (place / "0.0.0").unlink()
    with pytest.raises(ValueError, match=r"^expected chunks of the array '0', got none$"):
        ZarrArray.open(tmp_path, "0")


def test_numcodecs_is_needed_for_what_python_cannot_unpack(tmp_path, monkeypatch):
    write(tmp_path / "a", zarr_format=2, chunks=CHUNK)
    write(tmp_path / "b", zarr_format=2, chunks=CHUNK, compressors=numcodecs.Zlib())
    monkeypatch.setitem(sys.modules, "numcodecs", None)
    expected = "this OME-Zarr slide needs numcodecs; install it with `pip install 'healnet[zarr]'`"
    with pytest.raises(ImportError, match=f"^{re.escape(expected)}$"):
        ZarrArray.open(tmp_path / "a", "0")
    assert np.array_equal(read_whole(ZarrArray.open(tmp_path / "b", "0")), VALUES)
