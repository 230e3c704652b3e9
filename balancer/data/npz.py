"""MedMNIST archives (``pneumoniamnist*.npz``; Yang et al. 2023, doi:10.1038/s41597-022-01721-8)."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from balancer.core.errors import BalancerError
from balancer.data.chest import CLASSES
from balancer.data.images import SMALLEST
from balancer.data.records import SPLITS, Record

Array = np.ndarray
log = logging.getLogger("balancer")
_MAX_RATIO = 1032  # the limit of deflate: a header that claims more is forged
_MAX_BYTES = 4 << 30  # unpacked; the largest published archive has .3 GB
PUBLISHED = {"train": (1214, 3494), "val": (135, 389), "test": (234, 390)}  # NORMAL, PNEUMONIA at every size
# Of the binary sets of MedMNIST only this one could be taken for it: 0 is malignant, 1 is normal or benign.
_BREASTMNIST = {"train": (147, 399), "val": (21, 57), "test": (42, 114)}


def read_npz(path: Path) -> tuple[list[Record], dict[str, Array]]:
    """Return the records, and the images by split as (N, H, W) or (N, H, W, 3) uint8.

    The archive names no patients: every image is a patient of its own, and a split is at image level. It names no
    classes either: so it must be PneumoniaMNIST, by its name or by its numbers of images.

    Raises:
        BalancerError: not an archive, truncated, pickled, a key missing, shapes, types or labels that do not fit, or
            another data set.
    """
    arrays = _read_arrays(path)
    records, images = [], {}
    for split in SPLITS:
        if f"{split}_images" not in arrays and split != "train":
            continue
        pixels, labels = _pair(path, arrays, split)
        images[split] = pixels
        for i, label in enumerate(labels):
            # The class is part of the name, so that the split hash changes when a label does.
            name = f"{split}/{CLASSES[int(label)]}/{i:05d}"
            records.append(Record(name, int(label), split, f"image-{split}-{i}", ""))
    counts = {
        split: tuple(sum(r.split == split and r.label == label for r in records) for label in range(len(CLASSES)))
        for split in images
    }
    _check_identity(path, counts)
    return records, images


def _check_identity(path: Path, counts: Mapping[str, Sequence[int]]) -> None:
    """Refuse an archive that is not PneumoniaMNIST: labels 0 and 1 mean something else in every other one."""
    is_breast = counts == _BREASTMNIST
    if all(PUBLISHED[split] == of for split, of in counts.items()):
        return
    sizes = ", ".join(f"{split} {' + '.join(map(str, of))}" for split, of in counts.items())
    published = ", ".join(f"{split} {' + '.join(map(str, of))}" for split, of in PUBLISHED.items())
    if path.name.lower().startswith("pneumoniamnist") and not is_breast:
        log.warning("%s holds %s images, not the published %s: a part of PneumoniaMNIST?", path, sizes, published)
        return
    what = "is BreastMNIST, whose 0 is malignant" if is_breast else "names no classes"
    raise BalancerError(
        f"{path} {what} (images of 0 + 1: {sizes}); expected PneumoniaMNIST, a name such as pneumoniamnist_64.npz or"
        f" {published}; `balancer fetch pneumoniamnist` downloads it"
    )


def _pair(path: Path, arrays: dict[str, Array], split: str) -> tuple[Array, Array]:
    for key in (f"{split}_images", f"{split}_labels"):
        if key not in arrays:
            raise BalancerError(
                f"{path} has no array {key!r} (it has {', '.join(sorted(arrays)) or 'none'}); expected MedMNIST keys"
            )
    pixels, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    shaped = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)
    if pixels.dtype != np.uint8 or not shaped or not pixels.size or min(pixels.shape[1:3]) < SMALLEST:
        raise BalancerError(
            f"{path}: {split}_images is {pixels.dtype} {pixels.shape}; expected uint8 (N, H, W) or (N, H, W, 3) of"
            f" {SMALLEST} px or more a side"
        )
    if labels.size != len(pixels) or labels.dtype.kind not in "iu":
        raise BalancerError(f"{path}: {split}_labels is {labels.dtype} {labels.shape}; expected {len(pixels)} integers")
    labels = labels.reshape(-1)
    if set(np.unique(labels)) != set(range(len(CLASSES))):
        raise BalancerError(
            f"{path}: {split}_labels holds {np.unique(labels)[:8].tolist()};"
            f" expected 0 ({CLASSES[0]}) and 1 ({CLASSES[1]})"
        )
    return pixels, labels


def _read_arrays(path: Path) -> dict[str, Array]:
    """Return every array of the archive, after checking that each header claims no more bytes than are there."""
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(_check_header(path, archive, member) for member in archive.infolist())
        if claimed > _MAX_BYTES:
            raise BalancerError(
                f"{path} unpacks to {claimed:,} bytes, more than the {_MAX_BYTES:,} that are read; expected a MedMNIST"
                " archive"
            )
        with np.load(path, allow_pickle=False) as loaded:
            return {key: loaded[key] for key in loaded.files}
    except FileNotFoundError as error:
        raise BalancerError(
            f"data file {path} does not exist; give --data a MedMNIST .npz;"
            " `balancer fetch pneumoniamnist` downloads one"
        ) from error
    except (BalancerError, MemoryError):
        raise
    except Exception as error:  # zipfile and numpy raise many kinds on damaged, encrypted or forged archives
        reason = "a web page" if _is_page(path) else (str(error).splitlines() or [type(error).__name__])[0]
        raise BalancerError(
            f"{path} is not a readable MedMNIST archive ({reason}); fetch it again (`balancer fetch pneumoniamnist`)"
        ) from error


def _is_page(path: Path) -> bool:
    """Return whether a log-in or error page was saved under the archive's name."""
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return handle.read(64).lstrip().lower().startswith((b"<!doctype", b"<html"))


def _check_header(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Return the bytes of an array, which its header claims and the archive has."""
    with archive.open(member) as handle:
        version = np.lib.format.read_magic(handle)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(handle)
        claimed = handle.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.hasobject:
        raise BalancerError(
            f"{path}: {member.filename} is pickled Python, which is never read; fetch the original file"
        )
    available = min(member.file_size, _MAX_RATIO * path.stat().st_size)
    if claimed != available:
        raise BalancerError(f"{path}: {member.filename} claims {claimed} bytes and has {available}; fetch it again")
    return claimed
