"""MedMNIST archives (``pneumoniamnist*.npz``; Yang et al. 2023, doi:10.1038/s41597-022-01721-8)."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from balancer.core.errors import BalancerError
from balancer.data.folder import CLASSES, SPLITS, Record

Array = np.ndarray
_MAX_RATIO = 1032  # the limit of deflate: a header that claims more is forged
_DAMAGE = (  # what zipfile and numpy raise on damaged, encrypted or forged archives
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    ValueError,
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
)


def read_npz(path: Path) -> tuple[list[Record], dict[str, Array]]:
    """Return the records, and the images by split as (N, H, W) or (N, H, W, 3) uint8.

    The archive names no patients: every image is a patient of its own, and a split is at image level.

    Raises:
        BalancerError: not an archive, truncated, pickled, a key missing, or shapes, types or labels that do not fit.
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
    return records, images


def _pair(path: Path, arrays: dict[str, Array], split: str) -> tuple[Array, Array]:
    for key in (f"{split}_images", f"{split}_labels"):
        if key not in arrays:
            raise BalancerError(
                f"{path} has no array {key!r} (it has {', '.join(sorted(arrays)) or 'none'}); expected MedMNIST keys"
            )
    pixels, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    shaped = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)
    if pixels.dtype != np.uint8 or not shaped or not pixels.size:
        raise BalancerError(
            f"{path}: {split}_images is {pixels.dtype} {pixels.shape}; expected uint8 (N, H, W) or (N, H, W, 3)"
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
            for member in archive.infolist():
                _check_header(path, archive, member)
        with np.load(path, allow_pickle=False) as loaded:
            return {key: loaded[key] for key in loaded.files}
    except FileNotFoundError as error:
        raise BalancerError(
            f"data file {path} does not exist; give --data a MedMNIST .npz;"
            " `balancer fetch pneumoniamnist` downloads one"
        ) from error
    except _DAMAGE as error:
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


def _check_header(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
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
