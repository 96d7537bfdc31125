"""Most of what a hostile file can be is in test_omics.py, through the reader that a user calls."""

import csv
import re
import sys
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.data.csv_file import check_csv, read_csv_bytes


def test_an_archive_and_its_content_read_the_same(tmp_path):
    data = b"a,b\n1,2\n"
    (tmp_path / "plain").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "packed", "w") as archive:
        archive.writestr("x.csv", data)
    assert read_csv_bytes(tmp_path / "plain") == read_csv_bytes(tmp_path / "packed") == data
    assert read_csv_bytes(tmp_path / "plain", max_bytes=len(data)) == data


def test_the_limit_is_on_what_comes_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.csv", b"0" * 10_000)
    assert (tmp_path / "packed").stat().st_size < 500
    message = f"{tmp_path}/packed: expected at most 9999 bytes of text, got 10000; raise max_bytes"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_csv_bytes(tmp_path / "packed", max_bytes=9_999)


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
    if any(errors) and not (width == 2 and any(len(row) == 1 and not row[0].strip() for row in rows)):
        with pytest.raises(
            ValueError, match=r"^.*rows\.csv: expected \d fields in every row, got \d in line \d+$"
        ):
            check_csv(path, text.encode())
    elif not any(errors):
        assert check_csv(path, text.encode()) == header


def test_a_field_stays_bounded_where_another_package_raised_the_limit_of_the_csv_module(tmp_path):
    before = csv.field_size_limit(sys.maxsize)
    try:
        with pytest.raises(
            ValueError, match=r"line 2 is not CSV \(field larger than field limit \(131072\)\)$"
        ):
            check_csv(tmp_path / "a.csv", b'a,b\n1,"' + b"x" * 131_073 + b'"\n')
        check_csv(tmp_path / "a.csv", b'a,b\n1,"' + b"x" * 131_072 + b'"\n')
    finally:
        csv.field_size_limit(before)
