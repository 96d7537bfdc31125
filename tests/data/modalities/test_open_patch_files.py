import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from healnet.data.modalities.open_patch_files import open_files
from healnet.slides.features.trident_clam_reader import read_patches


def write(path: Path, n=4, dim=3, footprint=True):
    with h5py.File(path, "w") as file:
        file["features"] = np.full((n, dim), 0.5, dtype=np.float32)
        file["coords"] = np.arange(2 * n).reshape(n, 2)
        if footprint:
            file["coords"].attrs["patch_size_level0"] = 512
    return path


def test_files_come_in_the_order_asked_for(tmp_path):
    paths = [write(tmp_path / f"{name}.h5", n) for name, n in (("a", 2), ("b", 5))]
    files = open_files([paths[1], paths[0], paths[1]])
    assert [file.num_patches for file in files] == [5, 2, 5]


def test_files_side_by_side_are_what_they_are_alone(tmp_path):
    paths = [write(tmp_path / f"{i}.h5", i + 1) for i in range(90)]
    assert open_files(paths) == [read_patches(path) for path in paths]


def test_all_bad_files_are_named_at_once(tmp_path):
    good = write(tmp_path / "good.h5")
    bad = [tmp_path / f"bad{i}.h5" for i in range(7)]
    for path in bad:
        path.write_bytes(b"no")
    with pytest.raises(ValueError, match="bad0") as raised:
        open_files([good, *bad, tmp_path / "absent.h5"])
    lines = str(raised.value).split("\n")
    assert len(lines) == 6
    assert all(str(path) in line for path, line in zip(bad, lines[:5], strict=False))
    assert lines[5] == "and 3 more"


@pytest.mark.posix
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"a\.h5"):
        open_files([tmp_path / "a.h5"])
