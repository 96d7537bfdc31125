"""The main job, run whole on a cohort and with settings small enough for a test."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sksurv.ensemble import RandomSurvivalForest

from healnet.data import Cohort
from healnet.survival import SurvivalTarget
from healnet.training import Recipe

EXAMPLE = Path(__file__).parents[2] / "examples" / "mini_acc.py"
FUSED = ["fused (complete cases)", "fused (all patients)"]
BASELINES = ["elastic-net Cox", "random survival forest"]


def small_cohort(n=60):
    """Two tables that both tell the risk; every fourth patient lacks the second."""
    rng = np.random.default_rng(0)
    risk = rng.normal(size=n)
    ids = [f"p{i}" for i in range(n)]
    tables = {}
    for name, width in (("clinical", 3), ("rna", 7)):
        values = rng.normal(size=(n, width)) + risk[:, None]
        tables[name] = pd.DataFrame(values, ids, [f"{name}{j}" for j in range(width)])
    tables["rna"].iloc[::4] = np.nan
    time = rng.exponential(1000 * np.exp(-2 * risk))
    return Cohort(tables, SurvivalTarget(time, np.arange(n) % 3 > 0), ids)


def small_forest(n_estimators, **kwargs):
    return RandomSurvivalForest(n_estimators // 20, **kwargs)


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    spec = importlib.util.spec_from_file_location("mini_acc", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DATASETS", {"mini-acc": small_cohort})
    monkeypatch.setattr(module, "RECIPE", Recipe(members=1, epochs=8))
    monkeypatch.setattr("classical.RandomSurvivalForest", small_forest)
    return module


def run(module, monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["mini_acc.py", *map(str, args)])
    module.main()


def test_it_writes_every_model_on_the_same_folds(example, monkeypatch, tmp_path, capsys):
    run(example, monkeypatch, "--output", tmp_path / "new" / "folder", "--quick")
    results = pd.read_csv(tmp_path / "new" / "folder" / "results.csv")
    assert list(results.columns) == ["model", "repeat", "fold", "c_index"]
    models = ["clinical", "rna", *FUSED, *BASELINES]
    assert list(results["model"][:6]) == models
    folds = results.groupby("model")[["repeat", "fold"]].apply(lambda part: list(map(tuple, part.to_numpy())))
    assert all(rows == [(0, f) for f in range(5)] for rows in folds)
    means = results.groupby("model")["c_index"].mean()
    # Both tables hold the risk: whoever reads them right is far from chance, and on its right side, after 8 steps.
    assert (means > 0.6).all()
    assert means["fused (all patients)"] > means[["clinical", "rna"]].max()
    printed = capsys.readouterr().out
    assert all(f"{means[model]:.3f}" in printed for model in models)
    for picture in ("forest.png", "survival_curves.png"):
        assert (tmp_path / "new" / "folder" / picture).read_bytes().startswith(b"\x89PNG")


def test_an_interrupt_keeps_the_finished_folds(example, monkeypatch, tmp_path, capsys):
    forest, calls = example.forest, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forest(*args, **kwargs)

    monkeypatch.setattr(example, "forest", interrupted)
    run(example, monkeypatch, "--output", tmp_path, "--quick")
    results = pd.read_csv(tmp_path / "results.csv")
    assert sorted(set(results["fold"])) == [0, 1]
    assert len(results) == 2 * 6
    assert "stopped" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "forest.png", "survival_curves.png"}
