"""Patients and sources of DICOM files, by their headers, without a word of a header in what comes out.

A PatientID stays in memory, and only for as long as it takes to tell which files are of one patient. The key of a
patient is made of the name of the first of these files, so nobody can find the PatientID by trying: a hash of the
PatientID, with whatever salt, could be tried by everybody who has the salt, and the numbers of a hospital are few.
Nor does a key depend on chance. So a second command, a resumed run and another machine give equal keys and equal
splits, and there is no salt to lose.

Of what else a header holds, the manufacturer and the model come out, or the year of the study, as the settings say.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from balancer.core.errors import BalancerError
from balancer.core.sealed import DamagedFile, read_json, write_json
from balancer.core.settings_base import DataConfig
from balancer.core.shapes import parse
from balancer.data import cache, dicom_files
from balancer.data.listing import SUFFIXES, LeftOut, Listing
from balancer.data.records import Record, is_patient, patient_key

FORMAT = 1  # raise when what is stored changes its meaning
UNKNOWN = -1
LARGE, MOST = 20, 0.5  # of more images than this, a patient with more than this share of them is named
# What programs write in place of a PatientID that they remove, in lower case and without anything but letters.
_PLACEHOLDERS = {"anonymous", "anonymized", "anonymised", "anonym", "anon", "unknown", "none", "null", "na", "removed"}
_PLACEHOLDERS |= {"deidentified", "noid", "nopatientid", "patientid", "patient", "test", "xxx", "xxxx"}
SOURCES = {"model": "DICOM device", "manufacturer": "DICOM manufacturer", "year": "DICOM year of the study"}


@dataclass(frozen=True)
class Headers:
    """What the headers of files say, each in the order of the files."""

    patients: list[int]  # equal numbers for files of one patient; UNKNOWN
    sources: list[str]
    pictures: list[bool]  # whether the file describes a picture at all
    anonymous: bool  # all files have one PatientID


def with_headers(listing: Listing, config: DataConfig) -> Listing:
    """Return the listing with the patients and sources of its DICOM files, where the reader knows none.

    Files that hold no picture, such as reports, are left out.
    """
    chosen = _dicom_files(listing)
    if not chosen or not dicom_files.can_read():
        return listing
    headers = _headers(listing.root, [listing.records[i].name for i in chosen], config.dicom_source)
    listing = _with_patients(listing, chosen, headers, config)
    listing = _with_sources(listing, chosen, headers, config)
    without = {i for i, picture in zip(chosen, headers.pictures, strict=True) if not picture}
    left_out = [LeftOut(listing.records[i].name, "a DICOM file without a picture") for i in sorted(without)]
    records = [record for i, record in enumerate(listing.records) if i not in without]
    _refuse_lost_class(listing, records, left_out)
    return replace(listing, records=records, left_out=[*listing.left_out, *left_out])


def _refuse_lost_class(listing: Listing, records: Sequence[Record], left_out: Sequence[LeftOut]) -> None:
    """Refuse data of which the files without a picture are all files of a class, in a split if there are splits."""
    left = {(record.split, record.label) for record in records}
    lost = sorted({(record.split, record.label) for record in listing.records} - left)
    if lost:
        split, label = lost[0]
        where = f"{split} {listing.classes[label]}".strip()
        raise BalancerError(
            f"none of the DICOM files of {where} in {listing.root} holds a picture (such as"
            f" {left_out[0].name}); expected radiographs, not reports or plans"
        )


def _dicom_files(listing: Listing) -> list[int]:
    """Return the positions of records whose files are DICOM."""
    if listing.images is not None:
        return []
    return [i for i, record in enumerate(listing.records) if _may_be_dicom(listing.root / record.name)]


def _headers(root: Path, names: Sequence[str], source: str) -> Headers:
    """Return what the headers say, from the cache if the files are as they were; no PatientID is in the cache."""
    file = cache.cache_dir("headers") / f"{cache.stat_stamp(root, names)}-{FORMAT}-{source}.json"
    try:
        headers = parse(Headers, read_json(file), file)
        if {len(headers.patients), len(headers.sources), len(headers.pictures)} == {len(names)}:
            return headers
    except (FileNotFoundError, DamagedFile):
        pass
    facts = cache.in_threads(lambda i: _read_header(root / names[i], source), len(names), "reading DICOM headers")
    ids = [fact[0] for fact in facts]
    numbers: dict[str, int] = {}
    anonymous = len(ids) > 1 and len(set(ids)) == 1 and ids[0] != ""
    patients = [numbers.setdefault(one, len(numbers)) if one and not anonymous else UNKNOWN for one in ids]
    headers = Headers(patients, [fact[1] for fact in facts], [fact[2] for fact in facts], anonymous)
    write_json(file, asdict(headers))
    return headers


def _read_header(file: Path, source: str) -> tuple[str, str, bool]:
    """Return the PatientID, the source, and whether there is a picture; what cannot be read is left to decoding."""
    from balancer.data.dicom_header import number, read_elements

    try:
        with file.open("rb") as handle:
            header = read_elements(
                handle, ("PatientID", "Manufacturer", "ManufacturerModelName", "StudyDate", "Rows", "Columns")
            )
        values = {keyword: _text(header.get(keyword)) for keyword in ("PatientID", "Manufacturer", "StudyDate")}
        model = _text(header.get("ManufacturerModelName"))
        year = values["StudyDate"][:4]
        named = {
            "model": model
            if model.casefold().startswith(values["Manufacturer"].casefold() or "-")
            else f"{values['Manufacturer']} {model}".strip(),
            "manufacturer": values["Manufacturer"],
            "year": year if year.isdecimal() else "",
        }
        plain = re.sub(r"[\W\d_]", "", values["PatientID"].casefold())
        placeholder = plain in _PLACEHOLDERS and not any(c.isdigit() for c in values["PatientID"])
        patient = "" if placeholder or not values["PatientID"].strip("0 -_.?") else values["PatientID"]
        return patient, named.get(source, ""), number(header, "Rows") > 0 and number(header, "Columns") > 0
    except Exception:  # of many kinds; their texts quote the header
        return "", "", True


def _text(value: object) -> str:
    """Return a text element in one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value or "")).split())


def _with_patients(listing: Listing, chosen: Sequence[int], headers: Headers, config: DataConfig) -> Listing:
    if config.patients is not None or config.patient_pattern is not None:
        return listing
    # The names of the chest set tell patients; names such as IM-0001-0001 are also given by programs that export DICOM.
    guessed = listing.numbers_restart and len(chosen) == len(listing.records)
    if not guessed and any(is_patient(record.patient) for record in listing.records):
        return listing  # the reader, or a table, tells patients; keys of two kinds would part one patient
    n = len(chosen)
    if headers.anonymous:
        note = f"All {n:,} DICOM files have one and the same PatientID, as programs that anonymise leave it: patients"
        return replace(listing, notes=[*listing.notes, f"{note} are not known by it."])
    records = list(listing.records)
    keys = _keys([records[i].name for i in chosen], headers.patients)
    for i, key in zip(chosen, keys, strict=True):
        if key:
            records[i] = replace(records[i], patient=key)
    notes, sizes = [], Counter(number for number in headers.patients if number != UNKNOWN)
    if unknown := n - sizes.total():
        notes.append(f"{unknown:,} of {n:,} DICOM files have no PatientID, or a placeholder: patients are not known.")
    if n > LARGE and sizes and (largest := max(sizes.values())) > MOST * n:
        notes.append(
            f"{largest:,} of {n:,} DICOM files have one and the same PatientID; if it stands for several patients, give"
            " --patients or --patient-pattern."
        )
    return replace(listing, records=records, notes=[*listing.notes, *notes], numbers_restart=False)


def _keys(names: Sequence[str], patients: Sequence[int]) -> list[str]:
    """Return the key of the patient of each file, empty for an unknown one; the order of the files does not count."""
    first: dict[int, str] = {}
    for name, patient in zip(names, patients, strict=True):
        first[patient] = min(first.get(patient, name), name)
    return ["" if patient == UNKNOWN else patient_key(_digest(first[patient])) for patient in patients]


def patients_by_header(root: Path, files: Sequence[Path]) -> dict[Path, str]:
    """Return the key of the patient of each DICOM file among files below a folder; empty where a header tells none.

    Keys of two folders differ, also those of one patient.
    """
    chosen = [file for file in files if dicom_files.can_read() and _may_be_dicom(file)]
    if not chosen:
        return {}
    headers = _headers(root, [str(file.relative_to(root)) for file in chosen], "none")
    return dict(zip(chosen, _keys([str(file.resolve()) for file in chosen], headers.patients), strict=True))


def _may_be_dicom(file: Path) -> bool:
    """Return whether a file is DICOM; one with the suffix of another format is not opened."""
    return file.suffix.lower() not in SUFFIXES and dicom_files.is_dicom_file(file)


def _digest(name: str) -> str:
    return hashlib.sha256(PurePosixPath(name).as_posix().encode(errors="surrogateescape")).hexdigest()[:16]


def _with_sources(listing: Listing, chosen: Sequence[int], headers: Headers, config: DataConfig) -> Listing:
    if config.dicom_source == "none" or listing.source_name or any(record.source for record in listing.records):
        return listing
    if not any(headers.sources):
        return listing
    records = list(listing.records)
    for i, source in zip(chosen, headers.sources, strict=True):
        records[i] = replace(records[i], source=source)
    return replace(listing, records=records, source_name=SOURCES[config.dicom_source])
