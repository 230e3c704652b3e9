"""Folders of images by class, of any names: with splits (``train/<class>/*``), or without (``<class>/*``)."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path

from balancer.core.errors import BalancerError
from balancer.core.settings_base import DataConfig
from balancer.data import dicom_files
from balancer.data.images import named
from balancer.data.listing import (
    LeftOut,
    Listing,
    child,
    has_image,
    image_files,
    is_clutter,
    left_out_entry,
    natural,
    printable,
    strays,
    tables_in,
    visible,
)
from balancer.data.masks import is_mask_folder, masks_among, named_as_mask
from balancer.data.records import SPLITS, Record, image_key, patient_key

SPLIT_NAMES = {  # of folders
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
DEPTH = 3  # folders that may stand around the data, as archives unpack them
BESIDE = "a file beside the folders"
MOST_CLASSES = 20  # with a folder for each patient: more folders are rather patients than classes


class Inside(Enum):
    """Where in the class folders the images lie."""

    FLAT = "directly"
    SHARED = "in one folder of the same name in each, such as `images`"
    PATIENTS = "in a folder for each patient"


def recognises_splits(path: Path) -> bool:
    """Return whether a folder, or the only folder in it, has a train folder with folders of images."""
    return _split_root(path) is not None


def recognises_classes(path: Path) -> bool:
    """Return whether a folder, or the only folder in it, has two or more folders of images.

    Folders whose names are numbers may be dates or patients: where a table lies with them, or where they are many.
    """
    root = _class_root(path)
    if root is None or not _are_numbers(root):
        return root is not None
    return not tables_on_the_way(path, root) and _class_count(root) <= MOST_CLASSES


def read_splits(path: Path, config: DataConfig) -> Listing:
    """Return the images of ``{train,val,test}/<class>/*``. The folders of train are the classes.

    Raises:
        BalancerError: there is no such layout.
    """
    root = _split_root(path)
    if root is None:
        raise BalancerError(f"{path} has no train folder with folders of images; expected {{train,val,test}}/<class>/*")
    by_split = ((split, child(root, *SPLIT_NAMES[split])) for split in SPLITS)
    folders = {split: folder for split, folder in by_split if folder is not None}
    left_out = [
        left_out_entry(root, entry, "no train, val or test folder" if entry.is_dir() else BESIDE)
        for entry in visible(root)
        if entry not in folders.values()
    ]
    inside = _inside(folders["train"])
    walk = _Walk(root, config, inside, left_out)
    parts = {split: walk.class_folders(folder) for split, folder in folders.items()}
    walk.refuse_lost_classes(path, parts["train"])
    classes = sorted(parts["train"], key=natural)
    records: list[Record] = []
    for split, of_class in parts.items():
        spelled = {cls.lower(): cls for cls in of_class}
        for label, cls in enumerate(classes):
            if (name := cls if cls in of_class else spelled.pop(cls.lower(), None)) is not None:
                records += walk.records(of_class.pop(name), label, split)
        left_out += [left_out_entry(root, folders[split] / cls, "no class of train") for cls in of_class]
    return Listing(root, tuple(classes), records, left_out, walk.notes(path, classes, records), names_tell_class=True)


def read_classes(path: Path, config: DataConfig) -> Listing:
    """Return the images of ``<class>/*``, which have no split.

    Raises:
        BalancerError: there is no such layout.
    """
    root = _class_root(path)
    if root is None:
        raise BalancerError(f"{path} has no folders of images; expected <class>/*, a folder for each of the classes")
    left_out: list[LeftOut] = []
    walk = _Walk(root, config, _inside(root), left_out)
    of_class = walk.class_folders(root)
    walk.refuse_lost_classes(path, of_class)
    classes = sorted(of_class, key=natural)
    records = [record for label, cls in enumerate(classes) for record in walk.records(of_class[cls], label, "")]
    return Listing(root, tuple(classes), records, left_out, walk.notes(path, classes, records), names_tell_class=True)


class _Walk:
    """Goes through the class folders of a set, and remembers what is not read and why."""

    def __init__(self, root: Path, config: DataConfig, inside: Inside, left_out: list[LeftOut]) -> None:
        """Take the root that names are relative to, where images lie in class folders, and a list that grows."""
        self.root, self.inside, self.left_out = root, inside, left_out
        self.by_pattern = config.patient_pattern == "folder"
        self.names_patients = inside is Inside.PATIENTS and config.patients is None and config.patient_pattern is None
        self.classes = {(pair.rpartition("=")[0] or pair).strip().casefold() for pair in config.classes}
        self.mask_folders: list[str] = []
        self.masks: list[Path] = []  # files
        self.nested: list[Path] = []  # class folders that are not read, since their images lie in folders
        self.patients: dict[str, set[str]] = {}  # class folders by the patient whose folder lies in them

    def class_folders(self, folder: Path) -> dict[str, list[Path]]:
        """Return the images of each class folder.

        A class folder in which only folders of DICOM files lie, as an archive exports patients, studies and series,
        is read whatever ``inside`` says.
        """
        of_class: dict[str, list[Path]] = {}
        for entry in visible(folder):
            if reason := self._no_class(entry):
                self.left_out.append(left_out_entry(self.root, entry, reason))
                continue
            exported = not any(file.is_file() for file in visible(entry)) and dicom_files.any_below(entry)
            deep = self.by_pattern or self.inside is not Inside.FLAT or exported
            inner = _folders_in(entry) if deep else [entry]
            files = [file for one in inner for file in image_files(one)]
            masks = masks_among(files)
            self.masks += masks
            files = [file for file in files if file not in set(masks)] if masks else files
            if not files:
                self.left_out.append(left_out_entry(self.root, entry, self._why_empty(entry)))
                continue
            of_class[entry.name] = files
            read = [*files, *masks, *inner[1:]]
            self.left_out += _counted(masks, self.root)
            self.left_out += [item for one in inner for item in strays(one, read, self.root)]
        return of_class

    def _no_class(self, entry: Path) -> str:
        """Return why an entry beside the class folders is none; empty if it may be one."""
        if not entry.is_dir():
            is_table = entry in tables_in(entry.parent)
            return "a table beside the folders; --data with its name reads it" if is_table else BESIDE
        if entry.name.startswith(".") or printable(entry.name) != entry.name:
            return "a hidden name, or one that is not plain UTF-8"
        if is_mask_folder(entry.name) and entry.name.casefold() not in self.classes:
            self.mask_folders.append(entry.name)
            return "a folder of masks by its name"
        return ""

    def _why_empty(self, entry: Path) -> str:
        if not dicom_files.can_read() and dicom_files.any_below(entry):
            return dicom_files.needs_extra()
        if has_images_below(entry):
            self.nested.append(entry)
            return "its images lie in folders; --patient-pattern folder reads them, each folder as a patient"
        return "a folder without an image that is read"

    def refuse_lost_classes(self, path: Path, of_class: dict[str, list[Path]]) -> None:
        """Refuse a set of fewer than two classes whose other class folders were left out.

        Raises:
            BalancerError: it is such a set; the message has the line that reads it.
        """
        if len(of_class) > 1:
            return
        has = f"{self.root} has {named(sorted(of_class)) or 'no class folder'} with images"
        if self.nested:
            first = next(one for one in _folders_in(self.nested[0])[1:] if has_image(one))
            dates = _are_numbers(self.root)
            such = f"{first.relative_to(self.root).as_posix()}{', which may be of dates' if dates else ''}"
            raise BalancerError(
                f"{has}; those of {named([one.name for one in self.nested], 6)} lie in folders (such as"
                f" {such}){tables_hint(path)}; if each"
                f" of these folders is a patient's: {inspect_line(path, '--patient-pattern', 'folder')}"
            )
        if self.mask_folders:
            both = ",".join(sorted([*of_class, *self.mask_folders]))
            raise BalancerError(
                f"{has}, and {named(self.mask_folders)} is left out as masks; expected two or more classes; to take"
                f" it as a class: {inspect_line(path, '--classes', both)}"
            )

    def records(self, files: list[Path], label: int, split: str) -> Iterator[Record]:
        """Yield the records of the images of one class."""
        at_class = 2 if split else 1  # folders of a name up to the class
        for file in files:
            name = file.relative_to(self.root).as_posix()
            parts = name.split("/")
            patient = image_key(name)
            if self.names_patients and len(parts) > at_class + 1:
                patient = patient_key(parts[at_class])
                self.patients.setdefault(parts[at_class], set()).add(parts[at_class - 1])
            yield Record(name, label, split, patient, "")

    def notes(self, path: Path, of_class: Sequence[str], records: Sequence[Record]) -> list[str]:
        """Return what a reader must know of masks, of patients, and of tables on the way to the class folders."""
        notes = []
        if folders := list(dict.fromkeys(self.mask_folders)):
            everything = shlex.quote(",".join([*of_class, *folders]))
            notes.append(
                f"By their names, folders hold masks and are left out: {named(folders)}. --classes {everything} takes"
                " them as classes."
            )
        if self.masks:
            names = named([mask.relative_to(self.root).as_posix() for mask in self.masks], 2)
            notes.append(
                f"{len(self.masks):,} files are named as masks of the images beside them and are left out ({names}); a"
                " table with a row for each file reads them."
            )
        masks = [r.name for r in records if named_as_mask(r.name.rpartition("/")[2].rpartition(".")[0])]
        if masks and len(masks) < len(records):
            notes.append(
                f"{len(masks):,} files have names of masks and are read as images ({named(masks, 2)}); move masks"
                " elsewhere, since a classifier would learn from them."
            )
        if self.inside is not Inside.FLAT and not self.by_pattern:
            notes.append(f"Images lie {self.inside.value}.{self._patients_note()}")
        tables = [table for table in tables_on_the_way(path, self.root) if table.parent != self.root]
        if tables:
            notes.append(f"Tables beside the folders are not read: {named([table.name for table in tables])}.")
        return notes

    def _patients_note(self) -> str:
        if not self.patients:
            return ""
        shared = sum(len(classes) > 1 for classes in self.patients.values())
        several = f"; {shared:,} of the names stand in two or more classes and count as one patient each"
        return (
            f" The {len(self.patients):,} folders (such as {min(self.patients)}) tell the patients"
            f"{several * (shared > 0)}. --patient-pattern changes this."
        )


def _counted(masks: Sequence[Path], root: Path) -> list[LeftOut]:
    """Return one entry for the masks of a class, which are as many as its images."""
    if not masks:
        return []
    more = f" and {len(masks) - 1:,} more" if len(masks) > 1 else ""
    first = left_out_entry(root, masks[0], "masks by their names, of images beside them")
    return [replace(first, name=first.name + more, files=len(masks))]


def inspect_line(path: Path, *options: str) -> str:
    """Return the command line that inspects a path, to be pasted."""
    return f"`{shlex.join(['balancer', 'inspect', str(path), *options])}`"


def tables_hint(path: Path) -> str:
    """Return the command lines that read the tables in a folder, in folders of it, or beside it; empty without one."""
    within = (table for one in visible(path) if one.is_dir() for table in tables_in(one))
    tables = tables_in(path) or [*within] or tables_in(path.parent)
    if not tables:
        return ""
    lines = " or ".join(inspect_line(table) for table in tables[:5])
    return f"; {'a table' if len(tables) == 1 else f'{len(tables):,} tables'} may tell the classes: {lines}"


def tables_on_the_way(path: Path, root: Path) -> list[Path]:
    """Return the tables in a folder, in the root of the classes below it, and in the folders between them."""
    between = [root, *(folder for folder in root.parents if folder.is_relative_to(path))]
    return [table for folder in reversed(between) for table in tables_in(folder)]


def _inside(folder: Path) -> Inside:
    """Return where in the class folders images lie. DICOM files tell their patients, so folders need not.

    Folders are those of patients if each class has several of them and few names stand in every class. Class folders
    without a letter in their names may be dates, so what lies in them is not settled.
    """
    below: dict[str, set[str]] = {}
    for entry in visible(folder):
        if not _may_be_class(entry) or is_mask_folder(entry.name):
            continue
        if dicom_files.any_below(entry):
            return Inside.FLAT
        inner = (one for one in visible(entry) if _may_be_class(one) and not is_mask_folder(one.name))
        names = {one.name for one in inner if any(has_image(deeper) for deeper in _folders_in(one))}
        if has_image(entry) and (not names or len(image_files(entry)) >= len(names)):  # a few may lie loose
            return Inside.FLAT
        if names:
            below[entry.name] = names
    if len(below) < 2:
        return Inside.FLAT
    shared, fewest = set.intersection(*below.values()), min(map(len, below.values()))
    if shared and max(map(len, below.values())) == 1:
        return Inside.SHARED
    if fewest > 1 and 2 * len(shared) <= fewest and len(below) <= MOST_CLASSES and not _are_numbers(folder):
        return Inside.PATIENTS
    return Inside.FLAT


def _are_numbers(folder: Path) -> bool:
    """Return whether no folder in a folder has a letter in its name, as in 01, 2024 and 2024-03-01."""
    return not any(c.isalpha() for entry in visible(folder) if _may_be_class(entry) for c in entry.name)


def has_images_below(folder: Path) -> bool:
    """Return whether images lie in the folders of a folder, at any depth."""
    return any(has_image(one) for one in _folders_in(folder)[1:])


def _may_be_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _folders_in(folder: Path) -> list[Path]:
    """Return a folder and all folders below, but those of programs and of masks, and those of hidden names."""
    folders = [folder]
    for at, names, _ in os.walk(folder):
        names[:] = sorted(
            name
            for name in names
            if not (is_clutter(name) or name.startswith(".") or is_mask_folder(name) or printable(name) != name)
        )
        folders += [Path(at) / name for name in names]
    return folders


def _split_root(path: Path) -> Path | None:
    for folder in _nested(path):
        train = child(folder, *SPLIT_NAMES["train"])
        if train is not None and _class_count(train):
            return folder
    return None


def _class_root(path: Path) -> Path | None:
    return next((folder for folder in _nested(path) if _class_count(folder) > 1), None)


def _nested(path: Path) -> Iterator[Path]:
    """Yield a folder, and the folder that is alone in it, as archives unpack one."""
    for _ in range(DEPTH):
        if not path.is_dir():
            return
        yield path
        inside = [entry for entry in visible(path) if not entry.name.startswith(".")]
        folders = [entry for entry in inside if entry.is_dir()]
        if len(folders) != 1 or len(inside) > 2:  # beside it a readme
            return
        path = folders[0]


def _class_count(folder: Path) -> int:
    """Return how many folders with files, directly or in folders of patients, lie in a folder."""
    return sum(_any_file(entry) for entry in visible(folder) if _may_be_class(entry))


def _any_file(folder: Path) -> bool:
    entries = list(visible(folder))
    if any(entry.is_file() for entry in entries):
        return True
    if any(file.is_file() for entry in entries if entry.is_dir() for file in visible(entry)):
        return True
    return dicom_files.any_below(folder)
