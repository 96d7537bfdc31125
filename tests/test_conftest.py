"""A test that needs a file from outside of the project fails wherever it is run."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import openslide
import pytest

BESIDE = Path(__file__).parents[2] / "beside"


def test_open():
    (BESIDE / "a.h5").read_bytes()


def test_caught():
    try:
        next(BESIDE.glob("*"), None)
    except OSError:
        pass


def test_relative():
    os.listdir(os.path.join(os.pardir, "beside"))


def test_link(tmp_path):
    (tmp_path / "a").symlink_to(BESIDE)
    (tmp_path / "a" / "a.h5").read_bytes()


def test_hdf5():
    h5py.File(BESIDE / "a.h5")


def test_openslide():
    openslide.OpenSlide(BESIDE / "a.h5")


def test_of_a_process():
    subprocess.run([sys.executable, "-c", "", BESIDE], check=True)


@pytest.fixture(scope="module")
def table():
    return (BESIDE / "a.h5").read_bytes()


def test_fixture(table):
    pass


def test_home():
    (Path.home() / "a").mkdir()


def test_inside(tmp_path):
    (tmp_path / "a").write_text("")
    Path(__file__).read_text()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = 1
    os.listdir()
    subprocess.run([sys.executable, "-c", ""], check=True, cwd=tmp_path)


def test_folder_of_the_test(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    Path("../a").write_text("")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork")  # beside threads, of linear algebra
def test_worker():
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        pool.submit(Path.read_bytes, BESIDE / "a.h5").result()


@pytest.mark.whole_files
def test_whole(whole_files):
    assert (whole_files / "a.h5").read_bytes() == b""


def test_unmarked(whole_files):
    pass
"""
DOCTEST = '''"""
>>> from pathlib import Path
>>> Path("../beside/a.h5").read_bytes()
b''
"""
'''
OUTSIDE = ["caught", "fixture", "hdf5", "home", "link", "of_a_process", "open", "openslide", "relative"]
OUTSIDE += ["worker"] if hasattr(os, "fork") else []


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with the configuration of this one, and a folder beside it."""
    root = tmp_path_factory.mktemp("folder") / "project"
    own = Path(__file__).parents[1]
    for folder in (root / "healnet", root / "tests", root.parent / "beside"):
        folder.mkdir(parents=True)
    shutil.copy(own / "pyproject.toml", root)
    shutil.copy(own / "tests" / "conftest.py", root / "tests")
    (root / "tests" / "test_a.py").write_text(TESTS)
    (root / "healnet" / "a.py").write_text(DOCTEST)
    (root.parent / "beside" / "a.h5").touch()
    return root


@pytest.fixture
def run(project, tmp_path):
    return functools.partial(run_tests, project, tmp_path)


def run_tests(project, home, *arguments, data=None):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "HEALNET"))
    }
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "COLUMNS": "500"}
    environment |= {"HEALNET_DATA": str(data)} if data else {}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rfEs", "--tb=line", *arguments]
    result = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    return result.stdout


def test_whoever_opens_a_file_beside_the_project_fails(project, run):
    output = run()
    lines = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    failed = {line.split("::")[1].split()[0]: line for line in lines}
    assert set(failed) == {f"test_{name}" for name in (*OUTSIDE, "unmarked")} | {"healnet.a"}
    beside = project.parent / "beside"
    for name in set(OUTSIDE) - {"caught"}:
        assert "OutsideFile: outside of the project: " in failed[f"test_{name}"]
    assert f"opened outside of the project: {beside} (tests/test_a.py::test_caught (call))" in output
    reason = "whole real files are tested where HEALNET_DATA names the folder of slides, tcga and graphs"
    assert f": {reason}" in output
    # What was caught fails after the test; two errors are those of fixtures; a doctest wraps what it meets.
    assert f"{len(OUTSIDE) - 1} failed, 3 passed, " in output
    assert ", 4 errors in " in output


def test_whole_files_are_read_from_the_folder_that_is_named_and_by_their_tests_alone(project, run):
    data = project.parent / "beside"
    assert "1 passed, " in run("-m", "whole_files", data=data)
    output = run("tests/test_a.py::test_whole", "tests/test_a.py::test_open", data=data)
    assert "FAILED tests/test_a.py::test_open" in output
    assert "1 failed, 1 passed in " in output


def test_a_file_beside_the_project_is_refused_while_tests_are_collected(project, run):
    path = project / "tests" / "test_b.py"
    path.write_text("from pathlib import Path\nPath('../beside/a.h5').read_bytes()\n")
    output = run("tests/test_b.py")
    path.unlink()
    assert (
        "ERROR tests/test_b.py - tests.conftest.OutsideFile: outside of the project: ../beside/a.h5" in output
    )
