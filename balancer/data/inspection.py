"""`balancer inspect`: what was understood of some data, what was left out and why, and how to go on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import JsonObject, refuse_unwritable
from balancer.core.pixels import WORDS
from balancer.core.settings import PHANTOM, DataConfig
from balancer.data import folders, table
from balancer.data.caveats import unreadable_note
from balancer.data.colour import GREY_MODES
from balancer.data.column_guesses import Guess
from balancer.data.dataset import Dataset, load_dataset, phantom_folder, read_data
from balancer.data.dicom_files import BITS, DicomRules
from balancer.data.files_below import FilesBelow
from balancer.data.images import named, open_image
from balancer.data.listing import LeftOut, Listing, few, left_out_note, printable
from balancer.data.mending import Mended, mended, merged
from balancer.data.next_lines import DEFAULT_SIDE, command_lines, inspect_line
from balancer.data.patients import suggested_pattern
from balancer.data.readers import choose_reader
from balancer.data.records import SPLITS, is_patient
from balancer.data.training_fold import write_training_fold

log = logging.getLogger("balancer")
SAMPLED = 500  # files whose headers are read, evenly spread
SHOWN = 12  # names in a line
MIN_SIDE = 16  # px: the smallest working size
LINES = 6  # columns that may be the class, a line for each


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
    labels: dict[str, int] = field(default_factory=dict)  # of a table that cannot be used yet, and their rows
    problem: str = ""  # why a table cannot be used yet; all below but the notes and the lines is empty then
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

    @property
    def exit_code(self) -> int:
        """Return 1 if the data cannot be used as they stand."""
        return int(bool(self.problem))

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
            lines += self._labels()
            lines += [f"note        {note}" for note in self.notes]
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

    def _labels(self) -> list[str]:
        shown = list(self.labels.items())[: 2 * SHOWN]
        more = [f"{'':<12}and {len(self.labels) - len(shown):,} more"] if len(shown) < len(self.labels) else []
        return [f"{'' if i else 'labels':<12}{name}: {n:,} rows" for i, (name, n) in enumerate(shown)] + more

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
    known = Inspection(data, reader.name, reader.words, "")
    loaded: Dataset | None
    with _held_back() as shown:
        if reader.name == "table":
            understood, loaded = _of_table(path, config, known)
        else:
            loaded = load_dataset(config, require=())
            understood = _understood(config, known, loaded)
        bad = loaded.bad if loaded else []
        notes = loaded.notes if loaded else understood.notes
        shown |= {*notes, *(f"left out: {name} cannot be read ({reason})" for name, reason in bad)}
    if loaded is None:
        return understood
    return replace(
        understood,
        cost=cost(loaded),
        next=[*_tables(reader.name, path, Path(understood.root)), *understood.next],
        training_fold=_write_fold(training_fold, loaded) if training_fold is not None else "",
    )


def _of_table(path: Path, config: DataConfig, known: Inspection) -> tuple[Inspection, Dataset | None]:
    """Return what is understood of a table, and the data; if it cannot be used, why, and the lines that mend it."""
    guess = table.guess_of(path, config)
    names = guess.profile.header
    known = replace(
        known,
        root=config.images or str(guess.profile.file.parent),
        columns=guess.by_role(),
        other_columns={names[c]: len(guess.profile.values(c)) for c in guess.candidates},
        notes=guess.notes,
    )
    try:
        guess.columns()
    except UsageError as error:
        return replace(known, problem=str(error), next=_for_each_candidate(config, guess)), None
    labels = table.label_counts(guess, config)
    try:
        loaded = load_dataset(config, require=SPLITS)
    except BalancerError as error:
        if isinstance(error, UsageError) and not isinstance(error, table.UnknownSplits):
            raise
        return _to_mend(config, known, guess, labels, error), None
    return _understood(config, known, loaded, merged(config, labels)), loaded


def _to_mend(
    config: DataConfig, known: Inspection, guess: Guess, labels: dict[str, int], error: BalancerError
) -> Inspection:
    better = mended(config, error, labels)
    lines = [inspect_line(better.config), *_lines(better.config, better.data)] if better else []
    return replace(known, labels=labels, problem=str(error), next=lines or _for_each_candidate(config, guess))


def _for_each_candidate(config: DataConfig, guess: Guess) -> list[str]:
    """Return a line for each column that may be the class."""
    if guess.path is None:
        return []
    header = guess.profile.header
    roles = config.columns.model_copy(update={"path": header[guess.path]})
    columns = [roles.model_copy(update={"label": header[c]}) for c in guess.candidates[:LINES]]
    return [inspect_line(config.model_copy(update={"columns": of})) for of in columns]


def _understood(config: DataConfig, known: Inspection, loaded: Dataset, better: Mended | None = None) -> Inspection:
    """Return what is understood of data that can be used; the lines have other settings where these are better."""
    listing = read_data(config)
    pictures = _pictures(listing, loaded.rules)
    above = [*left_out_note(loaded.left_out), *unreadable_note(loaded.bad)]
    better = better or Mended(config, loaded)
    return replace(
        known,
        root=str(listing.root),
        images=len(loaded.records),
        classes={
            cls: {fold: loaded.counts(fold)[label] for fold in SPLITS} for label, cls in enumerate(loaded.classes)
        },
        patients=_patients(loaded, known.columns.get("patient")),
        sources=dict(Counter(r.source for r in loaded.records if r.source).most_common()),
        channels=loaded.channels,
        pictures=pictures,
        left_out=loaded.left_out,
        unreadable=loaded.bad,
        notes=[
            *(note for note in loaded.notes if note not in above),
            *_copies(loaded),
            *_without_row(listing),
        ],
        next=_lines(better.config, better.data, pictures),
    )


def _lines(config: DataConfig, data: Dataset, pictures: Pictures | None = None) -> list[str]:
    """Return the commands that go on with data that can be used."""
    pictures = pictures or _pictures(read_data(config), data.rules)
    return command_lines(config, suggested_pattern(data.records), _small_side(pictures), len(data.classes))


def _small_side(pictures: Pictures | None) -> int | None:
    """Return the working size that suits images which are all smaller than the usual size."""
    small = pictures is not None and max(pictures.largest) < DEFAULT_SIDE and min(pictures.smallest) >= MIN_SIDE
    return min(pictures.smallest) if pictures is not None and small else None


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


def _without_row(listing: Listing) -> list[str]:
    """Return a sentence on the images that lie with those of a table and have no row that is read."""
    if listing.reader != "table":
        return []
    names = [*(record.name for record in listing.records), *(item.name for item in listing.left_out)]
    known = {Path(name).as_posix() for name in names}
    rest = [printable(name) for name in FilesBelow(listing.root).images() if name not in known]
    have = "1 image has" if len(rest) == 1 else f"{len(rest):,} images have"
    return [f"{have} no row with one of these classes: {named(rest, 3)}."] if rest else []


def _tables(reader: str, path: Path, root: Path) -> list[str]:
    """Return the lines that inspect the tables that lie with folders of classes."""
    tables = folders.tables_on_the_way(path, root) if reader in ("splits", "classes") else []
    return [inspect_line(DataConfig(path=str(table))) for table in tables]


def _refuse_place(file: Path) -> None:
    if file.exists():
        raise BalancerError(f"--training-fold {file} is there already; give a new file, or remove it")
    refuse_unwritable(file, "--training-fold")


def _write_fold(file: Path, data: Dataset) -> str:
    """Write the images of the training fold to a file; return what a reader must know of it."""
    write_training_fold(file, data)
    return f"{file}: the {len(data.indices('train')):,} images of the training fold (split {data.split_hash})"


def _patients(data: Dataset, column: str | None) -> str:
    keys = [record.patient for record in data.records if is_patient(record.patient)]
    if not keys:
        return "not known: every image counts by itself"
    of = "" if len(keys) == len(data.records) else f" of {len(keys):,} of {len(data.records):,} images"
    return f"{len(set(keys)):,}{of}{f' (column {column})' if column else ''}"


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
