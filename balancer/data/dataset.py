"""A data set ready for use: decoded, cleaned, split."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from balancer.core.errors import BalancerError
from balancer.core.files import locked, remove
from balancer.core.pixels import COLOUR, channels_of
from balancer.core.preview import Undecoded
from balancer.core.settings import PHANTOM, DataConfig
from balancer.data import cache, phantom
from balancer.data.caveats import copies_note, parted_patients, patients_note, shared_numbers, unreadable_note
from balancer.data.chest import CLASSES
from balancer.data.decoded import Decoded
from balancer.data.decoding import DecodingRules, decode_listing
from balancer.data.depth import Ranges
from balancer.data.dicom_files import DicomRules
from balancer.data.folds import assign_folds, carved_folds
from balancer.data.grouping import groups_of
from balancer.data.images import AS_SHOWN
from balancer.data.listing import LeftOut, Listing, left_out_note, printable
from balancer.data.readers import read_listing
from balancer.data.records import SPLITS, Record, is_patient
from balancer.data.split import hash_of, split_hash, write_split
from balancer.data.thinning import UNUSED, thin_training

log = logging.getLogger("balancer")
LISTED = 100  # names of files that are not read, in env.json
PHANTOM_NOTICE = "PHANTOM DATA: drawings, not X-rays. No figure from them says anything about patients."


@dataclass(frozen=True)
class Dataset:
    """Images and what is known of each, all in the same order."""

    source: str  # the path, or "phantom"
    images: np.ndarray = field(repr=False)  # (n, size, size) or (n, size, size, 3) uint8, a read-only memory map
    labels: np.ndarray = field(repr=False)  # (n,) int64, indices into ``classes``
    folds: np.ndarray = field(repr=False)  # (n,) of "train", "val", "test", and of "unused" in a thinned training fold
    records: list[Record] = field(repr=False)
    groups: list[str] = field(repr=False)  # patients; those with identical files are merged
    digests: Sequence[str] = field(repr=False)  # SHA-256 of each file
    split_hash: str
    fingerprint: str  # of names and contents of every file
    bad: list[tuple[str, str]] = field(default_factory=list)  # (name, reason) of every unreadable file
    left_out: list[LeftOut] = field(default_factory=list)  # what lies in the folder and is not read
    ranges: dict[str, float] = field(default_factory=dict)  # of samples of more than 8 bits; see balancer.data.images
    notes: list[str] = field(default_factory=list)  # caveats that a report of this data must state
    classes: tuple[str, ...] = CLASSES  # of the task
    folder: Path | None = None  # the folder below which the records' names are files; None if there are no files
    numbers_restart: bool = False  # one patient number under two sources may be of two patients
    source_name: str = ""  # what the records' sources are called; empty: they are no sites
    reader: str = "chest"  # which of balancer.data.readers read the data
    rules: DicomRules = AS_SHOWN  # by which DICOM files were read
    carved: bool = False  # test was chosen here, and the source has no split of its own
    undecoded: Undecoded | None = None  # of a dry run: one image stands for all; see balancer.data.decoded
    full_split_hash: str | None = None  # of the split before the training fold was thinned; None if it was not

    def indices(self, fold: str, label: int | None = None) -> np.ndarray:
        """Return the positions of a fold's images, of all classes or of one."""
        mask = self.folds == fold
        return np.flatnonzero(mask if label is None else mask & (self.labels == label))

    def counts(self, fold: str) -> tuple[int, ...]:
        """Return the number of images per class in a fold."""
        return tuple(len(self.indices(fold, label)) for label in range(len(self.classes)))

    @property
    def channels(self) -> int:
        """Return 1 if the images are grey, 3 if they are in colour."""
        return channels_of(self.images)

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

    def fits_split(self, split: str, label: int) -> bool:
        """Return whether what was learnt from a class under a split may serve here.

        The split is this one, or the split before thinning where thinning took no image of the class. Validation and
        test are the same in both.
        """
        if split == self.split_hash:
            return True
        return split == self.full_split_hash and not len(self.indices(UNUSED, label))

    @property
    def patients_known(self) -> bool:
        """Return whether any name tells a patient; if none does, every image stands for itself."""
        return any(is_patient(record.patient) for record in self.records)

    @property
    def is_phantom(self) -> bool:
        """Return whether the images are drawings."""
        return self.source == PHANTOM

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
        colour = " in colour" if self.channels == COLOUR else ""
        return "\n".join(
            [
                *(f"| {' | '.join(row)} |" for row in rows),
                f"\n{len(self.images):,} images of {size} x {size} px{colour} from `{self.source}`. The training fold"
                f" lacks {self.deficit:,} {lacking} images to be balanced.",
            ]
        )

    def write_split(self, path: Path) -> None:
        """Write ``split.csv``: the fold, class, patient and hash of every image."""
        write_split(
            path,
            [r.name for r in self.records],
            self.folds.tolist(),
            [self.classes[r.label] for r in self.records],
            [r.patient for r in self.records],
            self.digests,
            [r.source for r in self.records],
        )

    def describe(self) -> dict[str, object]:
        """Return the facts about the data that reports and env.json hold."""
        return {
            "source": self.source,
            "reader": self.reader,
            "classes": list(self.classes),
            "carved": self.carved,
            "counts": {f: dict(zip(self.classes, self.counts(f), strict=True)) for f in SPLITS},
            "patients": len(set(self.groups)) if self.patients_known else None,
            "image_size": int(self.images.shape[1]),
            "channels": self.channels,
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
    path = config.path or PHANTOM
    listing = read_data(config)
    notes = [PHANTOM_NOTICE, *listing.notes] if path == PHANTOM else list(listing.notes)
    for note in notes:
        log.warning(note)
    dicom = DicomRules.of(config)
    rules = DecodingRules(config.image_size, config.resize, config.max_bad, dicom, config.channels)
    decoded = decode_listing(listing, rules, ranges, decode)
    if not decoded.positions:
        raise BalancerError(
            f"none of the {len(listing.records)} files of {path} can be read ({decoded.bad[0][1]}); check --data"
        )
    records = [listing.records[i] for i in decoded.positions]
    for name, reason in decoded.bad:
        log.warning("left out: %s cannot be read (%s)", name, reason)
    shares = carved_folds(records, config, listing)
    groups, grouping = groups_of(listing, records, decoded, config, any(shares))
    facts = [
        *left_out_note(listing.left_out),
        *unreadable_note(decoded.bad),
        *decoded.notes,
        *patients_note(listing, records),
    ]
    folds, folding = assign_folds(records, groups, shares, config, listing)
    unthinned = folds
    folds, thinning = thin_training([r.label for r in records], groups, folds, listing.classes, config)
    copies = copies_note(records, folds, decoded.digests)
    parted = [] if listing.numbers_restart else parted_patients(records, folds)
    if config.strict and (copies or parted):
        raise BalancerError(f"{path} is not strictly split: {' '.join([*copies, *parted])} Or leave out --strict.")
    for note in (*facts, *grouping, *copies, *parted):
        log.warning(note)
    for note in (*folding, *thinning):
        log.info(note)
    shared = shared_numbers(records, folds) if listing.numbers_restart else []
    notes += [*facts, *grouping, *folding, *thinning, *copies, *parted, *shared]
    if shares[0] > 0:  # the split of the data is the one that was carved
        records = [
            replace(r, split="test" if fold == "test" else "train") for r, fold in zip(records, folds, strict=True)
        ]
    data = _put_together(path, listing, records, decoded, groups, folds, notes, shares[0] > 0)
    data = replace(
        data, rules=dicom, full_split_hash=_split_hash(listing, records, unthinned, decoded) if thinning else None
    )
    _check_folds(data, require)
    log.info(
        "data: %s; train %s, val %s, test %s (%s); split %s",
        path,
        *(" + ".join(map(str, data.counts(fold))) for fold in SPLITS),
        " + ".join(data.classes),
        data.split_hash,
    )
    return data


def _put_together(
    path: str,
    listing: Listing,
    records: list[Record],
    decoded: Decoded,
    groups: list[str],
    folds: np.ndarray,
    notes: list[str],
    carved: bool,
) -> Dataset:
    """Return the data set with its hashes, which change with a name, a file's content, a fold or a label."""
    names = _names(listing, records)
    return Dataset(
        source=path,
        images=decoded.images,
        labels=np.array([r.label for r in records], dtype=np.int64),
        folds=folds,
        records=records,
        groups=groups,
        digests=decoded.digests,
        split_hash=_split_hash(listing, records, folds, decoded),
        fingerprint=hash_of(f"{n}\t{d}" for n, d in zip(names, decoded.digests, strict=True)),
        bad=decoded.bad,
        left_out=listing.left_out,
        ranges=decoded.ranges,
        notes=notes,
        classes=listing.classes,
        folder=None if listing.images is not None else listing.root,
        numbers_restart=listing.numbers_restart,
        source_name=listing.source_name,
        reader=listing.reader,
        carved=carved,
        undecoded=decoded.undecoded,
    )


def _names(listing: Listing, records: Sequence[Record]) -> Iterator[str]:
    """Yield the names of images that tell their class, by themselves or after it."""
    return (r.name if listing.names_tell_class else f"{listing.classes[r.label]}/{r.name}" for r in records)


def _split_hash(listing: Listing, records: Sequence[Record], folds: np.ndarray, decoded: Decoded) -> str:
    of_each = (sys.intern(str(fold)) for fold in folds)  # one string for all images of a fold
    return split_hash(_names(listing, records), of_each, decoded.digests)


def read_data(config: DataConfig) -> Listing:
    """Return what the settings name, before an image is decoded; the phantom set is drawn if need be.

    Raises:
        BalancerError: the data are missing, or of a layout that no reader knows.
    """
    path = config.path or PHANTOM
    if printable(path) != path:
        raise BalancerError(f"data {printable(path)} has a name that is not plain UTF-8; rename the folder")
    if path == PHANTOM:
        return read_listing(phantom_folder(), config)
    listing = read_listing(Path(path), config)
    if listing.images is None:
        refuse_cache_inside(listing.root)
    return listing


def refuse_cache_inside(folder: Path) -> None:
    """Refuse a cache that lies in a folder of images, which would then hold other files, and drawings.

    Raises:
        BalancerError: it does.
    """
    root = cache.cache_dir()
    if root.resolve().is_relative_to(folder.resolve()):
        raise BalancerError(f"the cache {root} lies inside the data {folder}; set BALANCER_CACHE to a folder elsewhere")


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
                f"raise --val-fraction, which takes none of the {sum(data.counts('train'))} images outside test"
                if fold == "val"
                else f"add a {fold} split with {' and '.join(data.classes)}, or give --test-fraction"
            )
            raise BalancerError(f"{data.source} has no {fold} images; {advice}")
        if not all(counts):
            present = [f"{n} {cls}" for n, cls in zip(counts, data.classes, strict=True)]
            raise BalancerError(
                f"{data.source}: {fold} holds {', '.join(present[:-1])} and {present[-1]} images;"
                f" expected {'both' if len(present) == 2 else 'some of each'}"
            )
