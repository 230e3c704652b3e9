"""A folder of images of any layout, whatever made them: what it holds, and its images at the working size."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from balancer.core.errors import BalancerError
from balancer.core.pixels import GREY
from balancer.core.preview import Undecoded
from balancer.data import cache, channels, dicom_files
from balancer.data.channels import Seen
from balancer.data.chest import parse_name
from balancer.data.colour import GREY_MODES
from balancer.data.dataset import refuse_cache_inside
from balancer.data.decoded import file_reader
from balancer.data.dicom_files import DicomRules
from balancer.data.dicom_records import patients_by_header
from balancer.data.images import AS_SHOWN, Ranges, is_image, looks_coloured, open_image
from balancer.data.listing import SUFFIXES, is_clutter
from balancer.data.manifest import MANIFEST, read_manifest
from balancer.data.patients import patients_of
from balancer.data.phantom import STAMP
from balancer.data.records import patient_key
from balancer.data.split import merge_groups

log = logging.getLogger("balancer")
Array = np.ndarray
FIRST_FRAME = DicomRules(frame="first")


@dataclass(frozen=True)
class Scan:
    """What a folder holds, by the headers of its files."""

    name: str  # what names the folder in messages, such as --real
    path: Path
    files: list[Path]  # images, and damaged files with the name of an image
    sizes: dict[Path, tuple[int, int]]  # width and height of the files with a readable header
    formats: Counter[str]  # of these files, by Pillow's name
    colour: Seen  # what a look at the images stored in colour showed
    strays: Counter[str]  # other files by suffix

    @property
    def format_names(self) -> str:
        """Return the formats in words, the most frequent first."""
        return " and ".join(name for name, _ in self.formats.most_common())

    @property
    def run(self) -> Path | None:
        """Return the synthesis run whose images these are; None for any other folder."""
        run = self.path.parent
        is_run = self.path.name == "images" and (run / MANIFEST).is_file() and (run / "config.yaml").is_file()
        return run if is_run else None


@dataclass(frozen=True)
class Folder:
    """The images of a folder at the working size."""

    scan: Scan
    names: list[str]  # relative to the folder
    images: Array  # (n, size, size) or (n, size, size, 3) uint8
    groups: list[str]
    named: int  # images whose file name tells the patient
    by_header: int  # DICOM files whose header tells the patient
    digests: Sequence[str]
    bad: list[tuple[str, str]]
    notes: list[str]  # what a reader must know of the decoding
    ranges: dict[str, float]  # of samples of more than 8 bits
    undecoded: Undecoded | None = None  # of a dry run: one image stands for all; see balancer.data.decoded
    without_colour: list[int] | None = None  # of images read in colour: see balancer.data.decoded
    told: int = 0  # images whose patient settings tell, so that equal numbers are one patient


def images_folder(name: str, path: Path) -> Path:
    """Return the folder to read, which messages call by ``name``: of a synthesis run, its images.

    Raises:
        BalancerError: there is no such folder, or the cache lies in it.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise BalancerError(f"{name} {path} {what}; give a folder of images")
    if (path / MANIFEST).is_file() and (path / "images").is_dir():
        log.info("%s %s is a synthesis run: its images folder is read", name, path)
        return path / "images"  # beside it lie grids and figures, which are no images of the set
    refuse_cache_inside(path)
    return path


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, sorted, except what programs leave there."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not is_clutter(f))
        yield from (Path(root) / f for f in sorted(files) if f == STAMP or not is_clutter(f))


def holds_images(folder: Path) -> bool:
    """Return whether any file below a folder is an image, or has the name of one."""
    return any(file.suffix.lower() in SUFFIXES or is_image(file) for file in _walk(folder))


def scan_folder(name: str, path: Path) -> Scan:
    """Read the header of every file below a folder, which messages call by ``name``.

    A file that Pillow knows is an image. A file that only has the name of an image is damaged. Hidden files and
    all others are counted.

    Raises:
        BalancerError: no image can be read.
    """
    files: list[Path] = []
    sizes: dict[Path, tuple[int, int]] = {}
    colour: list[Path] = []
    formats, strays = Counter[str](), Counter[str]()
    for file in _walk(path):
        if any(part.startswith(".") for part in file.relative_to(path).parts):
            strays["hidden"] += 1
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with _opened(file) as image:
                    sizes[file] = image.size
                    formats[image.format or "unknown"] += 1
                    if image.mode not in GREY_MODES:
                        colour.append(file)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            if file.name == STAMP:
                continue
            if file.suffix.lower() not in SUFFIXES:
                strays[file.suffix.lower() or "no suffix"] += 1
                continue
        files.append(file)
    if not sizes:
        raise BalancerError(
            f"{name} {path} holds no image that can be read ({len(files)} damaged, {strays.total()} other files); "
            "give a folder of images"
        )
    if strays:
        log.info("%s: %d files that are no images are ignored", name, strays.total())
    return Scan(name, path, files, sizes, formats, _look_for_colour(path, colour), strays)


def _look_for_colour(path: Path, files: list[Path]) -> Seen:
    """Look at images that are stored in colour until one is truly coloured, or take what an earlier look showed."""
    names = [str(file) for file in files]
    stamp = cache.stat_stamp(path, names)
    if (seen := channels.stored(stamp, len(files))) is None:

        def look(i: int) -> bool | None:
            return looks_coloured(files[i], FIRST_FRAME)

        seen = channels.search(channels.sample(len(files), look), range(len(files)), look)
        seen = channels.store(stamp, seen)
    return seen


def _opened(file: Path) -> AbstractContextManager[Image.Image]:
    """Open an image of any size and number of frames; of a DICOM file, the first."""
    if dicom_files.is_dicom_file(file):
        return open_image(file, FIRST_FRAME)
    return Image.open(file)


def file_is_coloured(file: Path) -> bool:
    """Return whether an image is truly coloured; of a damaged file, False."""
    try:
        return bool(looks_coloured(file, FIRST_FRAME))
    except OSError:
        return False  # decoding will say what is wrong with it


def decode_folder(
    scan: Scan,
    size: int,
    resize: str,
    max_bad: float,
    decode: bool = True,
    ranges: Ranges | None = None,
    number: int = GREY,
    rules: DicomRules = AS_SHOWN,
) -> Folder:
    """Return the images of a folder at the working size, in so many channels, DICOM files by the rules.

    ``decode`` and ``ranges`` are those of :func:`balancer.data.cache.decode_all`.

    Raises:
        BalancerError: too many files are unreadable, or a synthesis run holds other images than its manifest lists.
    """
    files = scan.files
    settings: dict[str, str | int] = {"size": size, "resize": resize, **rules.to_key()}
    if number != GREY:
        settings["channels"] = number
    names = [str(file) for file in files]
    decoded = cache.decode_all(
        names,
        cache.stat_stamp(scan.path, names),
        lambda i: hashlib.sha256(files[i].read_bytes()).hexdigest(),
        file_reader(files, size, resize, rules, number),
        settings,
        max_bad,
        ranges,
        decode,
    )
    for name, reason in decoded.bad:
        log.warning("left out: %s cannot be read (%s)", name, reason)
    for note in decoded.notes:
        log.warning("%s: %s", scan.name, note)
    if not decoded.positions:
        raise BalancerError(f"none of the {len(files)} files of {scan.name} {scan.path} can be read")
    kept = [files[i] for i in decoded.positions]
    headers = patients_by_header(scan.path, kept)
    patients = [headers.get(file, _patient(file)) for file in kept]
    # An image whose patient is not known is a patient of its own; the path keeps equal names in two folders apart.
    own = [patient or str(file) for patient, file in zip(patients, kept, strict=True)]
    groups = merge_groups(own, decoded.digests)
    by_header = sum(map(bool, headers.values()))
    named = sum(map(bool, patients)) - by_header
    names = [file.relative_to(scan.path).as_posix() for file in kept]
    if scan.run:
        _check_listed(scan.run, dict(zip(names, decoded.digests, strict=True)))
    # In memory, since torch takes no read-only arrays; the images of a dry run are never looked at.
    images = np.array(decoded.images) if decoded.undecoded is None else decoded.images
    facts = decoded.digests, decoded.bad, decoded.notes, decoded.ranges, decoded.undecoded, decoded.without_colour
    return Folder(scan, names, images, groups, named, by_header, *facts)


def tell_patients(folder: Folder, file: str | None, pattern: str | None) -> Folder:
    """Return the folder with the patients of a table or of a pattern; see :func:`patients_of`."""
    known, notes = patients_of(folder.names, folder.scan.path, file, pattern)
    keys = [
        str(folder.scan.path / name) if patient is None else patient_key(patient)
        for name, patient in zip(folder.names, known, strict=True)
    ]
    told = sum(patient is not None for patient in known)
    return replace(folder, groups=merge_groups(keys, folder.digests), notes=[*folder.notes, *notes], told=told)


def _check_listed(run: Path, digests: Mapping[str, str]) -> None:
    """Refuse a synthesis run whose readable images, by name and SHA-256, are not those that its manifest lists."""
    listed = {row.file.removeprefix("images/"): row.sha256 for row in read_manifest(run)}
    problems = {
        **{name: "it is missing, or cannot be read" for name in listed if name not in digests},
        **{name: "its SHA-256 differs" for name in listed if digests.get(name, listed[name]) != listed[name]},
        **{name: "it is not listed" for name in digests if name not in listed},
    }
    if problems:
        name = min(problems)
        raise BalancerError(
            f"{run / 'images' / name} is not an image of {run / MANIFEST}: {problems[name]} (such files:"
            f" {len(problems)}); synthesize again, or copy the images you mean into a folder of their own"
        )


def _patient(file: Path) -> str:
    for label in (1, 0):
        patient, kind = parse_name(file.stem, label)
        if kind:
            return patient
    return ""
