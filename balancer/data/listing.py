"""What a reader understands of a data set, and the walk through its folders: what is an image, and what is left out."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from balancer.data import dicom_files
from balancer.data.images import is_image
from balancer.data.masks import is_mask_folder
from balancer.data.records import Record
from balancer.data.spreadsheet import TABLES

Array = np.ndarray
SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp"}

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
# What programs leave in folders is passed over. Any other hidden name is listed as left out, as every file is.
_CLUTTER = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "phantom.json", "lost+found", "@eadir"),
    *(".ds_store", ".localized", ".apdisk", ".fseventsd", ".spotlight-v100", ".temporaryitems", ".directory"),
    *(".ipynb_checkpoints", ".git", ".gitignore", ".gitattributes", ".gitkeep", ".dvc", ".dvcignore", ".thumbnails"),
}
_CLUTTER_STARTS = ("._", ".trash", ".nfs", ".fuse_hidden", ".~lock.")
_CLUTTER_ENDS = (".lock", ".tmp", ".swp")  # of hidden names: also this toolkit's own


@dataclass(frozen=True)
class LeftOut:
    """A file or folder in the data folder that is not read."""

    name: str  # path relative to the data set's root; bytes that are not UTF-8 as escapes
    reason: str
    files: int = 1  # in a folder: files at any depth


@dataclass(frozen=True)
class Chosen(Sequence[Array]):
    """Some images of an archive, by position, each read when it is asked for."""

    images: Sequence[Array]
    positions: Sequence[int]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: Any) -> Any:
        return self.images[self.positions[i]]


@dataclass(frozen=True)
class Listing:
    """Everything in a data set but what programs leave there: the images, and what is not read.

    The defaults are those of data that nobody has described: what the data's makers fixed is kept, and where images
    are split one by one, near duplicates stay together.
    """

    root: Path  # the folder below which the records' names are files, or the archive that holds the images
    classes: tuple[str, ...]  # a label of a record is an index into them
    records: list[Record]
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what a reader of figures must know
    # Of an archive, one for each record, (H, W) or (H, W, 3) uint8; None: the names are files
    images: Sequence[Array] | None = None
    positive: str | None = None  # the positive class of two, where the data's makers fix one
    keeps_val: bool = True  # the source's own validation is used, unless a fraction is set
    plain_split: bool = False  # as in earlier versions: near duplicates may part, and a fold may lack a small class
    names_tell_class: bool = False  # a record's name holds its class, so that hashes of names change with a label
    numbers_restart: bool = False  # one patient number under two sources may be of two patients
    source_name: str = ""  # what the sources are called, such as "column site"; empty: they are no sites
    reader: str = "chest"
    channels: int | None = None  # that the images are read in, whatever they look like; None: as they look


def left_out_note(left_out: Sequence[LeftOut]) -> list[str]:
    """Return the sentence that counts what is not read and names at most five of it; empty if there is nothing."""
    n = sum(item.files for item in left_out)
    if not left_out:
        return []
    return [f"{'1 file is' if n == 1 else f'{n:,} files are'} not read: {few(left_out)}."]


def few(left_out: Sequence[LeftOut]) -> str:
    """Return at most five of what is left out, each with its reason."""
    named_with_reason = [
        f"{item.name} ({item.reason}{f', {item.files:,} files' if item.files != 1 else ''})" for item in left_out[:5]
    ]
    return ", ".join(named_with_reason) + (", ..." if len(left_out) > 5 else "")


def others(root: Path, folder: Path, used: Iterable[Path | None], expected: str) -> list[LeftOut]:
    """Return what lies beside the split or class folders that are read."""
    used = list(used)
    beside = (path for path in visible(folder) if path not in used)
    return [left_out_entry(root, path, expected if path.is_dir() else "a file beside the folders") for path in beside]


def strays(folder: Path, files: Sequence[Path], root: Path) -> list[LeftOut]:
    """Return what lies in a folder of images beside ``files``; names are relative to ``root``."""
    images = set(files)
    return [left_out_entry(root, path, _why_not(path)) for path in visible(folder) if path not in images]


def left_out_entry(root: Path, path: Path, reason: str) -> LeftOut:
    """Return an entry for a file or folder that is not read, with the number of files in it."""
    inside = sum(len(files) for _, _, files in os.walk(path)) if path.is_dir() else 1
    return LeftOut(printable(path.relative_to(root).as_posix()), reason, inside)


def _why_not(path: Path) -> str:
    if path.name.startswith("."):
        return "a hidden name"
    if path.is_dir():
        return "a folder of masks" if is_mask_folder(path.name) else "a folder among images"
    if path.is_symlink() and not path.exists():
        return "a broken link"
    if not path.is_file():
        return "no regular file"
    if printable(path.name) != path.name:
        return "a name that is not plain UTF-8; rename it"
    if path.name.upper() == dicom_files.INDEX:
        return "the index of a DICOM medium"
    if dicom_files.is_dicom_file(path) and not dicom_files.can_read():
        return dicom_files.needs_extra()
    return dicom_files.no_dicom(path) or "not an image in a format that is read"


def visible(folder: Path) -> Iterator[Path]:
    """Yield the entries of a folder, sorted, except what programs leave there."""
    for path in sorted(folder.iterdir()):
        if not is_clutter(path.name):
            yield path


def tables_in(folder: Path) -> list[Path]:
    """Return the tables directly in a folder, by their suffixes; none if it is no folder."""
    if not folder.is_dir():
        return []
    return [path for path in visible(folder) if path.is_file() and path.suffix.lower() in TABLES]


def is_clutter(name: str) -> bool:
    """Return whether a file or folder has a name that programs give to what they leave in folders."""
    low = name.lower()
    ours = low.startswith(".") and low.endswith(_CLUTTER_ENDS)
    return low in _CLUTTER or low.startswith(_CLUTTER_STARTS) or ours


def printable(name: str) -> str:
    """Return a file's name with control characters, and bytes that are not UTF-8, as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if unicodedata.category(c) != "Cc" else f"\\x{ord(c):02x}" for c in text)


def image_files(folder: Path) -> list[Path]:
    """Return the images directly in a folder, sorted: files with an image's suffix, and others by their content."""
    return [path for path in visible(folder) if _is_image(path)]


def has_image(folder: Path) -> bool:
    """Return whether an image lies directly in a folder; see :func:`image_files`."""
    return any(_is_image(path) for path in visible(folder))


def _is_image(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_file() or printable(path.name) != path.name:
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    if dicom_files.is_dicom_file(path):
        return dicom_files.can_read() and path.name.upper() != dicom_files.INDEX
    return is_image(path)


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return the key by which people sort names: upper and lower case alike, numbers by their value.

    >>> sorted(["grade 10", "Grade 2", "grade 1"], key=natural)
    ['grade 1', 'Grade 2', 'grade 10']
    """
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part] + [(2, 0, name)]


def child(folder: Path, *names: str) -> Path | None:
    """Return the sub-folder with the first of some names, in upper or lower case; the exact spelling is preferred."""
    children = [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    for name in names:
        matching = [p for p in children if p.name.lower() == name.lower()]
        if matching:
            return min(matching, key=lambda p: p.name != name)
    return None
