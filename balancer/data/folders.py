"""Folders of images by class, of any names: with splits (``train/<class>/*``), or without (``<class>/*``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from balancer.core.errors import BalancerError
from balancer.core.settings_base import DataConfig
from balancer.data import dicom_files
from balancer.data.images import named
from balancer.data.listing import (
    LeftOut,
    Listing,
    child,
    image_files,
    is_clutter,
    left_out_entry,
    natural,
    printable,
    strays,
    visible,
)
from balancer.data.records import SPLITS, Record, image_key
from balancer.data.spreadsheet import TABLES

SPLIT_NAMES = {  # of folders, and of the cells of a table
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
MASKS = ("_mask", "-mask", "_seg")  # ends of names that no photograph has
DEPTH = 3  # folders that may stand around the data, as archives unpack them


def recognises_splits(path: Path) -> bool:
    """Return whether a folder, or the only folder in it, has a train folder with folders of images."""
    return _split_root(path) is not None


def recognises_classes(path: Path) -> bool:
    """Return whether a folder, or the only folder in it, has two or more folders of images."""
    return _class_root(path) is not None


def read_splits(path: Path, config: DataConfig) -> Listing:
    """Return the images of ``{train,val,test}/<class>/*``. The folders of train are the classes.

    Raises:
        BalancerError: there is no such layout.
    """
    root = _split_root(path)
    if root is None:
        raise BalancerError(f"{path} has no train folder with folders of images; expected {{train,val,test}}/<class>/*")
    folders = {split: child(root, *SPLIT_NAMES[split]) for split in SPLITS}
    left_out = [
        left_out_entry(root, entry, "no train, val or test folder" if entry.is_dir() else "a file beside the folders")
        for entry in visible(root)
        if entry not in folders.values()
    ]
    deep = config.patient_pattern == "folder"
    parts = {split: _class_folders(folder, root, left_out, deep) for split, folder in folders.items() if folder}
    classes = sorted(parts["train"], key=natural)
    records: list[Record] = []
    for split, of_class in parts.items():
        spelled = {cls.lower(): cls for cls in of_class}
        for label, cls in enumerate(classes):
            if (name := cls if cls in of_class else spelled.pop(cls.lower(), None)) is not None:
                records += _records(root, of_class.pop(name), label, split)
        for files in of_class.values():
            left_out.append(left_out_entry(root, files[0].parent, "no class of train"))
    return Listing(root, tuple(classes), records, left_out, _mask_note(records), names_tell_class=True)


def read_classes(path: Path, config: DataConfig) -> Listing:
    """Return the images of ``<class>/*``, which have no split.

    Raises:
        BalancerError: there is no such layout.
    """
    root = _class_root(path)
    if root is None:
        raise BalancerError(f"{path} has no folders of images; expected <class>/*, a folder for each of the classes")
    left_out: list[LeftOut] = []
    of_class = _class_folders(root, root, left_out, config.patient_pattern == "folder")
    classes = sorted(of_class, key=natural)
    records = [record for label, cls in enumerate(classes) for record in _records(root, of_class[cls], label, "")]
    return Listing(root, tuple(classes), records, left_out, _mask_note(records), names_tell_class=True)


def _records(root: Path, files: list[Path], label: int, split: str) -> Iterator[Record]:
    for file in files:
        name = file.relative_to(root).as_posix()
        yield Record(name, label, split, image_key(name), "")


def _class_folders(folder: Path, root: Path, left_out: list[LeftOut], deep: bool) -> dict[str, list[Path]]:
    """Return the images of each class folder; add whatever is not read to ``left_out``.

    Args:
        folder: whose folders are the classes.
        root: that names are relative to.
        left_out: grows.
        deep: whether images lie in folders within the class folders, one for each patient. A class folder in which
            only folders of DICOM files lie, as an archive exports patients, studies and series, is read so anyway.
    """
    of_class: dict[str, list[Path]] = {}
    for entry in visible(folder):
        if not entry.is_dir():
            is_table = entry.suffix.lower() in TABLES
            reason = (
                "a table beside the folders; --data with its name reads it" if is_table else "a file beside the folders"
            )
            left_out.append(left_out_entry(root, entry, reason))
            continue
        if entry.name.startswith(".") or printable(entry.name) != entry.name:
            left_out.append(left_out_entry(root, entry, "a hidden name, or one that is not plain UTF-8"))
            continue
        exported = not any(file.is_file() for file in visible(entry)) and dicom_files.any_below(entry)
        walk = os.walk(entry) if deep or exported else []
        inner = [entry, *(Path(at) / name for at, names, _ in walk for name in sorted(names))]
        inner = [one for one in inner if not is_clutter(one.name)] or [entry]
        files = [file for one in inner for file in image_files(one)]
        if not files:
            lacks_extra = not dicom_files.can_read() and dicom_files.any_below(entry)
            reason = dicom_files.needs_extra() if lacks_extra else "a folder without an image that is read"
            left_out.append(left_out_entry(root, entry, reason))
            continue
        of_class[entry.name] = files
        read = {*files, *inner[1:]}
        left_out += [item for one in inner for item in strays(one, [*read], root)]
    return of_class


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
    return sum(_any_file(entry) for entry in visible(folder) if entry.is_dir() and not entry.name.startswith("."))


def _any_file(folder: Path) -> bool:
    entries = list(visible(folder))
    if any(entry.is_file() for entry in entries):
        return True
    if any(file.is_file() for entry in entries if entry.is_dir() for file in visible(entry)):
        return True
    return dicom_files.any_below(folder)


def _mask_note(records: list[Record]) -> list[str]:
    masks = [r.name for r in records if r.name.rpartition(".")[0].endswith(MASKS)]
    if not masks or len(masks) == len(records):
        return []
    return [
        f"{len(masks):,} files have names of masks and are read as images ({named(masks, 2)}); move masks elsewhere, "
        "since a classifier would learn from them."
    ]
