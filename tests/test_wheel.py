"""The wheel holds what a user needs, and works outside the source tree."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow
USE = """
import pathlib, sys, torch, healnet
assert pathlib.Path(healnet.__file__).is_relative_to(sys.argv[1]), healnet.__file__
from healnet.data import CohortDataset
from healnet.datasets import load_mini_acc
from healnet.encoders import OmicEncoder
cohort = load_mini_acc()
model = healnet.HEALNet({name: OmicEncoder(width, tokens=2) for name, width in cohort.widths.items()})
print(len(cohort), tuple(model(CohortDataset(cohort).batch().inputs).shape))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        ROOT,
    ]
    result = subprocess.run(build, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (built,) = folder.glob("healnet-*.whl")
    return built


def test_it_holds_the_package_its_data_and_its_license_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"healnet/py.typed", "healnet/datasets/mini_acc.zip", "healnet/datasets/mini_acc.LICENSE"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"healnet"}


def test_it_works_from_another_folder(wheel, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(site)}
    result = subprocess.run(
        [sys.executable, "-c", USE, site],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split(maxsplit=1) == ["92", "(92, 1)\n"]
