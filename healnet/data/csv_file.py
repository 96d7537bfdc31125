"""The text of a table on disk, bounded and whole, before anything parses it."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from healnet._files import shown

__all__ = ["MAX_BYTES", "check_csv", "read_csv_bytes"]

# Unpacked; TCGA's BRCA table has 15 MB, and a parsed table takes up to eight times its text.
MAX_BYTES = 1 << 29
# csv's own limit at start, which other packages raise for the whole process (scipy.io.arff does).
MAX_FIELD = 131_072
MAX_COLUMNS = 500_000  # beyond the 450,000 sites of a methylation array; each column costs pandas a kilobyte
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PK": "zip",
}


def read_csv_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a CSV file, or of the one file in a zip archive.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an archive that is damaged, encrypted, or does not hold exactly one file; content that is empty,
            larger than `max_bytes`, or compressed in another way. The message names the file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{shown(path)}: no such file")
    if path.is_dir():
        raise ValueError(f"{shown(path)}: expected a file, got a folder")
    with path.open("rb") as file:
        packed = file.read(2) == b"PK"
    if packed:
        data = _unzip(path, max_bytes)
    else:
        _refuse_large(path, path.stat().st_size, max_bytes)
        data = path.read_bytes()
    if not data.strip():
        raise ValueError(f"{shown(path)}: expected a table, got an empty file")
    for signature, kind in _PACKED.items():
        if data.startswith(signature):
            raise ValueError(f"{shown(path)}: expected CSV text, got {kind} data; unpack it first")
    return data


def check_csv(path: Path, data: bytes) -> list[str]:
    """The header of CSV text, once every row is known to have as many fields.

    pandas would fill a short row with NaN, shift the columns of a long one, and rename the second of two equal columns,
    each without a word.

    Raises:
        ValueError: text that is not UTF-8 or holds NUL, a column without a name (but for the first) or with another's,
            too many columns, no rows, a row of another length. The message names the file and the line.
    """
    text = _decode(path, data)
    lines = _bounded_lines(path, text)
    rows = csv.reader(lines, strict=True)
    try:
        header = next(rows)
        _check_header(path, header)
        # Counting commas is ten times faster than parsing, and the same where nothing is quoted.
        quoted = '"' in text
        if quoted:
            lengths = (len(_bounded_fields(row)) for row in rows)
        else:
            lengths = (line.count(",") + 1 if line.strip() else 0 for line in lines)
        filled = 0
        for number, length in enumerate(lengths, start=2):
            if length not in (0, len(header)):
                place = rows.line_num if quoted else number
                raise ValueError(
                    f"{shown(path)}: expected {len(header)} fields in every row, got {length} in line {place}"
                )
            filled += length > 0
    except csv.Error as error:
        raise ValueError(f"{shown(path)}: line {rows.line_num} is not CSV ({error})") from error
    if not filled:
        raise ValueError(f"{shown(path)}: expected rows under the header, got none")
    return header


def _decode(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{shown(path)}: expected UTF-8 text, got the byte 0x{data[error.start]:02x} in line {line}"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{shown(path)}: expected CSV text, got a NUL character in line {line}")
    return text


def _bounded_lines(path: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(io.StringIO(text, newline=""), start=1):
        if line.count(",") >= MAX_COLUMNS:
            raise ValueError(
                f"{shown(path)}: expected at most {MAX_COLUMNS} columns, got {line.count(',') + 1} in line {number}"
            )
        yield line


def _bounded_fields(row: list[str]) -> list[str]:
    if any(len(field) > MAX_FIELD for field in row):
        raise csv.Error(f"field larger than field limit ({MAX_FIELD})")
    return row


def _check_header(path: Path, header: list[str]) -> None:
    seen: set[str] = set()
    for place, name in enumerate(header):
        # The first may be the unnamed index that pandas writes.
        if not name.strip() and place:
            raise ValueError(f"{shown(path)}: column {place + 1} of {len(header)} has no name")
        if name in seen:
            raise ValueError(f"{shown(path)}: two columns are named {name!r}")
        seen.add(name)


def _unzip(path: Path, max_bytes: int) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            # Archives made on a Mac carry a second file of attributes for each.
            members = [
                m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")
            ]
            if len(members) != 1:
                names = [member.filename for member in members[:5]]
                raise ValueError(
                    f"{shown(path)}: expected one file in the archive, got {len(members)} {names}"
                )
            if members[0].flag_bits & 1:
                raise ValueError(f"{shown(path)}: expected an open archive, got an encrypted one")
            # zipfile gives out no more than the size declared here, so this bounds what is unpacked.
            _refuse_large(path, members[0].file_size, max_bytes)
            return archive.read(members[0])
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError) as error:
        raise ValueError(
            f"{shown(path)}: expected a whole zip archive, got a damaged one ({error})"
        ) from error


def _refuse_large(path: Path, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ValueError(
            f"{shown(path)}: expected at most {max_bytes} bytes of text, got {size}; raise max_bytes"
        )
