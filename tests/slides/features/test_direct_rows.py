"""Rows read past HDF5 are those that HDF5 reads, of every layout; what it must unpack or convert is left to it."""

from io import FileIO

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from healnet.slides.features._direct_rows import read_rows, row_places
from healnet.slides.features.hdf5 import H5Rows

LAYOUTS = {
    "contiguous": {},
    "chunks of a row": {"chunks": (1, 5), "maxshape": (None, 5)},
    "chunks of seven rows": {"chunks": (7, 5), "maxshape": (None, 5)},
    "chunks of half a row": {"chunks": (4, 3), "maxshape": (None, None)},
    "compressed": {"chunks": (7, 5), "maxshape": (None, 5), "compression": "gzip"},
    "checksummed": {"chunks": (7, 5), "maxshape": (None, 5), "fletcher32": True},
}


def write(path, values, libver=None, userblock=0, **layout):
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        file.create_dataset("before", data=np.arange(100.0))
        dataset = file.create_dataset("features", values.shape, values.dtype, **layout)
        for start in np.random.default_rng(0).permutation(
            range(0, max(1, values.shape[-2]), 9)
        ):  # in no order
            dataset[..., start : start + 9, :] = values[..., start : start + 9, :]
    return path


@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from(["<f4", ">f4", "<f2", "<f8", "<i4"]),
    libver=st.sampled_from([None, "latest"]),
    userblock=st.sampled_from([0, 512]),
    length=st.integers(0, 40),
    data=st.data(),
)
def test_rows_are_those_that_hdf5_reads(tmp_path_factory, layout, dtype, libver, userblock, length, data):
    values = np.arange(length * 5).reshape(length, 5).astype(dtype)
    path = tmp_path_factory.getbasetemp() / "rows.h5"
    write(path, values, libver, userblock, **LAYOUTS[layout])
    rows = H5Rows(path, (length, 5), dtype, "features")
    wanted = np.array(
        data.draw(st.lists(st.integers(0, length - 1), max_size=60)) if length else [], np.int64
    )
    for selection in (wanted, np.sort(wanted), slice(length // 3, length), None):
        np.testing.assert_array_equal(
            rows.read(selection), values[slice(None) if selection is None else selection]
        )


def places_of(path, rows):
    with h5py.File(path) as file:
        return row_places(file["features"], np.asarray(rows))


@pytest.mark.parametrize("shape", [(20, 5), (1, 20, 5)])
@pytest.mark.parametrize("chunks", [None, (1, 5), (8, 5)])
def test_places_are_where_the_bytes_of_a_row_are(tmp_path, shape, chunks):
    values = np.random.default_rng(0).normal(size=shape)
    chunks = chunks and (1,) * (len(shape) - 2) + chunks
    path = write(tmp_path / "a.h5", values, chunks=chunks)
    data, rows = path.read_bytes(), np.array([19, 0, 7, 8, 7])
    assert places_of(path, rows).tolist() == [data.index(values[..., row, :].tobytes()) for row in rows]


@pytest.mark.parametrize(
    "layout",
    [
        LAYOUTS["chunks of half a row"],
        LAYOUTS["compressed"],
        LAYOUTS["checksummed"],
        {"userblock": 512},
        {"chunks": (1, 5), "userblock": 512},
    ],
)
def test_what_is_left_to_hdf5(tmp_path, layout):
    assert places_of(write(tmp_path / "a.h5", np.ones((40, 5)), **layout), np.arange(40)) is None


def test_of_many_chunks_few_are_left_to_hdf5(tmp_path):
    path = write(tmp_path / "a.h5", np.ones((40, 5)), chunks=(1, 5))
    assert places_of(path, np.arange(6)) is None
    assert len(places_of(path, np.arange(7))) == 7


def test_numbers_that_numpy_does_not_hold_as_they_are_stored_are_left_to_hdf5(tmp_path):
    values = np.arange(40, dtype=np.int32).reshape(20, 2)
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_precision(24)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = h5py.h5d.create(file.id, b"features", kind, h5py.h5s.create_simple((20, 2)))
        h5py.Dataset(stored)[:] = values
    assert places_of(tmp_path / "a.h5", np.arange(20)) is None
    np.testing.assert_array_equal(H5Rows(tmp_path / "a.h5", (20, 2), "int32", "features").read(), values)


def test_a_chunk_of_another_layout_than_one_slide_is_left_to_hdf5(tmp_path):
    values = np.arange(100.0).reshape(1, 20, 5)
    path = write(tmp_path / "a.h5", values, chunks=(2, 4, 5), maxshape=(None, None, 5))
    assert places_of(path, np.arange(20)) is None
    np.testing.assert_array_equal(H5Rows(path, (20, 5), "float64", "features", True).read(), values[0])


def test_a_missing_chunk_raises(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", (20, 5), np.float32, chunks=(4, 5))[:16] = 1
    assert len(places_of(tmp_path / "a.h5", np.arange(16))) == 16
    with pytest.raises(ValueError, match=r"^a chunk is missing, or not of 80 bytes$"):
        places_of(tmp_path / "a.h5", np.arange(17))


def test_a_chunk_of_another_size_raises(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", (4, 5), np.float32, chunks=(4, 5)).id.write_direct_chunk(
            (0, 0), bytes(40)
        )
    with pytest.raises(ValueError, match=r"^a chunk is missing, or not of 80 bytes$"):
        places_of(tmp_path / "a.h5", np.arange(4))


class Counting(FileIO):
    """A file that notes how many bytes each call reads."""

    def __init__(self, path):
        super().__init__(path)
        self.read_bytes = []

    def readinto(self, buffer):
        count = super().readinto(buffer)
        self.read_bytes.append(count)
        return count


def test_of_rows_far_apart_nothing_between_is_read(tmp_path):
    size = 4096
    values = np.random.default_rng(0).integers(
        0, 256, (1100, size), dtype=np.uint8
    )  # 4.5 MB, more than any block
    (tmp_path / "a").write_bytes(b"head" + values.tobytes())
    wanted = np.array([900, 3, 5, 300, 600, 3])
    with Counting(tmp_path / "a") as file:
        np.testing.assert_array_equal(read_rows(file, 4 + wanted * size, size), values[wanted])
    assert file.read_bytes == [3 * size, size, size, size]  # 3, 4 and 5 at once
    with Counting(tmp_path / "a") as file:
        np.testing.assert_array_equal(read_rows(file, 4 + np.arange(1100) * size, size), values)
    assert file.read_bytes == [1100 * size]


def test_a_file_that_ends_before_its_rows_raises(tmp_path):
    (tmp_path / "a").write_bytes(bytes(50))
    with FileIO(tmp_path / "a") as file:
        assert read_rows(file, np.array([10, 30]), 20).shape == (2, 20)
        with pytest.raises(EOFError, match=r"^expected 11 more bytes at 50, got the end of the file$"):
            read_rows(file, np.array([10, 41]), 20)


def test_a_file_replaced_while_it_is_opened_raises(tmp_path, monkeypatch):
    """The places of one file would be read in another."""
    path, other = (
        write(tmp_path / name, np.full((20, 5), i + 1.0)) for i, name in enumerate(("a.h5", "b.h5"))
    )
    opened = h5py.File

    def replace_and_open(*args, **options):
        other.replace(path)
        return opened(*args, **options)

    monkeypatch.setattr(h5py, "File", replace_and_open)
    with pytest.raises(
        ValueError, match=rf"^{path}: expected readable values of `features`, got .* was replaced"
    ):
        H5Rows(path, (20, 5), "float64", "features").read()
