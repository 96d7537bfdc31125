import hashlib
import io
import re
import zipfile
from importlib import resources

import numpy as np
import pandas as pd
import pytest

from healnet.datasets import load_mini_acc

FILES = resources.files("healnet.datasets")


@pytest.fixture(scope="module")
def cohort():
    return load_mini_acc()


def test_the_published_numbers(cohort):
    assert repr(cohort) == (
        "Cohort(92 patients, 34 events, clinical 92x5, rna 79x198, cnv 90x198, protein 46x33, mutations 90x97, mirna 80x471)"
    )
    assert len(cohort.complete()) == 43
    patterns = cohort.patterns()
    lacking = [
        tuple(patterns.columns[:-1][~row]) for row in patterns.drop(columns="patients").to_numpy(dtype=bool)
    ]
    assert dict(zip(lacking, patterns["patients"], strict=True)) == {
        (): 43,
        ("protein",): 32,
        ("rna", "protein", "mirna"): 12,
        ("mutations",): 2,
        ("cnv",): 1,
        ("cnv", "protein"): 1,
        ("rna", "protein"): 1,
    }


def test_clinical_is_coded_as_documented(cohort):
    clinical = cohort.table("clinical")
    assert clinical.columns.tolist() == ["age", "is_female", "stage", "t", "n"]
    assert clinical["is_female"].value_counts().to_dict() == {1: 60, 0: 32}
    assert clinical["stage"].value_counts().to_dict() == {2: 44, 3: 19, 4: 18, 1: 9}
    assert clinical["t"].value_counts().to_dict() == {2: 49, 4: 21, 3: 11, 1: 9}
    assert clinical["n"].value_counts().to_dict() == {0: 80, 1: 10}
    assert clinical.isna().sum().to_dict() == {"age": 0, "is_female": 0, "stage": 2, "t": 2, "n": 2}
    assert clinical.loc["TCGA-OR-A5J1"].tolist() == [58, 0, 2, 2, 0]


def test_the_patient_who_died_at_once_is_kept(cohort):
    (position,) = cohort.locate(["TCGA-P6-A5OH"])
    assert (cohort.target.time[position], cohort.target.event[position]) == (0, True)
    assert int((cohort.target.time == 0).sum()) == 1


def test_no_outcome_nor_result_nor_treatment_is_an_input(cohort):
    names = " ".join(cohort.table("clinical").columns)
    for word in (
        "days",
        "vital",
        "radiation",
        "residual",
        "cluster",
        "purity",
        "ploidy",
        "Methy",
        "COC",
        "Histology",
    ):
        assert word not in names


def test_transforms_do_not_look_at_other_patients(cohort):
    mirna = cohort.table("mirna").dropna(how="all")
    np.testing.assert_allclose((2**mirna - 1).sum(axis=1), 1e6)
    assert cohort.table("cnv").min().min() == -2
    assert cohort.table("cnv").max().max() == 2
    assert set(np.unique(cohort.table("mutations").dropna())) == {0, 1}


def source(name):
    """A table as it was released: the archive in the package holds the files unchanged."""
    with FILES.joinpath("mini_acc.zip").open("rb") as file, zipfile.ZipFile(file) as archive:
        return pd.read_csv(io.BytesIO(archive.read(f"{name}.csv")), index_col=0)


def test_values_are_those_of_the_source(cohort):
    rna = source("RNASeq2GeneNorm")
    np.testing.assert_allclose(cohort.table("rna").loc[rna.index, rna.columns], np.log2(1 + rna))
    for name, file in (("cnv", "gistict"), ("protein", "RPPAArray"), ("mutations", "Mutations")):
        table = source(file)
        np.testing.assert_array_equal(cohort.table(name).loc[table.index, table.columns], table)
    clinical = source("clinical").loc[cohort.patients]
    np.testing.assert_array_equal(cohort.target.event, clinical["vital_status"] == 1)
    died = (clinical["vital_status"] == 1).to_numpy()
    np.testing.assert_array_equal(cohort.target.time[died], clinical["days_to_death"][died])
    np.testing.assert_array_equal(cohort.target.time[~died], clinical["days_to_last_followup"][~died])


def test_the_file_is_small_and_is_the_one_described():
    data = FILES.joinpath("mini_acc.zip").read_bytes()
    assert len(data) < 200_000
    described = re.search(r"SHA-256: `([0-9a-f]{64})`", FILES.joinpath("mini_acc.md").read_text())
    assert described is not None
    assert hashlib.sha256(data).hexdigest() == described[1]
    assert FILES.joinpath("mini_acc.LICENSE").read_text().startswith("The Artistic License 2.0")


def test_each_call_gives_its_own_cohort(cohort):
    assert load_mini_acc() is not cohort
