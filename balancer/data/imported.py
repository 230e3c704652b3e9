"""The images of another generator: read as the data set's images are, and what a reader must know of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from balancer.core.errors import BalancerError
from balancer.core.pixels import GREY, channels_of
from balancer.core.preview import Undecoded
from balancer.core.settings_base import DataConfig
from balancer.data.class_folders import ClassFolder
from balancer.data.dataset import Dataset
from balancer.data.dicom_files import DicomRules
from balancer.data.image_folder import Folder, Scan, decode_folder, file_is_coloured, scan_folder
from balancer.data.images import named
from balancer.data.listing import natural
from balancer.data.perceptual_hash import pixel_hashes

Array = np.ndarray
FOLDER = "the folder"  # of the images, in messages
SHOWN = 3  # names in a message
UNSEEN = (("test", "test"), ("val", "validation"))  # folds that no generator may learn from, and their names
_SEED = re.compile(r"(?<![a-z])seed[-_ ]?(\d{1,19})(?!\d)", re.IGNORECASE)  # as StyleGAN names its files


@dataclass(frozen=True)
class ImportedClass:
    """The images of a class: no two alike, in the order of the manifest."""

    label: int
    scan: Scan
    names: list[str]  # relative to the folder of the class
    digests: Sequence[str]  # SHA-256 of each file
    images: Array  # uint8, of the size and the channels of the real images
    undecoded: Undecoded | None = None

    @property
    def seeds(self) -> list[str]:
        """Return the seed that each file's name tells, as ``seed0007.png`` does; empty where it tells none."""
        return [str(int(seed[1])) if (seed := _SEED.search(Path(name).stem)) else "" for name in self.names]


def read_class(
    config: DataConfig, data: Dataset, folder: ClassFolder, n: int | None, decode: bool
) -> tuple[ImportedClass, list[str]]:
    """Return the images of a class, decoded as the data are, and what a reader must know of them.

    Args:
        config: of the data.
        data: the real images.
        folder: of the synthetic ones.
        n: how many to read, the first by name; None for all.
        decode: False for a dry run, as for :func:`balancer.data.dataset.load_dataset`.

    Raises:
        BalancerError: the folder is empty or too damaged, or holds images too small, too often equal to one another, or
            equal to a real validation or test image.
    """
    size = data.images.shape[1]
    scan = scan_folder(FOLDER, folder.path)
    files = sorted(scan.files, key=lambda file: natural(file.relative_to(scan.path).as_posix()))[:n]
    scan = replace(scan, files=files, sizes={file: scan.sizes[file] for file in files if file in scan.sizes})
    _refuse_small(scan, size)
    how = size, config.resize, config.max_bad, decode, data.ranges or None, data.channels, DicomRules.of(config)
    decoded = decode_folder(scan, *how)
    part = ImportedClass(folder.label, scan, decoded.names, decoded.digests, decoded.images, decoded.undecoded)
    notes = [*_notes_on_files(scan, decoded), *_notes_on_count(part, data, n)]
    if part.undecoded is None:
        part, repeated = _without_repeats(part, config.max_bad)
        notes += repeated
        if data.undecoded is None:
            _refuse_copies(part, data)
    return part, notes


def _refuse_small(scan: Scan, size: int) -> None:
    """Refuse images smaller than the working size: enlarged ones are blurred, which would reveal their class."""
    small = {file: sides for file, sides in scan.sizes.items() if min(sides) < size}
    if small:
        file, sides = next(iter(small.items()))
        raise BalancerError(
            f"{file} is {sides[0]} x {sides[1]} px and the real images are used at {size} px ({len(small)} of"
            f" {len(scan.files)} images are too small); generate larger images, or give --image-size {min(sides)} to"
            " this command and to the others"
        )


def _notes_on_files(scan: Scan, folder: Folder) -> list[str]:
    """Return what a reader must know of the files: their sizes, colour, what is damaged, and what is no image."""
    notes, sizes = list(folder.notes), Counter(scan.sizes.values())
    if len(sizes) > 1:
        usual = sizes.most_common(1)[0][0]
        odd = next(file for file, sides in scan.sizes.items() if sides != usual)
        notes.append(
            f"{len(scan.sizes) - sizes[usual]} of {len(scan.sizes)} images are not of {usual[0]} x {usual[1]} px, such"
            f" as {odd.name} ({scan.sizes[odd][0]} x {scan.sizes[odd][1]} px): what resizing leaves differs among them."
        )
    notes += _notes_on_colour(scan, folder)
    if folder.bad:
        bad = [Path(name).name for name, _ in folder.bad]
        notes.append(
            f"{len(bad)} of {len(scan.files)} images could not be read and were left out ({named(bad, SHOWN)})."
        )
    if scan.strays:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in scan.strays.most_common())
        notes.append(f"Files that are no images were left out: {kinds}.")
    return notes


def _notes_on_colour(scan: Scan, folder: Folder) -> list[str]:
    """Return what a reader must know where images lost their colours, or have none beside real ones in colour."""
    in_grey = channels_of(folder.images) == GREY
    coloured = [f.name for f in scan.files if file_is_coloured(f)] if in_grey and scan.colour.in_colour else []
    if coloured:
        return [
            f"{len(coloured)} of {len(scan.files)} images are coloured and were read as grey, as the real images are"
            f" ({named(coloured, SHOWN)})."
        ]
    if without := folder.without_colour:
        names = named([scan.files[i].name for i in without], SHOWN)
        return [
            f"{len(without)} of {len(scan.files)} images have no colour and three equal channels, and the real images"
            f" are read in colour: a classifier can tell them by that ({names})."
        ]
    return []


def _notes_on_count(part: ImportedClass, data: Dataset, n: int | None) -> list[str]:
    """Return a note where the images do not fill up the class."""
    lacking, have = data.deficits[part.label], len(part.names)
    if not lacking:
        return ["The training fold lacks no image of this class, so `classifier ablate` adds none."]
    if have >= lacking:
        return []
    more = " or a larger --n" if n is not None and have == n else ""
    return [
        f"There are {have:,} images and the training fold lacks {lacking:,}: give `classifier ablate` the option"
        f" --synthetic-count all, or import more images{more}."
    ]


def _without_repeats(part: ImportedClass, max_bad: float) -> tuple[ImportedClass, list[str]]:
    """Return the images without those that equal an earlier one, and a note that names them.

    Raises:
        BalancerError: their share is above ``max_bad``.
    """
    first: dict[bytes, int] = {}
    equal = [(i, j) for i, content in enumerate(pixel_hashes(part.images)) if (j := first.setdefault(content, i)) != i]
    if not equal:
        return part, []
    i, j = equal[0]
    what = f"{len(equal)} of {len(part.names)} images equal another one at the working size"
    if len(equal) > max_bad * len(part.names):
        raise BalancerError(
            f"{what}, more than --max-bad {max_bad:g} allows (first {part.names[i]} and {part.names[j]}); remove them,"
            " or train the generator again: it has collapsed"
        )
    kept = sorted(first.values())
    names, digests = ([values[k] for k in kept] for values in (part.names, part.digests))
    shown = named([part.names[k] for k, _ in equal], SHOWN)
    return replace(part, names=names, digests=digests, images=part.images[kept]), [
        f"{what} and were left out: {shown}."
    ]


def _refuse_copies(part: ImportedClass, data: Dataset) -> None:
    """Refuse images that equal a real image of validation or test: their generator has learnt from that image."""
    hashes = pixel_hashes(part.images)
    for fold, words in UNSEEN:
        index = data.indices(fold)
        real = {content: i for i, content in zip(index, pixel_hashes(data.images[index]), strict=True)}
        files = {data.digests[i]: i for i in index}
        found = [real.get(h, files.get(d)) for h, d in zip(hashes, part.digests, strict=True)]
        copies = [(name, i) for name, i in zip(part.names, found, strict=True) if i is not None]
        if copies:
            raise BalancerError(
                f"{len(copies)} of {len(part.names)} images of {part.scan.path} equal real {words} images, first"
                f" {copies[0][0]} and {data.records[copies[0][1]].name}: the generator learnt from more than the"
                " training fold; train it on what `balancer inspect --training-fold FILE.csv` names"
            )
