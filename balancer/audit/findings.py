"""What a data set holds that can make a result look better than it is: leaks between folds, copies, and shortcuts.

Findings are plain numbers and names, ready for JSON; :mod:`balancer.audit.report` puts them into words and pictures.

Two keys stand for a patient, since file names restart their numbers and do not say where. The narrow key is kind and number
(``bacteria``, ``virus``, or the source prefix of a normal image): images under it are of one patient. The cautious key is the number
within the class: images under it may be of one patient, so splits are grouped by it. What crosses folds under the narrow key is a
leak, under the cautious key alone a caveat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balancer.audit.duplicates import COPY, SUSPECT, Pair, identical_files, near_duplicates
from balancer.audit.properties import is_measured, measure
from balancer.audit.shortcuts import shortcuts
from balancer.core.settings import DataConfig
from balancer.data.dataset import PHANTOM_NOTICE, Dataset
from balancer.data.folder import CLASSES, SPLITS

Findings = dict[str, Any]
Array = np.ndarray
CLOSEST = 8  # pairs below the threshold that are shown all the same
IMAGE_LEVEL = 0.2  # share that a split at image level would take for validation, to show what it leaks
SECONDS, SECONDS_A_FILE = 15.0, 0.005  # rough, on one core


@dataclass(frozen=True)
class Sides:
    """Two sets of folds (or splits) that must share nothing, and their names."""

    left: str
    right: str
    left_folds: tuple[str, ...]
    right_folds: tuple[str, ...]

    def masks(self, folds: Array) -> tuple[Array, Array]:
        return np.isin(folds, self.left_folds), np.isin(folds, self.right_folds)

    def parted(self, folds: Iterable[str]) -> bool:
        """Whether the folds of some images lie on both sides."""
        found = set(folds)
        return bool(found & set(self.left_folds)) and bool(found & set(self.right_folds))


FOLD_SIDES = (
    Sides("train or validation", "test", ("train", "val"), ("test",)),
    Sides("train", "validation", ("train",), ("val",)),
)
SPLIT_SIDES = tuple(Sides(a, b, (a,), (b,)) for a, b in (("train", "test"), ("train", "val"), ("val", "test")))


def audit(data: Dataset, config: DataConfig, seed: int = 0) -> Findings:
    """Everything that is found out about a data set; the first time, every file is read once more.

    Args:
        data: folders, phantom or archive; an archive names no patients and has no files, and the findings say so.
        config: as ``data`` was loaded with.
        seed: of resampling and cross-validation; see :func:`balancer.audit.shortcuts.shortcuts`.

    Raises:
        BalancerError: a file can no longer be read.
    """
    measured = measure(data)
    splits = np.array([record.split for record in data.records])
    return {
        "data": {**data.describe(), "resize": config.resize, "split_seed": config.split_seed},
        "counts": {"splits": _counts(splits, data.labels), "folds": _counts(data.folds, data.labels)},
        "patients": _patients(data, splits),
        "identical": _identical(data, splits),
        "near": _near(data, measured.thumbnails),
        "shortcuts": shortcuts(data, measured, seed),
    }


def estimate_seconds(data: Dataset) -> float:
    """Rough; what was measured before is in the cache."""
    return SECONDS + (0 if is_measured(data) else SECONDS_A_FILE * len(data.records))


def leaks(findings: Findings) -> list[str]:
    """One phrase for each way in which what is trained on is found again in validation or test; empty if there is none.

    Counted are identical files, verified near duplicates and patients by the narrow key in two folds, and identical files of
    two classes. A number that may be of two patients is no leak; see :func:`caveats`.
    """
    found = []
    for across in findings["identical"]["folds"]:
        if across["groups"]:
            found.append(
                f"{_number(across['groups'], 'identical file')} both in {across['left']} and in {across['right']}"
            )
    for across in findings["near"]["folds"]:
        if across["pairs"]:
            found.append(f"{_number(across['pairs'], 'near duplicate')} between {across['left']} and {across['right']}")
    for across in (findings["patients"]["narrow"] or {"folds": []})["folds"]:
        patients, (left, right) = sum(across["patients"].values()), np.sum(list(across["images"].values()), axis=0)
        if patients:
            found.append(
                f"{_number(patients, 'patient')} both in {across['left']} and in {across['right']} ({left} and {right} images)"
            )
    if conflicts := findings["identical"]["label_conflicts"]:
        found.append(f"{_number(conflicts, 'identical file')} under both classes")
    return found


def caveats(findings: Findings) -> list[str]:
    """What is no proven leak and yet to be known before a figure is believed: one sentence each, the data's own notes first."""
    found, patients = [note for note in findings["data"]["notes"] if note != PHANTOM_NOTICE], findings["patients"]
    if unreadable := len(findings["data"]["unreadable"]):
        found.append(
            f"{_number(unreadable, 'file')} could not be read and {'was' if unreadable == 1 else 'were'} left out."
        )
    unnamed = patients["images"] - patients["named"]
    if unnamed and findings["shortcuts"]["from_files"]:  # an archive has said so in its note
        found.append(
            f"{unnamed:,} of {patients['images']:,} file names tell no patient: whether their patients lie in two folds cannot be known."
        )
    for across in (patients["cautious"] or {"folds": []})["folds"]:
        shared = sum(across["patients"].values())
        if shared and across["right"] != "test":  # what test shares, the data's own note has said
            found.append(
                f"{_number(shared, 'patient number')} both in {across['left']} and in {across['right']}; "
                "whether they are the same children is not known."
            )
    suspects = findings["near"]["suspects"]
    if suspects and PHANTOM_NOTICE not in findings["data"]["notes"]:  # drawings are alike by nature
        first, one = suspects[0], len(suspects) == 1
        folds = " and ".join(dict.fromkeys(first["folds"]))
        found.append(
            f"{_number(len(suspects), 'pair')} of images under different patient numbers {'looks' if one else 'look'} like one child"
            f"{'' if one else ', above all'}: `{first['names'][0]}` and `{first['names'][1]}` ({folds}; correlation "
            f"{short(first['correlation'])})."
        )
    if findings["near"]["candidates"] > findings["near"]["verified"]:
        found.append(
            f"{findings['near']['candidates']:,} pairs have like hashes; only the likest {findings['near']['verified']:,} were compared."
        )
    return found + _shortcut_caveats(findings["shortcuts"])


def short(value: float, digits: int = 3) -> str:
    """``.941``: a share without the zero before its point."""
    return f"{value:.{digits}f}".removeprefix("0")


def image_level_overlap(keys: Sequence[str], fraction: float) -> float:
    """Expected share of validation images with an image of the same patient left in train, if images were split at random.

    Of n images m go to validation. An image of a patient with k images is alone there with its k - 1 others, none of them in train,
    with probability C(m - 1, k - 1) / C(n - 1, k - 1); the share expected is the mean over images of 1 less that.

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


def _counts(folds: Array, labels: Array) -> dict[str, dict[str, int]]:
    return {
        fold: {cls: int(((folds == fold) & (labels == label)).sum()) for label, cls in enumerate(CLASSES)}
        for fold in SPLITS
    }


def _patients(data: Dataset, splits: Array) -> dict[str, Any]:
    """Of the images whose names tell a patient, under both keys; None for a key where no name does."""
    named = np.array([bool(record.kind) for record in data.records])
    found: dict[str, Any] = {"images": len(named), "named": int(named.sum())}
    keys = {
        "narrow": np.array([f"{record.kind} {record.patient}" for record in data.records]),
        "cautious": np.array([record.patient for record in data.records]),
    }
    for name, key in keys.items():
        found[name] = _of_key(key[named], data.labels[named], splits[named], data.folds[named]) if named.any() else None
    return found


def _of_key(keys: Array, labels: Array, splits: Array, folds: Array) -> dict[str, Any]:
    train = Counter(keys[splits == "train"].tolist())
    several = [n for n in train.values() if n > 1]
    return {
        "patients": len(set(keys.tolist())),
        "train_patients": len(train),
        "train_several": len(several),
        "train_images_of_several": sum(several),
        "train_most": max(train.values(), default=0),
        "image_level": {
            "fraction": IMAGE_LEVEL,
            "expected": image_level_overlap(keys[splits == "train"].tolist(), IMAGE_LEVEL) if train else None,
        },
        "splits": [_shared(keys, labels, splits, sides) for sides in SPLIT_SIDES],
        "folds": [_shared(keys, labels, folds, sides) for sides in FOLD_SIDES],
    }


def _shared(keys: Array, labels: Array, folds: Array, sides: Sides) -> dict[str, Any]:
    """Patients on both sides by class, and their images on either."""
    left, right = sides.masks(folds)
    patients, images = {}, {}
    for label, cls in enumerate(CLASSES):
        of_class = labels == label
        both = np.intersect1d(keys[left & of_class], keys[right & of_class])
        concerned = of_class & np.isin(keys, both)
        patients[cls] = len(both)
        images[cls] = [int((concerned & left).sum()), int((concerned & right).sum())]
    return {"left": sides.left, "right": sides.right, "patients": patients, "images": images}


def _identical(data: Dataset, splits: Array) -> dict[str, Any]:
    groups = identical_files(data.digests)
    listed = [
        {
            "names": [data.records[i].name for i in group],
            "splits": splits[group].tolist(),
            "folds": data.folds[group].tolist(),
            "classes": [CLASSES[data.labels[i]] for i in group],
            "patients": sorted({data.records[i].patient for i in group}),
        }
        for group in groups
    ]
    return {
        "groups": len(groups),
        "files": sum(map(len, groups)),
        "in_split": {split: sum(set(g["splits"]) == {split} for g in listed) for split in SPLITS},
        "across_splits": sum(len(set(g["splits"])) > 1 for g in listed),
        "across_patients": sum(len(g["patients"]) > 1 for g in listed),
        "label_conflicts": sum(len(set(g["classes"])) > 1 for g in listed),
        "folds": [
            {"left": s.left, "right": s.right, "groups": sum(s.parted(g["folds"]) for g in listed)} for s in FOLD_SIDES
        ],
        "list": listed,
    }


def _near(data: Dataset, thumbnails: Array) -> dict[str, Any]:
    found = near_duplicates(thumbnails, data.digests)
    pairs = [_described(data, pair) for pair in found.pairs]
    copies = [pair for pair in pairs if pair["correlation"] >= COPY]
    others = [pair for pair in pairs[len(copies) :] if pair["same_patient"] is False]
    suspects = [pair for pair in others if pair["correlation"] >= SUSPECT]
    return {
        "compared": found.compared,
        "blank": found.blank,
        "candidates": found.candidates,
        "verified": len(pairs),
        "threshold": COPY,
        "suspect_threshold": SUSPECT,
        "copies": copies,
        "same_patient": sum(bool(pair["same_patient"]) for pair in copies),
        "across_classes": sum(len(set(pair["classes"])) > 1 for pair in copies),
        "folds": [
            {"left": s.left, "right": s.right, "pairs": sum(s.parted(pair["folds"]) for pair in copies)}
            for s in FOLD_SIDES
        ],
        "suspects": suspects,
        "unrelated_most": max((pair["correlation"] for pair in others[len(suspects) :]), default=None),
        "closest": pairs[len(copies) : len(copies) + CLOSEST],
    }


def _described(data: Dataset, pair: Pair) -> dict[str, Any]:
    first, second = data.records[pair.first], data.records[pair.second]
    return {
        "names": [first.name, second.name],
        "folds": [str(data.folds[pair.first]), str(data.folds[pair.second])],
        "classes": [CLASSES[first.label], CLASSES[second.label]],
        # None where a name tells no patient
        "same_patient": (first.kind, first.patient) == (second.kind, second.patient)
        if first.kind and second.kind
        else None,
        "correlation": round(pair.correlation, 4),
        "bits": pair.bits,
    }


def _shortcut_caveats(found: Findings) -> list[str]:
    figures = {
        "the files": found["together"] if found["from_files"] else None,
        f"the {found['image_size']} px images": found["together_working"],
    }
    told = [f"{short(figure['auroc'])} on {where}" for where, figure in figures.items() if figure]
    if not told:
        return []
    return [
        f"Sharpness, border and the like, without a look at the lungs, tell the classes apart: AUROC {' and '.join(told)} (train, cross-validated)."
    ]


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
