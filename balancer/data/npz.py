"""MedMNIST archives (Yang et al. 2023, doi:10.1038/s41597-022-01721-8): images and labels by split, nothing else."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import threading
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from balancer.core.errors import BalancerError
from balancer.core.settings_base import DataConfig
from balancer.data.cache import cache_dir
from balancer.data.images import SMALLEST
from balancer.data.listing import Listing
from balancer.data.medmnist import MULTI_LABEL, SETS, VOLUMES, MedMnistSet
from balancer.data.records import SPLITS, Record

Array = np.ndarray
log = logging.getLogger("balancer")
_MAX_RATIO = 1032  # the limit of deflate: a header that claims more is forged
_MAX_BYTES = 20 << 30  # unpacked; the largest published archive, PathMNIST at 224 px, has 16 GB
_IN_MEMORY = 1 << 27  # bytes: a larger archive is unpacked to disk and mapped
_NAME = re.compile(r"[a-z]+mnist(?:3d)?(?![a-z])")
NO_PATIENTS = "The archive names no patients: the split is at image level and may part images of one patient."


def recognises(path: Path) -> bool:
    """Return whether a path has the suffix of an archive."""
    return path.suffix.lower() == ".npz"


def read(path: Path, config: DataConfig) -> Listing:
    """Return the images of a MedMNIST archive, which the records name by split, class and number.

    Raises:
        BalancerError: as in :func:`read_npz`, or PneumoniaMNIST is to tell kinds of pneumonia.
    """
    records, images, known = read_npz(path)
    if known is not None and known.name == "pneumoniamnist" and config.task == "multiclass":
        raise BalancerError(
            f"{path} has two classes, {' and '.join(known.classes)}, and no file names with the kind of pneumonia;"
            " leave out --task multiclass, or give a folder of files such as person23_bacteria_86.jpeg"
        )
    notes = [NO_PATIENTS]
    classes = known.classes if known else tuple(str(k) for k in range(1 + max(r.label for r in records)))
    if known is None:
        notes.append(f"The archive names no classes: they are called by their labels, {', '.join(classes[:12])}.")
    return Listing(
        path,
        classes,
        records,
        notes=notes,
        images=_Joined(images),
        positive=known.positive if known else None,
        plain_split=True,
        names_tell_class=True,
    )


def read_npz(path: Path) -> tuple[list[Record], dict[str, Array | _Unpacked], MedMnistSet | None]:
    """Return the records, the images by split as (N, H, W) or (N, H, W, 3) uint8, and which set this is.

    The archive names no patients: every image is a patient of its own, and a split is at image level. It names no
    classes either: the set is known by the name of the archive, else by its numbers of images.

    Raises:
        BalancerError: not an archive, truncated, pickled, a key missing, or shapes, types or labels that do not fit.
    """
    if (name := _named_set(path)) in (MULTI_LABEL, *VOLUMES):
        what = "images with several labels each (multi-label)" if name == MULTI_LABEL else "volumes, not images"
        raise BalancerError(f"{path} is {name}, a set of {what}; expected images with one label each")
    arrays = _read_arrays(path)
    pairs = {split: _pair(path, arrays, split) for split in SPLITS if f"{split}_images" in arrays or split == "train"}
    known = _identity(path, {split: labels for split, (_, labels) in pairs.items()})
    n = len(known.classes) if known else 1 + max(int(labels.max()) for _, labels in pairs.values())
    classes = known.classes if known else tuple(map(str, range(n)))
    records = []
    for split, (_, labels) in pairs.items():
        present = set(np.unique(labels).tolist())
        if not present <= set(range(n)) or (split == "train" and len(present) < max(n, 2)):
            expected = " and ".join(f"{k} ({cls})" for k, cls in enumerate(classes[:12])) if n > 1 else "two classes"
            raise BalancerError(f"{path}: {split}_labels holds {sorted(present)[:8]}; expected {expected}")
        for i, label in enumerate(labels.tolist()):
            # The class is part of the name, so that the split hash changes when a label does.
            records.append(Record(f"{split}/{classes[label]}/{i:05d}", label, split, f"image-{split}-{i}", ""))
    return records, {split: images for split, (images, _) in pairs.items()}, known


def _named_set(path: Path) -> str:
    match = _NAME.match(path.name.lower())
    return match[0] if match else ""


def _identity(path: Path, labels: Mapping[str, Array]) -> MedMnistSet | None:
    """Return the set by the archive's name, else by its numbers of images; None for an archive of another origin.

    Raises:
        BalancerError: the name is that of one set and the numbers are those of another, whose labels mean other things.
    """
    sizes = {split: len(of) for split, of in labels.items()}
    by_size = {s.name for s in SETS.values() if all(s.images[SPLITS.index(k)] == n for k, n in sizes.items())}
    name = _named_set(path)
    if name not in SETS:
        return SETS[by_size.pop()] if len(by_size) == 1 and len(sizes) == len(SPLITS) else None
    if by_size and name not in by_size:
        raise BalancerError(
            f"{path} has the name of {name} and the numbers of images of {min(by_size)}; give the file its own name"
        )
    if not by_size:
        counts = {k: [n for _, n in sorted(Counter(of.tolist()).items())] for k, of in labels.items()}
        held = ", ".join(f"{k} {' + '.join(map(str, n))}" for k, n in counts.items())
        published = ", ".join(f"{k} {n}" for k, n in zip(SPLITS, SETS[name].images, strict=True))
        log.warning("%s holds %s images, not the published %s: a part of %s?", path, held, published, name)
    return SETS[name]


def _pair(path: Path, arrays: Mapping[str, Array | _Unpacked], split: str) -> tuple[Array | _Unpacked, Array]:
    for key in (f"{split}_images", f"{split}_labels"):
        if key not in arrays:
            raise BalancerError(
                f"{path} has no array {key!r} (it has {', '.join(sorted(arrays)) or 'none'}); expected MedMNIST keys"
            )
    pixels, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    shape = pixels.shape
    shaped = len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)
    if pixels.dtype != np.uint8 or not shaped or not all(shape) or min(shape[1:3]) < SMALLEST:
        raise BalancerError(
            f"{path}: {split}_images is {pixels.dtype} {shape}; expected uint8 (N, H, W) or (N, H, W, 3) of"
            f" {SMALLEST} px or more a side"
        )
    n = shape[0]
    if not isinstance(labels, np.ndarray) or labels.size != n or labels.dtype.kind not in "iu":
        several = (
            ", several labels an image (multi-label)" if labels.shape[:1] == (n,) and len(labels.shape) > 1 else ""
        )
        raise BalancerError(
            f"{path}: {split}_labels is {labels.dtype} {labels.shape}{several}; expected {n} integers, one an image"
        )
    return pixels, labels.reshape(-1)


def _read_arrays(path: Path) -> dict[str, Array | _Unpacked]:
    """Return every array of the archive, after checking that each header claims no more bytes than are there."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: _check_header(path, archive, member) for member in archive.infolist()}
        claimed = sum(claim.claimed for claim in members.values())
        if claimed > _MAX_BYTES:
            raise BalancerError(
                f"{path} unpacks to {claimed:,} bytes, more than the {_MAX_BYTES:,} that are read; expected a MedMNIST"
                " archive"
            )
        with np.load(path, allow_pickle=False) as loaded:
            large = {key for key in loaded.files if claimed > _IN_MEMORY and key.endswith("_images")}
            small = {key: loaded[key] for key in loaded.files if key not in large}
        return {**small, **{key: _Unpacked(path, key, members[f"{key}.npy"]) for key in large}}
    except FileNotFoundError as error:
        raise BalancerError(
            f"data file {path} does not exist; give --data a MedMNIST .npz;"
            " `balancer fetch pneumoniamnist` downloads one"
        ) from error
    except (BalancerError, MemoryError):
        raise
    except Exception as error:  # zipfile and numpy raise many kinds on damaged, encrypted or forged archives
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> BalancerError:
    reason = "a web page" if _is_page(path) else (str(error).splitlines() or [type(error).__name__])[0]
    name = _named_set(path)
    fetch = f"`balancer fetch {name if name in SETS else 'pneumoniamnist'}`"
    return BalancerError(f"{path} is not a readable MedMNIST archive ({reason}); fetch it again ({fetch})")


@dataclass(frozen=True)
class _Claim:
    """What the header of an array says."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    claimed: int  # bytes


class _Unpacked:
    """Images of an archive too large for memory: unpacked to a file without a name when the first is asked for."""

    def __init__(self, path: Path, key: str, claim: _Claim) -> None:
        self.path, self.key, self.shape, self.dtype = path, key, claim.shape, claim.dtype
        self._bytes, self._lock = claim.claimed, threading.Lock()
        self._images: Array | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, i: int) -> Array:
        with self._lock:
            if self._images is None:
                self._images = self._unpack()
        return np.asarray(self._images[i])

    def _unpack(self) -> Array:
        folder = cache_dir("images")
        if (free := shutil.disk_usage(folder).free) < self._bytes:
            raise BalancerError(
                f"{self.path} needs {self._bytes:,} bytes of space in {folder} to be unpacked, and {free:,} are free;"
                " set BALANCER_CACHE to a folder with more space"
            )
        try:
            with (
                zipfile.ZipFile(self.path) as archive,
                archive.open(f"{self.key}.npy") as source,
                tempfile.TemporaryFile(dir=folder) as target,
            ):
                shutil.copyfileobj(source, target, 1 << 22)
                start = target.tell() - int(np.prod(self.shape))
                return np.memmap(target, np.uint8, "r", start, self.shape)
        except (BalancerError, MemoryError):
            raise
        except Exception as error:
            raise _unreadable(self.path, error) from error


class _Joined(Sequence[Array]):
    """The images of all splits, one after the other."""

    def __init__(self, images: Mapping[str, Array | _Unpacked]) -> None:
        self._parts = list(images.values())

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, i: Any) -> Any:
        k = i + len(self) if i < 0 else i
        for part in self._parts:
            if k < len(part):
                return part[k]
            k -= len(part)
        raise IndexError(i)


def _is_page(path: Path) -> bool:
    """Return whether a log-in or error page was saved under the archive's name."""
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return handle.read(64).lstrip().lower().startswith((b"<!doctype", b"<html"))


def _check_header(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Claim:
    """Return what the header of an array says, once the archive is known to have that many bytes."""
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
    return _Claim(shape, dtype, claimed)
