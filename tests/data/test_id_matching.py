import re
import warnings

import numpy as np
import pandas as pd
import pytest

from healnet.data import Cohort
from healnet.survival.target import SurvivalTarget

PATIENTS = [f"TCGA-OR-A5J{i}" for i in range(8)]
TARGET = SurvivalTarget(np.arange(8.0), np.arange(8) % 2 == 0)
AGE = pd.DataFrame({"age": np.arange(8.0)}, index=PATIENTS)


def build(ids, columns=("TP53", "MYC"), unknown="drop"):
    rna = pd.DataFrame(np.ones((len(ids), len(columns))), index=list(ids), columns=list(columns))
    return Cohort({"clinical": AGE, "rna": rna}, TARGET, PATIENTS, unknown=unknown)


GENES = [f"GENE{i}" for i in range(20)]
TRANSPOSE = "; 8 of its columns are patients: patients are in columns, so pass the transpose (table.T)"
NONE = "modality 'rna': none of its {} ids, such as '{}', is in the cohort, whose patients are such as 'TCGA-OR-A5J0'"


@pytest.mark.parametrize("unknown", ["raise", "drop"])
@pytest.mark.parametrize(
    ("ids", "columns", "cause"),
    [
        (GENES, PATIENTS, TRANSPOSE),
        (GENES, [f"{name}-01A-11R-A29S-07" for name in PATIENTS], TRANSPOSE),
        (
            [f"{name}-01A" for name in PATIENTS],
            ["TP53"],
            "; they begin with the cohort's ids: sample or aliquot barcodes (tcga_patients picks one each)",
        ),
        (
            [name.lower() for name in PATIENTS],
            ["TP53"],
            "; they differ from the cohort's ids in upper and lower case only",
        ),
        (
            [name.replace("-", ".") for name in PATIENTS],
            ["TP53"],
            "; they differ from the cohort's ids in case, separators or spaces only ('.', '_' for '-', as R writes)",
        ),
        (
            ["TCGA-OR"],
            ["TP53"],
            "; the cohort's ids begin with them: are the cohort's ids sample or aliquot barcodes?",
        ),
        ([f"C3L-{i}" for i in range(5)], ["TP53"], ""),
        (
            [str(i) for i in range(8)],
            ["TP53"],
            "; its ids are the numbers of rows: make the column of ids the index (index_col=0, or set_index)",
        ),
    ],
)
def test_a_modality_that_keeps_nobody_is_refused_and_the_cause_is_guessed(ids, columns, cause, unknown):
    with pytest.raises(ValueError, match=f"^{re.escape(NONE.format(len(ids), ids[0]) + cause)}$"):
        build(ids, columns, unknown)


def test_zeros_in_front_that_a_reader_lost_are_named():
    message = "; they differ from the cohort's ids in zeros in front only: read ids as text (dtype=str)"
    for ids, patients in ((["7", "12"], ["007", "012"]), (["007", "012"], ["7", "12"])):
        with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
            Cohort({"rna": pd.DataFrame({"TP53": [1.0, 2.0]}, index=ids)}, None, patients)


def test_an_empty_table_is_refused():
    with pytest.raises(
        ValueError,
        match=r"^modality 'rna': none is in the cohort, whose patients are such as 'TCGA-OR-A5J0'$",
    ):
        build([])


def test_fewer_than_half_warns():
    ids = [*PATIENTS[:3], *(f"{name}-01" for name in PATIENTS[3:])]
    message = (
        "modality 'rna': 3 of its 8 ids are in the cohort of 8 patients, 5 such as 'TCGA-OR-A5J3-01' are left out; "
        "they begin with the cohort's ids: sample or aliquot barcodes (tcga_patients picks one each)"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        whole = build(ids)
    assert (~whole.missing()["rna"]).sum() == 3
    assert len(whole.dropped["rna"]) == 5


def test_a_matrix_of_many_cancers_that_has_the_patients_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = build([*(f"TCGA-XX-{i:04d}" for i in range(500)), *PATIENTS[:4]])
    assert (~whole.missing()["rna"]).sum() == 4


@pytest.mark.parametrize(
    ("ids", "advice"),
    [
        ([*PATIENTS[:6], "other"], '; unknown="drop" leaves such patients out'),
        # Most ids are of another kind: leaving them out would lose most of the modality.
        ([*PATIENTS[:2], "a", "b", "c", "d"], ""),
        (
            [*PATIENTS[:2], *(f"{name}-01" for name in PATIENTS[2:])],
            "; they begin with the cohort's ids: sample or aliquot barcodes (tcga_patients picks one each)",
        ),
    ],
)
def test_drop_is_recommended_only_where_most_ids_match(ids, advice):
    with pytest.raises(ValueError, match=f" is not in the cohort{re.escape(advice)}$"):
        build(ids, unknown="raise")
