"""Patients that a reader cannot know: from a table beside the data, or by a pattern in the file names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from balancer.core.errors import BalancerError
from balancer.core.setting_types import PATIENT_PATTERNS
from balancer.core.settings_base import DataConfig
from balancer.data.column_guesses import EMPTY
from balancer.data.column_words import find_column
from balancer.data.images import named
from balancer.data.listing import Listing
from balancer.data.records import Record, image_key, is_patient, patient_key
from balancer.data.spreadsheet import read_spreadsheet


def with_patients(listing: Listing, config: DataConfig) -> Listing:
    """Return the listing with the patients that the settings tell; without such settings it stays as it is.

    Raises:
        BalancerError: the settings tell the patient of no image.
    """
    if config.patients is None and config.patient_pattern is None:
        return listing
    names = [record.name for record in listing.records]
    known, notes = patients_of(names, listing.root, config.patients, config.patient_pattern)
    records = [
        replace(record, patient=image_key(record.name) if patient is None else patient_key(patient))
        for record, patient in zip(listing.records, known, strict=True)
    ]
    return replace(listing, records=records, notes=[*listing.notes, *notes], numbers_restart=False)


def patients_of(
    names: Sequence[str], root: Path, file: str | None, pattern: str | None
) -> tuple[list[str | None], list[str]]:
    """Return the patient of each image, None where that is not known, and what a reader must know of the table.

    Args:
        names: of the images, relative to ``root``.
        root: the folder, for messages.
        file: a table of patients, which goes before the pattern.
        pattern: a pattern, or the name of one.

    Raises:
        BalancerError: the patient of no image is known.
    """
    if file is not None:
        return _from_file(names, root, Path(file))
    return _from_names(names, root, pattern or ""), []


def suggested_pattern(records: Sequence[Record]) -> str | None:
    """Return the preset that fits the names of all images of unknown patients, if one does."""
    names = [record.name for record in records if not is_patient(record.patient)]
    presets = [name for name in PATIENT_PATTERNS if name != "folder"]
    return next((p for p in presets if names and all(re.search(PATIENT_PATTERNS[p], n) for n in names)), None)


def _from_names(names: Sequence[str], root: Path, setting: str) -> list[str | None]:
    pattern = re.compile(PATIENT_PATTERNS.get(setting, setting))
    matches = [pattern.search(name) for name in names]
    known = [match["patient"] or None if match else None for match in matches]
    if not any(known):
        raise BalancerError(
            f"patient_pattern {setting!r} fits no file name of {root} (such as {names[0]});"
            " mend the pattern, or leave it out"
        )
    return known


def _from_file(names: Sequence[str], root: Path, file: Path) -> tuple[list[str | None], list[str]]:
    table = read_spreadsheet(file)
    path, patient = (find_column(table.header, role) for role in ("path", "patient"))
    if len(table.header) == 2:  # two columns: whichever is known tells which the other is
        path, patient = (0 if patient == 1 else 1 if patient == 0 else path, patient)
        patient = 1 - path if path is not None else patient
    if path is None or patient is None:
        raise BalancerError(
            f"patients file {file} has the columns {named(table.header, 12)}; expected path and patient"
        )
    keys: dict[str, str] = {}
    for row in table.rows:
        if row[path] and row[patient].casefold() not in EMPTY:
            name = PurePosixPath(row[path].replace("\\", "/")).as_posix()
            if keys.setdefault(name, row[patient]) != row[patient]:
                raise BalancerError(f"patients file {file} gives {name} to two patients; mend the file")
    by_name = _unique_names(keys)
    known = []
    for name in names:
        plain = PurePosixPath(name)
        known.append(keys.get(name) or by_name.get(plain.name) or by_name.get(plain.stem))
    if not any(known):
        raise BalancerError(f"patients file {file} names no image of {root} (such as {names[0]}); check it")
    return known, table.notes


def _unique_names(keys: dict[str, str]) -> dict[str, str]:
    """Return the patients by file name alone, without the names that stand in several folders for several patients."""
    by_name: dict[str, set[str]] = defaultdict(set)
    for path, patient in keys.items():
        by_name[PurePosixPath(path).name].add(patient)
    return {name: patients.pop() for name, patients in by_name.items() if len(patients) == 1}
