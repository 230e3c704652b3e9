"""Which folder holds the synthetic images of which class: the folder that is named, or one for each class in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from balancer.core.errors import UsageError, nearest
from balancer.core.files import folder_name
from balancer.data.dataset import Dataset
from balancer.data.image_folder import holds_images
from balancer.data.listing import LeftOut, left_out_entry, visible


@dataclass(frozen=True)
class ClassFolder:
    """The folder with the synthetic images of a class."""

    label: int
    path: Path


def class_folders(folder: Path, cls: str | None, data: Dataset) -> tuple[list[ClassFolder], list[LeftOut]]:
    """Return the folder of each class, in label order, and what beside them is not read.

    Args:
        folder: of the images.
        cls: the class of all images; None: the folders in the folder are named after the classes.
        data: the real images, which have the classes.

    Raises:
        UsageError: a class is not named, or is none of the data, or is not one that the training fold could use.
    """
    if cls is not None:
        return [ClassFolder(_label(cls, f"--class is {cls!r}, no class", data), folder)], []
    paths: dict[int, Path] = {}
    left_out = []
    for entry in visible(folder):
        if not entry.is_dir() or entry.name.startswith(".") or not holds_images(entry):
            why = "a folder without an image" if entry.is_dir() else "a file beside the folders of the classes"
            left_out.append(left_out_entry(folder, entry, why))
            continue
        label = _label(entry.name, f"{entry} is no folder of a class", data)
        if label in paths:
            raise UsageError(f"{paths[label]} and {entry} are both of class {data.classes[label]}; give one of them")
        paths[label] = entry
    if not paths:
        minority = data.classes[data.minority_class]
        raise UsageError(
            f"{folder} has no folder of a class, such as {folder / minority}; name the class of all images, as in"
            f" --class {minority}"
        )
    return [ClassFolder(label, paths[label]) for label in sorted(paths)], left_out


def _label(name: str, problem: str, data: Dataset) -> int:
    """Return the label of a class, which with two classes must be the minority class.

    Raises:
        UsageError: there is no such class; the message begins with ``problem``.
    """
    names = [cls for cls in data.classes if name in (cls, folder_name(cls))]
    names = names or [cls for cls in data.classes if name.casefold() == cls.casefold()]
    if len(names) != 1:
        raise UsageError(f"{problem} of {data.source}; {nearest(name, data.classes)}")
    label, minority = data.classes.index(names[0]), data.minority_class
    if len(data.classes) == 2 and label != minority:
        raise UsageError(
            f"{names[0]} lacks no image in the training fold, and with two classes `classifier ablate` takes images of"
            f" the other one; give images of {data.classes[minority]}, or see `balancer evaluate`"
        )
    return label
