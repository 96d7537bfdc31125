import subprocess
import sys

import pytest

import healnet.data


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("name", healnet.data.__all__)
def test_every_name_is_what_it_says(name):
    assert getattr(healnet.data, name).__name__ == name


def test_names_stay_themselves_when_their_modules_are_imported():
    """A module called as an export would hide it, depending on what was imported first."""
    names = ", ".join(healnet.data.__all__)
    code = (
        "import importlib, pkgutil, healnet.data\n"
        "for module in pkgutil.iter_modules(healnet.data.__path__):\n"
        "    importlib.import_module(f'healnet.data.{module.name}')\n"
        f"from healnet.data import {names}\n"
        f"print([x.__name__ for x in ({names})])"
    )
    assert run(code) == str(healnet.data.__all__)


def test_the_list_of_names_is_sorted_and_found_by_dir():
    assert healnet.data.__all__ == sorted(healnet.data.__all__)
    assert dir(healnet.data) == healnet.data.__all__


def test_unknown_names():
    with pytest.raises(AttributeError, match=r"^module 'healnet\.data' has no attribute 'Cohrot'$"):
        healnet.data.Cohrot  # noqa: B018


def test_importing_the_room_is_light_and_a_missing_package_is_named():
    code = (
        "import sys\n"
        "heavy = 'pandas', 'h5py', 'openslide', 'sksurv', 'matplotlib', 'sklearn', 'scipy', 'tqdm'\n"
        "sys.modules.update(dict.fromkeys(heavy))\n"
        "from healnet.data import ModalityDropout, collate, read_patches\n"
        "try:\n    from healnet.data import Cohort\n"
        "except ImportError as error:\n    print(error)"
    )
    assert run(code) == "healnet.data.Cohort needs the package 'pandas': pip install healnet"
