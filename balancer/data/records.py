"""What is known of an image before its file is opened: name, class, split, patient and source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SPLITS = ("train", "val", "test")
IMAGE = "image-"  # begins the key of an image whose patient is not known
PATIENT = "patient-"  # begins the key of a patient whose number is of the whole data set
_OLD_IMAGES = ("NORMAL-file-", "PNEUMONIA-file-")  # as IMAGE, in the chest set and its older split.csv
_ESCAPES = {"%": "%25", "/": "%2F", "\\": "%5C"}  # a key with a slash would be that of an image


@dataclass(frozen=True, slots=True)
class Record:
    """One image of the data set, before decoding. An image whose patient is not known is a patient of its own."""

    name: str  # path relative to the data set's root, with forward slashes
    label: int
    split: str  # of the source: "train", "val" or "test"; empty if the source has no split
    patient: str  # the key that folds keep together
    source: str  # where the image comes from: a site, a device, a kind of file; empty if that is not known


def patient_key(number: str) -> str:
    """Return the key of a patient whose number or name is of the whole data set.

    >>> patient_key("00013"), patient_key("A/7")
    ('patient-00013', 'patient-A%2F7')
    """
    return PATIENT + "".join(_ESCAPES.get(character, character) for character in number)


def image_key(name: str) -> str:
    """Return the key of an image whose patient is not known."""
    return f"{IMAGE}{name}"


def is_patient(key: str) -> bool:
    """Return whether a key is that of a patient, and does not stand for one image; also in an old split.csv.

    The key of an image that `balancer evaluate` knows no patient of is the path of its file.
    """
    return "/" not in key and "\\" not in key and not key.startswith((IMAGE, *_OLD_IMAGES))


def sampling_unit(keys: Iterable[str]) -> str:
    """Return the word for what folds keep together and intervals resample: ``patient``, or ``image`` if none is known.

    >>> sampling_unit(["NORMAL-115", "NORMAL-file-scan 7"]), sampling_unit(["image-train-0"])
    ('patient', 'image')
    """
    return "patient" if any(is_patient(key) for key in keys) else "image"


def count_units(keys: Sequence[str]) -> str:
    """Return the number of images and, where some are known, of patients, in words, for the key of each image.

    >>> count_units(["NORMAL-115", "NORMAL-115", "NORMAL-7"]), count_units(["image-test-0"])
    ('3 images of 2 patients', '1 image')
    """
    n, units = len(keys), len(set(keys))
    images = f"{n:,} image{'' if n == 1 else 's'}"
    return images if sampling_unit(keys) == "image" else f"{images} of {units:,} patient{'' if units == 1 else 's'}"
