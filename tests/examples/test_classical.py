"""Each classical model against what it should be, on a small cohort with gaps."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sksurv.linear_model import CoxnetSurvivalAnalysis, CoxPHSurvivalAnalysis

from healnet.data import Cohort
from healnet.survival import BreslowBaseline, SurvivalTarget, concordance

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import classical

TIMES = [100.0, 400.0, 1e6]


@pytest.fixture
def cohort():
    """Two tables that both tell the risk; every fourth patient lacks the second."""
    rng = np.random.default_rng(0)
    n, risk = 60, rng.normal(size=60)
    ids = [f"p{i}" for i in range(n)]
    tables = {}
    for name, width in (("clinical", 3), ("rna", 7)):
        values = rng.normal(size=(n, width)) + risk[:, None]
        tables[name] = pd.DataFrame(values, ids, [f"{name}{j}" for j in range(width)])
    tables["rna"].iloc[::4] = np.nan
    time = rng.exponential(1000 * np.exp(-2 * risk))
    return Cohort(tables, SurvivalTarget(time, np.arange(n) % 3 > 0), ids)


def test_columns_see_training_statistics_only(cohort):
    seen, new = cohort[:40], cohort[40:]
    columns = classical.SideBySide(seen)
    frame = cohort.to_frame()
    mean = frame[:40].mean()
    filled = frame.fillna(mean)
    expected = ((filled - mean) / filled[:40].std(ddof=0)).to_numpy()
    np.testing.assert_allclose(np.concatenate([columns(seen), columns(new)]), expected, atol=1e-12)
    assert np.abs(columns(seen)[::4, 3:]).max() < 1e-12  # who lacks the table gets its mean


def test_the_best_candidate_is_the_one_that_ranks_held_out_patients_best(cohort):
    asked = []

    def predict(train, test, candidates):
        asked.append((set(train.patients), set(test.patients)))
        truth = -test.target.time
        return [truth * sign for sign in candidates]

    assert classical.best([-1.0, 1.0, 0.0], predict, cohort, seed=0, num_folds=4) == 1.0
    assert len(asked) == 4
    assert all(not train & test for train, test in asked)
    assert set().union(*(test for _, test in asked)) == set(cohort.patients)


def test_the_middle_net_is_that_of_scikit_survival(cohort):
    seen, new = cohort[:40], cohort[40:]
    columns = classical.SideBySide(seen)
    net = CoxnetSurvivalAnalysis(l1_ratio=0.1, n_alphas=30).fit(columns(seen), seen.target.to_structured())
    expected = net.predict(columns(new), alpha=net.alphas_[len(net.alphas_) // 2])
    model = classical.elastic_net(seen, middle=True)
    np.testing.assert_allclose(model.predict(new), expected)
    baseline = BreslowBaseline.fit(model.predict(seen), seen.target)
    np.testing.assert_allclose(model.survival(new, TIMES), baseline.survival(expected, TIMES))


def test_bootstrapped_nets_are_the_mean_of_so_many(cohort):
    seen, new = cohort[:40], cohort[40:]
    one, two = (classical.elastic_net(seen, 3, members=k).predict(new) for k in (1, 2))
    again = classical.elastic_net(seen, 3, members=2).predict(new)
    np.testing.assert_array_equal(two, again)
    assert not np.allclose(one, two)
    assert concordance(two, new.target) > 0.6


def test_ridge_of_one_table_is_that_of_scikit_survival(cohort, monkeypatch):
    """Breslow ties and Efron ties agree here, where no time comes twice."""
    monkeypatch.setattr(classical, "PENALTIES", [3.0])
    clinical = cohort.select(["clinical"])
    seen, new = clinical[:40], clinical[40:]
    columns = classical.SideBySide(seen)
    theirs = CoxPHSurvivalAnalysis(
        alpha=3.0 * 3
    )  # its columns are not divided by the root of their number, 3
    theirs.fit(columns(seen), seen.target.to_structured())
    ours = classical.ridge(seen).predict(new)
    expected = theirs.predict(columns(new))
    np.testing.assert_allclose(ours - ours.mean(), expected - expected.mean(), rtol=0, atol=1e-3)


def test_clinical_cox_reads_nothing_else(cohort):
    model = classical.clinical_cox(cohort[:40])
    other = cohort.replace({"rna": cohort.table("rna") + 5.0})
    np.testing.assert_array_equal(model.predict(cohort[40:]), model.predict(other[40:]))
    assert model.survival(cohort[40:], TIMES).shape == (20, 3)


def test_a_forests_curves_are_its_own_step_functions(cohort):
    seen, new = cohort[:40], cohort[40:]
    model = classical.forest(seen, trees=8, leaf=3)
    last = model.model.unique_times_[-1]
    times = np.concatenate(([0.0], np.sort(seen.target.time)[::7], [last]))
    steps = model.model.predict_survival_function(model.columns(new))
    inside = times[times >= model.model.unique_times_[0]]
    np.testing.assert_allclose(model.survival(new, inside), [curve(inside) for curve in steps])
    assert (model.survival(new, times)[:, 0] == 1).all()
    assert (model.survival(new, [last, 1e9])[:, 0] == model.survival(new, [last, 1e9])[:, 1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["elastic_net", "ridge", "forest"])
def test_each_at_its_best_ranks_well(cohort, name):
    options = {"trees": 20} if name == "forest" else {}
    model = getattr(classical, name)(cohort[:40], 0, **options)
    assert concordance(model.predict(cohort[40:]), cohort[40:].target) > 0.65
