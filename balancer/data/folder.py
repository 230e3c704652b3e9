"""The Kaggle layout ``{train,val,test}/{NORMAL,PNEUMONIA}/*``; its file names give patient and kind."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from balancer.core.errors import BalancerError
from balancer.data.images import is_image, named

CLASSES = ("NORMAL", "PNEUMONIA")  # the folders; a label is an index into them, PNEUMONIA is the positive class
TASKS = {"binary": CLASSES, "multiclass": ("NORMAL", "BACTERIAL", "VIRAL")}  # the classes of a task; 0 is always NORMAL
SPLITS = ("train", "val", "test")
KIND_WORDS = {"bacteria": "bacterial", "virus": "viral"}  # how a reader knows the kinds of file names
SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp"}

_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
# What programs leave in folders is passed over. Any other hidden name is listed as left out, as every file is.
_CLUTTER = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "phantom.json", "lost+found", "@eadir"),
    *(".ds_store", ".localized", ".apdisk", ".fseventsd", ".spotlight-v100", ".temporaryitems", ".directory"),
    *(".ipynb_checkpoints", ".git", ".gitignore", ".gitattributes", ".gitkeep", ".dvc", ".dvcignore", ".thumbnails"),
}
_CLUTTER_STARTS = ("._", ".trash", ".nfs", ".fuse_hidden", ".~lock.")
_CLUTTER_ENDS = (".lock", ".tmp", ".swp")  # of hidden names: also this toolkit's own

_PNEUMONIA = re.compile(r"person(?P<number>\d+)_(?P<kind>bacteria|virus)_\d+", re.IGNORECASE)
_KINDS = {"bacteria": 1, "virus": 2}  # labels of the multiclass task
_NORMAL = re.compile(r"(?P<kind>NORMAL2-IM|IM)-(?P<number>\d+)-\d+", re.IGNORECASE)
# Mendeley Data, edition 3: "(disease)-(randomized patient ID)-(image number by this patient)".
_MENDELEY = re.compile(r"(?P<kind>NORMAL|BACTERIA|VIRUS)-(?P<number>\d+)-\d{4}(?!\d)", re.IGNORECASE)
_MENDELEY_KINDS = (("normal",), ("bacteria", "virus"))  # of each class


@dataclass(frozen=True)
class Record:
    """One image of the data set, before decoding. A file whose name has no patient number is a patient of its own."""

    name: str  # path relative to the data set's root, with forward slashes
    label: int
    split: str
    patient: str  # the cautious key: the number within the class, or the patient ID of Mendeley's names
    kind: str  # "bacteria", "virus", "IM", "NORMAL2-IM" or "normal"; empty if the name tells no patient


@dataclass(frozen=True)
class LeftOut:
    """A file or folder in the data folder that is not read."""

    name: str  # path relative to the data set's root; bytes that are not UTF-8 as escapes
    reason: str
    files: int = 1  # in a folder: files at any depth


@dataclass(frozen=True)
class Listing:
    """Everything in a data folder but what programs leave there: the images, and what is not read."""

    records: list[Record]
    left_out: list[LeftOut]


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


def is_patient(key: str) -> bool:
    """Return whether a patient's key was read off a name, and does not stand for one image; also in old split.csv.

    The key of an image that `balancer evaluate` knows no patient of is the path of its file.
    """
    return "/" not in key and "\\" not in key and not key.startswith(("image-", *(f"{cls}-file-" for cls in CLASSES)))


def sampling_unit(keys: Iterable[str]) -> str:
    """Return the word for what folds keep together and intervals resample: ``patient``, or ``image`` if none is known.

    >>> sampling_unit(["NORMAL-115", "NORMAL-file-scan 7"]), sampling_unit(["image-train-0"])
    ('patient', 'image')
    """
    return "patient" if any(is_patient(key) for key in keys) else "image"


def count_units(keys: Sequence[str]) -> str:
    """Return the number of images and, where some are known, of patients, in words, for the key of each image.

    >>> count_units(["NORMAL-115", "NORMAL-115", "NORMAL-7"]), count_units(["image-test-0"])
    ('3 images of 2 patients', '1 image')
    """
    n, units = len(keys), len(set(keys))
    images = f"{n:,} image{'' if n == 1 else 's'}"
    return images if sampling_unit(keys) == "image" else f"{images} of {units:,} patient{'' if units == 1 else 's'}"


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
        if _child(candidate, "train") is not None:
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
    records, folders = [], {split: _child(root, *names) for split, names in _SPLIT_FOLDERS.items()}
    left_out = _others(root, root, folders.values(), "no train, val or test folder")
    for split, folder in folders.items():
        if folder is None:
            continue
        of_class = {cls: _child(folder, cls) for cls in CLASSES}
        left_out += _others(root, folder, of_class.values(), f"no {' or '.join(CLASSES)} folder")
        for label, (cls, class_folder) in enumerate(of_class.items()):
            if class_folder is None:
                raise BalancerError(f"{folder} has no {cls} folder; expected both of {', '.join(CLASSES)}")
            files = image_files(class_folder)
            others = strays(class_folder, files, root)
            if not files:
                seen = f" among {sum(item.files for item in others)} files ({_few(others)})" if others else ""
                raise BalancerError(
                    f"{class_folder} holds no image{seen}; expected files such as {' '.join(sorted(SUFFIXES))}"
                )
            left_out += others
            for file in files:
                patient, kind = parse_name(file.stem, label)
                records.append(Record(file.relative_to(root).as_posix(), label, split, patient, kind))
    return Listing(records, left_out)


def left_out_note(left_out: Sequence[LeftOut]) -> list[str]:
    """Return the sentence that counts what is not read and names at most five of it; empty if there is nothing."""
    n = sum(item.files for item in left_out)
    if not left_out:
        return []
    return [f"{'1 file is' if n == 1 else f'{n:,} files are'} not read: {_few(left_out)}."]


def _few(left_out: Sequence[LeftOut]) -> str:
    named_with_reason = [
        f"{item.name} ({item.reason}{f', {item.files:,} files' if item.files != 1 else ''})" for item in left_out[:5]
    ]
    return ", ".join(named_with_reason) + (", ..." if len(left_out) > 5 else "")


def _others(root: Path, folder: Path, used: Iterable[Path | None], expected: str) -> list[LeftOut]:
    """Return what lies beside the split or class folders that are read."""
    used = list(used)
    others = (path for path in _visible(folder) if path not in used)
    return [_left_out(root, path, expected if path.is_dir() else "a file beside the folders") for path in others]


def strays(folder: Path, files: Sequence[Path], root: Path) -> list[LeftOut]:
    """Return what lies in a folder of images beside ``files``; names are relative to ``root``."""
    images = set(files)
    return [_left_out(root, path, _why_not(path)) for path in _visible(folder) if path not in images]


def _left_out(root: Path, path: Path, reason: str) -> LeftOut:
    inside = sum(len(files) for _, _, files in os.walk(path)) if path.is_dir() else 1
    return LeftOut(printable(path.relative_to(root).as_posix()), reason, inside)


def _why_not(path: Path) -> str:
    if path.name.startswith("."):
        return "a hidden name"
    if path.is_dir():
        return "a folder among images"
    if path.is_symlink() and not path.exists():
        return "a broken link"
    if not path.is_file():
        return "no regular file"
    if printable(path.name) != path.name:
        return "a name that is not plain UTF-8; rename it"
    return "not an image in a format that is read"


def _visible(folder: Path) -> Iterator[Path]:
    """Yield the entries of a folder, sorted, except what programs leave there."""
    for path in sorted(folder.iterdir()):
        if not is_clutter(path.name):
            yield path


def is_clutter(name: str) -> bool:
    """Return whether a file or folder has a name that programs give to what they leave in folders."""
    low = name.lower()
    ours = low.startswith(".") and low.endswith(_CLUTTER_ENDS)
    return low in _CLUTTER or low.startswith(_CLUTTER_STARTS) or ours


def printable(name: str) -> str:
    """Return a file's name with control characters, and bytes that are not UTF-8, as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if unicodedata.category(c) != "Cc" else f"\\x{ord(c):02x}" for c in text)


def multiclass_records(records: Sequence[Record]) -> list[Record]:
    """Return the records with labels of the multiclass task: PNEUMONIA becomes BACTERIAL or VIRAL by the file name.

    Raises:
        BalancerError: a PNEUMONIA file's name has neither kind.
    """
    unnamed = [r.name for r in records if r.label and r.kind not in _KINDS]
    if unnamed:
        raise BalancerError(
            f"{len(unnamed)} of {sum(r.label for r in records)} PNEUMONIA files do not say in their names whether they"
            f" are bacterial or viral (such as {unnamed[0]}); expected names such as person23_bacteria_86.jpeg;"
            " rename or remove them, or leave out --task multiclass"
        )
    return [replace(r, label=_KINDS[r.kind]) if r.label else r for r in records]


def image_files(folder: Path) -> list[Path]:
    """Return the images directly in a folder, sorted: files with an image's suffix, and others by their content."""
    return [path for path in _visible(folder) if _is_image(path)]


def _is_image(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_file() or printable(path.name) != path.name:
        return False
    return path.suffix.lower() in SUFFIXES or is_image(path)


def _child(folder: Path, *names: str) -> Path | None:
    """Return the sub-folder with the first of some names, in upper or lower case; the exact spelling is preferred."""
    children = [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    for name in names:
        matching = [p for p in children if p.name.lower() == name.lower()]
        if matching:
            return min(matching, key=lambda p: p.name != name)
    return None
