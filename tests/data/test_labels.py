import re

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from healnet.data import Cohort, CohortDataset
from healnet.survival.target import SurvivalTarget

PATIENTS = ["p1", "p2", "p3", "p4", "p5"]
RNA = pd.DataFrame(np.arange(10.0).reshape(5, 2), index=PATIENTS, columns=["TP53", "MYC"])


def cohort(**labels):
    return Cohort({"rna": RNA}, None, PATIENTS, labels=labels)


def test_text_becomes_classes_numbers_stay_numbers_and_gaps_are_marked():
    frame = pd.DataFrame(
        {"grade": ["low", "high", None, "low"], "dose": [1.5, np.nan, 3.0, 4.0], "count": [7, 5, 3, 1]},
        index=["p4", "p3", "p2", "p1"],
    )
    whole = Cohort({"rna": RNA[:4]}, None, PATIENTS[:4], labels=frame)
    assert whole.classes == {"grade": ("high", "low")}
    batch = CohortDataset(whole).batch()
    assert batch.patients == PATIENTS[:4]
    assert batch.labels["grade"].tolist() == [1, -100, 0, 1]
    assert batch.labels["dose"].tolist() == pytest.approx([4.0, 3.0, np.nan, 1.5], nan_ok=True)
    assert batch.labels["count"].tolist() == [1, 3, 5, 7]
    assert [batch.labels[name].dtype for name in ("grade", "dose", "count")] == [
        torch.int64,
        torch.float32,
        torch.int64,
    ]
    # cross_entropy leaves out who has no class: the mean over the other three.
    logits = torch.arange(8.0).reshape(4, 2)
    known = [0, 2, 3]
    expected = F.cross_entropy(logits[known], batch.labels["grade"][known])
    assert torch.equal(F.cross_entropy(logits, batch.labels["grade"]), expected)


@pytest.mark.parametrize(
    ("values", "classes", "numbers"),
    [
        ([True, False, True, True, False], (False, True), [1, 0, 1, 1, 0]),
        (pd.Categorical(list("bacab"), categories=["c", "b", "a"]), ("c", "b", "a"), [1, 2, 0, 2, 1]),
        ({"p5": "x", "p1": "y"}, ("x", "y"), [1, -100, -100, -100, 0]),
        (pd.Series({"p2": True, "p1": False}), (False, True), [0, 1, -100, -100, -100]),
        (pd.Series(["u", "v"], index=["p3", "p1"], dtype="string"), ("u", "v"), [1, -100, 0, -100, -100]),
        ([3, 1, 2, 0, 3], None, [3, 1, 2, 0, 3]),
        (torch.tensor([3, 1, 2, 0, 3]), None, [3, 1, 2, 0, 3]),
    ],
)
def test_what_a_label_may_be(values, classes, numbers):
    whole = cohort(x=values)
    assert whole.classes.get("x") == classes
    assert whole.label_tensors()["x"].tolist() == numbers


def test_a_part_keeps_the_numbers_of_its_classes():
    part = cohort(x=["a", "b", "c", "a", "c"])[[2, 4]]
    assert part.label_tensors()["x"].tolist() == [2, 2]
    assert part.classes == {"x": ("a", "b", "c")}
    assert part.labels["x"].tolist() == ["c", "c"]


def test_labels_follow_their_patients_through_a_shuffled_loader_over_a_part():
    """Labels looked up by a batch's ids are the batch's own, whatever the subset."""
    number = {patient: i for i, patient in enumerate(PATIENTS)}
    whole = Cohort({"rna": RNA}, SurvivalTarget(range(5), [True] * 5), PATIENTS, labels={"number": number})
    for batch in DataLoader(CohortDataset(whole[[4, 1, 3]]), batch_size=2, shuffle=True):
        assert batch.labels["number"].tolist() == [number[patient] for patient in batch.patients]
        assert batch.time.tolist() == batch.labels["number"].tolist()
        assert whole.locate(batch.patients).tolist() == batch.labels["number"].tolist()


def test_folds_are_stratified_by_label_and_event():
    ids = [f"p{i}" for i in range(60)]
    table = pd.DataFrame({"a": np.arange(60.0) % 7}, index=ids)
    grade = ["low", "mid", "high"] * 20
    event = np.arange(60) % 4 == 0
    whole = Cohort({"x": table}, SurvivalTarget(np.arange(60.0), event), ids, labels={"grade": grade})
    for _, test in whole.folds(5, stratify="grade"):
        assert whole[test].labels["grade"].value_counts().to_dict() == {"low": 4, "mid": 4, "high": 4}
    for _, test in whole.folds(5, stratify=["grade", "event"]):
        part = whole[test]
        assert part.labels["grade"][part.target.event].value_counts().to_dict() == {
            "low": 1,
            "mid": 1,
            "high": 1,
        }
    rest, held = whole.holdout(0.2, stratify="grade")
    assert len(rest) == 48
    assert whole[held].labels["grade"].value_counts().to_dict() == {"low": 4, "mid": 4, "high": 4}


def test_folds_without_outcome_are_of_one_size():
    assert [len(test) for _, test in cohort().folds(2)] == [3, 2]


def test_they_are_shown():
    whole = cohort(grade=["low", "high", None, "low", "low"], dose=[1.0, 2.0, 4.0, np.nan, 5.0])
    assert repr(whole) == "Cohort(5 patients, label grade, label dose, rna 5x2)"
    assert str(whole.summary()).splitlines()[:3] == [
        "5 patients",
        "label grade: 1 high, 3 low, 1 unknown",
        "label dose: 1 to 5, median 3, 1 unknown",
    ]
    assert repr(CohortDataset(whole).batch()) == "Batch(5 patients, rna 5x2, label grade, label dose)"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cohort(x=[1.0, 2.0]), "label 'x': expected 5 values, one per patient, got 2"),
        (
            lambda: cohort(x={"p1": 3, "p2": 4}),
            "label 'x': integers with gaps are classes or numbers; pass categories or floats",
        ),
        (lambda: cohort(x=[1.0, 2.0, np.inf, 0.0, 0.0]), "label 'x': expected finite numbers, got inf"),
        (
            lambda: cohort(x=[1, "a", 2, 3, 4]),
            "label 'x': expected text, categories, bool or numbers, got object as [1]",
        ),
        (
            lambda: cohort(x={"p1": "a", "q7": "b"}),
            "label 'x': patient 'q7' is not in the cohort; unknown=\"drop\" leaves such patients out",
        ),
        (
            lambda: cohort(x={"q7": "b"}),
            "label 'x': none of its 1 ids, such as 'q7', is in the cohort, whose patients are such as 'p1'",
        ),
        (
            lambda: cohort(x=np.zeros((5, 2))),
            "label 'x': expected one value per patient, got an array of shape (5, 2)",
        ),
        (
            lambda: cohort(x=np.array([1, 2, 3, 4, 2**63], dtype=np.uint64)),
            f"label 'x': expected integers below 2**63, got {2**63}",
        ),
        (
            lambda: cohort(x=[0, 1, -100, 1, 0]),
            "label 'x': -100 stands for an unknown class in a batch; pass categories, with gaps where unknown",
        ),
        (
            lambda: Cohort({"rna": RNA}, labels={1: [0] * 5, "1": [1] * 5}),
            "expected labels of different names, got '1' more than once",
        ),
        (
            lambda: Cohort(
                {"rna": RNA}, labels=pd.DataFrame([[0, 1]] * 5, index=RNA.index, columns=["x", "x"])
            ),
            "expected labels of different names, got 'x' more than once",
        ),
        (lambda: cohort(x=["a"] * 5).folds(stratify="y"), "unknown label 'y'; the cohort has 'x'"),
        (
            lambda: cohort(x=[1.0] * 5).folds(stratify="x"),
            "label 'x': expected classes, got numbers; cut them into classes with pandas.cut",
        ),
        (
            lambda: cohort(x=["a", "a", "b", "b", None]).folds(2, stratify="x"),
            "2 folds need at least 2 patients of group 'x unknown', got 1",
        ),
        (
            lambda: cohort().target,
            "the cohort has no outcomes; it was built without a target",
        ),
        (
            lambda: cohort().folds(2, stratify="event"),
            "the cohort has no outcomes; it was built without a target",
        ),
        (
            lambda: CohortDataset(cohort()).batch().time,
            "the batch has no time: its cohort was built without a target",
        ),
        (
            lambda: CohortDataset(cohort()).batch().event,
            "the batch has no event: its cohort was built without a target",
        ),
        (
            lambda: Cohort({"rna": RNA}, SurvivalTarget([1.0], [True])),
            "expected the ids of the patients beside the target, in its order",
        ),
    ],
)
def test_what_cannot_be_is_refused(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()


def test_folds_of_a_cohort_with_one_label_share_its_classes():
    ids = [f"p{i}" for i in range(40)]
    table = pd.DataFrame({"a": np.arange(40.0) % 7}, index=ids)
    grade = ["high"] * 10 + ["low"] * 30
    whole = Cohort({"x": table}, labels={"grade": grade})
    for _, test in whole.folds(5):
        assert whole[test].labels["grade"].value_counts().to_dict() == {"low": 6, "high": 2}
    rare = Cohort({"x": table}, labels={"grade": ["high"] * 3 + ["low"] * 37})
    assert sorted(len(test) for _, test in rare.folds(5)) == [8] * 5
    two = Cohort({"x": table}, labels={"grade": grade, "dose": np.arange(40.0)})
    assert {len(test) for _, test in two.folds(5)} == {8}


def test_folds_of_whole_hospitals():
    ids = [f"p{i}" for i in range(60)]
    table = pd.DataFrame({"a": np.arange(60.0) % 7}, index=ids)
    rng = np.random.default_rng(0)
    site = rng.choice(list("abcdefgh"), 60)
    target = SurvivalTarget(rng.exponential(size=60), rng.random(60) < 0.5)
    whole = Cohort({"x": table}, target, ids, labels={"site": site})
    folds = whole.folds(4, seed=1, groups="site")
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(60))
    for train, test in folds:
        assert not set(site[train]) & set(site[test])
        assert whole[test].target.event.any()
    again = whole.folds(4, seed=1, groups="site")
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(folds, again, strict=True))
    with pytest.raises(ValueError, match=r"^9 folds need at least 9 groups, got 8$"):
        whole.folds(9, groups="site")
    with pytest.raises(ValueError, match=r"^expected within or groups, got both$"):
        whole.folds(2, groups="site", within="site")
