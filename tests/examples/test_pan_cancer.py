"""One model of several cohorts with different genes, one of them without RNA, run whole through the script."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from healnet.survival import SurvivalTarget, concordance

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import pan_cancer

SUFFIXES = {"aaaa": ("_rnaseq", "_mut"), "bbbb": ("_rnaseq", "_cnv"), "cccc": ("_mut",)}


@pytest.fixture
def inputs(tmp_path):
    """Three cohorts of 36 patients; their genes overlap, and the third has no RNA."""
    rng = np.random.default_rng(0)
    for place, (name, suffixes) in enumerate(SUFFIXES.items()):
        risk, n = rng.normal(size=36), 36
        ids = [f"TCGA-{name}-{i:02d}" for i in range(n)]
        genes = {
            f"G{j}{suffix}": rng.normal(size=n) + risk for j in range(place, place + 4) for suffix in suffixes
        }
        table = pd.DataFrame(
            {
                "case_id": ids,
                "slide_id": [f"{patient}.svs" for patient in ids],
                "age": 60 + 5 * risk,
                "is_female": rng.integers(0, 2, n),
                # Each cancer has follow-up of another length, and an order of its own.
                "survival_months": (10.0**place * rng.exponential(np.exp(-2 * risk))).round(4),
                "censorship": (np.arange(n) % 4 == 0).astype(int),
                **genes,
            }
        )
        table.to_csv(tmp_path / f"tcga_{name}_all_clean.csv.zip", index=False)
        folder = tmp_path / "splits" / f"tcga_{name}"
        folder.mkdir(parents=True)
        for fold in range(2):
            sides = {"train": ids[1 - fold :: 2], "val": ids[fold::2]}
            pd.DataFrame(sides).to_csv(folder / f"splits_{fold}.csv")
    return tmp_path


@pytest.fixture
def run(inputs, monkeypatch):
    for name in ("RECIPE", "PAN_RECIPE"):
        small = replace(getattr(pan_cancer, name), members=1, epochs=6, batch_size=18)
        monkeypatch.setattr(pan_cancer, name, small)

    def call(*args, output="out"):
        common = ["--tables", inputs, "--splits", inputs / "splits", "--output", inputs / output]
        monkeypatch.setattr(sys, "argv", ["pan_cancer.py", *map(str, [*common, *args])])
        pan_cancer.main()
        return inputs / output

    return call


@pytest.mark.slow
def test_every_cohort_fold_and_model_has_a_row_better_than_chance(run, inputs, capsys):
    results = pd.read_csv(run("--transfer") / "results.csv")
    assert list(results.columns) == ["cohort", "fold", "model", "c_index"]
    models = [pan_cancer.OWN, pan_cancer.PAN, pan_cancer.LINEAR, pan_cancer.AVERAGED, pan_cancer.TRANSFER]
    expected = {(name, fold, model) for name in SUFFIXES for fold in (0, 1) for model in models}
    assert set(results[["cohort", "fold", "model"]].itertuples(index=False, name=None)) == expected
    assert len(results) == len(expected)
    assert (results.groupby("model")["c_index"].mean() > 0.6).all()
    # What the file says is the C of the risks beside it, of the patients that the split holds out.
    risks = pd.read_csv(inputs / "out" / "risks.csv")
    table = pd.read_csv(inputs / "tcga_cccc_all_clean.csv.zip", index_col="case_id")
    held_out = pd.read_csv(inputs / "splits" / "tcga_cccc" / "splits_1.csv")["val"]
    one_fold = results.set_index(["cohort", "fold", "model"])["c_index"].loc["cccc", 1]
    for model in models:
        key = (risks["cohort"] == "cccc") & (risks["fold"] == 1) & (risks["model"] == model)
        part = risks[key].set_index("patient")["risk"]
        assert sorted(part.index) == sorted(held_out)
        own = table.loc[part.index]
        target = SurvivalTarget(own["survival_months"], own["censorship"] == 0)
        assert one_fold[model] == pytest.approx(concordance(part.to_numpy(), target), abs=1e-12)
    assert (
        f"{results.query('model == @pan_cancer.AVERAGED')['c_index'].mean():.3f}" in capsys.readouterr().out
    )


@pytest.mark.slow
def test_finished_jobs_are_kept_and_shards_add_up_to_the_whole(run):
    done = {
        path: path.stat().st_mtime_ns for path in (run("--shard", "0/2", output="parts") / "jobs").iterdir()
    }
    assert len(done) == 4  # of eight: two of all cohorts, six of one
    parts = run("--shard", "1/2", output="parts")
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())  # not run again
    whole = run(output="whole")
    assert (parts / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    assert (parts / "risks.csv").read_bytes() == (whole / "risks.csv").read_bytes()


def test_the_average_is_the_mean_of_the_three_and_needs_all_of_them():
    keys = {"cohort": "a", "fold": 0, "patient": "p"}
    values = {pan_cancer.OWN: 4.0, pan_cancer.PAN: 3.5, pan_cancer.LINEAR: -6.0}
    risks = pd.DataFrame([{**keys, "model": model, "risk": risk} for model, risk in values.items()])
    averaged = pan_cancer.average(risks)
    assert averaged.set_index("model")["risk"][pan_cancer.AVERAGED] == pytest.approx((4 + 3.5 - 6) / 3)
    assert len(averaged) == 4
    assert pan_cancer.average(risks[:2]).equals(risks[:2])


def test_one_cohort_is_refused(run, inputs, capsys):
    for name in ("aaaa", "bbbb"):
        (inputs / f"tcga_{name}_all_clean.csv.zip").unlink()
    with pytest.raises(SystemExit):
        run()
    assert "expected two or more tcga_NAME_all_clean.csv.zip, found 1" in capsys.readouterr().err
