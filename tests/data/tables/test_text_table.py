"""Most of what a hostile file can be is in test_omics_table.py, through the reader that a user calls."""

import csv
import gzip
import re
import sys
import time
import timeit
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.data.tables.text_table import open_text_table


def test_an_archive_and_its_content_read_the_same(tmp_path):
    data = b"a,b\n1,2\n"
    (tmp_path / "plain").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "packed", "w") as archive:
        archive.writestr("x.csv", data)
    (tmp_path / "gzipped").write_bytes(gzip.compress(data[:3]) + gzip.compress(data[3:]))
    for name in ("plain", "packed", "gzipped"):
        table = open_text_table(tmp_path / name, max_bytes=len(data))
        assert (table.header, list(table.rows())) == (["a", "b"], [(2, ["1", "2"])])


def test_the_limit_is_on_what_comes_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.csv", b"0" * 10_000)
    (tmp_path / "gzipped").write_bytes(gzip.compress(b"0" * 10_000))
    for name in ("packed", "gzipped"):
        assert (tmp_path / name).stat().st_size < 500
        message = f"{tmp_path}/{name}: expected at most 9999 bytes of text, got 10000; raise max_bytes"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            open_text_table(tmp_path / name, max_bytes=9_999)


@pytest.mark.parametrize("cut", [5, -5])
def test_half_a_gzip_file_is_refused(tmp_path, cut):
    path = tmp_path / "half.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n")[:cut])
    with pytest.raises(
        ValueError, match=r"half\.gz: expected a whole gzip file, got a damaged one \(it ends too early\)$"
    ):
        open_text_table(path)


def test_a_damaged_gzip_file_is_refused(tmp_path):
    data = bytearray(gzip.compress(b"a,b\n1,2\n"))
    data[-6] ^= 0xFF  # the checksum
    (tmp_path / "bad.gz").write_bytes(data)
    with pytest.raises(
        ValueError, match=r"bad\.gz: expected a whole gzip file, got a damaged one \(Error -3 .*\)$"
    ):
        open_text_table(tmp_path / "bad.gz")


def test_text_and_numbers_are_read_in_one_pass(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,x,flag,y,note\n007,1.5,True,,NA\nNA,-2e3,false,nan,b_c\n")
    text, numbers = open_text_table(path).read(["id", "note"], ["y", "x", "flag"])
    assert text == {"id": ["007", None], "note": [None, "b_c"]}
    np.testing.assert_array_equal(numbers, [[np.nan, 1.5, 1.0], [np.nan, -2000.0, 0.0]])
    assert open_text_table(path).read([], ["x"])[1].tolist() == [[1.5], [-2000.0]]
    assert open_text_table(path).read(["note"], [])[1].shape == (2, 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=20))
def test_numbers_come_back_to_the_last_bit(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "numbers.csv"
    path.write_text("a,b\n" + "".join(f"{value!r},1\n" for value in values))
    assert open_text_table(path).read([], ["a"])[1].ravel().tolist() == values


@pytest.mark.parametrize("cell", ["1_000", "1,5", "high", "0x10", "12 mm"])
@pytest.mark.parametrize("other", ["1", ""])
def test_what_is_no_number_is_named(tmp_path, cell, other):
    path = tmp_path / "a.tsv"
    path.write_text(f"#comment\nid\tx\ty\np\t1\t2\nq\t{other}\t{cell}\n")
    message = f"{path}: expected numbers in column 'y', got '{cell}' in line 4"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_text_table(path, delimiter=None, comment="#").read(["id"], ["x", "y"])


@pytest.mark.slow
def test_a_wide_table_takes_one_pass(tmp_path):
    """Time per cell is that of splitting and converting, not that of making a column: 50,000 of them are cheap."""
    rng = np.random.default_rng(0)
    cells = [repr(value) for value in rng.normal(size=100_000).tolist()]
    path = tmp_path / "wide.csv"
    columns = 50_000
    rows = [[f"g{i}" for i in range(columns)], cells[:columns], cells[columns:]]
    path.write_text("\n".join(map(",".join, rows)))

    def plain():
        for row in rows[1:]:
            np.array(",".join(row).split(","), dtype=np.float64)

    def ours():
        table = open_text_table(path)
        table.read([], table.header)

    theirs, own = (min(timeit.repeat(read, time.process_time, number=1, repeat=3)) for read in (plain, ours))
    assert own < 20 * theirs


CELLS = st.text(
    st.characters(codec="utf-8", exclude_characters='\0,"\r\n', exclude_categories=["Cs"]), max_size=4
)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.lists(st.integers(-1, 1), min_size=1, max_size=6), st.booleans(), st.data())
def test_rows_of_another_length_are_found_quoted_or_not(tmp_path_factory, width, errors, quoted, data):
    rows = [[data.draw(CELLS) for _ in range(width + error)] for error in errors]
    if quoted:
        rows[0][0] = '"a,\n""b"'
    header = [f"c{i}" for i in range(width)]
    # Rows whose every cell is blank are blank lines only where they have one cell; two commas are two fields.
    text = "\n".join(",".join(row) for row in [header, *rows]) + "\n"
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    path.write_bytes(text.encode())
    if any(errors) and not (width == 2 and any(len(row) == 1 and not row[0].strip() for row in rows)):
        with pytest.raises(
            ValueError,
            match=r"^.*rows\.csv: expected \d fields in every row, got \d in line \d+(; R's write.table .*)?$",
        ):
            list(open_text_table(path).rows())
    elif not any(errors):
        table = open_text_table(path)
        assert table.header == header
        assert len(list(table.rows())) == len(rows)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_told_by_the_header(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    path.write_text(delimiter.join(["id", "a|b", "c"]) + "\n" + delimiter.join(["p", "1.5", "2"]) + "\n")
    text, values = open_text_table(path, delimiter=None).read(["id"], ["a|b", "c"])
    assert text == {"id": ["p"]}
    assert values.tolist() == [[1.5, 2]]


def test_a_workbook_is_named(tmp_path):
    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(ValueError, match=r"a\.xlsx: expected text, got an Office document; save it as CSV$"):
        open_text_table(path)


def test_a_header_as_r_writes_it_is_explained(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("A\tB\nx\t1\t2\ny\t3\t4\n")
    message = "expected 2 fields in every row, got 3 in line 2; R's write.table leaves out the first column's name without"
    with pytest.raises(ValueError, match=re.escape(message)):
        list(open_text_table(path, delimiter=None).rows())


def test_a_field_stays_bounded_where_another_package_raised_the_limit_of_the_csv_module(tmp_path):
    before = csv.field_size_limit(sys.maxsize)
    path = tmp_path / "a.csv"
    try:
        path.write_bytes(b'a,b\n1,"' + b"x" * 131_073 + b'"\n')
        with pytest.raises(
            ValueError, match=r"line 2 is not CSV \(field larger than field limit \(131072\)\)$"
        ):
            list(open_text_table(path).rows())
        path.write_bytes(b'a,b\n1,"' + b"x" * 131_072 + b'"\n')
        assert len(list(open_text_table(path).rows())) == 1
    finally:
        csv.field_size_limit(before)
