"""Train, validation and test: grouped by patient, stratified by class, named by a hash."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from balancer.core.sealed import write_with_sum
from balancer.core.seeding import derive_seed
from balancer.data.digests import equal_positions

DEVELOPMENT = ("train", "val")  # folds that training and choosing may use; their images name a split


def carve_validation(
    labels: Sequence[int],
    groups: Sequence[str],
    fraction: float,
    seed: int,
    left: int | None = None,
    stream: str = "split",
) -> np.ndarray:
    """Choose groups for validation, class by class.

    Args:
        labels: class of each image.
        groups: patient of each image; a group stays on one side. See :func:`merge_groups` for duplicates.
        fraction: share of each class's images for validation, in [0, 1).
        seed: the split seed.
        left: groups of a class that are not chosen, at least, if it has more than these; then at least one is chosen.
            None: the share alone decides, and a small class may have no group on one of the sides.
        stream: name of the random stream.

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
        order = np.random.default_rng(derive_seed(seed, stream, int(label))).permutation(len(members))
        names = sorted(members)
        count = sum(len(group) for name, group in members.items() if settled.get(name))
        free = len(members) - (left or 0) - sum(bool(settled.get(name)) for name in members)
        open_ = [names[k] for k in order if names[k] not in settled]
        for name in open_:
            size = len(members[name])
            settled[name] = free > 0 and abs(count + size - target) < abs(count - target)
            count, free = count + size * settled[name], free - settled[name]
        if left is not None and count == 0 and free > 0 and open_:
            settled[min(open_, key=lambda name: len(members[name]))] = True
        for name, group in members.items():
            chosen[group] = settled[name]
    return chosen


def hold_out_sources(sources: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Choose whole sources for test: the mask (n,) of their images, as near to a share of the images as sources allow.

    Sources are taken in random order as long as they bring the count nearer to the share. If each is larger than that
    allows, the smallest is taken. One source at least stays on either side.
    """
    counts = Counter(sources)
    names = sorted(counts)
    target, count, chosen = fraction * len(sources), 0, set[str]()
    for k in np.random.default_rng(derive_seed(seed, "sources")).permutation(len(names)):
        name = names[k]
        if len(chosen) < len(names) - 1 and abs(count + counts[name] - target) < abs(count - target):
            chosen.add(name)
            count += counts[name]
    if not chosen and len(names) > 1:
        chosen.add(min(names, key=lambda name: (counts[name], name)))
    return np.array([source in chosen for source in sources])


def patient_halves(groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of images in two halves that share no patient, for baselines of real against real.

    There is no seed: training and the report must halve the same images in the same way.
    """
    first = carve_validation([0] * len(groups), groups, 0.5, seed=0)
    return np.flatnonzero(first), np.flatnonzero(~first)


def merge_groups(patients: Sequence[str], *shared: Sequence[str]) -> list[str]:
    """Return the group (n,) of each image: patients whose images share anything become one group.

    What is shared is the digest of a file, or the number of a near duplicate's group: the chest set has 24 groups of
    byte-identical files inside train, and without merging, copies could lie on both sides of the split.
    """
    parent = {p: p for p in patients}

    def find(p: str) -> str:
        while parent[p] != p:
            parent[p] = parent[parent[p]]
            p = parent[p]
        return p

    for first, *others in (positions for keys in shared for positions in equal_positions(keys)):
        for other in others:
            a, b = find(patients[first]), find(patients[other])
            parent[max(a, b)] = min(a, b)
    return [find(p) for p in patients]


def split_hash(names: Iterable[str], folds: Iterable[str], digests: Sequence[str]) -> str:
    """Return 16 hex digits that name the content of train and of validation.

    They are those of the rows of fold, name and digest, sorted by fold and name; names are unique and hold no control
    characters. The rows of a large set would fill the memory; they are never held.
    """
    names, folds = list(names), list(folds)
    if not len(names) == len(folds) == len(digests):
        raise ValueError(f"{len(names)} names, {len(folds)} folds and {len(digests)} digests; expected one of each")
    return hash_of(
        f"{fold}\t{names[i]}\t{digests[i]}"
        for fold in sorted(DEVELOPMENT)
        for i in sorted((i for i, of in enumerate(folds) if of == fold), key=names.__getitem__)
    )


def hash_of(lines: Iterable[str]) -> str:
    """Return the first 16 hex digits of the SHA-256 of lines, which are never held as one text."""
    digest = hashlib.sha256()
    for i, line in enumerate(lines):
        digest.update(f"{'' if i == 0 else chr(10)}{line}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def write_split(
    path: Path,
    names: Sequence[str],
    folds: Sequence[str],
    labels: Sequence[str],
    patients: Sequence[str],
    digests: Sequence[str],
    sources: Sequence[str],
) -> None:
    """Write ``split.csv``, one row per image, and its SHA-256 beside it."""
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(["name", "fold", "label", "patient", "sha256", "source"])
    rows.writerows(zip(names, folds, labels, patients, digests, sources, strict=True))
    write_with_sum(path, buffer.getvalue())
