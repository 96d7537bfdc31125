import io
import logging
import re
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from healnet.data import CohortDataset, read_omics
from healnet.data.tables.omics_table import SUFFIXES

REAL = Path(__file__).parents[1] / "real"

ROWS = """\
,case_id,slide_id,site,is_female,oncotree_code,age,survival_months,censorship,train,MYC_rnaseq,TP53_rnaseq,MYC_cnv,TP53_mut
0,p2,p2-A.svs,X,1,BLCA,61,12.5,0,1.0,0.5,-0.25,1,0
1,p1,p1-A.svs,X,0,BLCA,70,3.0,1,1.0,1.5,,-2,1
2,p2,p2-B.svs,X,1,BLCA,61,12.5,0,1.0,0.5,-0.25,1,0
3,p3,p3-A.svs,X,,BLCA,55,0.0,1,0.0,,,0,0
"""


def write(folder, text=ROWS, name="table.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_one_row_per_patient_in_the_order_of_the_table(tmp_path):
    cohort = read_omics(write(tmp_path))
    assert cohort.patients.tolist() == ["p2", "p1", "p3"]
    assert cohort.slides == {"p2": ("p2-A.svs", "p2-B.svs"), "p1": ("p1-A.svs",), "p3": ("p3-A.svs",)}
    assert cohort.modalities == ("clinical", "rna", "cnv", "mutations")
    assert cohort.table("clinical").columns.tolist() == ["age", "is_female"]
    assert cohort.table("rna").columns.tolist() == ["MYC", "TP53"]
    np.testing.assert_array_equal(cohort.table("rna"), [[0.5, -0.25], [1.5, np.nan], [np.nan, np.nan]])
    assert cohort.table("cnv")["MYC"].tolist() == [1, -2, 0]
    assert cohort.table("mutations")["TP53"].tolist() == [0, 1, 0]
    assert cohort.missing()["rna"].tolist() == [False, False, True]


def test_censorship_is_turned_round_and_months_stay_months(tmp_path):
    target = read_omics(write(tmp_path)).target
    assert target.event.tolist() == [True, False, False]
    assert target.time.tolist() == [12.5, 3.0, 0.0]


def test_outcomes_ids_and_the_split_are_never_inputs(tmp_path):
    frame = read_omics(write(tmp_path)).to_frame()
    assert frame.columns.tolist() == [
        "clinical:age",
        "clinical:is_female",
        "rna:MYC",
        "rna:TP53",
        "cnv:MYC",
        "mutations:TP53",
    ]


def test_columns_are_found_by_name_not_by_place(tmp_path):
    table = pd.read_csv(io.StringIO(ROWS), index_col=0)
    shuffled = table[list(reversed(table.columns))]
    one, other = (
        read_omics(write(tmp_path)),
        read_omics(write(tmp_path, shuffled.to_csv(index=False), "other.csv")),
    )
    for name in one.tables:
        pd.testing.assert_frame_equal(one.table(name), other.table(name), check_like=True)
    assert one.target == other.target


def test_the_user_chooses_modalities_and_columns(tmp_path):
    text = ROWS.replace("survival_months,censorship", "survival_months_dss,censorship_dss").replace(
        "case_id", "bcr"
    )
    cohort = read_omics(
        write(tmp_path, text),
        suffixes={"_rnaseq": "expression", "_cnv": "genome", "_mut": "genome"},
        clinical=["is_female"],
        patient="bcr",
        slide=None,
        time="survival_months_dss",
        censorship="censorship_dss",
    )
    assert cohort.modalities == ("clinical", "expression", "genome")
    assert cohort.table("clinical").columns.tolist() == ["is_female"]
    assert cohort.table("genome").columns.tolist() == ["MYC", "TP53"]
    assert not any(cohort.slides.values())
    assert read_omics(write(tmp_path), clinical=()).modalities == ("rna", "cnv", "mutations")
    assert read_omics(write(tmp_path), clinical="age").widths["clinical"] == 1


def test_a_suffix_that_no_column_has_gives_no_modality(tmp_path):
    assert read_omics(write(tmp_path, ROWS.replace("TP53_mut", "TP53_methyl"))).modalities == (
        "clinical",
        "rna",
        "cnv",
    )


def test_a_cell_that_only_one_row_of_a_patient_has_is_taken(tmp_path):
    text = ROWS.replace("2,p2,p2-B.svs,X,1,BLCA,61,12.5,0,1.0,0.5,", "2,p2,p2-B.svs,Y,,BLCA,61,12.5,0,0.0,,")
    first, second = read_omics(write(tmp_path)), read_omics(write(tmp_path, text))
    pd.testing.assert_frame_equal(first.to_frame(), second.to_frame())
    lines = text.splitlines()
    lines[1], lines[3] = lines[3], lines[1]
    swapped = read_omics(write(tmp_path, "\n".join(lines)))
    pd.testing.assert_frame_equal(first.to_frame(), swapped.to_frame())


def test_ids_keep_their_zeros(tmp_path):
    text = ROWS.replace(",p1,", ",0012,").replace(",p2,", ",0013,").replace(",p3,", ",14,")
    assert read_omics(write(tmp_path, text)).patients.tolist() == ["0013", "0012", "14"]


def test_blanks_around_ids_do_not_part_a_patient(tmp_path):
    cohort = read_omics(write(tmp_path, ROWS.replace("2,p2,p2-B.svs", "2, p2 ,p2-B.svs ")))
    assert cohort.patients.tolist() == ["p2", "p1", "p3"]
    assert cohort.slides["p2"] == ("p2-A.svs", "p2-B.svs")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_yes_and_no_may_have_gaps(tmp_path, suffix):
    table = pd.read_csv(io.StringIO(ROWS))
    table["TP53_mut"] = pd.Series([True, False, None, None], dtype=object)
    path = tmp_path / f"table.{suffix}"
    table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    np.testing.assert_array_equal(read_omics(path).table("mutations")["TP53"], [1, 0, np.nan])


def test_quotes_blank_lines_windows_lines_and_a_byte_order_mark_are_no_trouble(tmp_path):
    text = ROWS.replace(",X,", ',"Boston, ""MA""\nUSA",').replace("BLCA", '"BLCA"')
    lines = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n\r\n"
    assert read_omics(write(tmp_path, lines)).target == read_omics(write(tmp_path)).target


@pytest.mark.parametrize("name", ["./tcga_blca_all_clean.csv.zip", "a/b/table.csv"])
def test_the_one_file_of_an_archive_is_read_whatever_its_name(tmp_path, name):
    path = tmp_path / "table.csv.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("a/"), "")
        archive.writestr("__MACOSX/._table.csv", "attributes")
        archive.writestr(name, ROWS)
    assert read_omics(path).target == read_omics(write(tmp_path)).target


def test_parquet_is_known_by_its_content(tmp_path):
    table = pd.read_csv(io.StringIO(ROWS), index_col=0)
    plain, indexed = tmp_path / "plain.data", tmp_path / "indexed.data"
    table.to_parquet(plain)
    table.set_index("case_id").to_parquet(indexed)
    for path in (plain, indexed):
        pd.testing.assert_frame_equal(read_omics(path).to_frame(), read_omics(write(tmp_path)).to_frame())


def test_patients_without_outcome_are_left_out_only_on_request(tmp_path, caplog):
    path = write(tmp_path, ROWS.replace("70,3.0,1", "70,3.0,"))
    with caplog.at_level(logging.WARNING):
        cohort = read_omics(path, missing_outcome="drop")
    assert cohort.patients.tolist() == ["p2", "p3"]
    assert list(cohort.slides) == ["p2", "p3"]
    assert f"{path}: 1 patients have no outcome and are left out" in caplog.text


def test_gaps_are_reported(tmp_path, caplog):
    path = write(tmp_path)
    with caplog.at_level(logging.INFO):
        read_omics(path)
    assert f"{path}: clinical: 1 cells missing, 0 patients absent" in caplog.text
    assert f"{path}: rna: 1 cells missing, 1 patients absent" in caplog.text
    assert "cnv" not in caplog.text


def zipped(*members, change=lambda data: data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return change(buffer.getvalue())


def encrypted(data):
    """The encryption flag set in both headers, as an archive with a password has it."""
    data = bytearray(data)
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def flipped(data):
    data = bytearray(data)
    data[60] ^= 0xFF
    return bytes(data)


def column(name, value):
    """The table with one more column."""
    lines = ROWS.splitlines()
    return "\n".join([f"{lines[0]},{name}", *[f"{line},{value}" for line in lines[1:]]])


HOSTILE = {
    "an empty file": ("", "expected a table, got an empty file"),
    "blank lines": ("\n\n\n", "expected a table, got an empty file"),
    "a header alone": (ROWS.splitlines()[0], "expected rows under the header, got none"),
    "not UTF-8": (
        ROWS.replace("BLCA", "Köln").encode("latin-1"),
        "expected UTF-8 text, got the byte 0xf6 in line 2",
    ),
    "UTF-16": (ROWS.encode("utf-16"), "expected UTF-8 text, got the byte 0xff in line 1"),
    "NUL characters": (ROWS.replace("X,0", "\0,0"), "expected CSV text, got a NUL character in line 3"),
    "bzip2": (b"BZh91AY", "expected CSV text, got bzip2 data; unpack it first"),
    "cut in the middle of a row": (ROWS[:-22], "expected 14 fields in every row, got 6 in line 5"),
    "a row too long": (
        ROWS.replace("12.5,0,", "12.5,0,7,", 1),
        "expected 14 fields in every row, got 15 in line 2; R's write.table leaves out the first column's name without "
        "col.names=NA",
    ),
    "a quoted row too short": (
        ROWS.replace("3,p3,p3-A.svs,X,", '3,"p3",p3-A.svs,'),
        "expected 14 fields in every row, got 13 in line 5",
    ),
    "a quote left open": (ROWS.replace(",X,0", ',"X,0'), "line 5 is not CSV (unexpected end of data)"),
    "too many columns": (
        "a," * 500_000 + "b\n" + "0," * 500_000 + "0\n",
        "expected at most 500000 columns, got 500001 in line 1",
    ),
    "an endless field": (
        ROWS.replace(",X,", ',"' + "x" * 200_000 + '",'),
        "line 2 is not CSV (field larger than field limit (131072))",
    ),
    "two columns of one name": (column("TP53_rnaseq", 5), "two columns are named 'TP53_rnaseq'"),
    "a column without a name": (column("", 5), "column 15 of 15 has no name"),
    "no column of patients": (
        ROWS.replace("case_id", "case"),
        "no column 'case_id'; beside the omics it has 'case', 'slide_id', 'site', 'is_female', "
        "'oncotree_code', 'age', 'survival_months', 'censorship', 'train'",
    ),
    "no outcome column": (
        ROWS.replace("censorship", "event").replace("train", "fold"),
        "no column 'censorship'; beside the omics it has 'case_id', 'slide_id', 'site', 'is_female', "
        "'oncotree_code', 'age', 'survival_months', 'event', 'fold'",
    ),
    "a patient without a name": (ROWS.replace(",p1,", ",,"), "row 2 has no 'case_id'"),
    "rows of one patient that differ": (
        ROWS.replace("2,p2,p2-B.svs,X,1,BLCA,61", "2,p2,p2-B.svs,X,1,BLCA,62"),
        "the rows of patient 'p2' differ in column 'age': 61 and 62 (1 patients have such rows)",
    ),
    "outcomes of one patient that differ": (
        ROWS.replace("2,p2,p2-B.svs,X,1,BLCA,61,12.5,0", "2,p2,p2-B.svs,X,1,BLCA,61,12.5,1"),
        "the rows of patient 'p2' differ in column 'censorship': 0 and 1 (1 patients have such rows)",
    ),
    "a slide of two patients": (
        ROWS.replace("p3-A.svs", "p1-A.svs"),
        "the slide 'p1-A.svs' belongs to patient 'p1' and to 'p3'; are the columns of patients and slides exchanged?",
    ),
    "patients and slides exchanged": (
        ROWS.replace("case_id,slide_id", "slide_id,case_id"),
        "expected patients in 'case_id', got the slide 'p2-A.svs'",
    ),
    "patients and slides exchanged, without extensions": (
        ROWS.replace("case_id,slide_id", "slide_id,case_id").replace(".svs", ""),
        "the slide 'p2' belongs to patient 'p2-A' and to 'p2-B'; are the columns of patients and slides exchanged?",
    ),
    "time and censorship exchanged": (
        ROWS.replace("survival_months,censorship", "censorship,survival_months"),
        "expected censorship to be bool or exactly 0 or 1, got 12.5 at position 0 (2 of 3 are wrong)",
    ),
    "a negative time": (
        ROWS.replace("70,3.0,1", "70,-3.0,1"),
        "expected time to be finite and >= 0, got -3 at position 1 (1 of 3 are wrong)",
    ),
    "an infinite time": (
        ROWS.replace("70,3.0,1", "70,inf,1"),
        "expected time to be finite and >= 0, got inf at position 1 (1 of 3 are wrong)",
    ),
    "no time": (
        ROWS.replace("70,3.0,1", "70,,1"),
        "patient 'p1' has no 'survival_months' or no 'censorship'; missing_outcome=\"drop\" leaves such patients out",
    ),
    "text among numbers": (
        ROWS.replace("1.5,,-2", "high,,-2"),
        "expected numbers in column 'MYC_rnaseq', got 'high' in line 3",
    ),
    "decimal commas": (
        ROWS.replace("0.5,-0.25", '"0,5",-0.25'),
        "expected numbers in column 'MYC_rnaseq', got '0,5' in line 2",
    ),
    "an infinite cell": (
        ROWS.replace("1.5,,-2", "-inf,,-2"),
        "modality 'rna': infinite value in column 'MYC' of patient 'p1' (1 infinite in all); missing values are NaN",
    ),
    "a patient with nothing": (
        ROWS.replace("X,,BLCA,55,0.0,1,0.0,,,0,0", "X,,BLCA,,0.0,1,0.0,,,,"),
        "patient 'p3' has no modality at all; leave such patients out",
    ),
    "an archive of nothing": (zipped(), "expected one file in the archive, got 0 []"),
    "an archive of two tables": (
        zipped(("a.csv", ROWS), ("b.csv", ROWS)),
        "expected one file in the archive, got 2 ['a.csv', 'b.csv']",
    ),
    "an archive in an archive": (
        zipped(("a.zip", zipped(("a.csv", ROWS)))),
        "expected CSV text, got zip data; unpack it first",
    ),
    "an encrypted archive": (
        zipped(("a.csv", ROWS), change=encrypted),
        "expected an open archive, got an encrypted one",
    ),
    "half an archive": (
        zipped(("a.csv", ROWS), change=lambda data: data[: len(data) // 2]),
        "expected a whole zip archive, got a damaged one (File is not a zip file)",
    ),
    "a zip bomb": (
        zipped(("a.csv", bytes(1 << 25))),
        "expected at most 1000000 bytes of text, got 33554432; raise max_bytes",
    ),
    "a large file": (
        b"a" * 1_000_001,
        "expected at most 1000000 bytes of text, got 1000001; raise max_bytes",
    ),
    "a damaged parquet table": (b"PAR1" + bytes(50) + b"PAR1", None),
    "damage inside an archive": (zipped(("a.csv", ROWS), change=flipped), None),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_tables_are_refused_and_named(tmp_path, case):
    content, message = HOSTILE[case]
    path = write(tmp_path, content, "hostile.csv")
    limit = 1_000_000 if case in ("a zip bomb", "a large file") else 1 << 29
    start = time.process_time()
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: ") as raised:
        read_omics(path, max_bytes=limit)
    assert time.process_time() - start < 5
    if message is None:
        assert re.search("damaged", str(raised.value))
    else:
        assert str(raised.value) == f"{path}: {message}"


def test_a_parquet_table_that_unpacks_to_too_much_is_refused(tmp_path):
    path = tmp_path / "wide.parquet"
    pd.DataFrame({f"g{i}_rnaseq": np.zeros(20_000) for i in range(10)}).to_parquet(path)
    assert path.stat().st_size < 20_000
    with pytest.raises(
        ValueError, match=r"wide\.parquet: expected at most 100000 bytes, got 200000; raise max_bytes$"
    ):
        read_omics(path, max_bytes=100_000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"clinical": ["age", "survival_months"]},
            "{path}: column 'survival_months' is an outcome, an id or a split, not an input (modality 'clinical')",
        ),
        (
            {"clinical": ["train"]},
            "{path}: column 'train' is an outcome, an id or a split, not an input (modality 'clinical')",
        ),
        (
            {"suffixes": {"_months": "time"}},
            "{path}: column 'survival_months' is an outcome, an id or a split, not an input (modality 'time')",
        ),
        (
            {"suffixes": {"_nope": "x"}, "clinical": ()},
            "{path}: no column ends in '_nope', and no clinical column is named",
        ),
        ({"missing_outcome": "keep"}, "expected missing_outcome to be 'raise' or 'drop', got 'keep'"),
    ],
)
def test_what_may_not_be_asked_for(tmp_path, options, message):
    path = write(tmp_path)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(path=path))}$"):
        read_omics(path, **options)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv: no such file$"):
        read_omics(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match=r": expected a file, got a folder$"):
        read_omics(tmp_path)


def test_a_large_table_is_what_pandas_reads(tmp_path):
    """A second reading: by pandas, first rows of patients by drop_duplicates, columns by suffix."""
    rng = np.random.default_rng(3)
    patients = np.repeat([f"TCGA-{i:04d}" for i in range(60)], rng.integers(1, 3, 60))
    first = pd.factorize(patients)[0]
    genes = [f"G{i}{suffix}" for suffix in SUFFIXES for i in range(70)]
    cells = rng.normal(size=(60, len(genes))) * 10.0 ** rng.integers(-8, 9, len(genes))
    cells[rng.random(cells.shape) < 0.02] = np.nan
    raw = pd.DataFrame(cells[first], columns=genes).sample(frac=1, axis=1, random_state=0)
    raw["age"], raw["is_female"] = rng.integers(20, 90, 60)[first], rng.integers(0, 2, 60)[first]
    raw["survival_months"], raw["censorship"] = rng.exponential(30, 60)[first], rng.integers(0, 2, 60)[first]
    raw.insert(0, "case_id", patients)
    raw.insert(1, "slide_id", [f"{patient}-{row}.svs" for row, patient in enumerate(patients)])
    path = tmp_path / "tcga.csv.zip"
    raw.to_csv(path)
    cohort = read_omics(path)
    again = pd.read_csv(path, float_precision="round_trip").drop_duplicates("case_id").set_index("case_id")
    assert cohort.patients.tolist() == again.index.tolist()
    np.testing.assert_array_equal(cohort.target.event, again["censorship"] == 0)
    np.testing.assert_array_equal(cohort.target.time, again["survival_months"])
    for suffix, modality in SUFFIXES.items():
        np.testing.assert_array_equal(cohort.table(modality), again[[c for c in again if c.endswith(suffix)]])
    assert sum(map(len, cohort.slides.values())) == len(patients)


SIZES = {"clinical": 2, "rna": 31, "cnv": 17, "mutations": 11}


@pytest.mark.parametrize(("name", "patients", "events"), [("blca", 48, 32), ("brca", 40, 5)])
def test_pieces_of_real_cohorts(name, patients, events):
    check_cohort(REAL / f"tcga_{name}_all_clean.csv.zip", patients, events, SIZES)


@pytest.mark.whole_files
@pytest.mark.parametrize(
    ("name", "patients", "events", "widths"),
    [
        ("blca", 373, 169, {"clinical": 2, "rna": 1554, "cnv": 256, "mutations": 371}),
        ("brca", 956, 130, {"clinical": 2, "rna": 1558, "cnv": 1333, "mutations": 21}),
    ],
)
def test_real_cohorts(whole_files, name, patients, events, widths):
    check_cohort(whole_files / "tcga" / f"tcga_{name}_all_clean.csv.zip", patients, events, widths)


def check_cohort(path, patients, events, widths):
    cohort = read_omics(path)
    assert (len(cohort), int(cohort.target.event.sum())) == (patients, events)
    assert cohort.widths == widths
    raw = (
        pd.read_csv(path, low_memory=False, float_precision="round_trip")
        .drop_duplicates("case_id")
        .set_index("case_id")
    )
    assert cohort.patients.tolist() == raw.index.tolist()
    np.testing.assert_array_equal(cohort.target.event, raw["censorship"] == 0)
    np.testing.assert_array_equal(cohort.target.time, raw["survival_months"])
    for suffix, modality in SUFFIXES.items():
        columns = [c for c in raw if c.endswith(suffix)]
        np.testing.assert_array_equal(cohort.table(modality), raw[columns])


def test_a_table_of_outcomes_and_slides_is_a_cohort_that_slides_are_added_to(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "case_id,slide_id,survival_months,censorship\nA,A1.svs,10,0\nA,A2.svs,10,0\nB,B1.svs,20,1\n"
    )
    cohort = read_omics(path, clinical=[])
    assert (cohort.modalities, cohort.patients.tolist()) == ((), ["A", "B"])
    assert cohort.slides == {"A": ("A1.svs", "A2.svs"), "B": ("B1.svs",)}
    assert cohort.target.event.tolist() == [True, False]
    assert repr(cohort) == "Cohort(2 patients, 1 events)"
    for name in ("A1", "A2", "B1"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["features"], file["coords"] = np.ones((2, 4), "f4"), np.arange(4).reshape(2, 2)
    slides = cohort.with_patches(tmp_path)
    assert CohortDataset(slides).batch().inputs["slide"].mask.sum(1).tolist() == [4, 2]
    path.write_text("case_id,survival_months,censorship\nA,10,0\n")
    with pytest.raises(
        ValueError, match=r"no column ends in '_rnaseq', '_cnv', '_mut', and no clinical column is named$"
    ):
        read_omics(path, clinical=[])
