"""The house keeps its shape: imports point downward, and `import healnet` stays light."""

import ast
import importlib
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import healnet

ROOT = Path(healnet.__file__).parent

# What each subpackage or module may import from the others; one that is not named here may not exist.
ALLOWED = {
    "nn": set(),
    "streams": {"nn"},
    "inputs": {"streams"},
    "tokens": {"nn"},
    "_evaluation": set(),
    "_files": set(),
    "_processes": set(),
    "_warnings": set(),
    "_png": set(),
    "_notebook": {"_png"},
    "_plotting": {"_notebook", "_png"},
    "survival": {"_plotting", "_warnings"},
    "encoders": {"inputs", "nn", "streams", "tokens"},
    "fusion": {"encoders", "inputs", "nn", "streams", "tokens"},
    "baselines": {"encoders", "fusion", "inputs", "nn", "survival", "tokens"},
    "slides": {"_evaluation", "_files", "_processes", "_warnings", "inputs", "streams", "survival"},
    "data": {"_files", "_processes", "_warnings", "inputs", "slides", "survival"},
    "datasets": {"data", "inputs", "survival"},
    "testing": {"encoders", "fusion", "inputs", "nn", "tokens"},
    "training": {
        "_evaluation",
        "_files",
        "_warnings",
        "data",
        "encoders",
        "fusion",
        "inputs",
        "pretrained",
        "survival",
    },
    "__main__": {"_files", "pretrained", "training"},
    "estimator": {"data", "survival", "training"},
    "pretrained": {"_files", "_warnings", "data", "encoders", "fusion"},
    "explain": {
        "_evaluation",
        "_files",
        "_plotting",
        "_png",
        "data",
        "encoders",
        "fusion",
        "inputs",
        "nn",
        "slides",
        "streams",
        "survival",
        "tokens",
        "training",
    },
    "__init__": {"encoders", "estimator", "fusion", "inputs", "streams", "tokens"},
}
HEAVY = ["h5py", "openslide", "pandas", "matplotlib", "sksurv", "sklearn", "scipy", "tqdm", "ot"]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[tuple[str, str]]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the room's name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {(name.split(".")[1], name) for name in names if name.startswith("healnet.")}
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(path):
    room = room_of(path)
    assert room in ALLOWED, f"{room} is not a room of the house"
    outside = {(other, name) for other, name in imported(path) if other not in ALLOWED[room] | {room}}
    if room == "__init__":
        outside = {(other, name) for other, name in outside if other in ALLOWED}
    assert not outside, f"{room} may not import {sorted(name for _, name in outside)}"


def modules() -> dict[str, Path]:
    parts = {path: path.relative_to(ROOT.parent).with_suffix("").parts for path in sorted(ROOT.rglob("*.py"))}
    return {".".join(names).removesuffix(".__init__"): path for path, names in parts.items()}


def test_no_file_imports_itself_by_way_of_others():
    """Imports inside functions and for type checkers count: a reader follows them too."""
    files = modules()
    graph = {}
    for module, path in files.items():
        names = {name for _, name in imported(path)}
        graph[module] = {name if name in files else name.rpartition(".")[0] for name in names} & set(files)
    graph = {module: others - {module} for module, others in graph.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


@pytest.mark.parametrize("path", modules().values(), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_public_names_cross_files_and_private_modules_stay_in_their_folder(path):
    files = modules()
    for _, name in imported(path):
        module, _, last = name.rpartition(".")
        if name in files:
            assert not last.startswith("_") or files[name].parent in path.parents, f"{name} is private"
            continue
        assert not last.startswith("_"), f"{name} is private"
        public = vars(importlib.import_module(module)).get("__all__", ())
        assert last in public or last == "__version__", f"{last} is not in {module}.__all__"


def test_a_survival_target_is_all_that_data_takes_from_survival():
    for path in [*(ROOT / "data").rglob("*.py"), *(ROOT / "slides").rglob("*.py")]:
        taken = {name for room, name in imported(path) if room == "survival"}
        assert taken <= {"healnet.survival.target.SurvivalTarget"}, path


def test_pictures_take_scores_and_no_score_takes_a_picture():
    for path in (ROOT / "explain").glob("*.py"):
        taken = {name for _, name in imported(path) if name.startswith("healnet.explain.pictures")}
        assert path.name == "__init__.py" or not taken, path


def test_import_is_light():
    """With the packages of readers, metrics and pictures absent, a model runs, and losses, bins and curves."""
    code = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
import torch
import healnet, healnet.baselines, healnet.survival.plots
from healnet.encoders import OmicEncoder
from healnet.survival import *
model = healnet.HEALNet({{'rna': OmicEncoder(5)}}, out_dim=2)
logits = model({{'rna': torch.zeros(3, 5)}})
target = SurvivalTarget([1, 2, 3], [True, False, True])
bins = TimeBins.fit(target.time, target.event, num_bins=2)
discrete_nll(logits, bins.transform(target.time), target.event)
cox_nll(logits[:, 0], target.time, target.event)
survival_function(logits, bins).median()
print(tuple(logits.shape))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "(3, 2)"


def project():
    return tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_lowest_versions_that_are_tested_are_those_that_are_promised():
    lines = (ROOT.parent / "tests/constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    promised = [project()["dependencies"], *project()["optional-dependencies"].values()]
    for requirement in map(Requirement, (text for part in promised for text in part)):
        for bound in requirement.specifier:  # 2024.5 is kept by 2024.5.3, which may be the first of them
            assert f"{tested[canonicalize_name(requirement.name)]}.".startswith(f"{bound.version}."), (
                requirement
            )


def test_the_workflow_runs_every_python_that_is_promised():
    workflow = yaml.safe_load((ROOT.parent / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    prefix = "Programming Language :: Python :: 3."
    promised = [
        f"3.{text.removeprefix(prefix)}" for text in project()["classifiers"] if text.startswith(prefix)
    ]
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == promised
    assert project()["requires-python"] == f">={promised[0]}"
