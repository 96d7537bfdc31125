"""HDF5 datasets: read in blocks or row by row, and trusted only when the file holds them."""

import h5py
import numpy as np
import pytest

from healnet.slides.features.hdf5 import H5Rows, h5_attributes, h5_rows, open_h5


def write(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


@pytest.mark.parametrize(
    "layout", [{}, {"chunks": (1, 300)}, {"chunks": (64, 300)}, {"chunks": (64, 300), "fletcher32": True}]
)
def test_large_tables_are_read_in_blocks(tmp_path, layout):
    values = np.random.default_rng(0).normal(size=(9000, 300))  # 21 MB, six blocks
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", data=values, **layout)
    rows = H5Rows(tmp_path / "a.h5", values.shape, "float64", "features")
    draw = np.random.default_rng(1)
    dense, some, few = (draw.permutation(9000)[:count] for count in (5000, 1000, 40))
    for wanted in (np.array([8999, 0, 8999, 4000]), dense, some, np.sort(some), few, np.arange(1800, 1900)):
        np.testing.assert_array_equal(rows.read(wanted), values[wanted])


@pytest.mark.parametrize("chunks", [(1, 1024), (64, 1024)])
def test_between_rows_far_apart_nothing_is_read(tmp_path, monkeypatch, chunks):
    values = np.arange(1000 * 1024.0, dtype=np.float32).reshape(1000, 1024)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", data=values, chunks=chunks, fletcher32=True)
    read = []
    original = H5Rows._slice

    def counted(self, dataset, start, stop):
        read.append(stop - start)
        return original(self, dataset, start, stop)

    monkeypatch.setattr(H5Rows, "_slice", counted)
    wanted = np.array([900, 3, 5, 300, 600])
    np.testing.assert_array_equal(
        H5Rows(tmp_path / "a.h5", values.shape, "float32", "features").read(wanted), values[wanted]
    )
    assert sorted(read) == [1, 1, 1, 3]  # 3, 4 and 5 at once


def test_memory_is_that_of_the_rows_asked_for(tmp_path):
    import tracemalloc

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "features", data=np.zeros((20_000, 1024), np.float32), compression="gzip"
        )  # 80 MB
    rows = H5Rows(tmp_path / "a.h5", (20_000, 1024), "float32", "features")
    tracemalloc.start()
    rows.read(np.random.default_rng(0).permutation(20_000)[:2000])  # 8 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_a_dataset_that_will_do(tmp_path):
    path = write(tmp_path / "a.h5", features=np.ones((1, 7, 3), np.float16))
    with open_h5(path) as file:
        assert h5_rows(path, file, "features", "f") == H5Rows(path, (7, 3), "float16", "features", True)
        with pytest.raises(ValueError, match=rf"^{path}: expected a dataset `coords`, got \['features'\]$"):
            h5_rows(path, file, "coords", "iu", 2)
        with pytest.raises(
            ValueError, match=rf"^{path}: expected `features` of shape \(n, 2\), got \(1, 7, 3\)$"
        ):
            h5_rows(path, file, "features", "f", 2)


def test_attributes_are_plain_and_others_are_left_alone(tmp_path):
    path = write(tmp_path / "a.h5", coords=np.ones((7, 2), int))
    with h5py.File(path, "a") as file:
        attributes = {
            "name": np.bytes_(b"s"),
            "patch_size": np.array([256]),
            "downsample": (4.0, 4.01),
            "save_path": "/x",
        }
        file["coords"].attrs.update(attributes)
        found = h5_attributes(path, file["coords"])
    assert found.pop("downsample").tolist() == [4.0, 4.01]
    assert found == {"name": "s", "patch_size": 256.0}
