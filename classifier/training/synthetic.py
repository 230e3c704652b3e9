"""Synthetic images and their manifest: all that the classifier knows of a generator."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from balancer.core.errors import BalancerError
from balancer.core.marker import MARKER
from balancer.core.sealed import read_json
from balancer.core.settings import DataConfig
from balancer.data.coding import coding_note, dataset_coding, read_coding
from balancer.data.dataset import Dataset
from balancer.data.images import read_image
from balancer.data.manifest import ManifestRow, read_manifest
from balancer.data.records import sampling_unit

log = logging.getLogger("balancer")
Array = np.ndarray


@dataclass(frozen=True)
class SyntheticSet:
    """Images (n, size, size) uint8 and labels (n,) int64 in the manifest's order; of one class, unless joined."""

    path: Path
    images: Array
    labels: Array
    hashes: tuple[str, ...]  # SHA-256 of each file
    generator: str  # identifies the generator, and several sets must have different ones; empty if it is not known
    coding: str = ""  # what was done to the images because real files bear the marks of JPEG; empty if nothing

    @property
    def digest(self) -> str:
        """Return sixteen hex digits that identify these images."""
        return hashlib.sha256("".join([*self.hashes, self.coding]).encode()).hexdigest()[:16]

    def first(self, count: int) -> SyntheticSet:
        """Return the first ``count`` images."""
        return replace(self, images=self.images[:count], labels=self.labels[:count], hashes=self.hashes[:count])


def load_sets(
    paths: Sequence[str], data: Dataset, config: DataConfig, count: int | str, dose: float = 0.0
) -> list[SyntheticSet]:
    """Return one set per path, each of a different generator; arguments as for :func:`load_synthetic`.

    In a two-class task every set is of the minority class, one per GAN seed; else every set is of a class of its own.

    Raises:
        BalancerError: as :func:`load_synthetic` does, or if two sets come from one generator or share an image.
    """
    sets = [load_synthetic(Path(path), data, config, count, dose) for path in paths]
    pixels = [set(pixel_digests(s.images)) for s in sets]
    for (a, of_a), (b, of_b) in combinations(zip(sets, pixels, strict=True), 2):
        shared = len(of_a & of_b)
        if shared or (a.generator and a.generator == b.generator):
            why = f" ({shared} of {len(of_a)} images are the same)" if shared else ""
            raise BalancerError(
                f"{a.path} and {b.path} come from one generator{why}: they are not two GAN seeds;"
                " give sets of GANs trained with different --seed"
            )
    for unknown in (s.path for s in sets if not s.generator):
        log.log(
            logging.WARNING if len(sets) > 1 else logging.INFO,
            "%s has no report.json that names its GAN: the generator is not known, its images alone are compared",
            unknown,
        )
    return sets


def split_of(paths: Sequence[str]) -> str | None:
    """Return the hash of the split that the first of some sets was made under; None if there is none, or no manifest.

    :func:`load_sets` says what is wrong with a manifest.
    """
    try:
        return read_manifest(Path(paths[0]))[0].split_hash if paths else None
    except BalancerError:
        return None


def join(sets: Sequence[SyntheticSet], data: Dataset) -> SyntheticSet:
    """Return sets of different classes as one set.

    Raises:
        BalancerError: if two sets are of one class.
    """
    for a, b in combinations(sets, 2):
        if a.labels[0] == b.labels[0]:
            raise BalancerError(
                f"{a.path} and {b.path} both hold {data.classes[a.labels[0]]} images;"
                " give --synthetic one set of each class"
            )
    hashes = tuple(h for s in sets for h in s.hashes)
    images, labels = (np.concatenate([getattr(s, name) for s in sets]) for name in ("images", "labels"))
    coding = " ".join(dict.fromkeys(s.coding for s in sets if s.coding))
    return SyntheticSet(sets[0].path, images, labels, hashes, "".join(s.generator for s in sets), coding)


def load_synthetic(path: Path, data: Dataset, config: DataConfig, count: int | str, dose: float = 0.0) -> SyntheticSet:
    """Return the first images of a synthesis run, as many as the study needs.

    Args:
        path: a folder with ``manifest.csv``.
        data: the real images; the manifest must be of the same split. In a two-class task its images must be of the
            minority class, else of any one class.
        config: gives the working size.
        count: ``deficit`` (of the set's class), ``all`` or a number.
        dose: the largest dose, in deficits.

    Raises:
        BalancerError: if the manifest is missing, damaged or of another split or class, or images are too few, changed,
            missing, equal to one another, or copies of real images of validation or test.
    """
    if (path / "config.yaml").exists() and not (path / MARKER).exists():
        raise BalancerError(f"{path} is not finished; continue it with `balancer synthesize --resume {path}`")
    rows = read_manifest(path)
    splits = {row.split_hash for row in rows}
    if splits != {data.split_hash}:
        raise BalancerError(
            f"{path} was made under split {'/'.join(sorted(splits))}, {data.source} gives {data.split_hash}: it could"
            f" hold validation {sampling_unit(data.groups)}s; synthesize again from a GAN of this split, or give the"
            " same --data and settings"
        )
    label = _label(path, {row.class_name for row in rows}, data)
    deficit = data.deficits[label]
    needed = deficit if count == "deficit" else len(rows) if count == "all" else int(count)
    if needed < 1:
        raise BalancerError(
            f"{needed} synthetic images would be added (the training fold's deficit is {deficit});"
            " give --synthetic-count N of at least 1, or all"
        )
    needed = max(needed, round(dose * deficit))
    if needed > len(rows):
        raise BalancerError(
            f"the ablation needs {needed} synthetic images, {path / 'manifest.csv'} lists {len(rows)};"
            f" run `balancer synthesize --n {needed}`, or give --synthetic-count all"
        )
    images = _read_all(path, rows[:needed], data, config)
    hashes = tuple(row.sha256 for row in rows[:needed])
    synthetic = SyntheticSet(path, images, np.full(needed, label), hashes, _generator(path))
    return _as_real_files(synthetic, [path / row.file for row in rows[:needed]], data, label)


def _as_real_files(synthetic: SyntheticSet, files: list[Path], data: Dataset, label: int) -> SyntheticSet:
    """Return the images coded as the real files are, where a classifier could learn the format instead of the class."""
    size = data.images.shape[1]
    real, own = dataset_coding(data, label), read_coding(files, size)
    if not real.is_seen and not own.is_seen:
        return synthetic
    if not real.is_seen:
        log.warning(
            "%s holds JPEG files of the working size, %d px, and the real images do not: a classifier can learn the"
            " format; store the synthetic images as PNG before any JPEG coding",
            synthetic.path,
            size,
        )
        return synthetic
    note = coding_note("Synthetic images", real, size)
    log.info("%s: %s", synthetic.path, note)
    return replace(synthetic, images=real.of(synthetic.images), coding=note)


def _label(path: Path, classes: set[str], data: Dataset) -> int:
    """Return the label of a manifest's only class."""
    allowed = list(data.classes) if len(data.classes) > 2 else [data.classes[data.minority_class]]
    if len(classes) == 1 and classes <= set(allowed):
        return data.classes.index(next(iter(classes)))
    expected = f"one of {', '.join(allowed)}" if len(allowed) > 1 else f"{allowed[0]}, the minority class here"
    raise BalancerError(
        f"{path} holds {'/'.join(sorted(classes))} images; expected {expected};"
        f" give --synthetic a set of {' or '.join(allowed)}"
    )


def _generator(path: Path) -> str:
    """Return text that identifies the generator, which is the GAN's settings; empty if no report names any."""
    try:
        report = read_json(path / "report.json", "synthesize again")
    except FileNotFoundError:
        return ""
    return json.dumps(report["gan_config"], sort_keys=True) if "gan_config" in report else ""


def _read(path: Path, row: ManifestRow, config: DataConfig) -> tuple[Array, str]:
    """Return the pixels (size, size) uint8 of an image, whose file must be the listed one, and its size and mode."""
    file = path / row.file
    try:
        if file.exists() and not file.is_file():  # reading a pipe would wait for ever
            raise OSError("it is no regular file")
        if hashlib.sha256(file.read_bytes()).hexdigest() != row.sha256:
            raise BalancerError(f"{file} is not the image that the manifest lists (SHA-256 differs); synthesize again")
        with Image.open(file) as image:
            if min(image.size) < config.image_size:  # an enlarged image is blurred, which would reveal its class
                raise BalancerError(
                    f"{file} is {image.size[0]} x {image.size[1]} px, the classifier works at {config.image_size} px;"
                    f" synthesize at that size, or give --image-size {min(image.size)}"
                )
            kind = f"{image.size[0]} x {image.size[1]} px of mode {image.mode}"
        return read_image(file, config.image_size, config.resize), kind
    except OSError as error:
        raise BalancerError(f"{file}, listed in the manifest, cannot be read ({error}); synthesize again") from error


def _read_all(path: Path, rows: Sequence[ManifestRow], data: Dataset, config: DataConfig) -> Array:
    """Return the pixels (n, size, size) uint8 of a set.

    Raises:
        BalancerError: if an image is of another size or mode than most, is equal to another image, or is a copy of a
            real image of validation or test.
    """
    images, kinds = zip(*(_read(path, row, config) for row in rows), strict=True)
    usual: str = Counter(kinds).most_common(1)[0][0]
    if odd := [f"{path / row.file} is {kind}" for row, kind in zip(rows, kinds, strict=True) if kind != usual]:
        raise BalancerError(
            f"{odd[0]}, most images of the set are {usual}: a classifier can learn the difference ({len(odd)} of "
            f"{len(rows)} images differ); give images of one size and mode"
        )
    digests = pixel_digests(images)
    first: dict[str, str] = {}  # file by pixels
    pairs = [(first[d], r.file) for d, r in zip(digests, rows, strict=True) if first.setdefault(d, r.file) != r.file]
    if pairs:
        raise BalancerError(
            f"{len(pairs)} of {len(rows)} images of {path} are equal to another, first {pairs[0][1]} to {pairs[0][0]}: "
            "they would count as images of their own; synthesize again, from a GAN that has not collapsed"
        )
    _refuse_copies(path, rows, digests, data)
    return np.stack(images)


def _refuse_copies(path: Path, rows: Sequence[ManifestRow], digests: Sequence[str], data: Dataset) -> None:
    """Refuse copies of real images that the classifier must not train on; warn of copies of training images."""
    real = {fold: data.indices(fold) for fold in ("test", "val", "train")}
    for fold, index in real.items():
        known = {*pixel_digests(data.images[index]), *(data.digests[i] for i in index)}
        copies = [r.file for d, r in zip(digests, rows, strict=True) if d in known or r.sha256 in known]
        if not copies:
            continue
        what = f"{len(copies)} of {len(rows)} images of {path} are copies of real {fold} images, first {copies[0]}"
        if fold != "train":
            raise BalancerError(
                f"{what}: the classifier would train on what it is chosen or tested on; give synthetic images"
            )
        log.warning("%s", what)


def pixel_digests(images: Iterable[Array]) -> list[str]:
    """Return the SHA-256 of the pixels of each image."""
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
