"""Data sets from where they are published: those of MedMNIST from Zenodo, the chest X-ray folder from Kaggle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from balancer.core.download import download
from balancer.core.errors import BalancerError, UsageError, lookup
from balancer.core.extras import install
from balancer.core.files import JsonObject, refuse_unwritable
from balancer.core.preview import Preview
from balancer.data.chest import CLASSES, find_root, read_folder
from balancer.data.medmnist import MULTI_LABEL, SETS, SIZES, VOLUMES
from balancer.data.records import SPLITS

FOLDER = Path("data")


@dataclass(frozen=True)
class Archive:
    """A published file and the MD5 published with it. MD5 detects damage; HTTPS protects against malice."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """Return the file's name."""
        return Path(urlsplit(self.url).path).name


ZENODO = "https://zenodo.org/records/10519652/files"
# By set and size, px; the smallest has no size in its name.
ARCHIVES = {
    name: {
        size: Archive(f"{ZENODO}/{name}{'' if size == min(SIZES) else f'_{size}'}.npz?download=1", one.md5_of(size))
        for size in SIZES
    }
    for name, one in SETS.items()
}
KAGGLE = "paultimothymooney/chest-xray-pneumonia"
KAGGLE_SOURCE = "kaggle"
SOURCES = (*ARCHIVES, KAGGLE_SOURCE)
KAGGLE_COUNTS = {"train": (1341, 3875), "val": (8, 8), "test": (234, 390)}  # NORMAL, PNEUMONIA


@dataclass(frozen=True)
class FetchedArchive:
    """A set of MedMNIST on this machine."""

    path: Path
    archive: Archive
    size: int  # side of the images, px
    fetched: bool  # False: it was there already

    def to_json(self) -> JsonObject:
        """Return the facts for ``--json``."""
        return {"path": str(self.path), "url": self.archive.url, "md5": self.archive.md5, "fetched": self.fetched}

    def describe(self) -> str:
        """Return the facts and how to use the file."""
        how = "fetched" if self.fetched else "there already"
        use = f"use it with --data {self.path} --image-size {self.size}"
        return f"{self.path}: {how}, MD5 {self.archive.md5} as published\n{use}"


@dataclass(frozen=True)
class FetchedFolder:
    """The chest X-ray folder on this machine."""

    path: Path
    counts: Mapping[str, Sequence[int]]  # images per class, by split

    def to_json(self) -> JsonObject:
        """Return the facts for ``--json``."""
        return {"path": str(self.path), "counts": {split: list(n) for split, n in self.counts.items()}}

    def describe(self) -> str:
        """Return the facts and how to use the folder."""
        use = f"use it with --data {self.path}, or BALANCER_DATA={self.path.resolve()}"
        return f"{self.path}: {_listed(self.counts)} images ({' + '.join(CLASSES)}), as published\n{use}"


def fetch(
    source: str, size: int | None, to: Path | None, force: bool, dry: bool = False
) -> FetchedArchive | FetchedFolder | Preview:
    """Download one of SOURCES into the folder ``to``, by default ``data``; with ``dry``, only say what would be done.

    Raises:
        UsageError: no such source or size, or a set of MedMNIST that cannot be read.
        BalancerError: the download fails, differs from what was published, or would overwrite other files.
    """
    if source == KAGGLE_SOURCE:
        return fetch_kaggle(size, to or FOLDER, force, dry)
    if source == MULTI_LABEL:
        raise UsageError(
            f"source is {source!r}, whose images have several labels each (multi-label); expected one label"
        )
    if source in VOLUMES:
        raise UsageError(f"source is {source!r}, a set of volumes; expected a set of images: {', '.join(ARCHIVES)}")
    return fetch_medmnist(lookup({name: name for name in SOURCES}, source, "source"), size, to or FOLDER, force, dry)


def fetch_medmnist(name: str, size: int | None, to: Path, force: bool, dry: bool = False) -> FetchedArchive | Preview:
    """Download a set of MedMNIST at 28 (default), 64, 128 or 224 px, unless it is there with the right hash.

    Raises:
        UsageError: another size.
        BalancerError: another file has its name and ``force`` is off, or the download fails.
    """
    sizes = ARCHIVES[name]
    size = size or min(sizes)
    if size not in sizes:
        raise UsageError(f"--size is {size}; {name} comes at {', '.join(map(str, sizes))} px")
    archive = sizes[size]
    path = to / archive.name
    if path.exists() and not force:
        with path.open("rb") as handle:
            md5 = hashlib.file_digest(handle, "md5").hexdigest()
        if md5 != archive.md5:
            raise BalancerError(
                f"{path} is another file (MD5 {md5}, expected {archive.md5}); give --force to replace it,"
                " or another --to"
            )
        return FetchedArchive(path, archive, size, False)
    if dry:
        refuse_unwritable(path)
        return _preview(archive.url, path, f"whether {archive.url} answers, and its MD5, expected {archive.md5}")
    download(archive.url, path, archive.md5, "md5")
    return FetchedArchive(path, archive, size, True)


def fetch_kaggle(size: int | None, to: Path, force: bool, dry: bool = False) -> FetchedFolder | Preview:
    """Download the chest X-ray folder with kagglehub, which resumes downloads and knows the user's Kaggle account.

    The folder is always ``chest_xray`` below ``to``: with ``force``, kagglehub empties the folder that it is given.

    Raises:
        UsageError: a size, which this source does not have.
        BalancerError: kagglehub is missing or fails, or the numbers of images are not the published ones.
    """
    if size is not None:
        raise UsageError("--size is of the sets of MedMNIST; the Kaggle images come at their own sizes")
    folder = to / "chest_xray"
    page = f"https://www.kaggle.com/datasets/{KAGGLE}"
    by_hand = f"download {page} by hand, unzip it and move its chest_xray folder to {folder}"
    try:
        kagglehub = import_module("kagglehub")
    except ImportError as error:
        raise BalancerError(f"fetching from Kaggle needs kagglehub; {install('kaggle')}, or {by_hand}") from error
    if dry:
        refuse_unwritable(folder)
        if folder.is_dir() and any(folder.iterdir()) and not force:
            raise BalancerError(f"{folder} holds files already; give --force to replace it, or another --to")
        return _preview(page, folder, "whether Kaggle answers, your account there, and the numbers of images")
    try:
        downloaded = kagglehub.dataset_download(KAGGLE, output_dir=str(folder), force_download=force)
    except FileExistsError as error:
        raise BalancerError(f"{folder} holds files already; give --force to replace it, or another --to") from error
    except Exception as error:  # of the network, the account or the disk: kagglehub's own kinds and those of requests
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BalancerError(f"Kaggle's {KAGGLE} cannot be downloaded ({reason}); try again, or {by_hand}") from error
    root = find_root(Path(downloaded))
    records = read_folder(root)
    counts = {
        split: tuple(sum(r.split == split and r.label == label for r in records) for label in range(len(CLASSES)))
        for split in SPLITS
    }
    if counts != KAGGLE_COUNTS:
        raise BalancerError(
            f"{root} holds {_listed(counts)} images; expected {_listed(KAGGLE_COUNTS)} ({' + '.join(CLASSES)});"
            f" fetch it again with --force, or {by_hand}"
        )
    return FetchedFolder(root, counts)


def _preview(source: str, target: Path, unchecked: str) -> Preview:
    """Return what would be downloaded. The network is not used: a dry run must end where there is none."""
    return Preview(source, str(target), None, unchecked=unchecked)


def _listed(counts: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{split} {' + '.join(f'{n:,}' for n in of)}" for split, of in counts.items())
