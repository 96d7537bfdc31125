import re

import pandas as pd
import pytest

from healnet.data import tcga_patients


def test_the_primary_tumor_comes_first_and_normal_tissue_never():
    ids = ["TCGA-OR-A5J1-06A", "TCGA-OR-A5J1-01A", "TCGA-OR-A5J2-11A", "TCGA-OR-A5J3-06A", "TCGA-OR-A5J1-11A"]
    assert tcga_patients(ids) == {"TCGA-OR-A5J1": "TCGA-OR-A5J1-01A", "TCGA-OR-A5J3": "TCGA-OR-A5J3-06A"}
    assert tcga_patients(ids, sample_types=["06", "01"])["TCGA-OR-A5J1"] == "TCGA-OR-A5J1-06A"
    assert tcga_patients(ids, sample_types=["11"]) == {
        "TCGA-OR-A5J2": "TCGA-OR-A5J2-11A",
        "TCGA-OR-A5J1": "TCGA-OR-A5J1-11A",
    }


def test_of_several_aliquots_the_last_of_the_first_vial():
    ids = [
        "TCGA-OR-A5J1-01B-11R-A99S-07",
        "TCGA-OR-A5J1-01A-21R-A29S-07",
        "TCGA-OR-A5J1-01A-11R-A39S-07",
        "TCGA-OR-A5J1-01A-21R-A19S-07",
    ]
    assert tcga_patients(ids) == {"TCGA-OR-A5J1": ids[1]}
    assert tcga_patients(ids, aliquot="first") == {"TCGA-OR-A5J1": ids[2]}


def test_a_table_keeps_the_chosen_rows():
    table = pd.DataFrame(
        {"TP53": [1.0, 2.0, 3.0, 4.0]},
        index=["TCGA-OR-A5J2-01", "TCGA-OR-A5J1-11", "tcga.or.a5j1.01", "TCGA-OR-A5J3"],
    )
    chosen = tcga_patients(table)
    assert chosen.index.tolist() == ["TCGA-OR-A5J2", "TCGA-OR-A5J1", "TCGA-OR-A5J3"]
    assert chosen["TP53"].tolist() == [1.0, 3.0, 4.0]
    assert table.index[0] == "TCGA-OR-A5J2-01"
    assert tcga_patients([]) == {}


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (["C3L-00104-01"], {}, "expected a barcode of TCGA such as 'TCGA-OR-A5J1-01A', got 'C3L-00104-01'"),
        (
            ["TCGA-OR-A5J1-1"],
            {},
            "expected a barcode of TCGA such as 'TCGA-OR-A5J1-01A', got 'TCGA-OR-A5J1-1'",
        ),
        (["TCGA-OR-A5J1-01"] * 2, {}, "barcode 'TCGA-OR-A5J1-01' occurs more than once"),
        (
            ["TCGA-OR-A5J1-11A"],
            {"sample_types": ["01", "06"]},
            "none of 1 barcodes is of a sample type in 01, 06",
        ),
        ([], {"aliquot": "any"}, "expected aliquot 'last' or 'first', got 'any'"),
    ],
)
def test_what_cannot_be_is_refused(ids, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tcga_patients(ids, **options)
