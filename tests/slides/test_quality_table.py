"""The table of a run: plain CSV, which a spreadsheet shows and does not run."""

import math

from healnet.slides.quality_table import SlideResult, write_quality_table


def test_the_table_is_plain_csv(tmp_path):
    results = [
        SlideResult("a,b", 6, 0.123456, 0.25, 0.0, 12.34567, 1.0, ""),
        SlideResult("c", 0, math.nan, 0.0, 0.0, math.nan, 0.123, 'ValueError: "x"'),
    ]
    write_quality_table(tmp_path / "qc.csv", results)
    assert (tmp_path / "qc.csv").read_text().splitlines() == [
        "slide,tiles,tissue_mm2,pen,blur,sharpness,seconds,error",
        '"a,b",6,0.1235,0.25,0.0,12.3457,1.0,',
        'c,0,nan,0.0,0.0,nan,0.123,"ValueError: ""x"""',
    ]


def test_a_cell_that_a_spreadsheet_would_run_is_text(tmp_path):
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "plain-1"]
    write_quality_table(
        tmp_path / "qc.csv", [SlideResult(n, 0, 0.0, 0.0, 0.0, 0.0, 0.0, "=x") for n in names]
    )
    rows = [line.split(",") for line in (tmp_path / "qc.csv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "plain-1"]
    assert {row[-1] for row in rows} == {"'=x"}
