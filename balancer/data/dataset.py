"""A data set ready for use: decoded, cleaned, split."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from balancer.core import progress
from balancer.core.errors import BalancerError
from balancer.core.settings import PHANTOM, DataConfig
from balancer.data import cache, phantom
from balancer.data.folder import CLASSES, TASKS, Record, find_root, read_folder, told_apart
from balancer.data.images import read_image, resize_grey, to_grey
from balancer.data.npz import read_npz
from balancer.data.split import carve_validation, merge_groups, split_hash, write_split

log = logging.getLogger("balancer")
DEFAULT_VAL_FRACTION = 0.15
PHANTOM_NOTICE = "PHANTOM DATA: drawings, not X-rays. No figure from them says anything about patients."


@dataclass(frozen=True)
class Dataset:
    """Images and what is known of each, all in the same order.

    ``images`` (n, size, size) uint8, a read-only memory map; ``labels`` (n,) int64 indices into ``classes``; ``folds``
    (n,) of ``train``, ``val``, ``test``.
    """

    source: str  # the path, or "phantom"
    images: np.ndarray
    labels: np.ndarray
    folds: np.ndarray
    records: list[Record]
    groups: list[str]  # patients, merged where files are identical
    digests: list[str]
    split_hash: str
    fingerprint: str  # of names and contents of every file
    bad: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what a report must say of this data
    classes: tuple[str, ...] = CLASSES  # of the task

    def indices(self, fold: str, label: int | None = None) -> np.ndarray:
        """Positions of a fold's images, of one class if given."""
        mask = self.folds == fold
        return np.flatnonzero(mask if label is None else mask & (self.labels == label))

    def counts(self, fold: str) -> tuple[int, ...]:
        """Images per class in a fold."""
        return tuple(len(self.indices(fold, label)) for label in range(len(self.classes)))

    @property
    def minority_class(self) -> int:
        return int(np.argmin(self.counts("train")))

    @property
    def deficits(self) -> tuple[int, ...]:
        """How many images each class lacks in the training fold to be as many as the largest."""
        counts = self.counts("train")
        return tuple(max(counts) - n for n in counts)

    @property
    def deficit(self) -> int:
        """How many minority images the training fold lacks."""
        return max(self.deficits)

    @property
    def is_phantom(self) -> bool:
        return self.source == PHANTOM

    def as_binary(self) -> Dataset:
        """The same images in the same folds, with every pneumonia as PNEUMONIA: for what asks about two classes."""
        if self.classes == CLASSES:
            return self
        note = f"The split is that of {len(self.classes)} classes ({', '.join(self.classes)}); {' and '.join(self.classes[1:])} are PNEUMONIA here."
        labels = np.minimum(self.labels, 1)
        records = [replace(r, label=min(r.label, 1)) for r in self.records]
        return replace(self, labels=labels, records=records, classes=CLASSES, notes=[*self.notes, note])

    def write_split(self, path: Path) -> None:
        write_split(
            path,
            [r.name for r in self.records],
            self.folds.tolist(),
            [self.classes[r.label] for r in self.records],
            [r.patient for r in self.records],
            self.digests,
        )

    def describe(self) -> dict[str, object]:
        """The facts about the data that a report or env.json holds."""
        return {
            "source": self.source,
            "counts": {f: dict(zip(self.classes, self.counts(f), strict=True)) for f in ("train", "val", "test")},
            "patients": len(set(self.groups)),
            "image_size": int(self.images.shape[1]),
            "split_hash": self.split_hash,
            "fingerprint": self.fingerprint,
            "unreadable": [list(b) for b in self.bad],
            "notes": self.notes,
        }


def load_dataset(config: DataConfig, require: Iterable[str] = ("train",)) -> Dataset:
    """Read, decode (or take from the cache) and split a data set.

    Args:
        config: with ``path`` resolved.
        require: folds that the caller needs images of, of every class.

    Raises:
        BalancerError: the data are missing, of another layout, or too damaged, or do not tell the classes of the task.
    """
    notes: list[str] = []
    path = config.path or PHANTOM
    if path == PHANTOM:
        log.warning(PHANTOM_NOTICE)
        notes.append(PHANTOM_NOTICE)
        records, decoded = _from_folder(phantom_folder(), config)
    elif Path(path).suffix.lower() == ".npz":
        records, decoded = _from_npz(Path(path), config, notes)
    else:
        records, decoded = _from_folder(find_root(Path(path)), config)
    if not decoded.kept:
        raise BalancerError(
            f"none of the {len(records)} files of {path} can be read ({decoded.bad[0][1]}); check --data"
        )
    records = [records[i] for i in decoded.kept]
    if config.task == "multiclass":
        records = told_apart(records)
    for name, reason in decoded.bad:
        log.warning("left out: %s cannot be read (%s)", name, reason)
    groups = merge_groups([r.patient for r in records], decoded.digests)
    folds = _folds(records, groups, config, path.lower().endswith(".npz"), notes)
    names = [r.name for r in records]
    everything = "\n".join(f"{n}\t{d}" for n, d in zip(names, decoded.digests, strict=True))
    data = Dataset(
        source=path,
        images=decoded.images,
        labels=np.array([r.label for r in records], dtype=np.int64),
        folds=folds,
        records=records,
        groups=groups,
        digests=decoded.digests,
        split_hash=split_hash(names, folds.tolist(), decoded.digests),
        fingerprint=hashlib.sha256(everything.encode()).hexdigest()[:16],
        bad=decoded.bad,
        notes=notes,
        classes=TASKS[config.task],
    )
    _check_folds(data, require)
    notes += _shared_numbers(data)
    log.info(
        "data: %s; train %s, val %s, test %s (%s); split %s",
        path,
        *(" + ".join(map(str, data.counts(fold))) for fold in ("train", "val", "test")),
        " + ".join(data.classes),
        data.split_hash,
    )
    return data


def phantom_folder() -> Path:
    """The drawn data set, made on first use (seconds) and kept in the cache."""
    spec = phantom.PhantomSpec()
    folder = cache.cache_dir() / f"phantom-{phantom.FORMAT}-{spec.size}-{spec.seed}"
    total = sum((*spec.train, *spec.val, *spec.test))
    with progress.bar(total, "drawing the phantom set", "image") as bar:

        def advance(written: int) -> None:
            bar.update(written - bar.n)

        try:
            return phantom.write_phantom(folder, spec, advance)
        except OSError as error:
            raise BalancerError(
                f"the phantom set cannot be drawn ({error}); remove {folder} or set BALANCER_CACHE"
            ) from error


def _from_folder(root: Path, config: DataConfig) -> tuple[list[Record], cache.Decoded]:
    records = read_folder(root)
    names = [r.name for r in records]
    decoded = cache.decode_all(
        names,
        cache.stat_stamp(root, names),
        lambda i: hashlib.sha256((root / names[i]).read_bytes()).hexdigest(),
        lambda i: read_image(root / names[i], config.image_size, config.resize),
        {"size": config.image_size, "resize": config.resize},
        config.max_bad,
    )
    return records, decoded


def _from_npz(path: Path, config: DataConfig, notes: list[str]) -> tuple[list[Record], cache.Decoded]:
    if config.task != "binary":
        raise BalancerError(
            f"{path} has two classes, {' and '.join(CLASSES)}, and no file names that tell more; leave out --task {config.task}, "
            "or give a folder of files such as person23_bacteria_86.jpeg"
        )
    records, arrays = read_npz(path)
    notes.append("The archive names no patients: the split is at image level and may part images of one patient.")
    side = min(min(split.shape[1:3]) for split in arrays.values())
    if side < config.image_size:
        notes.append(
            f"The archive's images are {side} px and were enlarged to {config.image_size} px, which adds no detail: figures are those of "
            f"{side} px images. --image-size {side} works at their own size."
        )
        log.warning(notes[-1])
    images = [image for split in arrays.values() for image in split]
    decoded = cache.decode_all(
        [r.name for r in records],
        cache.stat_stamp(path.parent, [path.name]),
        lambda i: hashlib.sha256(images[i].tobytes()).hexdigest(),
        lambda i: resize_grey(to_grey(Image.fromarray(images[i])), config.image_size, config.resize),
        {"size": config.image_size, "resize": config.resize},
        config.max_bad,
    )
    return records, decoded


def _folds(
    records: Sequence[Record], groups: Sequence[str], config: DataConfig, npz: bool, notes: list[str]
) -> np.ndarray:
    """Carve validation out of train and val together; test is never touched.

    A fraction of 0, or an archive with a validation split of its own and no fraction given, keeps the
    source's own train and val as they are.
    """
    folds = np.array([r.split for r in records])
    own = bool((folds == "val").any())
    fraction = config.val_fraction
    if fraction is None:
        fraction = 0.0 if npz and own else DEFAULT_VAL_FRACTION
    if fraction > 0:
        pool = np.flatnonzero(folds != "test").tolist()
        chosen = carve_validation(
            [records[i].label for i in pool], [groups[i] for i in pool], fraction, config.split_seed
        )
        folds[pool] = np.where(chosen, "val", "train")
    elif own and not npz:
        notes.append(
            f"No validation was carved: the source's own {int((folds == 'val').sum())} validation images are used."
        )
    return folds


def _shared_numbers(data: Dataset) -> list[str]:
    """A caveat where patient numbers occur on both sides of the official test split."""
    seen = [
        {r.patient for r, fold in zip(data.records, data.folds, strict=True) if (fold == "test") == test}
        for test in (True, False)
    ]
    shared = [sum(p.startswith(f"{cls}-") for p in seen[0] & seen[1]) for cls in CLASSES]
    if not any(shared):
        return []
    numbers = " and ".join(f"{n} {cls}" for n, cls in zip(shared, CLASSES, strict=True))
    return [
        f"{numbers} patient numbers occur both in test and outside it; whether they are the same children is not known."
    ]


def _check_folds(data: Dataset, require: Iterable[str]) -> None:
    if not any(data.counts("test")):
        log.warning("%s has no test images: a classifier cannot be evaluated on it", data.source)
    if not any(data.counts("train")) and any(r.split == "train" for r in data.records):
        raise BalancerError(
            f"validation takes every image of {data.source} and leaves none to train; lower --val-fraction"
        )
    for fold in require:
        counts = data.counts(fold)
        if not any(counts):
            what = (
                "raise --val-fraction above 0" if fold == "val" else f"add a {fold} folder with {' and '.join(CLASSES)}"
            )
            raise BalancerError(f"{data.source} has no {fold} images; {what}")
        if not all(counts):
            held = [f"{n} {cls}" for n, cls in zip(counts, data.classes, strict=True)]
            raise BalancerError(
                f"{data.source}: {fold} holds {', '.join(held[:-1])} and {held[-1]} images; expected {'both' if len(held) == 2 else 'some of each'}"
            )
