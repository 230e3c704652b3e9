"""Masks that lie beside the images, known by their names: the outlines that a segmentation learns from.

A mask is no photograph of its class. As an image it would tell a classifier the class, or become a class of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_FOLDER = re.compile(r"masks?|segs?|segmentations?|annotations?|ground[ _-]?truths?", re.IGNORECASE)
_FILE = re.compile(r"(?P<image>.+)[ _-](?:masks?|seg|segmentation)(?:[ _-]?\d+)?", re.IGNORECASE)


def is_mask_folder(name: str) -> bool:
    """Return whether a folder has a name that folders of masks have.

    >>> is_mask_folder("Masks"), is_mask_folder("ground_truth"), is_mask_folder("with_mask")
    (True, True, False)
    """
    return _FOLDER.fullmatch(name) is not None


def named_as_mask(stem: str) -> str:
    """Return the name of the image whose mask a file is by its name; empty for other names.

    >>> named_as_mask("benign (4)_mask_1"), named_as_mask("scan-seg"), named_as_mask("masked")
    ('benign (4)', 'scan', '')
    """
    match = _FILE.fullmatch(stem)
    return match["image"] if match else ""


def masks_among(files: Sequence[Path]) -> list[Path]:
    """Return the files that are named as the mask of an image in the same folder."""
    images = {(file.parent, file.stem.casefold()) for file in files}
    return [file for file in files if (file.parent, named_as_mask(file.stem).casefold()) in images]
