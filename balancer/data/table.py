"""A table with one row an image: which columns count, which rows are read, and where their files lie."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from balancer.core.errors import BalancerError, UsageError, nearest
from balancer.core.settings_base import ColumnsConfig, DataConfig
from balancer.data.files_below import FilesBelow
from balancer.data.folders import SPLIT_NAMES
from balancer.data.images import named
from balancer.data.listing import LeftOut, Listing, natural, printable, visible
from balancer.data.records import Record, image_key, patient_key
from balancer.data.spreadsheet import ROLES, SUFFIXES, TABLES, Spreadsheet, find_column, read_spreadsheet

NO_LABEL = {"", "na", "n/a", "nan", "null", "#n/a", "<na>"}  # in lower case: how programs write an empty cell
SHOWN = 12  # names in a message
_SPLITS = {name: split for split, names in SPLIT_NAMES.items() for name in names}


@dataclass(frozen=True)
class Columns:
    """The positions of the columns that are read; None where the table has no such column."""

    path: int
    label: int
    patient: int | None
    split: int | None
    source: int | None


@dataclass
class Rows:
    """What the rows of a table say, cell by cell; equal texts are one object, so that memory holds each once."""

    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    read: int = 0
    filtered: int = 0
    without_label: int = 0
    without_path: int = 0


def recognises(path: Path) -> bool:
    """Return whether a path is a table, or a folder in which a single table lies."""
    return len(_tables_in(path)) == 1 if path.is_dir() else path.suffix.lower() in SUFFIXES


def table_file(path: Path) -> Path:
    """Return the table itself, where a folder with a single table was named."""
    return next(iter(_tables_in(path)), path)


def _tables_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [p for p in visible(folder) if p.is_file() and p.suffix.lower() in TABLES]


def read(path: Path, config: DataConfig) -> Listing:
    """Return the images that the rows of a table name.

    Raises:
        UsageError: a setting names a column or a value that the table does not have.
        BalancerError: the table cannot be read, a path leads out of the folder, or too many files are missing.
    """
    file = table_file(path)
    table = read_spreadsheet(file)
    columns = choose_columns(table, config.columns)
    rows = _rows(table, columns, config.where)
    root = Path(config.images) if config.images else file.parent
    if not root.is_dir():
        raise BalancerError(f"images folder {root} is no folder; give --images the folder below which the files lie")
    names, how = FilesBelow(root).find(rows.paths, file)
    notes = [*table.notes, *how, *_row_notes(file, rows, config)]
    left_out = _missing(root, rows, names, config.max_bad)
    records, classes, more = _records(file, rows, names, config.strict)
    source_name = f"column {table.header[columns.source]}" if columns.source is not None else ""
    return Listing(root, classes, records, [*left_out, *more], notes, source_name=source_name)


def choose_columns(table: Spreadsheet, config: ColumnsConfig) -> Columns:
    """Return the columns that the settings name, and for the others those with a usual name.

    Raises:
        UsageError: the table lacks a named column, or no column is known to hold the files or the classes.
    """
    found: dict[str, int | None] = {}
    for role, usual in ROLES.items():
        name = getattr(config, role)
        found[role] = find_column(table, role, usual) if name is None else column_named(table, name, f"columns.{role}")
    path, label = found.pop("path"), found.pop("label")
    for role, column in (("path", path), ("label", label)):
        if column is None:
            raise UsageError(
                f"table {table.file} has no column that is known to hold the {role} (columns:"
                f" {named(table.header, SHOWN)}); give --columns {role}=NAME; `balancer inspect` helps to choose"
            )
    assert path is not None, "checked above"
    assert label is not None, "checked above"
    return Columns(path, label, **found)


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


def _rows(table: Spreadsheet, columns: Columns, where: Sequence[str]) -> Rows:
    """Return the cells that count of the rows that are read; of each row only these stay in memory."""
    keeps = _filters(table, where)
    rows, texts, plain = Rows(), sys.intern, lru_cache(maxsize=None)(_one_line)
    for row in table.rows:
        rows.read += 1
        if not all(keep(row) for keep in keeps):
            rows.filtered += 1
        elif row[columns.label].casefold() in NO_LABEL:
            rows.without_label += 1
        elif not row[columns.path]:
            rows.without_path += 1
        else:
            rows.paths.append(row[columns.path])
            rows.labels.append(plain(row[columns.label]))
            rows.patients.append(texts(row[columns.patient]) if columns.patient is not None else "")
            rows.splits.append(texts(row[columns.split]) if columns.split is not None else "")
            rows.sources.append(texts(row[columns.source]) if columns.source is not None else "")
    if not rows.read:
        raise BalancerError(f"table {table.file} has column names and no row; expected a row an image")
    if rows.filtered == rows.read:
        raise UsageError(
            f"where {', '.join(where)} keeps none of the {rows.read:,} rows of {table.file}; check the values"
        )
    if not rows.paths:
        raise BalancerError(
            f"table {table.file}: none of {rows.read - rows.filtered:,} rows has a file and a label; check the columns"
            f" {table.header[columns.path]!r} and {table.header[columns.label]!r}, or give --columns"
        )
    if columns.split is not None:
        _refuse_unknown_splits(table, rows, table.header[columns.split])
    return rows


def _one_line(label: str) -> str:
    """Return a label as one line of text without control characters, as messages and tables show it."""
    return printable(" ".join(label.split()))


def _filters(table: Spreadsheet, where: Sequence[str]) -> list[Callable[[list[str]], bool]]:
    """Return a test of a row for each condition; upper and lower case count as one."""

    def condition(text: str) -> Callable[[list[str]], bool]:
        name, _, value = text.partition("=")
        differs, value = name.endswith("!"), value.strip().casefold()
        column = column_named(table, name.removesuffix("!").strip(), "where")
        return lambda row: (row[column].casefold() == value) != differs

    return [condition(text) for text in where]


def _refuse_unknown_splits(table: Spreadsheet, rows: Rows, column: str) -> None:
    unknown = sorted({cell for cell in rows.splits if cell.casefold() not in _SPLITS})
    if unknown:
        raise UsageError(
            f"table {table.file}: column {column!r} holds {named([cell or 'an empty cell' for cell in unknown], 6)};"
            " expected train, val or test; leave rows out with --where, or name another column with"
            " --columns split=NAME"
        )


def _row_notes(file: Path, rows: Rows, config: DataConfig) -> list[str]:
    notes = []
    if rows.filtered:
        kept = f"{rows.read - rows.filtered:,} of {rows.read:,}"
        notes.append(f"{kept} rows of {file.name} are read, those with {' and '.join(config.where)}.")
    if rows.without_label:
        notes.append(f"{rows.without_label:,} rows of {file.name} have no label and are left out.")
    if rows.without_path:
        notes.append(f"{rows.without_path:,} rows of {file.name} name no file and are left out.")
    if several := sorted({label for label in rows.labels if "|" in label}):
        n = sum("|" in label for label in rows.labels)
        notes.append(
            f"{n:,} rows of {file.name} name several labels (such as {several[0]}): each combination is a class of its"
            " own; --classes chooses and merges."
        )
    by_case: dict[str, set[str]] = {}
    for label in set(rows.labels):
        by_case.setdefault(label.casefold(), set()).add(label)
    for spellings in sorted(sorted(s) for s in by_case.values() if len(s) > 1):
        merged = ",".join(f"{label}={spellings[0]}" for label in spellings)
        notes.append(f"Labels of {file.name} differ by case alone: --classes {merged},... merges them.")
    return notes


def _missing(root: Path, rows: Rows, names: Sequence[str | None], max_bad: float) -> list[LeftOut]:
    """Return the files that are not there.

    Raises:
        BalancerError: they are a larger share of the rows than the settings allow.
    """
    missing = [path for path, name in zip(rows.paths, names, strict=True) if name is None]
    if len(missing) > max_bad * len(rows.paths):
        raise BalancerError(
            f"{len(missing):,} of {len(rows.paths):,} files are missing below {root}, more than --max-bad {max_bad:g}"
            f" allows ({named([printable(path) for path in missing], 3)}); give --images the folder of the files, or"
            " raise --max-bad"
        )
    return [LeftOut(printable(path), "no such file") for path in missing]


def _records(
    file: Path, rows: Rows, names: Sequence[str | None], strict: bool
) -> tuple[list[Record], tuple[str, ...], list[LeftOut]]:
    """Return a record for each file, the classes, and the files that two rows describe differently.

    Raises:
        BalancerError: two rows differ, and the settings are strict.
    """
    first: dict[str, int] = {}
    repeated: list[int] = []
    for i, name in enumerate(names):
        if name is not None and first.setdefault(name, i) != i:
            repeated.append(i)
    conflicts: dict[str, str] = {}
    for i in repeated:
        name = str(names[i])
        k = first[name]
        for what, cells in (("labels", rows.labels), ("patients", rows.patients), ("splits", rows.splits)):
            if cells[i] != cells[k] and name not in conflicts:
                conflicts[name] = f"rows with two {what}, {cells[k]} and {cells[i]}"
    if conflicts and strict:
        name = min(conflicts)
        raise BalancerError(
            f"table {file}: {name} has {conflicts[name]} (such files: {len(conflicts)}); mend the table"
        )
    classes = tuple(sorted({rows.labels[i] for name, i in first.items() if name not in conflicts}, key=natural))
    index = {cls: label for label, cls in enumerate(classes)}
    records = [
        Record(
            name,
            index[rows.labels[i]],
            _SPLITS.get(rows.splits[i].casefold(), ""),
            patient_key(rows.patients[i]) if rows.patients[i] else image_key(name),
            rows.sources[i],
        )
        for name, i in first.items()
        if name not in conflicts
    ]
    left_out = [LeftOut(name, reason) for name, reason in conflicts.items()]
    if twice := len(repeated) - sum(1 for i in repeated if names[i] in conflicts):
        left_out.append(LeftOut(f"{twice:,} rows", "repeat an earlier row", twice))
    return records, classes, left_out


def label_candidates(table: Spreadsheet, most: int = 30) -> dict[str, int]:
    """Return the columns whose cells have few different values, and how many, for somebody who must choose one."""
    values: list[Counter[str]] = [Counter() for _ in table.header]
    for row in table.rows:
        for cell, counter in zip(row, values, strict=True):
            if len(counter) <= most:
                counter[cell] += 1
    sizes = {name: len(counter) for name, counter in zip(table.header, values, strict=True)}
    return {name: n for name, n in sizes.items() if 2 <= n <= most}
