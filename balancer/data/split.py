"""Train, validation and test: grouped by patient, stratified by class, named by a hash."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from balancer.core.sealed import write_with_sum
from balancer.core.seeding import derive_seed


def carve_validation(labels: Sequence[int], groups: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Choose groups for validation, class by class.

    Args:
        labels: class of each image.
        groups: patient of each image; a group stays on one side. See :func:`merge_groups` for duplicates.
        fraction: share of each class's images for validation, in [0, 1).
        seed: the split seed.

    Returns:
        Boolean mask (n,), true for validation. Groups are taken in random order as long as they bring a class's count
        nearer to its share, so the count is off by less than the largest group. The first class of a group with images
        of several classes decides where the group goes.
    """
    labels_, chosen = np.asarray(labels), np.zeros(len(labels), dtype=bool)
    settled: dict[str, bool] = {}  # group -> in validation
    for label in sorted(set(labels_.tolist())):
        members: dict[str, list[int]] = defaultdict(list)
        for i in np.flatnonzero(labels_ == label).tolist():
            members[groups[i]].append(i)
        target = fraction * sum(map(len, members.values()))
        order = np.random.default_rng(derive_seed(seed, "split", int(label))).permutation(len(members))
        names = sorted(members)
        count = sum(len(group) for name, group in members.items() if settled.get(name))
        for k in order:
            group = members[names[k]]
            if names[k] not in settled:
                settled[names[k]] = abs(count + len(group) - target) < abs(count - target)
                count += len(group) * settled[names[k]]
            chosen[group] = settled[names[k]]
    return chosen


def patient_halves(groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of images in two halves that share no patient, for baselines of real against real.

    There is no seed: training and the report must halve the same images in the same way.
    """
    first = carve_validation([0] * len(groups), groups, 0.5, seed=0)
    return np.flatnonzero(first), np.flatnonzero(~first)


def merge_groups(patients: Sequence[str], digests: Sequence[str]) -> list[str]:
    """Return the group (n,) of each image: patients that share a byte-identical file become one group.

    The data set has 24 such groups of files inside train; without merging, copies could lie on both sides of the split.
    """
    parent = {p: p for p in patients}

    def find(p: str) -> str:
        while parent[p] != p:
            parent[p] = parent[parent[p]]
            p = parent[p]
        return p

    first: dict[str, str] = {}
    for patient, digest in zip(patients, digests, strict=True):
        a, b = find(patient), find(first.setdefault(digest, patient))
        parent[max(a, b)] = min(a, b)
    return [find(p) for p in patients]


def split_hash(names: Sequence[str], folds: Sequence[str], digests: Sequence[str]) -> str:
    """Return 16 hex digits that name the content of train and of validation."""
    rows = sorted(
        f"{fold}\t{name}\t{digest}" for name, fold, digest in zip(names, folds, digests, strict=True) if fold != "test"
    )
    return hashlib.sha256("\n".join(rows).encode(errors="surrogateescape")).hexdigest()[:16]


def write_split(
    path: Path,
    names: Sequence[str],
    folds: Sequence[str],
    labels: Sequence[str],
    patients: Sequence[str],
    digests: Sequence[str],
) -> None:
    """Write ``split.csv``, one row per image, and its SHA-256 beside it."""
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(["name", "fold", "label", "patient", "sha256"])
    rows.writerows(zip(names, folds, labels, patients, digests, strict=True))
    write_with_sum(path, buffer.getvalue())
