"""A test that reads a file beside the checkout fails, whichever library opens it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

TESTS = Path(__file__).parent
CODE = """
from pathlib import Path

import h5py

BESIDE = Path(__file__).parents[2]

def test_inside(tmp_path):
    (tmp_path / "a").write_text("1")
    assert Path(__file__).read_text()

def test_python():
    assert (BESIDE / "shared.txt").read_text() == "1"

def test_swallowed():
    try:
        (BESIDE / "not_there.txt").read_text()
    except OSError:
        pass

def test_folder():
    assert list(BESIDE.iterdir())

def test_library():
    h5py.File(BESIDE / "shared.h5").close()
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    tests = folder / "checkout" / "tests"
    tests.mkdir(parents=True)
    (folder / "temporary").mkdir()
    (folder / "shared.txt").write_text("1")
    h5py.File(folder / "shared.h5", "w").close()
    shutil.copy(TESTS / "conftest.py", tests)
    (tests / "test_paths.py").write_text(CODE)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", str(tests)]
    names = {name: str(folder / "temporary") for name in ("TMPDIR", "TEMP", "TMP")} | {"COLUMNS": "999"}
    done = subprocess.run(command, cwd=tests.parent, env=os.environ | names, capture_output=True, text=True)
    return folder, done.stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("test_python", "shared.txt"),
        ("test_swallowed", "not_there.txt"),
        ("test_folder", ""),
        ("test_library", "shared.h5"),
    ],
)
def test_a_file_beside_the_checkout_fails_the_test(lines, name, path):
    folder, printed = lines
    message = f"opened outside of the checkout and of temporary folders: {folder / path}"
    assert f"ERROR tests/test_paths.py::{name} - Failed: {message}" in printed


def test_files_of_the_checkout_and_temporary_ones_do_not(lines):
    _, printed = lines
    assert not [line for line in printed if line.startswith("ERROR") and "::test_inside " in line]
    assert [line for line in printed if line.startswith("PASSED") and line.endswith("::test_inside")]
