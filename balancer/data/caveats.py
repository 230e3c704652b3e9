"""What a reader must know of a data set: sentences for the log, env.json and the notes of reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from balancer.data.chest import CLASSES
from balancer.data.digests import equal_positions
from balancer.data.images import named
from balancer.data.listing import Listing
from balancer.data.patients import suggested_pattern
from balancer.data.records import Record, is_patient
from balancer.data.thinning import UNUSED

SHOWN_COPIES = 3  # names of equal files in a sentence


def unreadable_note(bad: Sequence[tuple[str, str]]) -> list[str]:
    """Return a sentence that counts the unreadable files and names at most five; the log has the reasons of all."""
    if not bad:
        return []
    files = "1 file" if len(bad) == 1 else f"{len(bad):,} files"
    return [
        f"{files} could not be read and {'was' if len(bad) == 1 else 'were'} left out: {named([n for n, _ in bad])}."
    ]


def patients_note(listing: Listing, records: Sequence[Record]) -> list[str]:
    """Return a caveat if the patients of some or all images are not known; the note of an archive has said so."""
    unknown, n = [r for r in records if not is_patient(r.patient)], len(records)
    if not unknown or listing.images is not None:
        return []
    preset = suggested_pattern(records)
    how = f"--patient-pattern {preset} fits these names" if preset else "give --patients or --patient-pattern"
    whose = "child" if listing.plain_split else "patient"
    remedy = "" if listing.plain_split else f" If names or a table tell the patients, {how}."
    if len(unknown) == n:
        return [
            f"No file name tells a patient (such as {unknown[0].name}): every image counts by itself, so images of one"
            f" {whose} may lie in two folds, and intervals are over images.{remedy}"
        ]
    return [
        f"{len(unknown):,} of {n:,} file names tell no patient (such as {unknown[0].name}): each of these images counts"
        f" as a patient of its own.{remedy}"
    ]


def parted_patients(records: Sequence[Record], folds: np.ndarray) -> list[str]:
    """Return a caveat if the images of a patient lie in two folds, as only a split that was given can do."""
    of_patient: dict[str, set[str]] = defaultdict(set)
    for record, fold in zip(records, folds, strict=True):
        if is_patient(record.patient) and fold != UNUSED:
            of_patient[record.patient].add(str(fold))
    parted = sorted(patient for patient, of in of_patient.items() if len(of) > 1)
    if not parted:
        return []
    return [
        f"{len(parted):,} patient{'s lie' if len(parted) > 1 else ' lies'} in two folds of the given split"
        f" ({named(parted, SHOWN_COPIES)}): a network may know them from training, and figures are too good."
    ]


def copies_note(records: Sequence[Record], folds: np.ndarray, digests: Sequence[str]) -> list[str]:
    """Return a caveat if one content, byte by byte, stands in two folds or under two labels.

    Figures on such images are too good (the network has seen the image) or mean nothing (both labels are right).
    Copies in train and validation are kept together by the split, unless the source's own validation is used.
    """
    copies = equal_positions(digests)
    in_test = [of for of in copies if len({folds[i] == "test" for i in of if folds[i] != UNUSED}) > 1]
    in_val = [of for of in copies if {"train", "val"} <= {str(folds[i]) for i in of}]
    two_labels = [of for of in copies if len({records[i].label for i in of}) > 1]
    kinds = ((in_test, "both in test and outside it"), (in_val, "both in train and validation"))
    phrases = [_counted(of, where, records) for of, where in (*kinds, (two_labels, "under two classes")) if of]
    if not phrases:
        return []
    return [f"Files with equal content: {'; '.join(phrases)}. `balancer audit` lists them; remove them or mend labels."]


def _counted(groups: Sequence[Sequence[int]], where: str, records: Sequence[Record]) -> str:
    """Return how many contents stand somewhere, with the first of them by name."""
    contents = f"{len(groups):,} content{' stands' if len(groups) == 1 else 's stand'}"
    return f"{contents} {where} (such as {named([records[i].name for i in groups[0]], SHOWN_COPIES)})"


def shared_numbers(records: Sequence[Record], folds: np.ndarray) -> list[str]:
    """Return a caveat if patient numbers occur both in the official test split and outside it."""
    patients: dict[tuple[bool, int], set[str]] = defaultdict(set)
    for record, fold in zip(records, folds, strict=True):
        if is_patient(record.patient):
            patients[fold == "test", min(record.label, 1)].add(record.patient)
    shared = [len(patients[True, label] & patients[False, label]) for label in range(len(CLASSES))]
    if not any(shared):
        return []
    numbers = " and ".join(f"{n} {cls}" for n, cls in zip(shared, CLASSES, strict=True))
    return [
        f"{numbers} patient numbers occur both in test and outside it; whether they are the same children is not known."
    ]
