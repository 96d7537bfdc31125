"""Text of variable length in HDF5 files: sound heaps read as they were written, damaged ones raise and never hang."""

import struct
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from healnet.slides.features._heap_check import HeapCheckedFile
from healnet.slides.features.hdf5 import open_h5
from healnet.slides.features.trident_clam_reader import read_patches

FIRST = (
    16  # a collection's header; then objects: index and references (2 bytes each), 4 bytes, size (8), data
)
READ_ALL = """
import sys
from healnet.slides.features.trident_clam_reader import read_patches
for path in sys.argv[1:]:
    print(path, flush=True)
    try:
        print("read", read_patches(path).slide, flush=True)
    except ValueError as error:
        print(error, flush=True)
"""


def write_trident(path, text="uni"):
    """A feature file as TRIDENT's: h5py writes `str` attributes with variable length."""
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = np.ones((5, 3), np.float32)
        file["coords"] = np.arange(10).reshape(5, 2)
        for name in ("features", "coords"):
            file[name].attrs.update({"name": path.stem, "savetodir": "/data/features", "encoder": text})
    return path


def objects(data, start):
    """(place, index, size) of the objects of a collection, by the specification."""
    place, found = start + FIRST, []
    (end,) = struct.unpack_from("<Q", data, start + 8)
    while place + 16 <= start + end:
        index, size = struct.unpack_from("<H6xQ", data, place)
        found.append((place, index, size))
        place += size if index == 0 else 16 + -(-size // 8) * 8
    return found


def with_size(number, size, index=None):
    """Damage that gives one object of the first collection (-1: its free space) another size, and perhaps index."""

    def damage(data):
        place, old, _ = objects(data, data.index(b"GCOL"))[number]
        struct.pack_into("<Q", data, place + 8, size)
        struct.pack_into("<H", data, place, old if index is None else index)

    return damage


def with_collection_size(size):
    return lambda data: struct.pack_into("<Q", data, data.index(b"GCOL") + 8, size)


def going_back(data):
    """An object whose size leads back to the one before it, round and round."""
    start = data.index(b"GCOL")
    (first, _, _), (second, _, _), *_ = objects(data, start)
    struct.pack_into("<Q", data, second + 8, 2**64 - 16 - (second - first))


DAMAGE = {
    "free space of size 0": with_size(-1, 0),
    "text of a size that wraps around to itself": with_size(0, 2**64 - 16),
    "the last text of such a size": with_size(-2, 2**64 - 16),
    "a size that leads back": going_back,
    "text that became free space of size 0": with_size(1, 0, index=0),
    "text that became free space smaller than its header": with_size(1, 8, index=0),
    "text beyond the collection": with_size(0, 5000),
    "free space beyond the collection": with_size(-1, 1 << 40),
    "collection beyond the file": with_collection_size(1 << 20),
    "collection of 2^64 - 1 bytes": with_collection_size(2**64 - 1),
    "collection smaller than its header": with_collection_size(8),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What `read_patches` answers to each damaged file, in a process of its own: inside HDF5 no limit of pytest's acts."""
    folder = tmp_path_factory.mktemp("damaged")
    whole = write_trident(folder / "whole" / "a.h5")
    paths = {whole: "sound"}
    for number, (name, damage) in enumerate(DAMAGE.items()):
        data = bytearray(whole.read_bytes())
        damage(data)
        path = folder / str(number) / "a.h5"
        path.parent.mkdir()
        path.write_bytes(data)
        paths[path] = name
    command = [sys.executable, "-c", READ_ALL, *map(str, paths)]
    try:
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False).stdout
    except subprocess.TimeoutExpired as expired:
        output = (expired.stdout or b"").decode()
    lines = [*output.splitlines(), "hung, or ended the process"]
    return {
        name: (path, lines[lines.index(str(path)) + 1]) for path, name in paths.items() if str(path) in lines
    }


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_heap_raises_and_never_hangs(outcomes, name):
    assert name in outcomes, f"not reached: {list(outcomes)[-1]} was the last"
    path, answer = outcomes[name]
    assert answer.startswith(f"{path}: expected a feature file of CLAM or TRIDENT: ")
    assert "got a damaged HDF5 file (the objects of the global heap at byte " in answer


def test_the_sound_file_of_the_damaged_ones_reads(outcomes):
    assert outcomes["sound"][1] == "read a"


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"))


@given(st.lists(TEXT, max_size=12), st.integers(0, 9000))
@example(["0"] * 4, 3945)  # the letters GCOL lie where HDF5 begins its second read of the collection
def test_text_of_any_length_reads_as_it_was_written(tmp_path_factory, texts, long):
    texts = [*texts, "x" * long, "GCOL"]
    path = tmp_path_factory.getbasetemp() / "texts.h5"
    with h5py.File(path, "w", userblock_size=512 if long % 2 else 0) as file:
        for number, text in enumerate(texts):
            file.attrs[str(number)] = text
    with open_h5(path) as file:
        assert [file.attrs[str(number)] for number in range(len(texts))] == texts


def test_lengths_of_another_size_are_refused(tmp_path):
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plist.set_sizes(8, 4)
    h5py.h5f.create(str(tmp_path / "a.h5").encode(), h5py.h5f.ACC_TRUNC, fcpl=plist).close()
    with pytest.raises(ValueError, match=r"got a damaged HDF5 file \(lengths of 4 bytes, as no known .*\)$"):
        read_patches(tmp_path / "a.h5")


def test_a_file_that_became_shorter_raises(tmp_path):
    (tmp_path / "a.h5").write_bytes(bytes(10))
    with HeapCheckedFile(tmp_path / "a.h5") as file:
        file.seek(4)
        with pytest.raises(EOFError, match=r"^expected 7 bytes at 4, got 6$"):
            file.readinto(bytearray(7))
