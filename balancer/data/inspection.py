"""`balancer inspect`: what was understood of some data, what was left out and why, and how to go on."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import JsonObject, refuse_unwritable
from balancer.core.pixels import WORDS
from balancer.core.settings import PHANTOM, DataConfig
from balancer.data import dicom_files, folders, table
from balancer.data.caveats import unreadable_note
from balancer.data.colour import GREY_MODES
from balancer.data.dataset import Dataset, load_dataset, phantom_folder, read_data
from balancer.data.dicom_files import BITS, DicomRules
from balancer.data.images import named, open_image
from balancer.data.listing import SUFFIXES, LeftOut, Listing, few, left_out_note
from balancer.data.patients import suggested_pattern
from balancer.data.readers import READERS, choose_reader
from balancer.data.records import SPLITS, is_patient
from balancer.data.spreadsheet import read_spreadsheet
from balancer.data.table import Columns
from balancer.data.training_fold import write_training_fold

log = logging.getLogger("balancer")
SAMPLED = 500  # files whose headers are read, evenly spread
SHOWN = 12  # names in a line
WITHOUT_FLAG = {"resize", "window", "frame", "dicom_source"}  # settings that --set alone takes
DEFAULT_SIDE = DataConfig().image_size


@dataclass(frozen=True)
class Pictures:
    """The images as they are stored, by the headers of some."""

    looked_at: int
    smallest: tuple[int, int]  # width and height, px
    median: tuple[int, int]
    largest: tuple[int, int]
    stored: dict[str, int]  # format and depth in words


@dataclass(frozen=True)
class Inspection:
    """What `balancer inspect` says."""

    data: str
    reader: str
    reads: str  # what this reader reads, in words
    root: str
    columns: dict[str, str] = field(default_factory=dict)  # of a table: role -> column
    other_columns: dict[str, int] = field(default_factory=dict)  # with few values, and how many
    problem: str = ""  # why a table cannot be read yet; all below is empty then
    images: int = 0
    classes: dict[str, dict[str, int]] = field(default_factory=dict)  # class -> fold -> images
    patients: str = ""
    sources: dict[str, int] = field(default_factory=dict)
    channels: int = 1  # that the images are read in
    pictures: Pictures | None = None
    left_out: list[LeftOut] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cost: str = ""  # a sentence on what is trained before the first GAN, if anything is
    next: list[str] = field(default_factory=list)  # command lines
    training_fold: str = ""  # what was written about the training fold, in words

    def to_json(self) -> JsonObject:
        """Return all of it for ``--json``."""
        return asdict(self)

    def describe(self) -> str:
        """Return all of it as text."""
        lines = [f"data        {self.data}", f"read as     {self.reader}: {self.reads}"]
        lines += [f"below       {self.root}"] if self.root != self.data else []
        if self.columns:
            lines.append(f"columns     {', '.join(f'{role}={name}' for role, name in self.columns.items())}")
        if self.other_columns:
            others = ", ".join(f"{name} ({n} values)" for name, n in self.other_columns.items())
            lines.append(f"            not read: {others}")
        if self.problem:
            return "\n".join([*lines, f"problem     {self.problem}", *self._going_on()])
        lines += [f"images      {self.images:,}, {self._pictures()}", f"patients    {self.patients}"]
        if self.sources:
            lines.append(f"sources     {', '.join(f'{name} {n:,}' for name, n in list(self.sources.items())[:SHOWN])}")
        lines += self._classes()
        lines += [f"left out    {few(self.left_out)}"] if self.left_out else []
        lines += [f"unreadable  {name}: {reason}" for name, reason in self.unreadable[:5]]
        lines += [f"note        {note}" for note in self.notes]
        lines += [f"cost        {self.cost}"] if self.cost else []
        lines += [f"written     {self.training_fold}"] if self.training_fold else []
        return "\n".join([*lines, *self._going_on()])

    def _pictures(self) -> str:
        if self.pictures is None:
            return "none looked at"
        p = self.pictures
        sizes = " to ".join(dict.fromkeys(f"{w} x {h}" for w, h in (p.smallest, p.largest)))
        stored = ", ".join(p.stored)
        return f"{sizes} px ({stored}), read in {WORDS[self.channels]} (--channels {4 - self.channels} changes this)"

    def _classes(self) -> list[str]:
        width = max(map(len, self.classes), default=0)
        rows = [f"{'classes':<12}{'':<{width}}  {'train':>8} {'val':>8} {'test':>8}"]
        for name, counts in self.classes.items():
            rows.append(f"{'':<12}{name:<{width}}  " + " ".join(f"{counts[fold]:>8,}" for fold in SPLITS))
        return rows

    def _going_on(self) -> list[str]:
        return ["", "go on with:", *(f"  {line}" for line in self.next)] if self.next else []


def inspect(
    config: DataConfig, training_fold: Path | None = None, cost: Callable[[Dataset], str] = lambda _: ""
) -> Inspection:
    """Return what the settings name, once all images were read; they are in the cache for the next command then.

    Args:
        config: where the data are, and how they are read.
        training_fold: a new file, for the names of the images that a generator may learn from.
        cost: gives a sentence on what is trained before the first GAN, which is no matter of this package.

    Raises:
        BalancerError: the data cannot be read, or the file is there already or cannot be written.
    """
    if training_fold is not None:
        _refuse_place(training_fold)
    data = config.path or PHANTOM
    path = phantom_folder() if data == PHANTOM else Path(data)
    reader = choose_reader(path, config.format)
    columns: dict[str, str] = {}
    others: dict[str, int] = {}
    if reader.name == "table":
        try:
            columns, others = _columns(path, config)
        except UsageError as error:
            return _not_yet(data, path, config, str(error))
    with _held_back() as shown:
        listing = read_data(config)
        loaded = load_dataset(config, require=())
        shown |= {*loaded.notes, *(f"left out: {name} cannot be read ({reason})" for name, reason in loaded.bad)}
    pattern = suggested_pattern(loaded.records)
    pictures = _pictures(listing, loaded.rules)
    above = [*left_out_note(loaded.left_out), *unreadable_note(loaded.bad)]
    return Inspection(
        data,
        reader.name,
        reader.words,
        str(listing.root),
        columns,
        others,
        images=len(loaded.records),
        classes={
            cls: {fold: loaded.counts(fold)[label] for fold in SPLITS} for label, cls in enumerate(loaded.classes)
        },
        patients=_patients(loaded),
        sources=dict(Counter(r.source for r in loaded.records if r.source).most_common()),
        channels=loaded.channels,
        pictures=pictures,
        left_out=loaded.left_out,
        unreadable=loaded.bad,
        notes=[*(note for note in loaded.notes if note not in above), *_copies(loaded)],
        cost=cost(loaded),
        next=[*_tables(reader.name, path, listing), *command_lines(config, pattern, pictures, len(loaded.classes))],
        training_fold=_write_fold(training_fold, loaded) if training_fold is not None else "",
    )


@contextmanager
def _held_back() -> Iterator[set[str]]:
    """Hold back what is logged; at the end log what is not in the set, since the result shows what is."""
    shown: set[str] = set()
    held: list[logging.LogRecord] = []

    def hold(record: logging.LogRecord) -> bool:
        held.append(record)
        return False

    log.addFilter(hold)
    try:
        yield shown
    finally:
        log.removeFilter(hold)
        for record in held:
            if record.getMessage() not in shown:
                log.handle(record)


def _copies(data: Dataset) -> list[str]:
    """Return a sentence on images that equal an earlier one byte by byte, in whatever fold or class."""
    first: dict[str, str] = {}
    copies = [r.name for r, d in zip(data.records, data.digests, strict=True) if first.setdefault(d, r.name) != r.name]
    are = "1 image is a copy" if len(copies) == 1 else f"{len(copies):,} images are copies"
    return [f"{are} of another, byte by byte: {named(copies, 3)}."] if copies else []


def _tables(reader: str, path: Path, listing: Listing) -> list[str]:
    """Return the lines that inspect the tables that lie with folders of classes."""
    tables = folders.tables_on_the_way(path, listing.root) if reader in ("splits", "classes") else []
    return [shlex.join(["balancer", "inspect", str(table)]) for table in tables]


def _refuse_place(file: Path) -> None:
    if file.exists():
        raise BalancerError(f"--training-fold {file} is there already; give a new file, or remove it")
    refuse_unwritable(file, "--training-fold")


def _write_fold(file: Path, data: Dataset) -> str:
    """Write the images of the training fold to a file; return what a reader must know of it."""
    write_training_fold(file, data)
    return f"{file}: the {len(data.indices('train')):,} images of the training fold (split {data.split_hash})"


def command_lines(config: DataConfig, pattern: str | None, pictures: Pictures | None, classes: int) -> list[str]:
    """Return the commands that go on with these data of so many classes, with the settings that were given here."""
    flags = ["--data", config.path or PHANTOM]
    for name, value in config.model_dump(mode="json", exclude_defaults=True, exclude={"path", "columns"}).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            flags += [text for one in value for text in (flag, one)] if name == "where" else [flag, ",".join(value)]
        elif name == "flips":
            flags += ["--set", "data.flips=true"]
        elif value is True:
            flags.append(flag)
        else:
            flags += ["--set", f"data.{name}={value}"] if name in WITHOUT_FLAG else [flag, str(value)]
    given = {role: name for role, name in config.columns.model_dump().items() if name}
    flags += ["--columns", ",".join(f"{role}={name}" for role, name in given.items())] if given else []
    flags += ["--patient-pattern", pattern] if pattern and config.patients is None else []
    if pictures and max(pictures.largest) < DEFAULT_SIDE == config.image_size and min(pictures.smallest) >= 16:
        flags += ["--image-size", str(min(pictures.smallest))]
    shared = " ".join(map(shlex.quote, flags))
    audit = " ".join(map(shlex.quote, [flag for flag in flags if flag != "--strict"]))
    return [
        f"balancer audit {audit}",
        f"balancer gan-train {shared}{' --class all' * (classes > 2)}",
        "balancer synthesize",
        "classifier ablate --regimes all",
    ]


def _columns(path: Path, config: DataConfig) -> tuple[dict[str, str], dict[str, int]]:
    """Return the columns by role, and the others with few values, of a table."""
    file = table.table_file(path)
    opened = read_spreadsheet(file)
    columns = table.choose_columns(opened, config.columns)
    named_columns = {
        role: opened.header[column]
        for role in Columns.__annotations__
        if (column := getattr(columns, role)) is not None
    }
    few_values = table.label_candidates(opened)
    return named_columns, {name: n for name, n in few_values.items() if name not in named_columns.values()}


def _not_yet(data: str, path: Path, config: DataConfig, problem: str) -> Inspection:
    """Return what is known of a table whose columns somebody must name."""
    file = table.table_file(path)
    candidates = table.label_candidates(read_spreadsheet(file))
    opened = read_spreadsheet(file)
    first = next(opened.rows, [])
    files = [name for name, cell in zip(opened.header, first, strict=False) if _looks_like_file(cell)]
    path_column = config.columns.path or next(iter(files), "NAME")
    label = config.columns.label or min(candidates, key=lambda name: candidates[name], default="NAME")
    line = f"balancer inspect {shlex.quote(data)} --columns {shlex.quote(f'path={path_column},label={label}')}"
    reads = READERS["table"].words
    return Inspection(data, "table", reads, str(file.parent), {}, candidates, problem=problem, next=[line])


def _looks_like_file(cell: str) -> bool:
    return "/" in cell or "\\" in cell or Path(cell).suffix.lower() in SUFFIXES | dicom_files.SUFFIXES


def _patients(data: Dataset) -> str:
    keys = [record.patient for record in data.records if is_patient(record.patient)]
    if not keys:
        return "not known: every image counts by itself"
    of = "" if len(keys) == len(data.records) else f" of {len(keys):,} of {len(data.records):,} images"
    return f"{len(set(keys)):,}{of}"


def _pictures(listing: Listing, rules: DicomRules) -> Pictures | None:
    """Return the sizes and kinds of at most SAMPLED images; None if none of them can be opened."""
    sizes: list[tuple[int, int]] = []
    stored = Counter[str]()
    for image in _opened(listing, rules):
        sizes.append(image.size)
        bits = image.info.get(BITS, 16 if image.mode.startswith("I") else 32 if image.mode == "F" else 8)
        grey = image.mode in GREY_MODES
        stored[f"{image.format or 'array'}, {bits}-bit {'grey' if grey else 'RGB'}"] += 1
    if not sizes:
        return None
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    middle = by_area[len(by_area) // 2]
    return Pictures(len(sizes), by_area[0], middle, by_area[-1], dict(stored.most_common()))


def _opened(listing: Listing, rules: DicomRules) -> Iterator[Image.Image]:
    n = len(listing.records)
    for i in np.unique(np.linspace(0, n - 1, min(SAMPLED, n)).astype(int)).tolist():
        if listing.images is not None:
            yield Image.fromarray(listing.images[i])
            continue
        try:
            with open_image(listing.root / listing.records[i].name, rules) as image:
                yield image
        except OSError:
            continue  # the note on unreadable files has the reason
