"""Predictions by hand, and their scores beside scikit-survival's."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sksurv.metrics import concordance_index_censored, integrated_brier_score

from healnet.data import Cohort
from healnet.survival import SurvivalTarget

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import scoring


def cohort(n, seed):
    rng = np.random.default_rng(seed)
    target = SurvivalTarget(rng.exponential(10, n).round(3) + 0.1, rng.random(n) < 0.7)
    patients = [f"p{i}" for i in range(n)]
    return Cohort({"rna": pd.DataFrame({"g": rng.normal(size=n)}, patients)}, target, patients)


@pytest.fixture
def seen():
    return cohort(60, 0)


@pytest.fixture
def new():
    return cohort(23, 1)


def exponential(rates):
    return lambda times: np.exp(-np.outer(rates, times))


def test_a_point_per_time_of_the_grid_and_one_at_the_own_time(seen, new):
    rates = np.linspace(0.01, 0.3, 23)
    table = scoring.predictions(np.log(rates), exponential(rates), seen, new)
    assert list(table.columns) == ["patient", "risk", *scoring.POINTS, "survival_own"]
    assert list(table["patient"]) == list(new.patients)
    grid = scoring.grid_of(seen.target, new.target)
    assert new.target.time.min() < grid[0]
    assert grid[-1] < new.target.time.max()
    assert table[scoring.POINTS[: len(grid)]].to_numpy() == pytest.approx(
        np.exp(-rates[:, None] * grid), abs=1e-6
    )
    assert table["survival_own"].to_numpy() == pytest.approx(np.exp(-rates * new.target.time), abs=1e-6)


def test_times_after_the_follow_up_of_new_patients_are_left_out(seen, new):
    early = SurvivalTarget(np.minimum(new.target.time, 5), new.target.event)
    short = Cohort({"rna": new.table("rna")}, early, new.patients)
    table = scoring.predictions(np.zeros(23), exponential(np.full(23, 0.1)), seen, short)
    known = table[scoring.POINTS].notna()
    count = len(scoring.grid_of(seen.target, early))
    assert 0 < count < len(scoring.POINTS)
    assert known.to_numpy().sum(axis=1).tolist() == [count] * 23
    assert np.isfinite(list(scoring.score(table, seen, short).values())).all()


def test_scores_are_scikit_survivals(seen, new):
    rates = np.linspace(0.01, 0.3, 23)
    table = scoring.predictions(np.log(rates), exponential(rates), seen, new)
    grid = scoring.grid_of(seen.target, new.target)
    scores = scoring.score(table, seen, new)
    c = concordance_index_censored(new.target.event, new.target.time, np.log(rates))[0]
    curves = table[scoring.POINTS[: len(grid)]].to_numpy()
    ibs = integrated_brier_score(seen.target.to_structured(), new.target.to_structured(), curves, grid)
    assert scores["c_index"] == pytest.approx(c)
    assert scores["ibs"] == pytest.approx(ibs)
    assert set(scores) == {"c_index", "uno", "ibs", "d_calibration_p"}
