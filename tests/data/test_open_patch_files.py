import json
import logging
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from healnet.data.open_patch_files import open_files
from healnet.slides.trident_clam_reader import read_patches


def write(path: Path, n=4, dim=3, footprint=True):
    with h5py.File(path, "w") as file:
        file["features"] = np.full((n, dim), 0.5, dtype=np.float32)
        file["coords"] = np.arange(2 * n).reshape(n, 2)
        if footprint:
            file["coords"].attrs["patch_size_level0"] = 512
    return path


def spoil(path: Path):
    """Worthless content of the same size and time: only who does not open the file does not notice."""
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_files_come_in_the_order_asked_for(tmp_path):
    paths = [write(tmp_path / f"{name}.h5", n) for name, n in (("a", 2), ("b", 5))]
    files = open_files([paths[1], paths[0], paths[1]])
    assert [file.num_patches for file in files] == [5, 2, 5]


def test_workers_find_the_same(tmp_path):
    paths = [write(tmp_path / f"{i}.h5", i + 1) for i in range(6)]
    assert (
        open_files(paths, workers=2) == open_files(paths, workers=0) == [read_patches(path) for path in paths]
    )


def test_what_was_found_is_remembered_while_files_stay_the_same(tmp_path):
    paths = [write(tmp_path / f"{name}.h5") for name in "ab"]
    cache = tmp_path / "files.json"
    first = open_files(paths, cache=cache)
    spoil(paths[0])
    assert open_files(paths, cache=cache) == first
    write(paths[1], n=9)
    assert [file.num_patches for file in open_files(paths, cache=cache)] == [4, 9]
    assert open_files(paths, cache=cache)[1].load()[0].shape == (9, 3)
    # The same size at another time is another file.
    os.utime(paths[0], ns=(1, 1))
    with pytest.raises(ValueError, match=r"a\.h5"):
        open_files(paths, cache=cache)


def test_files_without_geometry_are_not_remembered_for_it_may_turn_up(tmp_path):
    path = write(tmp_path / "a.h5", footprint=False)
    cache = tmp_path / "files.json"
    open_files([path], cache=cache)
    spoil(path)
    with pytest.raises(ValueError, match=r"a\.h5"):
        open_files([path], cache=cache)


def test_a_change_of_the_patches_file_is_seen(tmp_path):
    (tmp_path / "h5_files").mkdir()
    (tmp_path / "patches").mkdir()
    features = write(tmp_path / "h5_files" / "a.h5", footprint=False)
    patches = write(tmp_path / "patches" / "a.h5")
    cache = tmp_path / "files.json"
    assert open_files([features], cache=cache)[0].footprint == 512
    with h5py.File(patches, "r+") as file:
        file["coords"].attrs["patch_size_level0"] = 1024
    os.utime(patches, ns=(1, 1))
    assert open_files([features], cache=cache)[0].footprint == 1024


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"format": 0, "files": {}}',
        '{"format": 1, "files": []}',
        '{"format": 1, "files": {"%s": 3}}',
    ],
)
def test_a_broken_cache_is_no_harm(tmp_path, content):
    path = write(tmp_path / "a.h5")
    cache = tmp_path / "files.json"
    cache.write_text(content.replace("%s", str(path)))
    assert open_files([path], cache=cache)[0].num_patches == 4
    spoil(path)
    assert open_files([path], cache=cache)[0].num_patches == 4


def test_a_cache_that_is_none_is_said_to_be_so(tmp_path, caplog):
    cache = tmp_path / "files.json"
    cache.write_text("hello")
    with caplog.at_level(logging.WARNING):
        open_files([write(tmp_path / "a.h5")], cache=cache)
    assert "is not a cache of patch files" in caplog.text


@pytest.mark.parametrize("change", [{"kind": "Path"}, {"shape": [4]}, {"extra": 1}])
def test_an_entry_that_does_not_fit_is_read_afresh(tmp_path, change):
    path, cache = write(tmp_path / "a.h5"), tmp_path / "files.json"
    open_files([path], cache=cache)
    content = json.loads(cache.read_text())
    content["files"][str(path)]["features"] |= change
    cache.write_text(json.dumps(content))
    assert open_files([path], cache=cache)[0].num_patches == 4
    assert json.loads(cache.read_text())["files"][str(path)]["features"]["shape"] == [4, 3]


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


def test_a_bad_file_in_a_worker_is_named_too(tmp_path):
    (tmp_path / "bad.h5").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"bad\.h5"):
        open_files([write(tmp_path / "a.h5"), tmp_path / "bad.h5"], workers=1)
