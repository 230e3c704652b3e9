"""Which column of a table holds what: as the settings say, else by its name, and then by its content.

The column of the files is the one whose cells lead to files. A split is known by its words. A class is known by its
name, or as the only column with few values. Nothing is guessed where two columns would do.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from balancer.core.errors import UsageError
from balancer.core.settings_base import ColumnsConfig
from balancer.data import dicom_files
from balancer.data.column_words import EARLIER_SPLITS, find_column, is_attribute, plain, split_of, usual_columns
from balancer.data.images import named
from balancer.data.listing import SUFFIXES
from balancer.data.spreadsheet import Spreadsheet, column_named, row_filters
from balancer.data.table_files import TableFiles

EMPTY = {"", "na", "n/a", "nan", "null", "#n/a", "<na>"}  # in lower case: how programs write an empty cell
NOBODY = "none"  # in place of a column's name: no column has this role
SHOWN = 12  # names in a message
MOST_CELLS = 2_000  # different cells of a column that are kept
MOST_CLASSES = 30  # different cells of a column that may be the class
SAMPLED = 200  # cells by which the column of the files is known
ENOUGH = 0.5  # share of them that must lead to files
MOST_OF_ONE = 0.1  # a column is one of patients if no cell stands in more of the rows
_AMOUNT = re.compile(r"-?\d+[.,]\d+|\d{1,4}[./-]\d{1,2}[./-]\d{1,4}.*")  # a decimal number, or a date


@dataclass(frozen=True)
class Profile:
    """What the columns of a table hold, of the rows that are read."""

    file: Path
    header: list[str]
    rows: int
    cells: list[Counter[str]]  # of each column: at most MOST_CELLS different cells, and how often each stands

    def values(self, column: int) -> list[str]:
        """Return the different labels that a column could hold."""
        return [cell for cell in self.cells[column] if cell.casefold() not in EMPTY]

    def sample(self, column: int) -> list[str]:
        """Return some different cells of a column, evenly spread."""
        cells = [cell for cell in self.cells[column] if cell]
        return [cells[k] for k in np.unique(np.linspace(0, len(cells) - 1, min(SAMPLED, len(cells))).astype(int))]


@dataclass(frozen=True)
class Columns:
    """The positions of the columns that are read; None where the table has no such column."""

    path: int
    label: int
    patient: int | None
    split: int | None
    source: int | None


@dataclass(frozen=True)
class Guess:
    """What is known of the columns, also where it is too little to read the table."""

    profile: Profile
    path: int | None
    label: int | None
    patient: int | None
    split: int | None
    source: int | None
    candidates: list[int] = field(default_factory=list)  # columns that may be the class, the likeliest first
    notes: list[str] = field(default_factory=list)

    def columns(self) -> Columns:
        """Return the columns.

        Raises:
            UsageError: no column is known to hold the files or the classes.
        """
        for role, column in (("path", self.path), ("label", self.label)):
            if column is None:
                raise UsageError(
                    f"table {self.profile.file} has no column that is known to hold the {role} (columns:"
                    f" {named(self.profile.header, SHOWN)}); give --columns {role}=NAME; `balancer inspect` helps to"
                    " choose"
                )
        assert self.path is not None, "checked above"
        assert self.label is not None, "checked above"
        return Columns(self.path, self.label, self.patient, self.split, self.source)

    def by_role(self) -> dict[str, str]:
        """Return the names of the columns that are known."""
        places = {role: getattr(self, role) for role in Columns.__annotations__}
        return {role: self.profile.header[column] for role, column in places.items() if column is not None}


def profile_of(table: Spreadsheet, where: Sequence[str]) -> Profile:
    """Return what the columns of a table hold, of the rows that fulfil the conditions."""
    keeps = row_filters(table, where)
    cells: list[Counter[str]] = [Counter() for _ in table.header]
    rows = 0
    for row in table.rows:
        if all(keep(row) for keep in keeps):
            rows += 1
            for cell, counter in zip(row, cells, strict=True):
                if len(counter) < MOST_CELLS or cell in counter:
                    counter[cell] += 1
    return Profile(table.file, table.header, rows, cells)


def guess_columns(table: Spreadsheet, where: Sequence[str], config: ColumnsConfig, files: TableFiles) -> Guess:
    """Return what is known of the columns of a table; its rows are used up.

    Raises:
        UsageError: the settings name a column that the table does not have.
    """
    chosen = {role: _chosen(table, role, getattr(config, role)) for role in Columns.__annotations__}
    profile = profile_of(table, where)
    notes: list[str] = []

    def column_of(role: str, usual: int | None) -> int | None:
        return chosen[role] if getattr(config, role) is not None else usual

    path = chosen["path"] if config.path is not None else _path_column(profile, files, notes)
    split = column_of("split", _split_column(profile, notes))
    source = column_of("source", find_column(profile.header, "source"))
    patient = column_of("patient", _patient_column(profile))
    taken = {path, split, source, patient}
    candidates = _label_candidates(profile, taken)
    label = chosen["label"] if config.label is not None else _label_column(profile, candidates, taken, notes)
    if patient is None and config.patient is None:
        notes += _maybe_patients(profile, {*taken, label})
    return Guess(profile, path, label, patient, split, source, [c for c in candidates if c != label], notes)


def _chosen(table: Spreadsheet, role: str, name: str | None) -> int | None:
    """Return the column that the settings name for a role; None also for ``none``, unless a column is called so."""
    optional = role not in ("path", "label")
    if name is None or (optional and name.casefold() == NOBODY and name not in table.header):
        return None
    return column_named(table, name, f"columns.{role}")


def _path_column(profile: Profile, files: TableFiles, notes: list[str]) -> int | None:
    """Return the column that leads to files: one of a usual name, else any, else one that headers repeat."""
    usual = usual_columns(profile.header, "path")
    for column in usual:
        if files.hits(profile.sample(column)) != 0:  # None: a path leads out of the folder, which reading says
            return column
    shares = {c: _share(profile, c, files) for c in range(len(profile.header)) if c not in usual}
    best = max(shares, key=lambda c: shares[c], default=None)
    if best is not None and shares[best] >= ENOUGH:
        notes.append(f"Column {profile.header[best]!r} is read as the files, since its cells are names of files there.")
        return best
    samples = {c: profile.sample(c) for c in range(len(profile.header))}
    by_header = files.column_of_headers(samples, ENOUGH)
    if by_header is not None:
        return by_header
    like_files = (c for c, cells in samples.items() if cells and all(map(_looks_like_file, cells)))
    likely = next(iter([*usual, *like_files]), None)
    notes += [files.no_column()] if likely is None else []
    return likely


def _looks_like_file(cell: str) -> bool:
    return "/" in cell or "\\" in cell or Path(cell).suffix.lower() in SUFFIXES | dicom_files.SUFFIXES


def _share(profile: Profile, column: int, files: TableFiles) -> float:
    """Return the share of different cells that lead to files; 0 for a column of few, such as one of views."""
    sample = profile.sample(column)
    few = len(profile.cells[column]) < min(SAMPLED, profile.rows / 20)
    return 0.0 if few or not sample else (files.hits(sample) or 0) / len(sample)


def _split_column(profile: Profile, notes: list[str]) -> int | None:
    """Return the column that says train, val or test."""
    for column in usual_columns(profile.header, "split"):
        if plain(profile.header[column]) in EARLIER_SPLITS or any(map(split_of, profile.cells[column])):
            return column
        notes.append(
            f"Column {profile.header[column]!r} names no train, val or test and is not read as the split; tell it with"
            f" --columns {shlex.quote(f'split={profile.header[column]}')} once its cells are such."
        )
    for column, cells in enumerate(profile.cells):
        splits = {split_of(cell) for cell in cells}
        if len(splits) > 1 and "train" in splits and "" not in splits:
            notes.append(f"Column {profile.header[column]!r} is read as the split, since its cells are such words.")
            return column
    return None


def _patient_column(profile: Profile) -> int | None:
    """Return the column that is called patient, or whose name has the word in it and whose cells tell many apart."""
    usual = find_column(profile.header, "patient")
    if usual is not None:
        return usual
    named_so = [c for c, name in enumerate(profile.header) if any(w in plain(name) for w in ("patient", "pacient"))]
    return next((c for c in named_so if not is_attribute(profile.header[c]) and _tells_many(profile, c)), None)


def _tells_many(profile: Profile, column: int) -> bool:
    return max(profile.cells[column].values(), default=0) <= max(2, MOST_OF_ONE * profile.rows)


def _label_candidates(profile: Profile, taken: set[int | None]) -> list[int]:
    """Return the columns with few different values and no other role; those that describe patients come last."""
    free = [c for c in range(len(profile.header)) if c not in taken and profile.header[c]]
    few = [c for c in free if 2 <= len(profile.values(c)) <= min(MOST_CLASSES, max(2, profile.rows // 2))]
    others = [c for c in few if c not in usual_columns(profile.header, "split")]
    return sorted(others, key=lambda c: (is_attribute(profile.header[c]), len(profile.values(c))))


def _label_column(profile: Profile, candidates: list[int], taken: set[int | None], notes: list[str]) -> int | None:
    """Return the column of a usual name, of several the first with two values or more; else the only one with few."""
    usual = [c for c in usual_columns(profile.header, "label") if c not in taken]
    if usual:
        return next((c for c in usual if c in candidates), usual[0])
    likely = [c for c in candidates if not is_attribute(profile.header[c])]
    if len(likely) != 1:
        return None
    notes.append(
        f"Column {profile.header[likely[0]]!r} is read as the class, since no other has few values; name another one"
        " with --columns label=NAME."
    )
    return likely[0]


def _maybe_patients(profile: Profile, taken: set[int | None]) -> list[str]:
    """Return the note on columns that may tell the patients: many different cells, and some of them again."""
    columns = []
    for c, cells in enumerate(profile.cells):
        values = [cell for cell in cells if cell]
        codes = all(any(map(str.isdigit, v)) and " " not in v and not _AMOUNT.fullmatch(v) for v in values[:SAMPLED])
        repeats = len(values) >= 10 and max(cells[v] for v in values) > 1
        if c not in taken and codes and repeats and not is_attribute(profile.header[c]) and _tells_many(profile, c):
            columns.append(profile.header[c])
    return [
        f"Column {name!r} has many different values, some in several rows. If it tells the patients, give --columns"
        f" {shlex.quote(f'patient={name}')}."
        for name in columns[:3]
    ]
