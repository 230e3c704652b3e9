"""The chest set of Kaggle, ``{train,val,test}/{NORMAL,PNEUMONIA}/*``; its file names give patient and kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from balancer.core.errors import BalancerError
from balancer.core.settings_base import DataConfig
from balancer.data.folders import has_images_below, inspect_line
from balancer.data.images import named
from balancer.data.listing import (
    SPLIT_FOLDERS,
    SUFFIXES,
    Listing,
    child,
    few,
    image_files,
    is_clutter,
    others,
    printable,
    strays,
)
from balancer.data.records import Record

CLASSES = ("NORMAL", "PNEUMONIA")  # the folders; a label is an index into them, PNEUMONIA is the positive class
# The classes of a task; 0 is always NORMAL.
TASKS = {"binary": CLASSES, "multiclass": ("NORMAL", "BACTERIAL", "VIRAL")}
# What makes the chest set's splits those of earlier versions: see the fields of Listing.
RULES: dict[str, Any] = {
    "positive": "PNEUMONIA",
    "keeps_val": False,  # the source's validation has 16 images
    "plain_split": True,
    "names_tell_class": True,
    "numbers_restart": True,
    "channels": 1,  # radiographs, which Kaggle and others store as RGB
}
KIND_WORDS = {"bacteria": "bacterial", "virus": "viral"}  # how a reader knows the kinds of file names

_PNEUMONIA = re.compile(r"person(?P<number>\d+)_(?P<kind>bacteria|virus)_\d+", re.IGNORECASE)
_KINDS = {"bacteria": 1, "virus": 2}  # labels of the multiclass task
_NORMAL = re.compile(r"(?P<kind>NORMAL2-IM|IM)-(?P<number>\d+)-\d+", re.IGNORECASE)
# Mendeley Data, edition 3: "(disease)-(randomized patient ID)-(image number by this patient)".
_MENDELEY = re.compile(r"(?P<kind>NORMAL|BACTERIA|VIRUS)-(?P<number>\d+)-\d{4}(?!\d)", re.IGNORECASE)
_MENDELEY_KINDS = (("normal",), ("bacteria", "virus"))  # of each class


def is_chest(classes: Sequence[str]) -> bool:
    """Return whether classes are those of the chest set: the first is NORMAL, and every other is a pneumonia."""
    return tuple(classes) in TASKS.values()


def earlier_classes(task: str) -> tuple[str, ...]:
    """Return the classes that a file of an earlier version means, which names no classes but a task.

    >>> earlier_classes("binary")
    ('NORMAL', 'PNEUMONIA')
    """
    return TASKS.get(task, CLASSES)


def other_task(name: str, classes: Sequence[str]) -> str | None:
    """Return the task of the chest set that has a class of that name, where ``classes`` are those of its other task."""
    tasks = [task for task, of_task in TASKS.items() if is_chest(classes) and name.upper() in of_task]
    return tasks[0] if tasks else None


def parse_name(stem: str, label: int) -> tuple[str, str]:
    """Return (patient, kind) from a file name without its suffix.

    >>> parse_name("person23_bacteria_86", 1), parse_name("NORMAL2-IM-0995-0001-0001", 0)
    (('PNEUMONIA-23', 'bacteria'), ('NORMAL-995', 'NORMAL2-IM'))

    The patient IDs of Mendeley's names are of the whole set: one ID in two classes is taken as one child.

    >>> parse_name("BACTERIA-1008087-0001", 1)
    ('patient-1008087', 'bacteria')
    """
    if (match := _MENDELEY.match(stem)) and match["kind"].lower() in _MENDELEY_KINDS[label]:
        return f"patient-{int(match['number'])}", match["kind"].lower()
    match = (_PNEUMONIA if label else _NORMAL).match(stem)
    if match is None:
        return f"{CLASSES[label]}-file-{stem}", ""
    kind = match["kind"].lower() if label else match["kind"].upper()
    return f"{CLASSES[label]}-{int(match['number'])}", kind


def find_root(path: Path) -> Path:
    """Return the folder with ``train`` in it: ``path``, or a nested ``chest_xray`` or ``chest_xray/chest_xray``.

    Raises:
        BalancerError: the folder is missing, or nothing below it looks like the layout.
    """
    if path.is_file():
        raise BalancerError(
            f"data {path} is a file; give --data or BALANCER_DATA a folder with train/NORMAL and so on, or a .npz"
        )
    if not path.is_dir():
        raise BalancerError(
            f"data folder {path} does not exist; give --data or BALANCER_DATA a folder with train/NORMAL and so on"
        )
    for candidate in (path, path / "chest_xray", path / "chest_xray" / "chest_xray"):
        if child(candidate, "train") is not None:
            return candidate
    holds = named(sorted(printable(p.name) for p in path.iterdir() if not p.name.startswith(".")), 6) or "nothing"
    raise BalancerError(
        f"{path} has no train folder (it holds {holds}); expected train/NORMAL, train/PNEUMONIA, test/..."
    )


def read_folder(root: Path) -> list[Record]:
    """Return all images of a Kaggle-layout folder; see :func:`list_folder`."""
    return list_folder(root).records


def list_folder(root: Path) -> Listing:
    """Return all images of a Kaggle-layout folder, sorted by name within split and class, and what is not read.

    Only the two class folders of each split are read. What programs leave behind is passed over; other files and
    folders, hidden ones too, are listed, and never become classes nor shift labels. A split folder may be absent; a
    present one must hold both classes. ``valid`` and ``validation`` are ``val``.

    Raises:
        BalancerError: a class folder is missing or holds no image.
    """
    records: list[Record] = []
    folders = {split: child(root, *names) for split, names in SPLIT_FOLDERS.items()}
    left_out = others(root, root, folders.values(), "no train, val or test folder")
    for split, folder in folders.items():
        if folder is None:
            continue
        of_class = {cls: child(folder, cls) for cls in CLASSES}
        reason = f"no {' or '.join(CLASSES)} folder; --format splits reads all"
        left_out += others(root, folder, of_class.values(), reason)
        for label, (cls, class_folder) in enumerate(of_class.items()):
            if class_folder is None:
                raise BalancerError(f"{folder} has no {cls} folder; expected both of {', '.join(CLASSES)}")
            files = image_files(class_folder)
            beside = strays(class_folder, files, root)
            if not files:
                seen = f" among {sum(item.files for item in beside)} files ({few(beside)})" if beside else ""
                remedy = f"expected files such as {' '.join(sorted(SUFFIXES))}"
                if has_images_below(class_folder):
                    remedy = f"to read its folders: {inspect_line(root, '--format', 'splits')}"
                raise BalancerError(f"{class_folder} holds no image{seen}; {remedy}")
            left_out += beside
            for file in files:
                patient, kind = parse_name(file.stem, label)
                records.append(Record(file.relative_to(root).as_posix(), label, split, patient, kind))
    return Listing(root, CLASSES, records, left_out, **RULES)


def recognises(path: Path) -> bool:
    """Return whether a folder has the chest set's layout: both class folders among the splits, or one and no other."""
    for candidate in (path, path / "chest_xray", path / "chest_xray" / "chest_xray"):
        if child(candidate, "train") is not None:
            splits = [folder for names in SPLIT_FOLDERS.values() if (folder := child(candidate, *names)) is not None]
            inside = {
                p.name.lower() for split in splits for p in split.iterdir() if p.is_dir() and not is_clutter(p.name)
            }
            present = {cls.lower() for cls in CLASSES} & inside
            return len(present) == len(CLASSES) or len(present) == len(inside) == 1
    return False


def read(path: Path, config: DataConfig) -> Listing:
    """Return the images of the chest set with the classes of the task; see :func:`list_folder`."""
    listing = list_folder(find_root(path))
    if config.task != "multiclass":
        return listing
    return replace(listing, classes=TASKS["multiclass"], records=multiclass_records(listing.records), positive=None)


def multiclass_records(records: Sequence[Record]) -> list[Record]:
    """Return the records with labels of the multiclass task: PNEUMONIA becomes BACTERIAL or VIRAL by the file name.

    Raises:
        BalancerError: a PNEUMONIA file's name has neither kind.
    """
    unnamed = [r.name for r in records if r.label and r.source not in _KINDS]
    if unnamed:
        raise BalancerError(
            f"{len(unnamed)} of {sum(r.label for r in records)} PNEUMONIA files do not say in their names whether they"
            f" are bacterial or viral (such as {unnamed[0]}); expected names such as person23_bacteria_86.jpeg;"
            " rename or remove them, or leave out --task multiclass"
        )
    return [replace(r, label=_KINDS[r.source]) if r.label else r for r in records]
