import logging
import re
from pathlib import Path

import pandas as pd
import pytest

from healnet.data import Cohort, read_omics, read_splits
from healnet.survival.target import SurvivalTarget

REAL = Path(__file__).parent / "real"

PATIENTS = ["p0", "p1", "p2", "p3"]
SLIDES = {"p0": ["p0-A.svs", "p0-B.svs"], "p1": ["p1-A.svs"], "p2": ["p2-A.svs"], "p3": ["p3-A.svs"]}
MCAT = ",train,val\n0,p0,p3\n1,p1,\n2,p2,\n"
CLAM = ",train,val,test\n0,p0-A,p2-A,p3-A\n1,p0-B,,\n2,p1-A,,\n"


@pytest.fixture
def cohort():
    age = pd.DataFrame({"age": [50.0, 60.0, 70.0, 80.0]}, index=PATIENTS)
    target = SurvivalTarget([1.0, 2.0, 3.0, 4.0], [True, False, True, False])
    return Cohort({"clinical": age}, target, PATIENTS, slides=SLIDES)


def write(folder, *texts):
    for fold, text in enumerate(texts):
        (folder / f"splits_{fold}.csv").write_text(text)
    return folder


def sides(split):
    return split.train, split.val, split.test


def test_mcats_layout_of_patients(tmp_path, cohort):
    (split,) = read_splits(write(tmp_path, MCAT), cohort)
    assert sides(split) == (("p0", "p1", "p2"), ("p3",), ())
    assert split.held_out == ("p3",)
    assert cohort.locate(split.train).tolist() == [0, 1, 2]


def test_clams_layout_of_slides_becomes_patients(tmp_path, cohort):
    (split,) = read_splits(write(tmp_path, CLAM), cohort)
    assert sides(split) == (("p0", "p1"), ("p2",), ("p3",))
    assert split.held_out == ("p3",)
    with_extension = CLAM.replace("-A", "-A.svs").replace("-B", "-B.svs")
    assert sides(read_splits(write(tmp_path, with_extension), cohort)[0]) == sides(split)


def test_without_a_cohort_ids_stay_as_they_are(tmp_path):
    (split,) = read_splits(write(tmp_path, CLAM))
    assert sides(split) == (("p0-A", "p0-B", "p1-A"), ("p2-A",), ("p3-A",))
    assert split.unknown == ()


def test_folds_come_in_the_order_of_their_numbers_and_clams_other_files_are_left_alone(tmp_path):
    write(tmp_path, *[MCAT] * 11)
    for name in ("splits_0_bool.csv", "splits_0_descriptor.csv", "splits_1.csv.bak"):
        (tmp_path / name).write_text("nothing of ours")
    assert [split.fold for split in read_splits(tmp_path)] == list(range(11))
    assert read_splits(tmp_path)[10].path == tmp_path / "splits_10.csv"


def test_ids_that_the_cohort_lacks_are_counted(tmp_path, cohort, caplog):
    with caplog.at_level(logging.WARNING):
        (split,) = read_splits(write(tmp_path, ",train,val\n0,p0,q3\n1,q1,p3\n2,p2,\n3,p1,\n"), cohort)
    assert split.unknown == ("q1", "q3")
    assert sides(split) == (("p0", "p2", "p1"), ("p3",), ())
    assert "splits_0.csv: 2 of 6 ids are not in the cohort: 'q1', 'q3'" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MCAT.replace("p3", "p1"), "'p1' is on both sides, in 'train' and 'val'"),
        (MCAT.replace("p2", "p1"), "'p1' is twice in 'train'"),
        # Two slides of one patient on two sides: no id is repeated, and yet the patient leaks.
        (
            CLAM.replace("0,p0-A,p2-A", "0,p1-A,p0-A").replace("2,p1-A", "2,p2-A"),
            "'p0' is on both sides, in 'train' and 'val'",
        ),
        (
            CLAM.replace("p3-A", "p0-A").replace("0,p0-A,", "0,,"),
            "'p0' is on both sides, in 'train' and 'test'",
        ),
        (",train,test\n0,p0,p1\n", "no column 'val'; it has '', 'train', 'test'"),
        (",train,val\n0,p0,\n", "the column 'val' has no ids"),
        (",train,val\n0,q0,q1\n", "none of the 1 ids in 'train', such as 'q0', is in the cohort"),
        (",train,val\n0,p0,q1\n1,p1,q2\n", "none of the 2 ids in 'val', such as 'q1', is in the cohort"),
        # Not a split without a test set, whose val would then be reported.
        (",train,val,test\n0,p0,p1,q2\n", "none of the 1 ids in 'test', such as 'q2', is in the cohort"),
        (",train,val\n0,p0\n", "expected 3 fields in every row, got 2 in line 2"),
        ("", "expected a table, got an empty file"),
    ],
)
def test_what_cannot_be_a_split_is_refused_and_named(tmp_path, cohort, text, message):
    path = write(tmp_path, text) / "splits_0.csv"
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}$"):
        read_splits(tmp_path, cohort)


def test_whole_numbers_that_padding_made_floats(tmp_path):
    ids = ["12", "7", "30", "05"]
    age = pd.DataFrame({"age": [50.0, 60.0, 70.0, 80.0]}, index=ids)
    cohort = Cohort({"clinical": age}, SurvivalTarget([1.0, 2.0, 3.0, 4.0], [True, False, True, False]), ids)
    pd.DataFrame({"train": pd.Series([12, 7]), "val": pd.Series([30])}).to_csv(tmp_path / "splits_0.csv")
    assert "30.0" in (tmp_path / "splits_0.csv").read_text()
    (split,) = read_splits(tmp_path, cohort)
    assert (sides(split), split.unknown) == ((("12", "7"), ("30",), ()), ())
    # Where other ids stand beside it, ".0" belongs to the name.
    (split,) = read_splits(write(tmp_path, ",train,val\n0,12,30.0\n1,7,v1.0\n"))
    assert split.val == ("30.0", "v1.0")


def test_a_folder_without_splits(tmp_path):
    for folder, message in (
        (tmp_path, "expected splits_0.csv, splits_1.csv, ..., found none"),
        (tmp_path / "no", "expected a folder of splits, and there is none"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(f'{folder}: {message}')}$"):
            read_splits(folder)


def test_a_piece_of_real_splits_covers_its_cohort_once():
    check_splits(REAL, [9, 11, 9, 11, 8])


@pytest.mark.whole_files
def test_real_splits_cover_the_cohort_once(whole_files):
    check_splits(whole_files / "tcga", [75, 75, 75, 74, 74])


def check_splits(folder, held_out):
    cohort = read_omics(folder / "tcga_blca_all_clean.csv.zip")
    splits = read_splits(folder / "splits" / "tcga_blca", cohort)
    assert [len(split.held_out) for split in splits] == held_out
    assert sorted(p for split in splits for p in split.held_out) == sorted(cohort.patients)
    for split in splits:
        assert not split.unknown
        assert sorted(split.train + split.held_out) == sorted(cohort.patients)
