import re

import pandas as pd
import pytest

from healnet.data import tcga_patients, tcga_slides


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


P1, P2 = "TCGA-AA-0001", "TCGA-ZZ-9ABC"
SLIDES = [
    f"{P1}-01Z-00-DX1.7fc6ae81-5b3c", f"{P1}-01Z-00-DX2", f"{P1}-01A-01-TS1", f"{P1}-01A-02-BSA", f"{P1}-11A-01-TS1",
    f"{P2}-06A-01-MS2", f"{P2}-06Z-00-DX1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {P1: (SLIDES[0], SLIDES[1])}),
        ({"which": "one"}, {P1: (SLIDES[0],)}),
        ({"sample_types": ["06"]}, {P2: (SLIDES[6],)}),
        ({"sample_types": ["01", "06"], "which": "one"}, {P1: (SLIDES[0],), P2: (SLIDES[6],)}),
        (
            {"kinds": ["TS", "BS", "MS"], "sample_types": ["06", "01"]},
            {P1: (SLIDES[2], SLIDES[3]), P2: (SLIDES[5],)},
        ),
        ({"kinds": ["TS"], "sample_types": ["11"]}, {P1: (SLIDES[4],)}),
    ],
)
def test_slides_by_patient(options, expected):
    assert tcga_slides(SLIDES, **options) == expected
    assert tcga_slides([f"folder/{name}.svs" for name in reversed(SLIDES)], **options) == expected
    assert tcga_slides([f"{name.lower()}.h5" for name in SLIDES[:1]]) == {P1: (SLIDES[0].lower(),)}


def test_the_largest_slide_by_its_file(tmp_path):
    for name, size in zip(SLIDES, (5, 9, 99, 99, 99, 99, 7), strict=True):
        (tmp_path / f"{name}.svs").write_bytes(bytes(size))
    files = sorted(tmp_path.iterdir())
    assert tcga_slides(files, which="largest", sample_types=["01", "06"]) == {
        P1: (SLIDES[1],),
        P2: (SLIDES[6],),
    }


@pytest.mark.parametrize(
    ("slides", "options", "message"),
    [
        (
            ["TCGA-AA-0001-01A"],
            {},
            "expected a slide of TCGA such as 'TCGA-OR-A5J1-01Z-00-DX1', got 'TCGA-AA-0001-01A'",
        ),
        (SLIDES[2:4], {}, f"none of 2 slides, such as {SLIDES[2]!r}, is a slide DX of a sample 01"),
        (SLIDES, {"which": "best"}, "expected which to be 'all', 'one' or 'largest', got 'best'"),
        (
            SLIDES,
            {"which": "largest"},
            f"expected files of which to take the largest, got {SLIDES[0]!r}, which is none",
        ),
    ],
)
def test_slides_that_cannot_be_chosen(slides, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tcga_slides(slides, **options)
