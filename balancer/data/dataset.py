"""A data set ready for use: decoded, cleaned, split."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from balancer.core.errors import BalancerError
from balancer.core.files import locked, remove
from balancer.core.preview import Undecoded
from balancer.core.settings import PHANTOM, DataConfig
from balancer.data import cache, phantom
from balancer.data.caveats import copies_note, patients_note, shared_numbers, unreadable_note
from balancer.data.chest import CLASSES, TASKS, find_root, list_folder, multiclass_records
from balancer.data.decoded import Decoded, Reader, file_reader
from balancer.data.images import Decoding, Ranges, resize_grey, to_grey
from balancer.data.listing import LeftOut, left_out_note, printable
from balancer.data.npz import read_npz
from balancer.data.records import SPLITS, Record, is_patient
from balancer.data.split import carve_validation, merge_groups, split_hash, write_split

log = logging.getLogger("balancer")
DEFAULT_VAL_FRACTION = 0.15
LISTED = 100  # names of files that are not read, in env.json
PHANTOM_NOTICE = "PHANTOM DATA: drawings, not X-rays. No figure from them says anything about patients."


@dataclass(frozen=True)
class Dataset:
    """Images and what is known of each, all in the same order."""

    source: str  # the path, or "phantom"
    images: np.ndarray = field(repr=False)  # (n, size, size) uint8, a read-only memory map
    labels: np.ndarray = field(repr=False)  # (n,) int64, indices into ``classes``
    folds: np.ndarray = field(repr=False)  # (n,) of "train", "val", "test"
    records: list[Record] = field(repr=False)
    groups: list[str] = field(repr=False)  # patients; those with identical files are merged
    digests: list[str] = field(repr=False)  # SHA-256 of each file
    split_hash: str
    fingerprint: str  # of names and contents of every file
    bad: list[tuple[str, str]] = field(default_factory=list)  # (name, reason) of every unreadable file
    left_out: list[LeftOut] = field(default_factory=list)  # what lies in the folder and is not read
    ranges: dict[str, float] = field(default_factory=dict)  # of samples of more than 8 bits; see balancer.data.images
    notes: list[str] = field(default_factory=list)  # caveats that a report of this data must state
    classes: tuple[str, ...] = CLASSES  # of the task
    undecoded: Undecoded | None = None  # of a dry run: one image stands for all; see balancer.data.decoded

    def indices(self, fold: str, label: int | None = None) -> np.ndarray:
        """Return the positions of a fold's images, of all classes or of one."""
        mask = self.folds == fold
        return np.flatnonzero(mask if label is None else mask & (self.labels == label))

    def counts(self, fold: str) -> tuple[int, ...]:
        """Return the number of images per class in a fold."""
        return tuple(len(self.indices(fold, label)) for label in range(len(self.classes)))

    @property
    def minority_class(self) -> int:
        """Return the class with the fewest training images."""
        return int(np.argmin(self.counts("train")))

    @property
    def deficits(self) -> tuple[int, ...]:
        """Return how many images each class lacks in the training fold to equal the largest class."""
        counts = self.counts("train")
        return tuple(max(counts) - n for n in counts)

    @property
    def deficit(self) -> int:
        """Return how many minority images the training fold lacks."""
        return max(self.deficits)

    @property
    def patients_known(self) -> bool:
        """Return whether any name tells a patient; if none does, every image stands for itself."""
        return any(is_patient(record.patient) for record in self.records)

    @property
    def is_phantom(self) -> bool:
        """Return whether the images are drawings."""
        return self.source == PHANTOM

    @property
    def folder(self) -> Path | None:
        """Return the folder below which the records' names are files; None for an archive."""
        return None if Path(self.source).suffix.lower() == ".npz" else source_folder(self.source)

    def files(self, positions: Iterable[int]) -> list[Path]:
        """Return the files of images.

        Args:
            positions: of the images, such as ``data.indices("test")[:4]``.

        Raises:
            BalancerError: the data are an archive, which has no file for an image.
        """
        folder = self.folder
        if folder is None:
            raise BalancerError(f"{self.source} is an archive, which has no file for an image; use `images`")
        return [folder / self.records[i].name for i in positions]

    def _repr_markdown_(self) -> str:
        """Return the images of each class by fold, as a notebook shows them."""
        rows = [["fold", *self.classes], ["---", *("---:" for _ in self.classes)]]
        rows += [[fold, *(f"{n:,}" for n in self.counts(fold))] for fold in SPLITS]
        size, lacking = self.images.shape[1], self.classes[self.minority_class]
        return "\n".join(
            [
                *(f"| {' | '.join(row)} |" for row in rows),
                f"\n{len(self.images):,} images of {size} x {size} px from `{self.source}`. The training fold lacks"
                f" {self.deficit:,} {lacking} images to be balanced.",
            ]
        )

    def as_binary(self) -> Dataset:
        """Return the same images in the same folds with two classes: every pneumonia is PNEUMONIA."""
        if self.classes == CLASSES:
            return self
        note = (
            f"The split is that of {len(self.classes)} classes ({', '.join(self.classes)});"
            f" {' and '.join(self.classes[1:])} are PNEUMONIA here."
        )
        labels = np.minimum(self.labels, 1)
        records = [replace(r, label=min(r.label, 1)) for r in self.records]
        return replace(self, labels=labels, records=records, classes=CLASSES, notes=[*self.notes, note])

    def write_split(self, path: Path) -> None:
        """Write ``split.csv``: the fold, class, patient and hash of every image."""
        write_split(
            path,
            [r.name for r in self.records],
            self.folds.tolist(),
            [self.classes[r.label] for r in self.records],
            [r.patient for r in self.records],
            self.digests,
        )

    def describe(self) -> dict[str, object]:
        """Return the facts about the data that reports and env.json hold."""
        return {
            "source": self.source,
            "counts": {f: dict(zip(self.classes, self.counts(f), strict=True)) for f in SPLITS},
            "patients": len(set(self.groups)) if self.patients_known else None,
            "image_size": int(self.images.shape[1]),
            "split_hash": self.split_hash,
            "fingerprint": self.fingerprint,
            "unreadable": [list(b) for b in self.bad],
            "left_out": {
                "files": sum(item.files for item in self.left_out),
                "first": [[item.name, item.reason, item.files] for item in self.left_out[:LISTED]],
            },
            "ranges": self.ranges,
            "notes": self.notes,
        }


def load_dataset(
    config: DataConfig,
    require: Iterable[str] = ("train",),
    ranges: Ranges | None = None,
    decode: bool = True,
    expected_split: str | None = None,
) -> Dataset:
    """Read, decode (or take from the cache) and split a data set.

    Args:
        config: its ``path`` is resolved; None stands for the phantom set.
        require: folds that must have images of every class.
        ranges: of samples of more than 8 bits, such as those of a training; None: those of this set.
        decode: whether to decode what the cache does not hold; False, for a dry run, reads headers instead.
        expected_split: hash of the split that the data should give. Where headers give another one, everything is
            decoded after all: a damaged image changes the split.

    Raises:
        BalancerError: the data are missing, of another layout, too damaged, or lack the classes of the task.
    """
    require = tuple(require)
    data = _load(config, require, ranges, decode)
    if data.undecoded and expected_split not in (None, data.split_hash):
        return _load(config, require, ranges, decode=True)
    return data


def _load(config: DataConfig, require: Sequence[str], ranges: Ranges | None, decode: bool) -> Dataset:
    notes: list[str] = []
    path = config.path or PHANTOM
    records, decoded, left_out = _readable(path, config, notes, ranges, decode)
    groups = merge_groups([r.patient for r in records], decoded.digests)
    facts = [*left_out_note(left_out), *unreadable_note(decoded.bad), *decoded.notes, *patients_note(records)]
    notes += facts
    folds = _folds(records, groups, config, _is_archive(path), notes)
    copies = copies_note(records, folds, decoded.digests)
    notes += copies
    for note in (*facts, *copies):
        log.warning(note)
    names = [r.name for r in records]
    contents = "\n".join(f"{n}\t{d}" for n, d in zip(names, decoded.digests, strict=True))
    data = Dataset(
        source=path,
        images=decoded.images,
        labels=np.array([r.label for r in records], dtype=np.int64),
        folds=folds,
        records=records,
        groups=groups,
        digests=decoded.digests,
        split_hash=split_hash(names, folds.tolist(), decoded.digests),
        fingerprint=hashlib.sha256(contents.encode(errors="surrogateescape")).hexdigest()[:16],
        bad=decoded.bad,
        left_out=left_out,
        ranges=decoded.ranges,
        notes=notes,
        classes=TASKS[config.task],
        undecoded=decoded.undecoded,
    )
    _check_folds(data, require)
    notes += shared_numbers(records, folds)
    log.info(
        "data: %s; train %s, val %s, test %s (%s); split %s",
        path,
        *(" + ".join(map(str, data.counts(fold))) for fold in SPLITS),
        " + ".join(data.classes),
        data.split_hash,
    )
    return data


def _is_archive(path: str) -> bool:
    return Path(path).suffix.lower() == ".npz"


def _readable(
    path: str, config: DataConfig, notes: list[str], ranges: Ranges | None, decode: bool
) -> tuple[list[Record], cache.Decoded, list[LeftOut]]:
    """Return the records of the images that can be read, these images, and what was left out of a folder.

    Raises:
        BalancerError: the name of the data is no text, or no image can be read.
    """
    if printable(path) != path:
        raise BalancerError(f"data {printable(path)} has a name that is not plain UTF-8; rename the folder")
    if path == PHANTOM:
        log.warning(PHANTOM_NOTICE)
        notes.append(PHANTOM_NOTICE)
    if _is_archive(path):
        records, decoded, left_out = _from_npz(Path(path), config, notes, ranges, decode)
    else:
        records, decoded, left_out = _from_folder(path, config, ranges, decode)
    if not decoded.positions:
        raise BalancerError(
            f"none of the {len(records)} files of {path} can be read ({decoded.bad[0][1]}); check --data"
        )
    records = [records[i] for i in decoded.positions]
    if config.task == "multiclass":
        records = multiclass_records(records)
    for name, reason in decoded.bad:
        log.warning("left out: %s cannot be read (%s)", name, reason)
    return records, decoded, left_out


def refuse_cache_inside(folder: Path) -> None:
    """Refuse a cache that lies in a folder of images, which would then hold other files, and drawings.

    Raises:
        BalancerError: it does.
    """
    root = cache.cache_dir()
    if root.resolve().is_relative_to(folder.resolve()):
        raise BalancerError(f"the cache {root} lies inside the data {folder}; set BALANCER_CACHE to a folder elsewhere")


def source_folder(path: str) -> Path:
    """Return the folder with the splits of a data path that is no archive."""
    return phantom_folder() if path == PHANTOM else find_root(Path(path))


def phantom_folder() -> Path:
    """Return the folder of the drawn data set, which is drawn on first use (seconds) and kept in the cache."""
    spec = phantom.PhantomSpec()
    folder = cache.cache_dir() / f"phantom-{phantom.FORMAT}-{spec.size}-{spec.seed}"
    try:
        with locked(folder.with_name(f"{folder.name}.lock")):
            if folder.exists() and not (phantom.is_written(folder, spec) and _is_as_drawn(folder)):
                log.warning("%s is damaged, or of an earlier version; the phantom set is drawn again", folder)
                remove(folder)
            return phantom.write_phantom(folder, spec)
    except OSError as error:
        raise BalancerError(
            f"the phantom set cannot be drawn ({error}); remove {folder} or set BALANCER_CACHE"
        ) from error


def _is_as_drawn(folder: Path) -> bool:
    names = phantom.drawings(folder)
    stamp = cache.stat_stamp(folder, names)
    digests = cache.file_digests(names, stamp, lambda i: hashlib.sha256((folder / names[i]).read_bytes()).hexdigest())
    return phantom.content_hash(names, digests) == phantom.stated_content(folder)


def _from_folder(
    path: str, config: DataConfig, ranges: Ranges | None, decode: bool
) -> tuple[list[Record], Decoded, list[LeftOut]]:
    root = source_folder(path)
    if path != PHANTOM:
        refuse_cache_inside(root)
    listing = list_folder(root)
    names = [r.name for r in listing.records]
    decoded = cache.decode_all(
        names,
        cache.stat_stamp(root, names),
        lambda i: hashlib.sha256((root / names[i]).read_bytes()).hexdigest(),
        file_reader([root / name for name in names], config.image_size, config.resize),
        {"size": config.image_size, "resize": config.resize},
        config.max_bad,
        ranges,
        decode,
    )
    return listing.records, decoded, listing.left_out


def _from_npz(
    path: Path, config: DataConfig, notes: list[str], ranges: Ranges | None, decode: bool
) -> tuple[list[Record], Decoded, list[LeftOut]]:
    if config.task != "binary":
        raise BalancerError(
            f"{path} has two classes, {' and '.join(CLASSES)}, and no file names with the kind of pneumonia; leave out"
            f" --task {config.task}, or give a folder of files such as person23_bacteria_86.jpeg"
        )
    records, arrays = read_npz(path)
    notes.append("The archive names no patients: the split is at image level and may part images of one patient.")
    log.warning(notes[-1])
    images = [image for split in arrays.values() for image in split]

    def decode_one(i: int, ranges: Ranges | None) -> Decoding:
        grey, source = to_grey(Image.fromarray(images[i]), ranges)
        return Decoding(resize_grey(grey, config.image_size, config.resize), source)

    decoded = cache.decode_all(
        [r.name for r in records],
        cache.stat_stamp(path.parent, [path.name]),
        lambda i: hashlib.sha256(images[i].tobytes()).hexdigest(),
        Reader(decode_one, lambda i: min(images[i].shape[:2])),
        {"size": config.image_size, "resize": config.resize},
        config.max_bad,
        ranges,
        decode,
    )
    return records, decoded, []


def _folds(
    records: Sequence[Record], groups: Sequence[str], config: DataConfig, is_archive: bool, notes: list[str]
) -> np.ndarray:
    """Carve validation out of train and val together and return the folds (n,); test is never touched.

    The source's own train and val stay as they are if the fraction is 0, and in archives that have val unless a
    fraction is set.
    """
    folds = np.array([r.split for r in records])
    has_val = bool((folds == "val").any())
    fraction = config.val_fraction
    if fraction is None:
        fraction = 0.0 if is_archive and has_val else DEFAULT_VAL_FRACTION
    if fraction > 0:
        pool = np.flatnonzero(folds != "test").tolist()
        chosen = carve_validation(
            [records[i].label for i in pool], [groups[i] for i in pool], fraction, config.split_seed
        )
        folds[pool] = np.where(chosen, "val", "train")
    elif has_val and not is_archive:
        notes.append(
            f"No validation was carved: the source's own {int((folds == 'val').sum())} validation images are used."
        )
    return folds


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
            advice = (
                "raise --val-fraction above 0" if fold == "val" else f"add a {fold} folder with {' and '.join(CLASSES)}"
            )
            raise BalancerError(f"{data.source} has no {fold} images; {advice}")
        if not all(counts):
            present = [f"{n} {cls}" for n, cls in zip(counts, data.classes, strict=True)]
            raise BalancerError(
                f"{data.source}: {fold} holds {', '.join(present[:-1])} and {present[-1]} images;"
                f" expected {'both' if len(present) == 2 else 'some of each'}"
            )
