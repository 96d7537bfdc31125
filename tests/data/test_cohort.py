import pickle
import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.data import Cohort
from healnet.survival import SurvivalTarget, concordance

PATIENTS = ["p1", "p2", "p3", "p4", "p5"]
TARGET = SurvivalTarget([5.0, 3.0, 8.0, 1.0, 0.0], [True, False, True, False, True])


def tables():
    rna = pd.DataFrame(
        {"TP53": [3.0, 1.0, np.nan], "MYC": [np.nan, 10.0, np.nan], "KRAS": [30.0, 10.0, np.nan]},
        index=["p3", "p1", "p4"],
    )
    clinical = pd.DataFrame({"age": [61, 47, 70, 35, 52], "stage": [1, 2, 3, np.nan, 1]}, index=PATIENTS)
    return {"clinical": clinical, "rna": rna}


def cohort():
    return Cohort(tables(), TARGET, PATIENTS)


def test_rows_are_joined_by_id_whatever_their_order():
    table = cohort().table("rna")
    assert table.index.tolist() == PATIENTS
    assert table.loc["p1"].tolist() == [1.0, 10.0, 10.0]
    assert table.loc["p3", "TP53"] == 3.0
    assert table.loc["p2"].isna().all()


def test_it_reports_who_lacks_what():
    # p4's row is there, but holds nothing: that is absent too.
    expected = pd.DataFrame(
        {"clinical": [False] * 5, "rna": [False, True, False, True, True]},
        index=pd.Index(PATIENTS, name="patient"),
    )
    pd.testing.assert_frame_equal(cohort().missing(), expected)
    assert cohort().complete().tolist() == [0, 2]
    assert cohort().patterns().to_dict("list") == {
        "clinical": [True, True],
        "rna": [False, True],
        "patients": [3, 2],
    }


def test_it_is_shown_in_one_line():
    assert repr(cohort()) == "Cohort(5 patients, 3 events, clinical 5x2, rna 2x3)"


def test_its_parts():
    whole = cohort()
    assert len(whole) == 5
    assert whole.modalities == whole.tables == ("clinical", "rna")
    assert whole.widths == {"clinical": 2, "rna": 3}
    assert whole.target == TARGET
    assert whole.to_frame().columns.tolist() == [
        "clinical:age",
        "clinical:stage",
        "rna:TP53",
        "rna:MYC",
        "rna:KRAS",
    ]
    assert whole.to_frame().loc["p3", "rna:KRAS"] == 30.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), unique=True))
def test_a_part_holds_what_each_of_its_patients_had(positions):
    whole, part = cohort(), cohort()[np.array(positions, dtype=int)]
    assert part.patients.tolist() == [PATIENTS[i] for i in positions]
    assert part.target.time.tolist() == [TARGET.time[i] for i in positions]
    for name in whole.tables:
        pd.testing.assert_frame_equal(part.table(name), whole.table(name).iloc[positions])


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (slice(1, 3), ["p2", "p3"]),
        (np.array([True, False, False, False, True]), ["p1", "p5"]),
        ([-1, 0], ["p5", "p1"]),
        (2, ["p3"]),
        (torch.tensor([2, 0]), ["p3", "p1"]),
        (torch.tensor([2]), ["p3"]),
    ],
)
def test_it_is_indexed_like_an_array(index, expected):
    assert cohort()[index].patients.tolist() == expected


def test_a_part_of_a_part():
    assert cohort()[[4, 2, 0]][[2, 1]].patients.tolist() == ["p1", "p3"]


def test_selected_modalities_keep_every_patient():
    alone = cohort().select(["rna"])
    assert alone.modalities == ("rna",)
    assert len(alone) == 5
    assert alone.missing()["rna"].tolist() == [False, True, False, True, True]
    assert cohort().select(["rna", "clinical"]).modalities == ("rna", "clinical")
    assert cohort().select("rna").modalities == ("rna",)


def test_patients_are_located_by_id():
    assert cohort().locate(["p4", "p1"]).tolist() == [3, 0]
    assert cohort().locate([]).tolist() == []
    assert cohort().locate("p4").tolist() == [3]


def test_integer_ids_join_with_text():
    table = pd.DataFrame({"a": [1.0, 2.0]}, index=[10, 20])
    joined = Cohort({"x": table}, TARGET[:2], ["20", "10"])
    assert joined.table("x")["a"].tolist() == [2.0, 1.0]


def test_nothing_the_caller_does_changes_it():
    source = tables()
    whole = Cohort(source, TARGET, PATIENTS)
    source["rna"].loc["p1", "TP53"] = 99.0
    assert whole.table("rna").loc["p1", "TP53"] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        whole.table("rna").to_numpy()[0, 0] = 99.0
    with pytest.raises(ValueError, match="read-only"):
        whole[[0, 1]].table("rna").to_numpy()[0, 0] = 99.0
    added = whole.table("rna")
    added["new"] = 1.0
    assert whole.widths["rna"] == 3
    with pytest.raises(AttributeError):
        whole.target = TARGET


def test_it_travels_to_the_workers():
    again = pickle.loads(pickle.dumps(cohort()))
    pd.testing.assert_frame_equal(again.table("rna"), cohort().table("rna"))
    assert again.target == TARGET


def test_unknown_patients_are_dropped_only_on_request():
    extra = tables()
    extra["rna"].loc["stranger"] = [1.0, 2.0, 3.0]
    whole = Cohort(extra, TARGET, PATIENTS, unknown="drop")
    assert whole.dropped == {"rna": ("stranger",)}
    assert len(whole) == 5
    pd.testing.assert_frame_equal(whole.table("rna"), cohort().table("rna"))


def with_table(**changes):
    return {**tables(), **changes}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Cohort(tables(), TARGET, ["p1", "p2", "p2", "p4", "p5"]),
            "cohort: duplicated patient id 'p2'; a cohort has one row per patient",
        ),
        (
            lambda: Cohort(with_table(rna=pd.concat([tables()["rna"]] * 2)), TARGET, PATIENTS),
            "modality 'rna': duplicated patient id 'p3', 'p1', 'p4'; a cohort has one row per patient",
        ),
        (
            lambda: Cohort(tables(), TARGET, PATIENTS[:4]),
            "the cohort has 4 patient ids but 5 survival times",
        ),
        (lambda: Cohort({}, TARGET, PATIENTS), "expected at least one modality, got none"),
        (
            lambda: Cohort(tables()["rna"], TARGET, PATIENTS),
            'expected modalities by name, as {"rna": table}, got DataFrame',
        ),
        (
            lambda: Cohort([tables()["rna"]], TARGET, PATIENTS),
            'expected modalities by name, as {"rna": table}, got list',
        ),
        (lambda: Cohort(tables(), TARGET[:1], "p1"), "expected patients as a sequence of ids, got str"),
        (
            lambda: Cohort(tables(), TARGET, tables()["clinical"]),
            "expected patients as a sequence of ids, got DataFrame",
        ),
        (lambda: Cohort({"rna": tables()["rna"][:0]}), "expected at least one patient, got none"),
        (
            lambda: Cohort(tables(), TARGET),
            "expected the ids of the patients beside the target, in its order",
        ),
        (
            lambda: Cohort(with_table(rna=np.zeros((5, 3))), TARGET, PATIENTS),
            "modality 'rna': expected a pandas DataFrame, an AnnData or a mapping from patient id, got ndarray",
        ),
        (
            lambda: Cohort(
                with_table(cnv=pd.DataFrame({"a": [1.0, 2.0]}, index=["p2", "TCGA-1-01Z"])), TARGET, PATIENTS
            ),
            "modality 'cnv': patient 'TCGA-1-01Z' is not in the cohort; unknown=\"drop\" leaves such patients out",
        ),
        (
            lambda: Cohort({"rna": tables()["rna"]}, TARGET, PATIENTS),
            "patient 'p2', 'p4', 'p5' has no modality at all; leave such patients out",
        ),
        (
            lambda: Cohort(tables(), TARGET, PATIENTS, unknown="ignore"),
            "expected unknown to be 'raise' or 'drop', got 'ignore'",
        ),
        (
            lambda: Cohort(tables(), SurvivalTarget([1.0, -2.0, 3.0], [True, True, False]), PATIENTS[:3]),
            "expected time to be finite and >= 0, got -2 at position 1 (1 of 3 are wrong)",
        ),
        (
            lambda: Cohort(tables(), SurvivalTarget([1.0, 2.0, np.nan], [True, True, False]), PATIENTS[:3]),
            "expected time to be finite and >= 0, got nan at position 2 (1 of 3 are wrong)",
        ),
        (
            lambda: Cohort(tables(), TARGET.to_structured(), PATIENTS),
            "expected the target as a SurvivalTarget, got ndarray; SurvivalTarget.from_frame and from_structured make one",
        ),
        (lambda: cohort().table("ct"), "unknown modality 'ct'; the cohort has 'clinical', 'rna'"),
        (lambda: cohort().select(["rna", "ct"]), "unknown modality 'ct'; the cohort has 'clinical', 'rna'"),
        (lambda: cohort().select([]), "expected at least one modality"),
        (lambda: cohort().locate(["p1", "p9"]), "patient 'p9' is not in the cohort"),
        (lambda: cohort()[[0, 1, 0]], "patient 'p1' is given more than once"),
        (lambda: cohort().files("rna"), "modality 'rna' has no patch files"),
        (
            lambda: cohort().replace({"rna": tables()["rna"]}),
            "modality 'rna': the new table must have the cohort's patients, in their order",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()


def test_replaced_tables_leave_the_rest():
    whole = cohort()
    doubled = whole.replace({"rna": whole.table("rna") * 2})
    assert doubled.table("rna").loc["p3", "TP53"] == 6.0
    assert whole.table("rna").loc["p3", "TP53"] == 3.0
    pd.testing.assert_frame_equal(doubled.table("clinical"), whole.table("clinical"))


def test_folds_and_holdout_are_of_patients_and_stratified():
    index = [f"p{i}" for i in range(50)]
    target = SurvivalTarget(np.arange(50.0), np.arange(50) % 5 == 0)
    whole = Cohort({"x": pd.DataFrame({"a": np.arange(50.0) % 7}, index=index)}, target, index)
    folds = whole.folds(5, seed=3)
    assert [int(whole[test].target.event.sum()) for _, test in folds] == [2] * 5
    rest, held = whole.holdout(0.2, seed=3)
    assert (len(rest), int(whole[held].target.event.sum())) == (40, 2)


def test_a_cohort_without_outcomes_takes_its_patients_from_its_modalities():
    whole = Cohort(tables())
    assert whole.patients.tolist() == PATIENTS
    assert not whole.has_target
    assert repr(whole) == "Cohort(5 patients, clinical 5x2, rna 2x3)"
    assert str(whole.summary()).splitlines()[0] == "5 patients"
    assert Cohort(tables(), None, PATIENTS[::-1]).patients.tolist() == PATIENTS[::-1]
    assert not whole[[1, 2]].has_target


def test_a_target_that_was_read_from_a_table_brings_its_patients_and_their_order():
    outcomes = pd.DataFrame({"t": range(5), "e": [1, 0, 1, 0, 1]}, index=PATIENTS[::-1])
    target = SurvivalTarget.from_frame(outcomes, "t", "e")
    whole = Cohort(tables(), target)
    assert whole.patients.tolist() == PATIENTS[::-1]
    assert whole.target.time.tolist() == [0, 1, 2, 3, 4]
    assert whole.table("clinical").index.tolist() == PATIENTS[::-1]
    message = "^expected patients in the order of the target's table, got 'p1' at position 0 where the table has 'p5'; "
    for build in (
        lambda: Cohort(tables(), target, PATIENTS),
        lambda: Cohort(tables()).with_target(target),
    ):
        with pytest.raises(ValueError, match=message):
            build()


def test_patients_are_taken_by_position_or_mask_and_ids_are_refused():
    whole = cohort()
    old = whole.table("clinical").iloc[:, 0] > whole.table("clinical").iloc[:, 0].median()
    expected = whole.patients[old.to_numpy()].tolist()
    assert 0 < len(expected) < 5
    assert whole[old].patients.tolist() == expected
    assert whole[old.tolist()].patients.tolist() == expected
    assert whole[old.reset_index(drop=True)].patients.tolist() == expected
    assert whole[old[::-1].reindex(whole.patients)].patients.tolist() == expected
    message = r"^expected a Series in the order of the cohort's patients, got another index; series.reindex\(cohort.pat"
    with pytest.raises(ValueError, match=message):
        whole[old[::-1]]
    for ids in ("p3", ["p3", "p4"], whole.patients[:2]):
        with pytest.raises(
            ValueError,
            match=r"^expected positions, a slice or a bool mask, got .*; locate\(\) finds patients by id$",
        ):
            whole[ids]


def test_scikit_learn_splits_and_indexes_a_cohort():
    """cross_val_score and GridSearchCV hand parts of X to fit by these two functions."""
    from sklearn.model_selection import KFold
    from sklearn.utils import _safe_indexing, indexable

    whole = cohort()
    assert whole.shape == (5, 2)
    assert indexable(whole, whole.target.to_structured())[0] is whole
    train, test = next(iter(KFold(5).split(whole)))
    assert _safe_indexing(whole, test).patients.tolist() == ["p1"]
    assert _safe_indexing(whole, train).patients.tolist() == ["p2", "p3", "p4", "p5"]


def test_outcomes_are_replaced_or_taken_away():
    table = pd.DataFrame({"x": [1.0, 2.0]}, index=["a", "b"])
    cohort = Cohort({"t": table}, SurvivalTarget([1, 2], [True, False]), ["a", "b"])
    other = SurvivalTarget([5, 6], [False, True])
    assert cohort.with_target(other).target == other
    assert not cohort.with_target(None).has_target
    assert cohort.target.time.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"^the cohort has 2 patient ids but 1 survival times$"):
        cohort.with_target(other[:1])
    with pytest.raises(ValueError, match=r"^expected the target as a SurvivalTarget, got list; "):
        cohort.with_target([1, 2])


def test_the_target_of_a_cohort_knows_its_patients():
    index = [f"p{i}" for i in range(9)]
    plain = SurvivalTarget(np.arange(1.0, 10), np.arange(9) % 2 == 0)
    table = pd.DataFrame({"a": np.arange(9.0) % 4}, index=index)
    whole = Cohort({"x": table}, plain, index)
    risk = pd.Series(-plain.time, index=index)
    for cohort in (
        whole,
        whole[::2],
        whole.with_target(plain),
        Cohort({"x": table}, labels={"y": index}).with_target(plain),
    ):
        assert cohort.target.patients.tolist() == cohort.patients.tolist()
        own = risk[cohort.patients]
        assert concordance(own, cohort.target) == 1.0
        with pytest.raises(
            ValueError, match=r"^expected risk in the order of the target's patients, got 'p8'"
        ):
            concordance(own[::-1], cohort.target)
    assert plain.patients is None
    assert whole.target == plain
