import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.data import Cohort, CohortDataset, Split, join_cohorts, join_splits
from healnet.inputs import Masked
from healnet.survival import cox_nll
from healnet.survival.target import SurvivalTarget

nan = np.nan


def blca():
    rna = pd.DataFrame({"TP53": [1.0, 2.0, nan], "MYC": [3.0, nan, nan]}, index=["a1", "a2", "a3"])
    age = pd.DataFrame({"age": [50.0, 60.0, 70.0]}, index=rna.index)
    target = SurvivalTarget([1.0, 2.0, 3.0], [True, False, True])
    return Cohort({"age": age, "rna": rna}, target, rna.index, slides={"a2": ["s1"]})


def brca():
    rna = pd.DataFrame({"GATA3": [5.0, 6.0], "TP53": [7.0, 8.0]}, index=["b1", "b2"])
    ct = {"b2": np.full((2, 3, 1), 4.0)}
    target = SurvivalTarget([0.1, 0.2], [True, True])
    labels = {"grade": ["low", "high"], "dose": [1.5, 2.5]}
    return Cohort({"rna": rna, "ct": ct}, target, ["b1", "b2"], labels=labels)


def joined(**options):
    return join_cohorts({"blca": blca(), "brca": brca()}, **{"time_unit": "months", **options})


def test_features_are_united_and_what_a_cohort_lacks_is_missing():
    both = joined()
    expected = pd.DataFrame(
        {
            "TP53": [1.0, 2.0, nan, 7.0, 8.0],
            "MYC": [3.0, nan, nan, nan, nan],
            "GATA3": [nan, nan, nan, 5.0, 6.0],
        },
        index=pd.Index(["a1", "a2", "a3", "b1", "b2"], name="patient"),
    )
    pd.testing.assert_frame_equal(both.table("rna"), expected)
    assert both.modalities == ("age", "rna", "ct")
    assert both.missing().to_numpy().T.tolist() == [
        [False, False, False, True, True],
        [False, False, True, False, False],
        [True, True, True, True, False],
    ]
    assert both.slides["a2"] == ("s1",)
    batch = CohortDataset(both).batch()
    assert isinstance(batch.inputs["rna"], Masked)
    assert torch.equal(batch.inputs["rna"].mask, torch.tensor(~expected.isna().to_numpy()))
    assert batch.inputs["ct"].mask.tolist() == [False] * 4 + [True]
    assert batch.inputs["ct"].values[4].unique().tolist() == [4.0]


def test_the_cohort_travels_with_every_batch_as_the_strata_of_cox():
    both = joined()
    assert both.classes["cohort"] == ("blca", "brca")
    batch = CohortDataset(both).batch([4, 0, 2, 3])
    assert batch.labels["cohort"].tolist() == [1, 0, 0, 1]
    hazard = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)
    # Each cohort by itself, weighted by its events: no risk set holds patients of both.
    alone = [cox_nll(hazard[rows], batch.time[rows], batch.event[rows]) for rows in ([0, 3], [1, 2])]
    together = cox_nll(hazard, batch.time, batch.event, strata=batch.labels["cohort"])
    assert together.item() == pytest.approx((2 * alone[0] + 2 * alone[1]).item() / 4, abs=1e-12)


def test_the_cohort_may_be_an_input_too():
    both = joined(modality="cancer", label="project")
    assert both.table("cancer").to_dict("list") == {"blca": [1, 1, 1, 0, 0], "brca": [0, 0, 0, 1, 1]}
    assert list(both.labels) == ["grade", "dose", "project"]


def test_labels_of_one_cohort_are_unknown_in_the_other():
    both = joined()
    assert both.label_tensors()["grade"].tolist() == [-100, -100, -100, 1, 0]
    assert both.label_tensors()["dose"].tolist() == pytest.approx([nan] * 3 + [1.5, 2.5], nan_ok=True)


def test_times_are_converted_where_units_differ_and_kept_to_the_bit_where_not():
    assert joined().target.time.tolist() == [1.0, 2.0, 3.0, 0.1, 0.2]
    both = joined(time_unit={"blca": "days", "brca": "years"})
    assert both.target.time.tolist() == pytest.approx([1, 2, 3, 36.525, 73.05], rel=1e-14)
    months = joined(time_unit={"blca": "months", "brca": "years"})
    assert months.target.time[3:].tolist() == pytest.approx([1.2, 2.4], rel=1e-14)


def test_cohorts_without_outcomes_need_no_unit():
    parts = {
        name: Cohort({"rna": cohort().table("rna")})
        for name, cohort in (("x", brca), ("y", lambda: blca()[:2]))
    }
    both = join_cohorts(parts)
    assert not both.has_target
    assert both.patients.tolist() == ["b1", "b2", "a1", "a2"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(12, 40), min_size=1, max_size=4), st.integers(0, 99))
def test_folds_within_cohorts_are_those_that_each_has_alone(sizes, seed):
    cohorts = {}
    for number, size in enumerate(sizes):
        ids = [f"{number}-{i}" for i in range(size)]
        target = SurvivalTarget(np.arange(size), np.arange(size) % 3 == 0)
        cohorts[f"c{number}"] = Cohort({"x": pd.DataFrame({"a": 1.0}, index=ids)}, target, ids)
    both = join_cohorts(cohorts, time_unit="days")
    for k, (train, test) in enumerate(both.folds(4, seed, within="cohort")):
        own = [(cohort, cohort.folds(4, seed)[k]) for cohort in cohorts.values()]
        assert both.patients[train].tolist() == [p for cohort, fold in own for p in cohort.patients[fold[0]]]
        assert both.patients[test].tolist() == [p for cohort, fold in own for p in cohort.patients[fold[1]]]


def test_published_splits_are_joined_fold_by_fold():
    a = [Split(i, (f"a{i}",), (f"av{i}",), (), (f"au{i}",), Path(f"a/{i}")) for i in range(2)]
    b = [Split(i, (f"b{i}", "b"), (f"bv{i}",), (f"bt{i}",), (), Path(f"b/{i}")) for i in range(2)]
    both = join_splits({"a": a, "b": b})
    assert [split.fold for split in both] == [0, 1]
    assert both[1] == Split(1, ("a1", "b1", "b"), ("av1", "bv1"), ("bt1",), ("au1",), Path("a/1"))
    with pytest.raises(
        ValueError, match=r"^expected the same number of folds of every cohort, got {'a': 2, 'b': 1}$"
    ):
        join_splits({"a": a, "b": b[:1]})


def test_genes_that_are_named_otherwise_are_noticed():
    named = brca().table("rna").set_axis(["ENSG00000107485", "ENSG00000141510"], axis=1)
    message = (
        "modality 'rna': no feature of cohort 'blca', 'brca', such as 'MYC', is in another cohort; "
        "are the features named alike?"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        join_cohorts({"blca": blca(), "brca": brca().replace({"rna": named})}, time_unit="months")


def without_outcomes():
    return Cohort({"rna": brca().table("rna")})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: join_cohorts({}), "expected at least one cohort to join"),
        (
            lambda: join_cohorts({"x": blca(), "y": blca()[1:]}, time_unit="days"),
            "patient 'a2', 'a3' of cohort 'y' is in cohort 'x' too; ids must differ between the cohorts that are joined",
        ),
        (
            lambda: joined(time_unit=None),
            'expected the unit of follow-up, time_unit="months" or time_unit={name: unit} where cohorts differ, got none',
        ),
        (
            lambda: joined(time_unit="hours"),
            "expected time_unit as one of 'days', 'weeks', 'months', 'years' for each of 'blca', 'brca', got hours",
        ),
        (
            lambda: joined(time_unit={"blca": "days"}),
            "expected time_unit as one of 'days', 'weeks', 'months', 'years' for each of 'blca', 'brca', "
            "got {'blca': 'days'}",
        ),
        (
            lambda: join_cohorts({"x": blca(), "y": without_outcomes()}, time_unit="days"),
            "cohort 'y' has no outcomes, cohort 'x' has",
        ),
        (lambda: joined(label="grade"), "the cohorts already have a label 'grade'; pass another label="),
        (lambda: joined(modality="rna"), "the cohorts already have a modality 'rna'"),
        (
            lambda: join_cohorts(
                {"x": Cohort({"ct": {"p": np.ones((2, 1))}}), "y": Cohort({"ct": blca().table("age")})}
            ),
            "modality 'ct': expected one kind in all cohorts, got Table and Values",
        ),
        (
            lambda: join_cohorts(
                {
                    "x": Cohort({"ct": {"p": np.ones((2, 1))}}),
                    "y": Cohort({"ct": {"q": Masked(torch.ones(2), torch.tensor(True))}}),
                }
            ),
            "modality 'ct': expected one type in all cohorts, got Masked and Tensor",
        ),
        (
            lambda: join_cohorts(
                {
                    "x": Cohort({"age": blca().table("age")}, labels={"g": ["u", "v", "u"]}),
                    "y": Cohort({"rna": brca().table("rna")}, labels={"g": [1.0, 2.0]}),
                }
            ),
            "label 'g': expected one kind in all cohorts, got classes and float64",
        ),
        (
            lambda: join_cohorts(
                {
                    "x": Cohort({"age": blca().table("age")}, labels={"g": [1, 2, 3]}),
                    "y": Cohort({"rna": brca().table("rna")}),
                }
            ),
            "label 'g': integers with gaps are classes or numbers; pass categories or floats",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()


def test_slides_of_all_cohorts_are_checked_together(tmp_path):
    def cohort(patient, file, width):
        torch.save(torch.ones(4, width), tmp_path / file)
        return Cohort({"slide": {patient: tmp_path / file}})

    both = join_cohorts(
        {"x": cohort("p", "p.pt", 3), "y": cohort("q", "q.pt", 3), "z": Cohort({"age": blca().table("age")})}
    )
    assert CohortDataset(both).lengths().tolist() == [4, 4, 0, 0, 0]
    with pytest.raises(
        ValueError, match=r"^modality 'slide': .*r\.pt has features of width 5, .*p\.pt of 3$"
    ):
        join_cohorts({"x": cohort("p", "p.pt", 3), "y": cohort("r", "r.pt", 5)})


def test_cohorts_without_names_are_refused():
    with pytest.raises(ValueError, match=r"^expected cohorts by name, as in \{'blca': blca\}, got list$"):
        join_cohorts([])


@pytest.mark.parametrize("ordered", [True, False])
def test_classes_keep_their_numbers_whatever_their_kind(ordered):
    """One cohort's grades are ordered, the other's not; whole numbers as categories stay classes."""

    def part(ids, grade, stage, order):
        labels = {
            "grade": pd.Categorical(grade, categories=["low", "high", "all"], ordered=order),
            "stage": pd.Categorical(stage, categories=[3, 1, 2]),
        }
        table = pd.DataFrame({"g": [1.0] * len(ids)}, index=ids)
        return Cohort({"rna": table}, labels=pd.DataFrame(labels, index=ids))

    one = part(["a", "b"], ["low", "high"], [1, 3], True)
    other = part(["c", "d"], ["all", None], [2, None], ordered)
    lacks = Cohort({"rna": pd.DataFrame({"g": [1.0]}, index=["e"])})
    joined = join_cohorts({1: one, "B": other, "C": lacks})
    assert joined.classes == {"grade": ("low", "high", "all"), "stage": (3, 1, 2), "cohort": ("1", "B", "C")}
    tensors = joined.label_tensors()
    assert tensors["grade"].tolist() == [0, 1, 2, -100, -100]
    assert tensors["stage"].tolist() == [1, 0, 2, -100, -100]
    assert tensors["cohort"].tolist() == [0, 0, 1, 1, 2]
    assert joined.labels["grade"].cat.ordered == ordered
    with pytest.raises(ValueError, match=r"^expected cohorts of different names, got '1' more than once$"):
        join_cohorts({1: one, "1": other})
