"""Tables of text (CSV, TSV; plain, zip or gzip) on disk: bounded, unpacked, and read in one pass over checked rows."""

from __future__ import annotations

import csv
import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from healnet._files import shown

__all__ = ["MAX_BYTES", "TextTable", "open_text_table"]

# Unpacked; TCGA's BRCA table has 15 MB.
MAX_BYTES = 1 << 29
# csv's own limit at start, which other packages raise for the whole process (scipy.io.arff does).
MAX_FIELD = 131_072
MAX_COLUMNS = 500_000  # beyond the 450,000 sites of a methylation array
_PACKED = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x1f\x8b": "gzip",
    b"PK": "zip",
}
_MISSING = frozenset(("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>", "#N/A"))
_WORDS = {word: math.nan for word in _MISSING} | {
    word: value
    for name, value in (("true", 1.0), ("false", 0.0))
    for word in (name, name.title(), name.upper())
}


@dataclass(frozen=True)
class TextTable:
    """A table of text with a header, decoded and not yet parsed. Made by `open_text_table`.

    Attributes:
        path: The file.
        header: Names of the columns.
        text: All of the file, header included, without comments before it.
        delimiter: ",", ";" or a tab.
        skipped: Number of lines of comments before the header.
    """

    path: Path
    header: list[str]
    text: str
    delimiter: str
    skipped: int = 0

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Every row under the header with the number of its line, once it is known to have as many fields.

        pandas would fill a short row with NaN and shift the columns of a long one without a word.

        Raises:
            ValueError: No rows, a row of another length, a quote left open. The message names the file and the line.
        """
        lines = _bounded_lines(self.path, self.text, self.delimiter, self.skipped)
        next(lines)
        filled = 0
        for number, row in (
            self._quoted() if '"' in self.text else _split(lines, self.delimiter, self.skipped)
        ):
            if len(row) != len(self.header):
                one_more = not filled and len(row) == len(self.header) + 1
                cause = (
                    "; R's write.table leaves out the first column's name without col.names=NA"
                    if one_more
                    else ""
                )
                raise ValueError(
                    f"{shown(self.path)}: expected {len(self.header)} fields in every row, got {len(row)} in line {number}"
                    + cause
                )
            filled += 1
            yield number, row
        if not filled:
            raise ValueError(f"{shown(self.path)}: expected rows under the header, got none")

    def read(
        self, text: Sequence[str], numbers: Sequence[str]
    ) -> tuple[dict[str, list[str | None]], NDArray[np.float64]]:
        """Some columns as text, None where missing, and others as numbers, NaN where missing: (rows, len(numbers)).

        True and False are 1 and 0. Numbers are rounded correctly, to the last bit.

        Raises:
            ValueError: As `rows`; a cell among the numbers that is none.
        """
        place = {name: at for at, name in enumerate(self.header)}
        words = {name: place[name] for name in text}
        columns: dict[str, list[str | None]] = {name: [] for name in text}
        pick = _picker([place[name] for name in numbers])
        values: list[NDArray[np.float64]] = []
        for line, row in self.rows():
            for name, at in words.items():
                columns[name].append(None if row[at] in _MISSING else row[at])
            values.append(self._numbers(pick(row), numbers, line))
        return columns, np.stack(values)

    def _numbers(self, cells: Sequence[str], names: Sequence[str], line: int) -> NDArray[np.float64]:
        try:
            row = np.array(cells, dtype=np.float64)
        except ValueError:
            try:
                row = np.array([_WORDS.get(cell, cell) for cell in cells], dtype=np.float64)
            except ValueError:
                row = None
        # Python reads 1_000 as a number, and tables do not mean one.
        if row is None or "_" in "".join(cells):
            name, cell = next((n, c) for n, c in zip(names, cells, strict=True) if not _is_number(c))
            raise ValueError(
                f"{shown(self.path)}: expected numbers in column {name!r}, got {cell!r} in line {line}"
            )
        return row

    def _quoted(self) -> Iterator[tuple[int, list[str]]]:
        lines = _bounded_lines(self.path, self.text, self.delimiter, self.skipped)
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        try:
            next(reader)
            for row in reader:
                if row:
                    yield reader.line_num + self.skipped, _bounded_fields(row)
        except csv.Error as error:
            line = reader.line_num + self.skipped
            raise ValueError(f"{shown(self.path)}: line {line} is not CSV ({error})") from error


def open_text_table(
    path: Path, max_bytes: int = MAX_BYTES, *, delimiter: str | None = ",", comment: str | None = None
) -> TextTable:
    """Unpack and decode a table, and check its header.

    Args:
        path: File; a zip archive of one file or a gzip file, told by content, is unpacked.
        max_bytes: Limit of the unpacked text.
        delimiter: ",", ";" or a tab; None takes the one that the header has most of.
        comment: First character of lines before the header that are skipped; "#" also reads Broad's GCT, version 1.2.

    Raises:
        FileNotFoundError: No such file.
        ValueError: An archive that is damaged, encrypted, or does not hold exactly one file; content that is empty,
            larger than `max_bytes`, or compressed in another way; text that is not UTF-8 or holds NUL; a column without a
            name (but for the first) or with another's, too many columns. The message names the file.
    """
    text = _decode(path, _read_bytes(path, max_bytes))
    skipped = 0
    if comment == "#" and text.startswith("#1.3"):
        raise ValueError(
            f"{shown(path)}: a GCT file of version 1.3, with rows of metadata; save it as version 1.2"
        )
    gct = comment == "#" and text.startswith("#1.2")
    while comment is not None and text.startswith(comment):
        text = text.partition("\n")[2]
        skipped += 1
    if gct:  # how many rows and columns there are
        text = text.partition("\n")[2]
        skipped += 1
    line = text.partition("\n")[0]
    if delimiter is None:
        delimiter = max("\t,;", key=line.count) if any(mark in line for mark in "\t,;") else ","
    try:
        reader = csv.reader(_bounded_lines(path, text, delimiter, skipped), delimiter=delimiter, strict=True)
        header = next(reader, [])
    except csv.Error as error:
        raise ValueError(f"{shown(path)}: line {1 + skipped} is not CSV ({error})") from error
    _check_header(path, header)
    return TextTable(path, header, text, delimiter, skipped)


def _bounded_lines(path: Path, text: str, delimiter: str, skipped: int = 0) -> Iterator[str]:
    """The lines of a text, refused where one has too many fields."""
    for number, line in enumerate(io.StringIO(text, newline=""), start=1 + skipped):
        if line.count(delimiter) >= MAX_COLUMNS:
            raise ValueError(
                f"{shown(path)}: expected at most {MAX_COLUMNS} columns, got {line.count(delimiter) + 1} in line {number}"
            )
        yield line


def _split(lines: Iterator[str], delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Rows of text without quotes: three times as fast as csv's, and the same."""
    for number, line in enumerate(lines, start=2 + skipped):
        row = line.rstrip("\r\n").split(delimiter)
        if len(row) > 1 or row[0].strip():
            yield number, row


def _picker(places: list[int]) -> Callable[[list[str]], Sequence[str]]:
    """Return a function that takes these fields out of a row; `itemgetter` does it without a loop in Python."""
    if len(places) == 1:
        return lambda row: (row[places[0]],)
    return itemgetter(*places) if places else lambda row: ()


def _is_number(cell: str) -> bool:
    try:
        float(_WORDS.get(cell, cell))
    except ValueError:
        return False
    return "_" not in cell


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    if not path.exists():
        raise FileNotFoundError(f"{shown(path)}: no such file")
    if path.is_dir():
        raise ValueError(f"{shown(path)}: expected a file, got a folder")
    with path.open("rb") as file:
        signature = file.read(2)
    if signature == b"PK":
        data = _unzip(path, max_bytes)
    elif signature == b"\x1f\x8b":
        data = _gunzip(path, max_bytes)
    else:
        _refuse_large(path, path.stat().st_size, max_bytes)
        data = path.read_bytes()
    if not data.strip():
        raise ValueError(f"{shown(path)}: expected a table, got an empty file")
    for signature, kind in _PACKED.items():
        if data.startswith(signature):
            raise ValueError(f"{shown(path)}: expected CSV text, got {kind} data; unpack it first")
    return data


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
                names = [member.filename for member in members]
                if "[Content_Types].xml" in names:
                    raise ValueError(f"{shown(path)}: expected text, got an Office document; save it as CSV")
                raise ValueError(
                    f"{shown(path)}: expected one file in the archive, got {len(members)} {names[:5]}"
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


def _gunzip(path: Path, max_bytes: int) -> bytes:
    """All members of a gzip file, no more than `max_bytes` of them."""
    parts: list[bytes] = []
    size, rest = 0, path.read_bytes()
    try:
        while rest:
            unpacker = zlib.decompressobj(wbits=31)
            parts.append(unpacker.decompress(rest, max_bytes + 1 - size))
            size += len(parts[-1])
            _refuse_large(path, size, max_bytes)
            if not unpacker.eof:
                raise ValueError(
                    f"{shown(path)}: expected a whole gzip file, got a damaged one (it ends too early)"
                )
            rest = unpacker.unused_data.lstrip(b"\0")  # gzip allows padding with zeros
    except zlib.error as error:
        raise ValueError(f"{shown(path)}: expected a whole gzip file, got a damaged one ({error})") from error
    return b"".join(parts)
