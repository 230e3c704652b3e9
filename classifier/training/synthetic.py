"""Synthetic images and their manifest: all that the classifier knows of a generator."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from balancer.core.errors import BalancerError
from balancer.core.marker import MARKER
from balancer.core.pixels import COLOUR, GREY, WORDS
from balancer.core.run_names import SYNTHESES
from balancer.core.saved_runs import read_environment
from balancer.core.sealed import DamagedFile, read_json
from balancer.core.settings import DataConfig
from balancer.data.coding import coding_note, dataset_coding, read_coding
from balancer.data.colour import GREY_MODES
from balancer.data.dataset import Dataset
from balancer.data.images import looks_coloured, read_image
from balancer.data.manifest import ManifestRow, read_manifest
from balancer.data.records import sampling_unit
from balancer.reporting.numbers import listed, plural

log = logging.getLogger("balancer")
Array = np.ndarray
SURPLUS, ADVISED = 1.5, 2  # images that a set must hold, and should hold, for each that a filter keeps


@dataclass(frozen=True)
class SyntheticSet:
    """Images, as those of the data, and labels (n,) int64: class by class, each in the manifest's order."""

    path: Path  # the folder with the manifest; of a set from several folders the first
    images: Array
    labels: Array
    hashes: tuple[str, ...]  # SHA-256 of each file
    generator: str  # identifies the generator, and several sets must have different ones; empty if it is not known
    coding: str = ""  # what was done to the images because real files bear the marks of JPEG; empty if nothing
    others: tuple[Path, ...] = ()  # further folders
    caveat: str = ""  # what a report must say of a generator that is not of this toolkit

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return the folders that the images come from."""
        return (self.path, *self.others)

    @property
    def held(self) -> list[int]:
        """Return the classes that the set holds images of, in the order of the labels."""
        return sorted(set(self.labels.tolist()))

    @property
    def digest(self) -> str:
        """Return sixteen hex digits that identify these images."""
        return hashlib.sha256("".join([*self.hashes, self.coding]).encode()).hexdigest()[:16]

    def of_class(self, label: int) -> SyntheticSet:
        """Return the images of one class."""
        counts = [0] * (label + 1)
        counts[label] = len(self.labels)
        return self.first(counts)

    def first(self, counts: Sequence[int]) -> SyntheticSet:
        """Return the first images of each class, as many as ``counts`` says by label."""
        return self.at(np.sort(np.concatenate([np.flatnonzero(self.labels == k)[:n] for k, n in enumerate(counts)])))

    def at(self, index: Array) -> SyntheticSet:
        """Return the images at some positions."""
        hashes = tuple(self.hashes[i] for i in index)
        return replace(self, images=self.images[index], labels=self.labels[index], hashes=hashes)


def lacking(data: Dataset) -> list[int]:
    """Return the classes that lack images in the training fold; of two classes that are even, the minority class."""
    return [label for label, n in enumerate(data.deficits) if n] or [data.minority_class]


def load_sets(
    paths: Sequence[str],
    data: Dataset,
    config: DataConfig,
    count: int | str,
    dose: float = 0.0,
    of_every_class: Mapping[int, int] | None = None,
    with_surplus: bool = False,
) -> list[SyntheticSet]:
    """Return the synthetic sets, one for each GAN seed; arguments as for :func:`load_synthetic`.

    With two classes, every path is a set of the minority class, unless the study needs images of both. With more, a
    set may come from several paths, which hold different classes; the second path with images of a class begins the
    second set.

    Raises:
        BalancerError: as :func:`load_synthetic` does, if two sets come from one generator or share an image, or if a
            class has fewer sets than another.
    """
    sets = [load_synthetic(Path(path), data, config, count, dose, of_every_class or {}, with_surplus) for path in paths]
    _refuse_same_generator(sets)
    for unknown in (s.path for s in sets if not s.generator):
        log.log(
            logging.WARNING if len(sets) > 1 else logging.INFO,
            "%s has no report.json that names its GAN: the generator is not known, its images alone are compared",
            unknown,
        )
    return sets if len(data.classes) == 2 and not of_every_class else _by_gan_seed(sets, data)


def split_of(paths: Sequence[str]) -> str | None:
    """Return the hash of the split that the first of some sets was made under; None if there is none, or no manifest.

    :func:`load_sets` says what is wrong with a manifest.
    """
    try:
        return read_manifest(Path(paths[0]))[0].split_hash if paths else None
    except BalancerError:
        return None


def _refuse_same_generator(sets: Sequence[SyntheticSet]) -> None:
    pixels = [set(pixel_digests(s.images)) for s in sets]
    for (a, of_a), (b, of_b) in combinations(zip(sets, pixels, strict=True), 2):
        shared, same_class = len(of_a & of_b), not {*a.held}.isdisjoint(b.held)
        if shared or (same_class and a.generator and a.generator == b.generator):
            why = f" ({shared} of {len(of_a)} images are the same)" if shared else ""
            raise BalancerError(
                f"{a.path} and {b.path} come from one generator{why}: they are not two GAN seeds;"
                " give sets of GANs trained with different --seed"
            )


def _by_gan_seed(sets: Sequence[SyntheticSet], data: Dataset) -> list[SyntheticSet]:
    """Return the images of all paths as sets that hold the same classes: the first of each class, the second, ..."""
    places = {label: [i for i, s in enumerate(sets) if label in s.held] for label in range(len(data.classes))}
    numbers = {data.classes[label]: len(holding) for label, holding in places.items() if holding}
    if len(set(numbers.values())) > 1:
        given = listed([f"{plural(n, 'set')} of {name}" for name, n in numbers.items()])
        raise BalancerError(f"--synthetic names {given}; give as many of each class, one for each GAN seed")
    joined = []
    for k in range(max(numbers.values())):
        parts = sorted((holding[k], label) for label, holding in places.items() if holding)
        joined.append(join([sets[i].of_class(label) for i, label in parts]))
    return joined


def join(sets: Sequence[SyntheticSet]) -> SyntheticSet:
    """Return sets of different classes as one set."""
    if len(sets) == 1:
        return sets[0]
    hashes = tuple(h for s in sets for h in s.hashes)
    images, labels = (np.concatenate([getattr(s, name) for s in sets]) for name in ("images", "labels"))
    coding = " ".join(dict.fromkeys(s.coding for s in sets if s.coding))
    path, *others = dict.fromkeys(path for s in sets for path in s.paths)
    generator = "".join(dict.fromkeys(s.generator for s in sets))
    caveat = " ".join(dict.fromkeys(s.caveat for s in sets if s.caveat))
    return SyntheticSet(path, images, labels, hashes, generator, coding, tuple(others), caveat)


def load_synthetic(
    path: Path,
    data: Dataset,
    config: DataConfig,
    count: int | str,
    dose: float = 0.0,
    of_every_class: Mapping[int, int] = MappingProxyType({}),
    with_surplus: bool = False,
) -> SyntheticSet:
    """Return the first images of each class of a synthesis run, as many as the study needs.

    Args:
        path: a folder with ``manifest.csv``.
        data: the real images; the manifest must be of the same split. With two classes its images must be of the
            minority class, else of one class or several.
        config: gives the working size.
        count: ``deficit`` (of each class), ``all`` or a number of each class.
        dose: the largest dose, in deficits.
        of_every_class: images of each class, by label, that regimes need which add some to every class.
        with_surplus: whether to read all images of the classes that lack some, of which a filter keeps a part.

    Raises:
        BalancerError: if the manifest is missing, damaged or of another split or class, or images are too few, changed,
            missing, equal to one another, or copies of real images of validation or test.
    """
    if (path / "config.yaml").exists() and not (path / MARKER).exists():
        raise BalancerError(f"{path} is not finished; continue it with `balancer {_command(path)} --resume {path}`")
    rows = read_manifest(path)
    held = _labels(path, rows, data, any_class=len(data.classes) > 2 or bool(of_every_class))
    made_under = {(row.split_hash, data.classes.index(row.class_name)) for row in rows}
    if others := {split for split, label in made_under if not data.fits_split(split, label)}:
        raise BalancerError(
            f"{path} was made under split {'/'.join(sorted(others))}, {data.source} gives {data.split_hash}: it could"
            f" hold validation {sampling_unit(data.groups)}s; synthesize again from a GAN of this split, or give the"
            " same --data and settings"
        )
    by_class = {label: [r for r in rows if r.class_name == data.classes[label]] for label in held}
    chosen = _needed(path, by_class, data, count, dose, of_every_class, with_surplus)
    images, (generator, caveat) = _read_all(path, [r for of in chosen.values() for r in of], data, config), _maker(path)
    sets, begin = [], 0
    for label, of_class in chosen.items():
        hashes, end = tuple(row.sha256 for row in of_class), begin + len(of_class)
        labels = np.full(len(of_class), label)
        synthetic = SyntheticSet(path, images[begin:end], labels, hashes, generator, caveat=caveat)
        sets.append(_as_real_files(synthetic, [path / row.file for row in of_class], data, label))
        begin = end
    return join(sets)


def _needed(
    path: Path,
    by_class: Mapping[int, list[ManifestRow]],
    data: Dataset,
    count: int | str,
    dose: float,
    of_every_class: Mapping[int, int],
    with_surplus: bool,
) -> dict[int, list[ManifestRow]]:
    """Return the rows of each class that the study needs; a class that needs none is left out."""
    deficits, counts = {label: data.deficits[label] for label in by_class}, {}
    for label, rows in by_class.items():
        counts[label] = deficits[label] if count == "deficit" else len(rows) if count == "all" else int(count)
        if with_surplus and label in lacking(data):
            _check_surplus(path, counts[label], rows, data.classes[label])
        counts[label] = max(counts[label], of_every_class.get(label, counts[label]))
    if max(counts.values()) < 1:
        raise BalancerError(
            f"{max(counts.values())} synthetic images would be added (the training fold's deficit is"
            f" {max(deficits.values())}); give --synthetic-count N of at least 1, or all"
        )
    chosen = {}
    for label, rows in by_class.items():
        needed, name = max(counts[label], round(dose * deficits[label])), data.classes[label]
        if needed > len(rows):
            what = "synthetic images" if len(by_class) == 1 else f"synthetic {name} images"
            raise BalancerError(
                f"the ablation needs {needed} {what}, {path / 'manifest.csv'} lists {len(rows)};"
                f" {_more(path, needed)}, or give --synthetic-count all"
            )
        if needed < 1:
            log.info("%s: its %d %s images are not used, since the class lacks none", path, len(rows), name)
        else:
            chosen[label] = rows if with_surplus and label in lacking(data) else rows[:needed]
    return chosen


def _check_surplus(path: Path, kept: int, rows: Sequence[ManifestRow], name: str) -> None:
    """Refuse a set that holds too few images of a class for a filter that keeps some of them."""
    if len(rows) < (least := math.ceil(SURPLUS * kept)):
        raise BalancerError(
            f"regime gan_filtered keeps {kept} of {least} or more synthetic {name} images, {path / 'manifest.csv'}"
            f" lists {len(rows)}; {_more(path, ADVISED * kept)}, or leave the regime out"
        )


def _as_real_files(synthetic: SyntheticSet, files: list[Path], data: Dataset, label: int) -> SyntheticSet:
    """Return the images coded as the real files are, where a classifier could learn the format instead of the class."""
    size = data.images.shape[1]
    real, own = dataset_coding(data, label), read_coding(files, size, data.channels)
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


def _labels(path: Path, rows: Sequence[ManifestRow], data: Dataset, any_class: bool) -> list[int]:
    """Return the labels of a manifest's classes, which must be the minority class unless any class may be there."""
    classes = {row.class_name for row in rows}
    allowed = list(data.classes) if any_class else [data.classes[data.minority_class]]
    if classes <= set(allowed):
        return sorted(data.classes.index(name) for name in classes)
    expected = f"one of {', '.join(allowed)}" if len(allowed) > 1 else f"{allowed[0]}, the minority class here"
    raise BalancerError(
        f"{path} holds {'/'.join(sorted(classes))} images; expected {expected};"
        f" give --synthetic a set of {' or '.join(allowed)}"
    )


def _maker(path: Path) -> tuple[str, str]:
    """Return text that identifies the generator, empty if no report does, and what a report must say of it.

    The settings of a GAN of this toolkit identify the generator. The SHA-256 of its weights identifies another one.
    """
    try:
        report = read_json(path / "report.json", "synthesize again")
    except FileNotFoundError:
        return "", ""
    imported = report.get("imported")
    if not isinstance(imported, dict):
        return (json.dumps(report["gan_config"], sort_keys=True) if "gan_config" in report else ""), ""
    caveat = (
        f"The synthetic images of `{path.name}` were imported (generator: {imported.get('generator') or 'not named'})."
        " Nothing shows that their generator learnt from the training fold alone."
    )
    return str(imported.get("checkpoint_sha256") or ""), caveat


def _command(path: Path) -> str:
    """Return the command whose run holds the manifest: ``import``, or else ``synthesize``."""
    try:
        command = read_environment(path).command
    except (BalancerError, OSError):
        return "synthesize"
    return command if command in SYNTHESES else "synthesize"


def _more(path: Path, needed: int) -> str:
    """Return how to get a set with as many images as are needed, for a message."""
    return "import more images" if _command(path) == "import" else f"run `balancer synthesize --n {needed}`"


def _read(path: Path, row: ManifestRow, config: DataConfig, channels: int) -> tuple[Array, str]:
    """Return the pixels of an image, whose file must be the listed one, and its size and mode."""
    file = path / row.file
    try:
        if file.exists() and not file.is_file():  # reading a pipe would wait for ever
            raise OSError("it is no regular file")
        if hashlib.sha256(file.read_bytes()).hexdigest() != row.sha256:
            raise DamagedFile(file, "it is not the image that the manifest lists (SHA-256 differs)", "synthesize again")
        with Image.open(file) as image:
            if min(image.size) < config.image_size:  # an enlarged image is blurred, which would reveal its class
                raise BalancerError(
                    f"{file} is {image.size[0]} x {image.size[1]} px, the classifier works at {config.image_size} px;"
                    f" synthesize at that size, or give --image-size {min(image.size)}"
                )
            kind = f"{image.size[0]} x {image.size[1]} px of mode {image.mode}"
            in_colour = image.mode not in GREY_MODES
        if in_colour != (channels == COLOUR) and (channels == COLOUR or looks_coloured(file)):
            raise BalancerError(
                f"{file} is in {WORDS[COLOUR if in_colour else GREY]}, the real images are read in {WORDS[channels]}: a"
                f" classifier would learn the difference; synthesize again from a GAN of these data, or give --channels"
                f" {COLOUR if in_colour else GREY}"
            )
        return read_image(file, config.image_size, config.resize, channels=channels), kind
    except OSError as error:
        problem = f"it is listed in the manifest, and cannot be read ({error.strerror or error})"
        raise DamagedFile(file, problem, "synthesize again") from error


def _read_all(path: Path, rows: Sequence[ManifestRow], data: Dataset, config: DataConfig) -> Array:
    """Return the pixels of a set, (n, size, size) or (n, size, size, 3) uint8.

    Raises:
        BalancerError: if an image is of another size or mode than most, is equal to another image, or is a copy of a
            real image of validation or test.
    """
    images, kinds = zip(*(_read(path, row, config, data.channels) for row in rows), strict=True)
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
