"""The paper's experiment, run whole on a small table of the published layout, with slides and without."""

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from sksurv.ensemble import RandomSurvivalForest

from healnet.survival import SurvivalTarget, concordance

EXAMPLE = Path(__file__).parents[2] / "examples" / "tcga.py"
MODELS = ["healnet", "elastic-net Cox", "random survival forest"]


@pytest.fixture
def inputs(tmp_path):
    """A table of 40 patients, one slide each, two of MCAT's splits, and features of all slides but two."""
    rng = np.random.default_rng(0)
    n, risk = 40, rng.normal(size=40)
    ids = [f"TCGA-{i:02d}" for i in range(n)]
    genes = {
        f"G{j}{suffix}": rng.normal(size=n) + risk for j in range(4) for suffix in ("_rnaseq", "_cnv", "_mut")
    }
    table = pd.DataFrame(
        {
            "case_id": ids,
            "slide_id": [f"{patient}-01Z.svs" for patient in ids],
            "age": 60 + 5 * risk,
            "is_female": rng.integers(0, 2, n),
            "survival_months": rng.exponential(20 * np.exp(-risk)).round(2),
            "censorship": (np.arange(n) % 3 == 0).astype(int),
            **genes,
        }
    )
    table.to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "splits").mkdir()
    for fold in range(2):
        sides = {"train": ids[1 - fold :: 2], "val": ids[fold::2]}
        pd.DataFrame(sides).to_csv(tmp_path / "splits" / f"splits_{fold}.csv")
    (tmp_path / "features").mkdir()
    for patient in ids[2:]:
        with h5py.File(tmp_path / "features" / f"{patient}-01Z.h5", "w") as file:
            count = int(rng.integers(3, 9))
            file["features"] = rng.normal(size=(count, 6)).astype(np.float32)
            file["coords"] = rng.integers(0, 5000, (count, 2))
    return tmp_path


@pytest.fixture
def run(inputs, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    spec = importlib.util.spec_from_file_location("tcga", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RECIPE", replace(module.RECIPE, members=1, epochs=3))
    monkeypatch.setattr(
        "classical.RandomSurvivalForest",
        lambda n_estimators, **kwargs: RandomSurvivalForest(n_estimators // 20, **kwargs),
    )

    def call(*args, output="out"):
        common = ["--table", inputs / "table.csv", "--splits", inputs / "splits", "--output", inputs / output]
        monkeypatch.setattr(sys, "argv", ["tcga.py", *map(str, [*common, *args])])
        module.main()
        return inputs / output

    call.module = module
    return call


def test_folds_one_by_one_are_the_folds_in_one_go(run, capsys):
    parts = run("--folds", "1")
    results = pd.read_csv(parts / "results.csv")
    assert results[["model", "repeat", "fold"]].to_numpy().tolist() == [[model, 0, 1] for model in MODELS]
    first = (parts / "fold_1.csv").stat().st_mtime_ns
    run("--folds", "0,1")
    assert (parts / "fold_1.csv").stat().st_mtime_ns == first  # not run again
    whole = run(output="whole")
    for name in ("results.csv", "risks.csv", "fold_0.csv", "fold_1.csv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    assert (whole / "survival_curves.png").read_bytes().startswith(b"\x89PNG")
    assert "healnet - elastic-net Cox" in capsys.readouterr().out


def test_risks_are_of_held_out_patients_with_their_outcomes(run, inputs):
    output = run()
    table = pd.read_csv(inputs / "table.csv", index_col="case_id")
    risks = pd.read_csv(output / "risks.csv", index_col="patient")
    assert list(risks.columns) == ["fold", "risk", "time", "event"]
    assert sorted(risks.index) == sorted(table.index)
    assert all(int(patient[-2:]) % 2 == fold for patient, fold in risks["fold"].items())
    np.testing.assert_array_equal(risks["time"], table["survival_months"][risks.index])
    np.testing.assert_array_equal(risks["event"], table["censorship"][risks.index] == 0)
    results = pd.read_csv(output / "results.csv").set_index(["fold", "model"])["c_index"]
    for fold, part in risks.groupby("fold"):
        target = SurvivalTarget(part["time"], part["event"])
        assert results[fold, "healnet"] == pytest.approx(concordance(part["risk"], target), abs=1e-12)


def test_slides_are_one_more_modality_and_may_be_absent(run, inputs, capsys):
    output = run("--features", inputs / "features", output="slides")
    assert "slide" in capsys.readouterr().out
    with_slides, without = (pd.read_csv(path / "risks.csv") for path in (output, run(output="tables")))
    assert len(with_slides) == 40
    assert not np.allclose(with_slides["risk"], without["risk"])
    features = json.loads((output / "manifest.json").read_text())["inputs"]["features"]
    assert len(features) == 64


def test_a_run_with_other_settings_or_inputs_is_not_mixed_in(run, inputs, monkeypatch):
    output = run("--folds", "0")
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["seed"] == 0
    assert set(manifest["inputs"]) == {"table.csv", "splits_0.csv", "splits_1.csv"}
    assert {"python", "torch", "healnet"} <= set(manifest["versions"])
    with pytest.raises(SystemExit, match="holds folds of a run with other seed; choose another --output"):
        run("--folds", "1", "--seed", "1")
    (inputs / "table.csv").write_text((inputs / "table.csv").read_text() + "\n")
    monkeypatch.setattr(run.module, "RECIPE", replace(run.module.RECIPE, epochs=4))
    with pytest.raises(
        SystemExit, match="holds folds of a run with other settings and inputs; choose another"
    ):
        run("--folds", "1")
    assert not (output / "fold_1.csv").exists()


def test_clinical_columns_are_chosen_by_name(run, inputs):
    edit_table(inputs, lambda table: table.pop("is_female"))
    with pytest.raises(ValueError, match=r"table\.csv: no column 'is_female'"):
        run()
    output = run("--clinical", "age")
    assert json.loads((output / "manifest.json").read_text())["settings"]["clinical"] == ["age"]
    assert len(pd.read_csv(output / "risks.csv")) == 40


def test_a_fold_that_is_not_there_is_refused(run, inputs, capsys):
    with pytest.raises(SystemExit):
        run("--folds", "0,7")
    assert "has [0, 1], not [7]" in capsys.readouterr().err


def edit_table(inputs, change):
    table = pd.read_csv(inputs / "table.csv")
    change(table)
    table.to_csv(inputs / "table.csv", index=False)


def test_a_training_side_without_events_is_said_before_any_model_is_made(run, inputs):
    # Fold 0 trains on the odd patients.
    def censor(table):
        table.loc[table.index % 2 == 1, "censorship"] = 1

    edit_table(inputs, censor)
    path = inputs / "splits" / "splits_0.csv"
    with pytest.raises(
        SystemExit, match=f"^{re.escape(f'{path}: none of its 20 training patients had the event')}$"
    ):
        run()


@pytest.mark.filterwarnings("ignore:all coefficients are zero")
def test_inputs_that_are_alike_for_everybody_give_chance(run, inputs):
    def flatten(table):
        table.drop(columns=[name for name in table if name.startswith("G")], inplace=True)
        table["age"], table["is_female"] = np.nan, 1

    edit_table(inputs, flatten)
    assert (pd.read_csv(run("--folds", "0") / "results.csv")["c_index"] == 0.5).all()


@pytest.mark.slow
def test_a_folder_of_cohorts_is_run_one_by_one(run, inputs, monkeypatch, capsys):
    alone = pd.read_csv(run(output="alone") / "results.csv")
    assert (alone["cohort"] == "table").all()
    (inputs / "tables").mkdir()
    frame = pd.read_csv(inputs / "table.csv")
    for name in ("aaaa", "bbbb"):
        frame.to_csv(inputs / "tables" / f"tcga_{name}_all_clean.csv.zip", index=False)
        (inputs / "folders" / f"tcga_{name}").mkdir(parents=True)
        for path in (inputs / "splits").iterdir():
            (inputs / "folders" / f"tcga_{name}" / path.name).write_bytes(path.read_bytes())
    arguments = ["--tables", inputs / "tables", "--splits", inputs / "folders", "--output", inputs / "both"]
    monkeypatch.setattr(sys, "argv", ["tcga.py", *map(str, arguments)])
    run.module.main()
    results = pd.read_csv(inputs / "both" / "results.csv")
    assert list(results.columns) == ["cohort", "model", "repeat", "fold", "c_index"]
    for name in ("aaaa", "bbbb"):  # the same patients as in the run of one table
        part = results[results["cohort"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(part.drop(columns="cohort"), alone.drop(columns="cohort"))
    assert "by cohort" in capsys.readouterr().out
