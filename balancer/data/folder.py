"""The Kaggle layout ``{train,val,test}/{NORMAL,PNEUMONIA}/*``; its file names give patient and kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from balancer.core.errors import BalancerError

CLASSES = ("NORMAL", "PNEUMONIA")  # the folders; a label is an index into them, PNEUMONIA is the positive class
TASKS = {"binary": CLASSES, "multiclass": ("NORMAL", "BACTERIAL", "VIRAL")}  # the classes of a task; 0 is always NORMAL
SPLITS = ("train", "val", "test")
SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp"}

_PNEUMONIA = re.compile(r"person(?P<number>\d+)_(?P<kind>bacteria|virus)_\d+", re.IGNORECASE)
_KINDS = {"bacteria": 1, "virus": 2}  # labels of the multiclass task
_NORMAL = re.compile(r"(?P<kind>NORMAL2-IM|IM)-(?P<number>\d+)-\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Record:
    """One image of the data set, before decoding. A file whose name has no patient number is a patient of its own."""

    name: str  # path relative to the data set's root, with forward slashes
    label: int
    split: str
    patient: str  # the cautious key: the number within the class
    kind: str  # "bacteria", "virus", "IM", "NORMAL2-IM" or empty


def parse_name(stem: str, label: int) -> tuple[str, str]:
    """Return (patient, kind) from a file name without its suffix.

    >>> parse_name("person23_bacteria_86", 1), parse_name("NORMAL2-IM-0995-0001-0001", 0)
    (('PNEUMONIA-23', 'bacteria'), ('NORMAL-995', 'NORMAL2-IM'))
    """
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
        if _child(candidate, "train") is not None:
            return candidate
    holds = ", ".join(sorted(p.name for p in path.iterdir() if not p.name.startswith("."))[:6]) or "nothing"
    raise BalancerError(
        f"{path} has no train folder (it holds {holds}); expected train/NORMAL, train/PNEUMONIA, test/..."
    )


def read_folder(root: Path) -> list[Record]:
    """Return all images of a Kaggle-layout folder, sorted by name within split and class.

    Only the two class folders are read: hidden files, ``__MACOSX``, ``.ipynb_checkpoints`` and other folders neither
    become classes nor shift labels. A split folder may be absent; a present one must hold both classes.

    Raises:
        BalancerError: a class folder is missing or holds no image.
    """
    records = []
    for split in SPLITS:
        folder = _child(root, split)
        if folder is None:
            continue
        for label, cls in enumerate(CLASSES):
            class_folder = _child(folder, cls)
            if class_folder is None:
                raise BalancerError(f"{folder} has no {cls} folder; expected both of {', '.join(CLASSES)}")
            files = image_files(class_folder)
            if not files:
                raise BalancerError(
                    f"{class_folder} holds no image; expected files such as {' '.join(sorted(SUFFIXES))}"
                )
            for file in files:
                patient, kind = parse_name(file.stem, label)
                records.append(Record(file.relative_to(root).as_posix(), label, split, patient, kind))
    return records


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
    """Return the images directly in a folder, sorted."""
    return sorted(p for p in folder.iterdir() if _is_image(p))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _child(folder: Path, name: str) -> Path | None:
    """Return the sub-folder of a name, in upper or lower case; the exact spelling is preferred."""
    children: Iterable[Path] = folder.iterdir() if folder.is_dir() else ()
    matching = [p for p in children if p.name.lower() == name.lower() and p.is_dir()]
    return min(matching, key=lambda p: p.name != name, default=None)
