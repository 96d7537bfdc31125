"""Any rows of any layout, read as if the whole table were in memory."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.slides.features.hdf5 import H5Rows
from healnet.slides.features.patch_rows import TensorRows

N, D = 997, 3
VALUES = np.arange(N * D, dtype=np.float32).reshape(N, D)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    with h5py.File(folder / "a.h5", "w") as file:
        file["plain"] = VALUES
        file.create_dataset("clam", data=VALUES, chunks=(1, D), maxshape=(None, D))
        file.create_dataset("packed", data=VALUES, chunks=(64, D), compression="gzip")
        file["leading"] = VALUES[None]
        file["half"] = VALUES.astype(">f2")
    torch.save(torch.from_numpy(VALUES), folder / "a.pt")
    torch.save(torch.from_numpy(VALUES.T).t(), folder / "strided.pt")
    h5 = {
        name: H5Rows(folder / "a.h5", (N, D), "float32", name, name == "leading")
        for name in ("plain", "clam", "packed", "leading", "half")
    }
    return h5 | {name: TensorRows(folder / f"{name}.pt", (N, D), "float32") for name in ("a", "strided")}


SELECTIONS = st.one_of(
    st.none(),
    st.slices(N),
    st.lists(st.integers(0, N - 1), max_size=60),
    st.lists(st.integers(0, N - 1), max_size=60).map(lambda rows: np.array(rows, np.int32)),
    st.integers(0, 99).map(lambda seed: np.random.default_rng(seed).permutation(N)),
    st.integers(0, 99).map(lambda seed: np.random.default_rng(seed).random(N) < 0.3),
)


@settings(max_examples=60, deadline=None)
@given(rows=SELECTIONS, name=st.sampled_from(["plain", "clam", "packed", "leading", "half", "a", "strided"]))
def test_any_selection_equals_that_of_the_array(tables, rows, name):
    table = tables[name]
    expected = (
        VALUES[...] if rows is None else VALUES[np.array(rows, np.int64) if isinstance(rows, list) else rows]
    )
    expected = expected.astype(np.float16) if name == "half" else expected
    np.testing.assert_array_equal(table.read(rows), expected)
    assert len(table) == N


def test_rows_are_a_copy_not_a_view_of_the_file(tables):
    before = tables["a"].path.read_bytes()
    tables["a"].read(slice(0, 5))[:] = -1
    assert tables["a"].path.read_bytes() == before
    assert tables["a"].read(slice(0, 1)).tolist() == [[0, 1, 2]]


@pytest.mark.linux
def test_no_rows_lie_in_a_memory_map_of_the_file(tables):
    rows = tables["a"].read(slice(0, 5))  # they would fault once the file is cut short
    assert str(tables["a"].path) not in Path("/proc/self/maps").read_text()
    assert rows.shape == (5, D)


@pytest.mark.parametrize(
    ("rows", "got"),
    [
        ([0, N], rf"int64 of shape \(2,\) from 0 to {N}"),
        ([-1], r"int64 of shape \(1,\) from -1 to -1"),
        ([0.5], r"float64 of shape \(1,\) from 0\.5 to 0\.5"),
        (np.zeros((2, 2), int), r"int64 of shape \(2, 2\) from 0 to 0"),
        (np.ones(4, bool), r"bool of shape \(4,\)"),
    ],
)
def test_rows_that_do_not_exist(tables, rows, got):
    message = rf"expected rows as a slice, a bool mask of {N} or row numbers from 0 to {N - 1}, got {got}$"
    with pytest.raises(ValueError, match=message):
        tables["plain"].read(rows)


@pytest.mark.parametrize(("rows", "named"), [(None, 700), (slice(650, 750), 700), ([3, 700, 5], 700)])
def test_a_value_that_is_not_finite_is_named_by_its_row_in_the_file(tmp_path, rows, named):
    values = VALUES.copy()
    values[700, 1] = np.inf
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = values
    table = H5Rows(tmp_path / "a.h5", (N, D), "float32", "features")
    with pytest.raises(
        ValueError, match=rf"a\.h5: expected finite features, got inf in row {named} \(1 such rows among the"
    ):
        table.read(rows)
    assert table.read(slice(0, 700)).shape == (700, D)


def test_a_file_that_has_gone(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"gone\.h5: no such file any more; it was there when it was opened$"
    ):
        H5Rows(tmp_path / "gone.h5", (N, D), "float32", "features").read()
    with pytest.raises(
        FileNotFoundError, match=r"gone\.pt: no such file any more; it was there when it was opened$"
    ):
        TensorRows(tmp_path / "gone.pt", (N, D), "float32").read()
