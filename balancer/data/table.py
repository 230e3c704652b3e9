"""A table with one row an image: which columns count, which rows are read, and where their files lie."""

from __future__ import annotations

import math
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from balancer.core.errors import BalancerError, UsageError
from balancer.core.settings_base import DataConfig
from balancer.data.column_guesses import EMPTY, NOBODY, Columns, Guess, guess_columns
from balancer.data.column_words import split_of
from balancer.data.images import named
from balancer.data.label_spellings import merged_already, pairs_text, spellings
from balancer.data.listing import LeftOut, Listing, natural, printable, tables_in
from balancer.data.records import Record, image_key, patient_key
from balancer.data.spreadsheet import SUFFIXES, Spreadsheet, read_spreadsheet, row_filters
from balancer.data.table_files import TableFiles

SHOWN = 12  # names in a message


class UnknownSplits(UsageError):
    """A split column holds what is no split."""


class MissingFiles(BalancerError):
    """More files are missing than the settings allow."""

    def __init__(self, message: str, share: float) -> None:
        super().__init__(message)
        self.allowing = math.ceil(share * 1000) / 1000  # the setting max_bad with which reading goes on


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
    return len(tables_in(path)) == 1 if path.is_dir() else path.suffix.lower() in SUFFIXES


def table_file(path: Path) -> Path:
    """Return the table itself, where a folder with a single table was named."""
    return next(iter(tables_in(path)), path)


def read(path: Path, config: DataConfig) -> Listing:
    """Return the images that the rows of a table name.

    Raises:
        UsageError: a setting names a column or a value that the table does not have.
        BalancerError: the table cannot be read, a path leads out of the folder, or too many files are missing.
    """
    files, guess = _opened(path, config)
    columns = guess.columns()
    table = read_spreadsheet(guess.profile.file)
    rows = _rows(table, columns, config.where)
    places, how = files.locate(rows.paths)
    notes = [*table.notes, *guess.notes, *how, *_row_notes(table.file, rows, config)]
    left_out = _missing(files, rows, places, config.max_bad)
    records, classes, more, repeated = _records(table.file, rows, places, config.strict)
    notes += [f"{repeated:,} rows of {table.file.name} repeat earlier rows and count once."] if repeated else []
    source_name = f"column {table.header[columns.source]}" if columns.source is not None else ""
    return Listing(files.root, classes, records, [*left_out, *more], notes, source_name=source_name)


def guess_of(path: Path, config: DataConfig) -> Guess:
    """Return what is known of the columns of a table, also where it is too little to read the table.

    Raises:
        BalancerError: the table cannot be read, or a setting names a column that it does not have.
    """
    return _opened(path, config)[1]


def _opened(path: Path, config: DataConfig) -> tuple[TableFiles, Guess]:
    file = table_file(path)
    root = Path(config.images) if config.images else file.parent
    table = read_spreadsheet(file)
    if not root.is_dir():
        raise BalancerError(f"images folder {root} is no folder; give --images the folder below which the files lie")
    files = TableFiles(root, file)
    return files, guess_columns(table, config.where, config.columns, files)


def label_counts(guess: Guess, config: DataConfig) -> dict[str, int]:
    """Return the labels of the rows that are read, and how many rows each has.

    Raises:
        BalancerError: the table cannot be read, or no column is known to hold the classes.
    """
    columns = replace(guess.columns(), split=None)
    rows = _rows(read_spreadsheet(guess.profile.file), columns, config.where)
    return dict(Counter(rows.labels).most_common())


def _rows(table: Spreadsheet, columns: Columns, where: Sequence[str]) -> Rows:
    """Return the cells that count of the rows that are read; of each row only these stay in memory."""
    keeps = row_filters(table, where)
    rows, texts, plain = Rows(), sys.intern, lru_cache(maxsize=None)(_one_line)
    for row in table.rows:
        rows.read += 1
        if not all(keep(row) for keep in keeps):
            rows.filtered += 1
        elif row[columns.label].casefold() in EMPTY:
            rows.without_label += 1
        elif not row[columns.path]:
            rows.without_path += 1
        else:
            rows.paths.append(row[columns.path])
            rows.labels.append(plain(row[columns.label]))
            patient = row[columns.patient] if columns.patient is not None else ""
            rows.patients.append("" if patient.casefold() in EMPTY else texts(patient))
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


def _refuse_unknown_splits(table: Spreadsheet, rows: Rows, column: str) -> None:
    unknown = sorted({cell for cell in rows.splits if not split_of(cell)})
    if unknown:
        leave_out = shlex.quote(f"{column}!={unknown[0]}")
        raise UnknownSplits(
            f"table {table.file}: column {column!r} holds {named([cell or 'an empty cell' for cell in unknown], 6)};"
            " expected train, val or test; write these words in the table, leave rows out with --where"
            f" {leave_out}, or ignore the column with --columns split={NOBODY}"
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
    if (alike := spellings(rows.labels)) and not merged_already(alike, config.classes):
        pairs = shlex.quote(pairs_text({label: alike.get(label, label) for label in sorted(set(rows.labels))}))
        alike_labels = named([repr(label) for label in sorted(alike)], SHOWN)
        notes.append(
            f"Labels of {file.name} differ by spelling alone ({alike_labels}); this merges them: --classes {pairs}"
        )
    return notes


def _missing(files: TableFiles, rows: Rows, places: Sequence[list[str]], max_bad: float) -> list[LeftOut]:
    """Return the files that are not there, each once.

    Raises:
        MissingFiles: they are a larger share of the rows than the settings allow.
    """
    missing = [path for path, place in zip(rows.paths, places, strict=True) if not place]
    names = [printable(path) for path in dict.fromkeys(missing)]
    if len(missing) > max_bad * len(rows.paths):
        others = files.any_images() if len(missing) == len(rows.paths) else 0
        remedy = (
            f"{others:,} images lie there under other names: tables are joined by file name, or by the SOPInstanceUID,"
            " StudyInstanceUID, AccessionNumber or PatientID of DICOM files; give --columns path=NAME"
            if others
            else "give --images the folder of the files, or raise --max-bad"
        )
        raise MissingFiles(
            f"{len(missing):,} of {len(rows.paths):,} rows name files that are missing below {files.root}, more than"
            f" --max-bad {max_bad:g} allows ({named(names, 3)}); {remedy}",
            len(missing) / len(rows.paths),
        )
    return [LeftOut(name, "no such file") for name in names]


def _records(
    file: Path, rows: Rows, places: Sequence[list[str]], strict: bool
) -> tuple[list[Record], tuple[str, ...], list[LeftOut], int]:
    """Return a record for each file, the classes, the files that two rows describe differently, and repeated rows.

    Raises:
        BalancerError: two rows differ, and the settings are strict.
    """
    first: dict[str, int] = {}
    repeated: list[tuple[int, str]] = []
    for i, place in enumerate(places):
        repeated += [(i, name) for name in place if first.setdefault(name, i) != i]
    conflicts: dict[str, str] = {}
    for i, name in repeated:
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
            split_of(rows.splits[i]),
            patient_key(rows.patients[i]) if rows.patients[i] else image_key(name),
            rows.sources[i],
        )
        for name, i in first.items()
        if name not in conflicts
    ]
    left_out = [LeftOut(name, reason) for name, reason in conflicts.items()]
    return records, classes, left_out, len({i for i, name in repeated if name not in conflicts})
