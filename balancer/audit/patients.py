"""How many patients have images on two sides of a split, under the keys of :mod:`balancer.audit.findings`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from balancer.audit.results import ImageLevelSplit, PatientKey, Patients, SharedPatients, Sides
from balancer.data.dataset import Dataset
from balancer.data.records import is_patient

Array = np.ndarray
IMAGE_LEVEL = 0.2  # share that a split at image level would take for validation, to show what it leaks

FOLD_SIDES = {  # names and folds of two sides that must share nothing
    Sides("train or validation", "test"): (("train", "val"), ("test",)),
    Sides("train", "validation"): (("train",), ("val",)),
}
SPLIT_SIDES = {Sides(a, b): ((a,), (b,)) for a, b in (("train", "test"), ("train", "val"), ("val", "test"))}
Folds = tuple[tuple[str, ...], tuple[str, ...]]


def patients(data: Dataset, splits: Array) -> Patients:
    """Count the images whose patients are known, under both keys; under one where numbers do not restart."""
    named = np.array([is_patient(record.patient) for record in data.records])

    def of_key(names: Iterable[str]) -> PatientKey | None:
        keys = np.array(list(names))[named]
        return _of_key(data, named, keys, splits[named]) if named.any() else None

    keys = [record.patient for record in data.records]
    if not data.numbers_restart:
        return Patients(len(named), int(named.sum()), of_key(keys), None)
    narrow = of_key(f"{record.source} {record.patient}" for record in data.records)
    return Patients(len(named), int(named.sum()), narrow, of_key(keys))


def _of_key(data: Dataset, named: Array, keys: Array, splits: Array) -> PatientKey:
    def shared(folds: Array, by: Mapping[Sides, Folds]) -> list[SharedPatients]:
        return [_shared(data, data.labels[named], keys, folds, names, sides) for names, sides in by.items()]

    train = Counter(keys[splits == "train"].tolist())
    several = [n for n in train.values() if n > 1]
    return PatientKey(
        patients=len(set(keys.tolist())),
        train_patients=len(train),
        train_several=len(several),
        train_images_of_several=sum(several),
        train_most=max(train.values(), default=0),
        image_level=ImageLevelSplit(
            IMAGE_LEVEL, image_level_overlap(keys[splits == "train"].tolist(), IMAGE_LEVEL) if train else None
        ),
        splits=shared(splits, SPLIT_SIDES),
        folds=shared(data.folds[named], FOLD_SIDES),
    )


def _shared(data: Dataset, labels: Array, keys: Array, folds: Array, names: Sides, sides: Folds) -> SharedPatients:
    """Count the patients on both sides. A key of the whole set counts once, with the class that its first image has."""
    left, right = (np.isin(folds, side) for side in sides)
    patients, images = {}, {}
    of_all = np.intersect1d(keys[left], keys[right])
    first = {key: labels[i] for i, key in reversed(list(enumerate(keys.tolist())))}
    for label, cls in enumerate(data.classes):
        of_class = labels == label
        if data.numbers_restart:
            both = np.intersect1d(keys[left & of_class], keys[right & of_class])
        else:
            both = np.array([key for key in of_all.tolist() if first[key] == label], dtype=keys.dtype)
        concerned = of_class & np.isin(keys, both if data.numbers_restart else of_all)
        patients[cls] = len(both)
        images[cls] = int((concerned & left).sum()), int((concerned & right).sum())
    return SharedPatients(**vars(names), patients=patients, images=images)


def image_level_overlap(keys: Sequence[str], fraction: float) -> float:
    """Return the expected share of validation images with an image of the same patient in train, in a split by image.

    Of n images m go to validation. An image of a patient with k images is alone there with its k - 1 others, none of
    them in train, with probability C(m - 1, k - 1) / C(n - 1, k - 1); the share expected is the mean over images of 1
    less that.

    Args:
        keys: patient of each image.
        fraction: share of images taken for validation, m rounded from it.
    """
    n, m = len(keys), round(fraction * len(keys))
    alone = 0.0
    for size, times in Counter(Counter(keys).values()).items():
        others = np.arange(1, size)
        alone += times * size * float(np.prod(np.maximum(m - others, 0) / np.maximum(n - others, 1)))
    return 1 - alone / n
