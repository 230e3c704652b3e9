"""Tables as spreadsheets and databases export them: CSV, TSV and Parquet, row by row, every cell as text.

Numbers keep their leading zeros, since no cell is ever taken for a number. Byte-order marks, line ends of Windows,
semicolons, quoted cells and blanks around a cell are read as what they are.
"""

from __future__ import annotations

import codecs
import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balancer.core.errors import BalancerError, UsageError, nearest
from balancer.core.extras import install

TEXT = {".csv", ".tsv", ".txt"}
PARQUET = {".parquet", ".pq"}
SUFFIXES = TEXT | PARQUET
TABLES = SUFFIXES - {".txt"}  # of files that are tables without anybody saying so
_DELIMITERS = (",", ";", "\t", "|")
_LONGEST = 1 << 20  # characters of the first line; of a cell, csv reads 131,072: a quote may never be closed
_CHUNK = 1 << 20  # bytes read at a time to learn the encoding
_BATCH = 10_000  # rows of a Parquet file in memory
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class Spreadsheet:
    """A table whose rows are read once, each as long as the header."""

    file: Path
    header: list[str]
    rows: Iterator[list[str]]  # cells without blanks around them
    notes: list[str] = field(default_factory=list)


def read_spreadsheet(file: Path) -> Spreadsheet:
    """Open a table; its rows are read as they are asked for.

    Raises:
        BalancerError: there is no such file, the file is empty or no table, or, while rows are read, a row is longer
            than the header.
    """
    if not file.is_file():
        raise BalancerError(f"table {file} {'is no file' if file.exists() else 'does not exist'}; give an existing one")
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise BalancerError(f"table {file} is no .csv, .tsv or .parquet; export the table as one of these")
    if file.stat().st_size == 0:
        raise BalancerError(f"table {file} is empty; expected a row of column names, then a row an image")
    table = _read_parquet(file) if suffix in PARQUET else _read_text(file, suffix)
    if twice := sorted({name for name in table.header if name and table.header.count(name) > 1}):
        raise BalancerError(f"table {file} has the column {twice[0]!r} twice; rename one of the two")
    return table


def column_named(table: Spreadsheet, name: str, setting: str) -> int:
    """Return the position of a column, whatever the case of its name.

    Raises:
        UsageError: there is no such column; the message has the nearest name.
    """
    if name in table.header:
        return table.header.index(name)
    low = [column.casefold() for column in table.header]
    if low.count(name.strip().casefold()) == 1:
        return low.index(name.strip().casefold())
    raise UsageError(f"{setting} is {name!r}, no column of {table.file}; {nearest(name, table.header)}")


def row_filters(table: Spreadsheet, where: Sequence[str]) -> list[Callable[[list[str]], bool]]:
    """Return a test of a row for each condition; upper and lower case count as one."""

    def condition(text: str) -> Callable[[list[str]], bool]:
        name, _, value = text.partition("=")
        differs, value = name.endswith("!"), value.strip().casefold()
        column = column_named(table, name.removesuffix("!").strip(), "where")
        return lambda row: (row[column].casefold() == value) != differs

    return [condition(text) for text in where]


def _read_text(file: Path, suffix: str) -> Spreadsheet:
    encoding, notes = _encoding(file)
    delimiter, skipped = _delimiter(file, encoding, suffix)
    rows = _text_rows(file, encoding, delimiter, skipped)
    header = next(rows, None)
    if header is None or not any(header):
        raise BalancerError(f"table {file} has no row of column names; expected one, then a row an image")
    while header and not header[-1]:
        header = header[:-1]
    return Spreadsheet(file, header, _fitted(file, rows, len(header), skipped + 1), notes)


def _encoding(file: Path) -> tuple[str, list[str]]:
    """Return the encoding of a text file: by its mark, else UTF-8 if it is that, else that of old Windows programs."""
    with file.open("rb") as handle:
        start = handle.read(4)
        for mark, encoding in _MARKS.items():
            if start.startswith(mark):
                return encoding, []
        decoder = codecs.getincrementaldecoder("utf-8")()
        handle.seek(0)
        try:
            while chunk := handle.read(_CHUNK):
                if b"\0" in chunk:
                    raise BalancerError(f"table {file} is no text; export the table as .csv, .tsv or .parquet")
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252", [f"Table {file.name} is not UTF-8; its letters were read as those of Windows-1252."]
    return "utf-8", []


def _delimiter(file: Path, encoding: str, suffix: str) -> tuple[str, int]:
    """Return what parts the cells, and the lines before the header: Excel may write ``sep=;`` first."""
    with file.open(encoding=encoding, errors="replace", newline="") as handle:
        line = handle.readline(_LONGEST).strip("\r\n")
        if line.lower().startswith("sep=") and len(line) == 5:
            return line[4], 1
    candidates = sorted(_DELIMITERS, key=lambda d: d != "\t") if suffix == ".tsv" else list(_DELIMITERS)
    return max(candidates, key=lambda d: len(next(csv.reader([line], delimiter=d), []))), 0


def _text_rows(file: Path, encoding: str, delimiter: str, skipped: int) -> Iterator[list[str]]:
    with file.open(encoding=encoding, errors="replace", newline="") as handle:
        lines = itertools.islice(handle, skipped, None)
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        try:
            for row in reader:
                yield [cell.strip() for cell in row]
        except csv.Error as error:
            line = reader.line_num + skipped
            raise BalancerError(f"table {file}, line {line}: {error}; is a quote left open there?") from error


def _fitted(file: Path, rows: Iterable[list[str]], width: int, first: int) -> Iterator[list[str]]:
    """Yield the rows as long as the header; empty rows are passed over, and a cell beyond the header is refused."""
    for number, row in enumerate(rows, first + 1):
        if not any(row):
            continue
        if any(row[width:]):
            raise BalancerError(
                f"table {file}, row {number}: {len(row)} cells, and the header has {width}; quote cells that hold the"
                " character between cells"
            )
        yield row[:width] + [""] * (width - len(row))


def _read_parquet(file: Path) -> Spreadsheet:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise BalancerError(
            f"reading {file} needs pyarrow; {install('parquet')}, or export the table as .csv"
        ) from error
    try:
        opened = ParquetFile(file)
        header = [str(name) for name in opened.schema_arrow.names]
    except (ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BalancerError(f"table {file} is no readable Parquet file ({reason}); export it again") from error

    def rows() -> Iterator[list[str]]:
        try:
            for batch in opened.iter_batches(_BATCH):
                columns = [column.to_pylist() for column in batch.columns]
                yield from ([_cell(value) for value in row] for row in zip(*columns, strict=True))
        except (ArrowException, OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BalancerError(f"table {file} cannot be read to its end ({reason}); export it again") from error

    return Spreadsheet(file, header, rows())


def _cell(value: Any) -> str:
    """Return a value as text; a number without decimals has none in the text, as pandas turns integers to floats."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
