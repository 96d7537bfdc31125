"""The comparison run whole on two small cohorts in the published layout, and its tests by hand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from healnet.survival import compare_folds

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import compare
import scoring

EXAMPLES = Path(__file__).parents[2] / "examples"

ROW = ["cohort", "fold", "model", "c_index", "uno", "ibs", "d_calibration_p", "seconds"]


@pytest.mark.slow
def test_every_model_on_every_fold_then_nothing_is_left_to_do(run, capsys):
    models = ["healnet", "MultiModN", "table-weighted ridge", "clinical Cox"]
    output = run(compare, "--models", ",".join(models))
    results = pd.read_csv(output / "results.csv")
    assert list(results.columns) == ROW
    assert len(results) == 2 * 2 * 4
    assert results[["c_index", "uno", "ibs", "d_calibration_p"]].notna().all(axis=None)
    assert results["ibs"].between(0, 0.5).all()
    assert (
        results.groupby("model")["c_index"].mean()[models[2:]] > 0.6
    ).all()  # three epochs teach a network little
    printed = capsys.readouterr().out
    assert "4 folds of 2 cohort(s)" in printed
    assert f"{results[results.model == 'healnet'].groupby('cohort')['c_index'].mean().mean():.3f}" in printed
    assert (output / "comparison.png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in (output / "jobs").iterdir()}
    run(compare, "--models", ",".join(models))
    assert {path: path.stat().st_mtime_ns for path in (output / "jobs").iterdir()} == before
    with pytest.raises(SystemExit, match=r"holds results with other budget; choose another --output$"):
        run(compare, "--models", "healnet", "--budget", 1)


@pytest.mark.slow
def test_a_few_of_everything_and_two_processes(folder, tmp_path):
    command = [
        sys.executable,
        EXAMPLES / "compare.py",
        "--tables",
        folder,
        "--splits",
        folder,
        "--output",
        tmp_path,
    ]
    command += [
        "--cohorts",
        "bbbb",
        "--folds",
        "1",
        "--models",
        "table-weighted ridge,clinical Cox",
        "--workers",
        "2",
    ]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    results = pd.read_csv(tmp_path / "results.csv")
    assert results[["cohort", "fold"]].drop_duplicates().to_numpy().tolist() == [["bbbb", 1]]
    assert sorted(results["model"]) == ["clinical Cox", "table-weighted ridge"]


@pytest.mark.slow
def test_every_model_with_slides(run, folder):
    arguments = ["--cohorts", "aaaa", "--folds", "0", "--budget", 1]
    output = run(compare, "--features", folder / "features", *arguments)
    results = pd.read_csv(output / "results.csv")
    assert sorted(results["model"]) == sorted(compare.MODELS)
    assert results[["c_index", "ibs"]].notna().all(axis=None)


def test_attention_mil_needs_slides(run, capsys):
    with pytest.raises(SystemExit):
        run(compare, "--models", "healnet,attention MIL")
    assert "attention MIL is a model of slides: give their --features" in capsys.readouterr().err


@pytest.mark.slow
def test_risks_of_another_script_are_scored_like_all_others(run, folder, tmp_path, capsys):
    """An ensemble's risks in a file get the scores that the same ensemble gets when it is fitted here."""
    models = ["--models", "table-weighted ridge,healnet,clinical Cox", "--budget", 1]
    fitted = pd.read_csv(run(compare, *models) / "results.csv").set_index(["cohort", "fold", "model"])
    plan = compare.Plan(
        compare.TCGA_RECIPE, 1, 0, tables=folder, splits=folder, clinical=("age", "is_female")
    )
    rows = []
    for name in ("aaaa", "bbbb"):
        cohort, folds = compare.load(plan, name)
        for fold, (train, test) in folds.items():
            model = compare.fit("healnet", cohort[train], plan, fold)
            table = scoring.predictions(
                model.predict(cohort[test]),
                lambda times, model=model, new=cohort[test]: model.survival(new, times),
                cohort[train],
                cohort[test],
            )
            rows.append(table.assign(cohort=name, fold=fold, model="averaged").sample(frac=1, random_state=0))
    risks = pd.concat(rows)
    risks.to_csv(tmp_path / "risks.csv", index=False)
    models = ["--models", "averaged,table-weighted ridge,clinical Cox", "--budget", 1]
    jobs = set((tmp_path / "out" / "jobs").iterdir())
    scored = pd.read_csv(run(compare, *models, "--risks", tmp_path / "risks.csv") / "results.csv")
    assert set((tmp_path / "out" / "jobs").iterdir()) == jobs
    scored = scored.set_index(["cohort", "fold", "model"])
    columns = ["c_index", "uno", "ibs", "d_calibration_p"]
    ours = scored.xs("averaged", level="model")[columns]
    assert ours.to_numpy() == pytest.approx(fitted.xs("healnet", level="model")[columns].to_numpy(), abs=1e-5)
    assert scored.drop("averaged", level="model").equals(
        fitted.drop("healnet", level="model")[[*columns, "seconds"]]
    )
    assert "difference" in capsys.readouterr().out

    alone = run(compare, "--models", "averaged", "--budget", 1, "--risks", tmp_path / "risks.csv")
    assert len(pd.read_csv(alone / "results.csv")) == 4

    patient = risks["patient"].iloc[0]
    risks[risks["patient"] != patient].to_csv(tmp_path / "fewer.csv", index=False)
    with pytest.raises(
        SystemExit,
        match=r"^--risks: expected 'averaged' to have predicted the 20 held-out patients of fold 0 of aaaa, "
        r"got 19 predictions, 19 of them of such patients$",
    ):
        run(compare, *models, "--risks", tmp_path / "fewer.csv")


def test_holm_by_hand():
    p = pd.Series({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    assert compare.holm(p).round(10).to_dict() == {"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5}


def c_table(values, cohorts):
    index = pd.MultiIndex.from_tuples(cohorts, names=["cohort", "fold"])
    return pd.DataFrame(values, index=index, columns=["healnet", "other", "same"])


def test_over_the_folds_of_one_cohort_the_variance_counts_their_overlap():
    rng = np.random.default_rng(0)
    c = c_table(rng.uniform(0.6, 0.7, (5, 3)), [("acc", fold) for fold in range(5)])
    c["same"] = c["healnet"]
    table = compare.against(c, "healnet")
    d = (c["healnet"] - c["other"]).to_numpy()
    t = d.mean() / np.sqrt((1 / 5 + 0.25) * d.var(ddof=1))
    assert table.loc["other", "p_value"] == pytest.approx(2 * stats.t.cdf(-abs(t), 4))
    assert table.loc["other", "p_holm"] == pytest.approx(min(1, 2 * table.loc["other", "p_value"]))
    assert table.loc["other", "difference"] == pytest.approx(d.mean())
    assert table.loc["same", "p_value"] == 1
    plain = stats.ttest_1samp(d, 0)
    assert table.loc["other", "p_value"] > plain.pvalue


def test_over_six_cohorts_it_is_wilcoxons_test_of_their_means():
    rng = np.random.default_rng(0)
    cohorts = [(name, fold) for name in "abcdefgh" for fold in range(3)]
    c = c_table(rng.uniform(0.6, 0.7, (24, 3)), cohorts)
    c["other"] = c["healnet"] - rng.uniform(0.01, 0.02, 24)
    table = compare.against(c, "healnet")
    assert table.loc["other", "p_value"] == pytest.approx(2 / 2**8)  # all eight on one side
    d = c.groupby("cohort").mean().eval("healnet - other")
    folds = [compare_folds(c["healnet"], c[model], 0.2).p_value for model in ("other", "same")]
    assert table.loc["other", "p_folds"] == pytest.approx(min(1, 2 * min(folds)))
    interval = stats.t.interval(0.95, 7, d.mean(), stats.sem(d))
    assert tuple(table.loc["other", ["low", "high"]]) == pytest.approx(interval)
