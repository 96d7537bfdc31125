"""The estimator among scikit-learn's tools and under scikit-survival's conventions."""

import pickle
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator
from sksurv.metrics import (
    as_concordance_index_ipcw_scorer,
    concordance_index_censored,
    integrated_brier_score,
)

import healnet
from healnet import HEALNetSurvivalAnalysis
from healnet.data import Cohort
from healnet.survival import SurvivalTarget
from healnet.training import Recipe, fit_ensemble

QUICK = {"members": 1, "epochs": 15}


@pytest.fixture(scope="module")
def cohort():
    """Two tables that both tell the risk; every fourth patient lacks the second."""
    rng = np.random.default_rng(0)
    risk, ids = rng.normal(size=60), [f"p{i}" for i in range(60)]
    tables = {
        name: pd.DataFrame(rng.normal(size=(60, width)) + risk[:, None], ids).add_prefix(name)
        for name, width in (("clinical", 3), ("rna", 7))
    }
    tables["rna"].iloc[::4] = np.nan
    return Cohort(
        tables, SurvivalTarget(rng.exponential(1000 * np.exp(-2 * risk)), np.arange(60) % 3 > 0), ids
    )


@pytest.fixture(scope="module")
def y(cohort):
    return cohort.target.to_structured()


def test_it_is_the_model_of_the_recipe(cohort, y):
    expected = fit_ensemble(cohort, Recipe(**QUICK), seed=3)
    for given in (cohort, cohort.to_frame()):
        estimator = HEALNetSurvivalAnalysis(**QUICK, random_state=3).fit(given, y)
        np.testing.assert_allclose(estimator.predict(given), expected.predict(cohort), atol=1e-6)
    assert estimator.n_features_in_ == 10
    assert estimator.feature_names_in_[0] == "clinical:clinical0"
    assert set(estimator.model_.models[0].encoders) == {"clinical", "rna"}


def test_its_parameters_are_the_recipes_with_the_same_defaults():
    parameters = HEALNetSurvivalAnalysis().get_params()
    for field in fields(Recipe):
        assert parameters.pop(field.name) == field.default, field.name
    assert set(parameters) == {"modalities", "random_state", "device", "verbose"}


def test_columns_belong_to_modalities_by_name_position_or_all_to_one(cohort, y):
    frame = cohort.to_frame()
    groups = {"clinical": list(frame.columns[:3]), "rna": list(frame.columns[3:])}
    by_prefix = HEALNetSurvivalAnalysis(**QUICK).fit(frame, y).predict(frame)
    by_name = HEALNetSurvivalAnalysis(groups, **QUICK).fit(frame, y).predict(frame)
    positions = {"clinical": [0, 1, 2], "rna": range(3, 10)}
    values = frame.to_numpy()
    by_position = HEALNetSurvivalAnalysis(positions, **QUICK).fit(values, y).predict(values)
    np.testing.assert_array_equal(by_name, by_prefix)
    np.testing.assert_array_equal(by_position, by_prefix)
    one = HEALNetSurvivalAnalysis(**QUICK).fit(values, y)
    assert list(one.model_.models[0].encoders) == ["table"]
    with pytest.raises(ValueError, match=r"^modality 'rna': expected columns of X, got \['G9'\]$"):
        HEALNetSurvivalAnalysis({"rna": ["rna:rna0", "G9"]}, **QUICK).fit(frame, y)


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        (
            {"rna": "rna:rna0"},
            r"^expected modalities as a mapping from name to a list of columns, got \{'rna': 'rna:rna0'\}$",
        ),
        (["rna"], r"^expected modalities as a mapping from name to a list of columns, got \['rna'\]$"),
        ({"rna": []}, r"^modality 'rna': expected columns of X, got \[\]$"),
    ],
)
def test_modalities_of_another_kind_are_refused(cohort, y, modalities, message):
    with pytest.raises(ValueError, match=message):
        HEALNetSurvivalAnalysis(modalities, **QUICK).fit(cohort.to_frame(), y)


def test_a_column_without_a_modality_beside_others_is_refused(cohort, y):
    message = r"^expected all columns named as modality:feature or none, got 'age' beside others; pass `modalities` to say"
    with pytest.raises(ValueError, match=message):
        HEALNetSurvivalAnalysis(**QUICK).fit(cohort.to_frame().assign(age=60.0), y)


@pytest.mark.filterwarnings("ignore:X (has|does not have) (valid )?feature names:UserWarning")
def test_cohorts_tables_and_arrays_serve_at_fit_and_predict_alike(cohort, y):
    frame = cohort.to_frame()
    kinds = {"cohort": cohort, "frame": frame}
    expected = HEALNetSurvivalAnalysis(**QUICK).fit(cohort, y).predict(cohort)
    estimator = HEALNetSurvivalAnalysis(**QUICK)
    for seen in kinds.values():
        estimator.fit(seen, y)
        assert hasattr(estimator, "feature_names_in_") == (seen is frame)
        for new in kinds.values():
            np.testing.assert_array_equal(estimator.predict(new), expected)
    np.testing.assert_array_equal(estimator.predict(frame.to_numpy()), expected)
    positions = HEALNetSurvivalAnalysis({"clinical": [0, 1, 2], "rna": range(3, 10)}, **QUICK)
    np.testing.assert_array_equal(positions.fit(frame.to_numpy(), y).predict(frame), expected)


def test_outcomes_of_a_table_in_another_order_are_refused(cohort, y):
    outcomes = pd.DataFrame({"t": y["time"], "e": y["event"]}, index=cohort.patients)
    X = cohort.to_frame()
    target = SurvivalTarget.from_frame(outcomes, "t", "e")
    assert HEALNetSurvivalAnalysis(**QUICK).fit(X, target).score(X, y) > 0.6
    message = r"^expected patients in the order of the target's table, got 'p0' at position 0 where the table has 'p59'; "
    backwards = SurvivalTarget.from_frame(outcomes[::-1], "t", "e")
    for given in (X, cohort):
        with pytest.raises(ValueError, match=message):
            HEALNetSurvivalAnalysis(**QUICK).fit(given, backwards)
        with pytest.raises(ValueError, match=message):
            HEALNetSurvivalAnalysis(**QUICK).fit(given, target).score(given, backwards)


def test_outcomes_by_numbers_in_another_order_are_refused(cohort, y):
    """Ids of numbers; those of rows, 0 to n - 1, are no ids, whatever order the outcomes' rows were in."""
    outcomes = pd.DataFrame({"t": y["time"], "e": y["event"]}, index=range(100, 160))
    X = cohort.to_frame().set_axis(range(100, 160))
    estimator = HEALNetSurvivalAnalysis(**QUICK).fit(X, SurvivalTarget.from_frame(outcomes, "t", "e"))
    message = r"^expected patients in the order of the target's table, got '100' at position 0 where the table has 159; "
    with pytest.raises(ValueError, match=message):
        estimator.score(X, SurvivalTarget.from_frame(outcomes[::-1], "t", "e"))
    rows = SurvivalTarget.from_frame(outcomes.set_axis(range(60))[::-1], "t", "e")
    assert estimator.score(X[::-1].reset_index(drop=True), rows) == estimator.score(X, y)


def test_names_of_columns_that_scikit_learn_does_not_compare_are_refused(cohort, y):
    """Entrez ids of genes, say: by position they would be other columns at predict than at fit."""
    X = cohort.select(["clinical"]).to_frame().set_axis([7157, 675, 672], axis=1)
    message = (
        r"^expected names of columns as text, got 7157 \(3 of 3 are none\); "
        r"X\.set_axis\(X\.columns\.astype\(str\), axis=1\) makes them text$"
    )
    with pytest.raises(ValueError, match=message):
        HEALNetSurvivalAnalysis(**QUICK).fit(X, y)
    named = X.set_axis(X.columns.astype(str), axis=1)
    estimator = HEALNetSurvivalAnalysis(**QUICK).fit(named, y)
    with pytest.raises(ValueError, match=message):
        estimator.predict(X)
    numbered = X.set_axis(range(3), axis=1)
    np.testing.assert_array_equal(
        HEALNetSurvivalAnalysis(**QUICK).fit(numbered, y).predict(numbered), estimator.predict(named)
    )


def test_curves_are_step_functions_of_the_ensemble(cohort, y):
    estimator = HEALNetSurvivalAnalysis(**QUICK).fit(cohort[:40], y[:40])
    times = estimator.unique_times_
    assert times[0] == 0
    np.testing.assert_array_equal(times[1:], np.unique(y["time"][:40][y["event"][:40]]))
    array = estimator.predict_survival_function(cohort[40:], return_array=True)
    curves = estimator.predict_survival_function(cohort[40:])
    at = [0.0, times[1] / 2, times[3], times[-1]]
    np.testing.assert_allclose([curve(at) for curve in curves], estimator.model_.survival(cohort[40:], at))
    np.testing.assert_array_equal([curve(times) for curve in curves], array)
    assert (array[:, 0] == 1).all()
    assert (np.diff(array, axis=1) <= 0).all()
    hazards = estimator.predict_cumulative_hazard_function(cohort[40:], return_array=True)
    np.testing.assert_allclose(np.exp(-hazards), array)
    np.testing.assert_allclose(
        estimator.predict_cumulative_hazard_function(cohort[40:])[0](times), hazards[0]
    )


def test_scikit_survivals_metrics_take_it(cohort, y):
    estimator = HEALNetSurvivalAnalysis(**QUICK).fit(cohort, y)
    assert (
        estimator.score(cohort, y)
        == concordance_index_censored(y["event"], y["time"], estimator.predict(cohort))[0]
    )
    assert estimator.score(cohort) == estimator.score(cohort, y)
    times = np.quantile(y["time"], [0.2, 0.4, 0.6])
    survival = np.array([curve(times) for curve in estimator.predict_survival_function(cohort)])
    assert 0 < integrated_brier_score(y, y, survival, times) < 0.25
    uno = as_concordance_index_ipcw_scorer(estimator, tau=times[2]).fit(cohort, y)
    assert 0.6 < uno.score(cohort, y) <= 1


def test_cross_validation_of_a_cohort_and_of_its_table_agree(cohort, y):
    estimator = HEALNetSurvivalAnalysis(**QUICK)
    folds = cohort.folds(3)
    scores = cross_val_score(estimator, cohort, y, cv=folds)
    np.testing.assert_array_equal(scores, cross_val_score(estimator, cohort.to_frame(), y, cv=folds))
    risks = cross_val_predict(estimator, cohort, y, cv=folds)
    train, test = folds[1]
    np.testing.assert_array_equal(risks[test], estimator.fit(cohort[train], y[train]).predict(cohort[test]))
    assert scores.mean() > 0.6


def test_grid_search_chooses_and_refits(cohort, y):
    search = GridSearchCV(
        HEALNetSurvivalAnalysis(members=1), {"epochs": [1, 15], "latent_dim": [8]}, cv=3, error_score="raise"
    ).fit(cohort.to_frame(), y)
    assert search.best_params_ == {"epochs": 15, "latent_dim": 8}
    assert search.best_estimator_.model_.models[0].latents.shape[1] == 8


def test_a_pipeline_may_come_before(cohort, y):
    frame = cohort.to_frame()
    positions = {"clinical": [0, 1, 2], "rna": range(3, 10)}
    log = make_column_transformer((FunctionTransformer(np.exp), [0, 1, 2]), remainder="passthrough")
    pipeline = make_pipeline(log, HEALNetSurvivalAnalysis(positions, **QUICK)).fit(frame, y)
    by_hand = frame.to_numpy().copy()
    by_hand[:, :3] = np.exp(by_hand[:, :3])
    expected = HEALNetSurvivalAnalysis(positions, **QUICK).fit(by_hand, y).predict(by_hand)
    np.testing.assert_array_equal(pipeline.predict(frame), expected)


def test_clones_and_pickles(cohort, y):
    estimator = HEALNetSurvivalAnalysis(**QUICK, random_state=np.random.RandomState(0)).fit(cohort, y)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict(cohort), estimator.predict(cohort))
    assert not hasattr(clone(estimator), "model_")


def test_patients_of_a_cohort_are_relabeled_where_y_says_otherwise(cohort, y):
    other = y.copy()
    other["time"] = other["time"][::-1]
    flipped = HEALNetSurvivalAnalysis(**QUICK).fit(cohort, other)
    table = HEALNetSurvivalAnalysis(**QUICK).fit(cohort.to_frame(), other)
    np.testing.assert_allclose(flipped.predict(cohort), table.predict(cohort.to_frame()), atol=1e-6)


def test_outcomes_of_another_kind_are_refused(cohort):
    with pytest.raises(
        ValueError, match=r"^expected y as scikit-survival's structured array .* got ndarray$"
    ):
        HEALNetSurvivalAnalysis().fit(cohort, np.zeros(60))
    with pytest.raises(ValueError, match=r"^requires y to be passed, but the target y is None$"):
        HEALNetSurvivalAnalysis().fit(cohort.to_frame())
    with pytest.raises(ValueError, match=r"^the cohort has 60 patient ids but 59 survival times$"):
        HEALNetSurvivalAnalysis().fit(cohort, cohort.target[:59])


def test_progress_is_shown_on_request(cohort, y, capsys):
    HEALNetSurvivalAnalysis(members=2, epochs=3, verbose=True).fit(cohort, y)
    assert "6/6" in capsys.readouterr().err
    HEALNetSurvivalAnalysis(members=2, epochs=3).fit(cohort, y)
    assert capsys.readouterr() == ("", "")


def test_a_misspelled_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'healnet' has no attribute 'HEALNetSurvival'$"):
        healnet.HEALNetSurvival  # noqa: B018


# scikit-learn's own checks, which know regressors and classifiers alone: their y becomes times without censoring.


def _as_survival(y):
    y = np.asarray(y)
    if y.dtype.kind not in "iuf" or y.ndim != 1:
        return y
    return SurvivalTarget.unchecked(y - y.min().astype(float), np.ones(len(y), bool))


class Checked(HEALNetSurvivalAnalysis):
    def fit(self, X, y=None):
        return super().fit(X, None if y is None else _as_survival(y))

    def score(self, X, y=None):
        return super().score(X, None if y is None else _as_survival(y))


SKIPPED = {
    "check_dtype_object": "its y is of unknown labels, which a survival time is not",
    "check_array_api_input": "needs SCIPY_ARRAY_API in the environment",
}


CHECKS = [
    pytest.param(*case, id=getattr(case[1], "func", case[1]).__name__)
    for case in estimator_checks_generator(Checked(members=1, epochs=2))
]


@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_scikit_learns_checks(estimator, check, request):
    name = request.node.callspec.id
    if name in SKIPPED:
        pytest.skip(SKIPPED[name])
    check(estimator)
