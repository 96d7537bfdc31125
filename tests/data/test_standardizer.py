import copy
import json
import pickle
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from healnet.data import Cohort, Standardizer
from healnet.survival.target import SurvivalTarget

NAN = np.nan


def cohort(values, columns=None):
    values = np.array(values, dtype=float)
    index = [f"p{i}" for i in range(len(values))]
    columns = list("abcdefg")[: values.shape[1]] if columns is None else columns
    # Everybody has the second table, so that a row of NaN in the first is an absence and not a patient with nothing.
    beside = pd.DataFrame({"age": np.arange(len(values)) + 50.0}, index=index)
    table = pd.DataFrame(values, index=index, columns=columns)
    target = SurvivalTarget(np.arange(len(values)) + 1.0, np.arange(len(values)) % 2 == 0)
    return Cohort({"rna": table, "clinical": beside}, target, index)


def transformed(scaler, of):
    return scaler.transform(of).table("rna").to_numpy()


def test_center_and_scale_by_hand_over_real_cells():
    whole = cohort([[1.0, NAN], [3.0, 4.0], [NAN, 8.0], [NAN, NAN]])
    values = transformed(Standardizer().fit(whole), whole)
    np.testing.assert_allclose(values, [[-1.0, NAN], [1.0, -1.0], [NAN, 1.0], [NAN, NAN]], rtol=0, atol=1e-15)


def test_only_the_patients_of_the_fit_count():
    train, test = [[1.0], [3.0]], [[1e9]]
    scaler = Standardizer().fit(cohort(train + test)[:2])
    assert transformed(scaler, cohort(train + test)).ravel().tolist() == [-1.0, 1.0, 1e9 - 2]
    assert scaler.statistics["rna"].to_dict("list") == {
        "center": [2.0],
        "scale": [1.0],
        "cells": [2],
        "constant": [False],
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 999))
def test_training_columns_get_mean_zero_and_deviation_one_where_they_vary(n, columns, seed):
    generator = np.random.default_rng(seed)
    values = generator.normal(3, 5, (n, columns))
    values[generator.random((n, columns)) < 0.3] = NAN
    whole = cohort(values)
    scaler = Standardizer().fit(whole)
    result = scaler.transform(whole).table("rna")
    np.testing.assert_array_equal(np.isnan(result.to_numpy()), np.isnan(values))
    for column in result:
        cells = result[column].dropna()
        if column in scaler.unseen["rna"]:
            assert not len(cells)
        elif column in scaler.constant["rna"]:
            assert (cells == 0).all()
        else:
            assert abs(cells.mean()) < 1e-12
            assert abs(cells.std(ddof=0) - 1) < 1e-12


def test_another_value_of_a_constant_column_is_one_deviation_away():
    """As it is, a new value of 1e6 would decide every risk; a gene that nobody in training had mutated is 1 as before."""
    # 0.1 + 0.2 three times: the mean of equal numbers is not always that number, nor its deviation 0.
    whole = cohort([[0.1 + 0.2], [0.1 + 0.2], [0.1 + 0.2], [1e6]])
    scaler = Standardizer().fit(whole[:3])
    assert scaler.constant == {"rna": ["a"], "clinical": []}
    assert transformed(scaler, whole).ravel().tolist() == [0.0, 0.0, 0.0, 1.0]
    clipped = Standardizer("median", clip=0.5).fit(whole[:3])
    assert transformed(clipped, whole).ravel().tolist() == [0.0, 0.0, 0.0, 0.5]
    below = cohort([[2.0], [2.0], [2.0], [1.75], [-7e9]])
    assert transformed(Standardizer().fit(below[:3]), below).ravel().tolist() == [0.0, 0.0, 0.0, -0.25, -1.0]


def test_a_column_unseen_in_training_is_missing_for_everybody():
    whole = cohort([[1.0, NAN], [2.0, NAN], [3.0, 5.0]])
    scaler = Standardizer().fit(whole[:2])
    assert scaler.unseen == {"rna": ["b"], "clinical": []}
    assert np.isnan(transformed(scaler, whole)[:, 1]).all()


def test_median_is_not_moved_by_one_wild_value():
    calm, wild = [[float(i)] for i in range(9)], [[float(i)] for i in range(8)] + [[1e6]]
    for values in (calm, wild):
        statistics = Standardizer("median").fit(cohort(values)).statistics["rna"].loc["a"]
        assert statistics["center"] == 4.0
        assert statistics["scale"] == pytest.approx(4 * 0.7413011092528009)  # quartiles 2 and 6


def test_median_falls_back_to_the_deviation_where_most_cells_are_one_value():
    scaler = Standardizer("median").fit(cohort([[0.0]] * 9 + [[1.0]]))
    assert scaler.statistics["rna"].loc["a", "scale"] == pytest.approx(0.3)
    assert scaler.constant["rna"] == []


def test_clip_bounds_what_training_never_saw():
    scaler = Standardizer(clip=4.0).fit(cohort([[1.0], [3.0]]))
    assert transformed(scaler, cohort([[1.0], [100.0], [-100.0], [NAN]]))[:3].ravel().tolist() == [
        -1.0,
        4.0,
        -4.0,
    ]


def test_columns_are_found_by_name():
    # Not in alphabetical order, into which pandas would bring them by itself.
    scaler = Standardizer().fit(cohort([[1.0, 10.0], [3.0, 30.0]], ["b", "a"]))
    result = scaler.transform(cohort([[30.0, 1.0]], ["a", "b"])).table("rna")
    assert result.columns.tolist() == ["b", "a"]
    assert result.to_numpy().tolist() == [[-1.0, 1.0]]


def test_fewer_modalities_than_fitted_will_do():
    whole = cohort([[1.0], [3.0]])
    scaler = Standardizer().fit(whole)
    assert scaler.transform(whole.select(["rna"])).table("rna")["a"].tolist() == [-1.0, 1.0]


def test_other_modalities_pass_through():
    index = ["p0", "p1"]
    volumes = {"p0": np.ones((2, 3, 1)), "p1": np.zeros((2, 3, 1))}
    tables = {"ct": volumes, "rna": pd.DataFrame({"a": [1.0, 3.0]}, index=index)}
    whole = Cohort(tables, SurvivalTarget([1.0, 2.0], [True, False]), index)
    after = Standardizer().fit(whole).transform(whole)
    assert after.modality("ct") is whole.modality("ct")
    assert after.table("rna")["a"].tolist() == [-1.0, 1.0]


def test_it_survives_copies():
    scaler = Standardizer().fit(cohort([[1.0], [3.0]]))
    for again in (copy.deepcopy(scaler), pickle.loads(pickle.dumps(scaler))):
        assert transformed(again, cohort([[3.0]])).tolist() == [[1.0]]


def test_statistics_handed_out_are_a_copy():
    scaler = Standardizer().fit(cohort([[1.0], [3.0]]))
    handed_out = scaler.statistics["rna"]
    handed_out.loc["a", "center"] = 99.0
    assert transformed(scaler, cohort([[3.0]])).tolist() == [[1.0]]


FITTED = Standardizer().fit(cohort([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Standardizer().transform(cohort([[1.0]])),
            "the Standardizer is not fitted; call fit(cohort[train]) first",
        ),
        (lambda: Standardizer().fit(cohort([[1.0]])[[]]), "expected at least one patient to fit on"),
        (
            lambda: FITTED.transform(cohort([[1.0, 2.0, 3.0]], ["a", "z", "y"])),
            "modality 'rna': the columns differ from those fitted: it lacks 'b' and adds 'z', 'y'",
        ),
        (
            lambda: FITTED.transform(cohort([[1.0]])),
            "modality 'rna': the columns differ from those fitted: it lacks 'b'",
        ),
        (
            lambda: Standardizer().fit(cohort([[1.0]]).select(["rna"])).transform(cohort([[1.0]])),
            "modality 'clinical' was not fitted; fitted were 'rna'",
        ),
        (lambda: Standardizer("max"), "expected method 'mean', 'median' or 'rank', got 'max'"),
        (lambda: Standardizer(clip=0.0), "expected clip > 0 or None, got 0.0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_rank_gives_normal_scores_whatever_the_scale_of_the_column():
    values = np.array([[1.0], [2.0], [3.0], [50.0]])
    scores = norm.ppf([1 / 5, 2 / 5, 3 / 5, 4 / 5])
    for column in (values, np.exp(values / 10), values**3):
        scaler = Standardizer("rank").fit(cohort(column))
        np.testing.assert_allclose(
            transformed(scaler, cohort(column)).ravel(), scores / scores.std(), rtol=1e-12
        )
        assert scaler.statistics["rna"]["scale"].item() == pytest.approx(scores.std())


def test_rank_places_new_values_among_the_training_cells():
    train = cohort([[1.0], [2.0], [2.0], [4.0]])
    scaler = Standardizer("rank").fit(train)
    # 1 is the first of four, the twos share places 2 and 3, 4 is the last; 3, 0 and 9 fall between and outside.
    new = transformed(scaler, cohort([[1.0], [2.0], [4.0], [3.0], [0.0], [9.0], [NAN]])).ravel()
    seen = norm.ppf([0.2, 0.5, 0.5, 0.8])
    expected = (norm.ppf([0.2, 0.5, 0.8, 0.7, 0.1, 0.9]) - seen.mean()) / seen.std()
    np.testing.assert_allclose(new[:-1], expected, atol=1e-12)
    assert np.isnan(new[-1])


def test_rank_ignores_missing_cells_and_takes_yes_and_no_as_they_are():
    gaps = cohort([[NAN, 0.0], [5.0, 0.0], [7.0, 0.0], [NAN, 1.0]])
    values = transformed(Standardizer("rank").fit(gaps), gaps)
    np.testing.assert_allclose(values[1:3, 0], [-1, 1])
    np.testing.assert_allclose(values[:, 1], transformed(Standardizer().fit(gaps), gaps)[:, 1])


@pytest.mark.parametrize("method", ["mean", "median", "rank"])
def test_through_json_and_back(method):
    table = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": [3.0, NAN, 3.0], "c": [NAN] * 3}, index=["x", "y", "z"])
    whole = Cohort({"t": table}, SurvivalTarget([1, 2, 3], [True, True, False]), table.index)
    scaler = Standardizer(method, clip=2.0).fit(whole)
    text = json.dumps(scaler.to_dict(), allow_nan=False)
    again = Standardizer.from_dict(json.loads(text))
    assert (again.method, again.clip, again.unseen) == (method, 2.0, {"t": ["c"]})
    new = whole.replace({"t": table.assign(a=[0.5, 3.0, 9.0], c=1.0)})
    pd.testing.assert_frame_equal(again.transform(new).table("t"), scaler.transform(new).table("t"))
    state = json.loads(text)
    state["tables"]["t"]["scale"][0] = 0.0
    with pytest.raises(ValueError, match=r"^modality 't': expected finite centers and positive scales$"):
        Standardizer.from_dict(state)


def test_a_cohort_without_tables_passes_through():
    scans = {"a": np.ones((2, 2, 1)), "b": np.zeros((2, 2, 1))}
    cohort = Cohort({"ct": scans}, SurvivalTarget([1.0, 2.0], [True, False]), ["a", "b"])
    assert Standardizer().fit(cohort).transform(cohort) is cohort


@pytest.mark.parametrize(
    ("column", "values"),
    [([1e300, -1e300, 0.0], "-1e+300 to 1e+300"), ([1e-320, 2e-320, 0], "0 to 1.99998e-320")],
)
def test_numbers_that_float64_cannot_standardize_are_refused(column, values):
    table = pd.DataFrame({"a": [1.0, 2, 3], "b": column}, index=["p", "q", "r"])
    message = f"modality 'x': column 'b' cannot be standardized in float64: its values go from {values}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Standardizer().fit(Cohort({"x": table}))


def test_it_says_what_it_was_fitted_on():
    assert repr(Standardizer()) == "Standardizer('mean': not fitted)"
    fitted = Standardizer("rank", clip=3).fit(cohort([[1.0], [2.0]]))
    assert repr(fitted) == "Standardizer('rank', clip=3: rna 1, clinical 1)"
