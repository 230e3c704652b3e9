"""Data sets from where they are published: PneumoniaMNIST from Zenodo, the chest X-ray folder from Kaggle.

A download goes to ``FILE.part``, is taken up again where it broke off, and gets its name only once its hash is right.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import filelock

from balancer.core import progress
from balancer.core.command import CommandResult
from balancer.core.errors import BalancerError, UsageError, lookup
from balancer.data.folder import CLASSES, SPLITS, find_root, read_folder

log = logging.getLogger("balancer")
FOLDER = Path("data")
BLOCK = 1 << 18
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 3  # without a byte gained between them
BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
PASSING = {408, 425, 429}  # answers below 500 that another attempt may better


@dataclass(frozen=True)
class Archive:
    """A published file and the MD5 published with it. MD5 tells damage, not malice: that is left to HTTPS."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        return Path(urllib.parse.urlsplit(self.url).path).name


# MedMNIST v2 and MedMNIST+ (Yang et al. 2023, doi:10.1038/s41597-022-01721-8; CC BY 4.0), hashes as in its package's info.py.
ZENODO = "https://zenodo.org/records/10519652/files"
PNEUMONIAMNIST = {
    28: Archive(f"{ZENODO}/pneumoniamnist.npz?download=1", "28209eda62fecd6e6a2d98b1501bb15f"),
    64: Archive(f"{ZENODO}/pneumoniamnist_64.npz?download=1", "8f4eceb4ccffa70c672198ea285246c6"),
    128: Archive(f"{ZENODO}/pneumoniamnist_128.npz?download=1", "05b46931834c231683c68f40c47b2971"),
    224: Archive(f"{ZENODO}/pneumoniamnist_224.npz?download=1", "d6a3c71de1b945ea11211b03746c1fe1"),
}
KAGGLE = "paultimothymooney/chest-xray-pneumonia"
KAGGLE_COUNTS = {"train": (1341, 3875), "val": (8, 8), "test": (234, 390)}  # NORMAL, PNEUMONIA


def fetch(source: str, size: int | None, to: Path | None, force: bool) -> CommandResult:
    """`balancer fetch`: one of SOURCES into the folder ``to``, by default ``data``.

    Raises:
        UsageError: no such source or size.
        BalancerError: it cannot be had, is not what was published, or its place is taken.
    """
    return lookup(SOURCES, source, "source")(size, to or FOLDER, force)


def fetch_pneumoniamnist(size: int | None, to: Path, force: bool) -> CommandResult:
    """PneumoniaMNIST at 28 (default), 64, 128 or 224 px."""
    size = size or min(PNEUMONIAMNIST)
    if size not in PNEUMONIAMNIST:
        raise UsageError(f"--size is {size}; PneumoniaMNIST comes at {', '.join(map(str, PNEUMONIAMNIST))} px")
    archive = PNEUMONIAMNIST[size]
    path = to / archive.name
    fetched = fetch_file(archive, path, force)
    told = "fetched" if fetched else "there already"
    text = f"{path}: {told}, MD5 {archive.md5} as published\nuse it with --data {path} --image-size {size}"
    return CommandResult({"path": str(path), "url": archive.url, "md5": archive.md5, "fetched": fetched}, text)


def fetch_kaggle(size: int | None, to: Path, force: bool) -> CommandResult:
    """The chest X-ray folder, by kagglehub: it resumes and checks downloads itself, and knows the user's Kaggle account.

    Always into ``chest_xray`` below ``to``: with ``force``, kagglehub empties the folder that it is given.
    """
    if size is not None:
        raise UsageError("--size is of pneumoniamnist; the Kaggle images come at their own sizes")
    folder = to / "chest_xray"
    by_hand = f"download https://www.kaggle.com/datasets/{KAGGLE} by hand, unzip it and move its chest_xray folder to {folder}"
    try:
        kagglehub = import_module("kagglehub")
    except ImportError as error:
        raise BalancerError(
            f"fetching from Kaggle needs kagglehub; pip install 'xray-balancer[kaggle]', or {by_hand}"
        ) from error
    try:
        found = kagglehub.dataset_download(KAGGLE, output_dir=str(folder), force_download=force)
    except FileExistsError as error:
        raise BalancerError(f"{folder} holds files already; give --force to replace it, or another --to") from error
    except Exception as error:  # of the network, of the account, of the disk: its own kinds and those of requests
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BalancerError(f"Kaggle's {KAGGLE} cannot be downloaded ({reason}); try again, or {by_hand}") from error
    root = find_root(Path(found))
    counts = _counts(root)
    if counts != KAGGLE_COUNTS:
        raise BalancerError(
            f"{root} holds {_told(counts)} images; expected {_told(KAGGLE_COUNTS)} ({' + '.join(CLASSES)}); fetch it again with --force, "
            f"or {by_hand}"
        )
    text = f"{root}: {_told(counts)} images ({' + '.join(CLASSES)}), as published\nuse it with --data {root}, or BALANCER_DATA={root.resolve()}"
    return CommandResult({"path": str(root), "counts": {k: list(v) for k, v in counts.items()}}, text)


SOURCES: dict[str, Callable[[int | None, Path, bool], CommandResult]] = {
    "pneumoniamnist": fetch_pneumoniamnist,
    "kaggle": fetch_kaggle,
}


def fetch_file(archive: Archive, path: Path, force: bool = False, pause: float = 1.0) -> bool:
    """Download a file, going on from ``path`` with ``.part`` where there is one.

    Args:
        force: replace a file that is there.
        pause: seconds before the second attempt, and twice as many before each later one.

    Returns:
        Whether it was downloaded; False where it was there already with the right hash.

    Raises:
        BalancerError: no connection, an error or a web page from the server, another hash, another file in its
            place, another process that fetches it, or a disk that cannot be written.
    """
    by_hand = f"download {archive.url} by hand and save it as {path}"
    with _claimed(path):
        if path.exists() and not force:
            if (found := _md5(path)) == archive.md5:
                return False
            raise BalancerError(
                f"{path} is another file (MD5 {found}, expected {archive.md5}); give --force to replace it, or another --to"
            )
        part = path.with_name(f"{path.name}.part")
        failures = 0
        while failures < ATTEMPTS:
            if failures:
                time.sleep(pause * 2 ** (failures - 1))
            before = _size(part)
            try:
                _download(archive.url, part)
            except urllib.error.HTTPError as error:
                reason = f"the server says {error.code} {error.reason}"
                if error.code < 500 and error.code not in PASSING:
                    raise BalancerError(f"{archive.url} cannot be downloaded ({reason}); {by_hand}") from error
            except _WebPage as error:
                raise BalancerError(f"{archive.url} gave a web page in place of the file; {by_hand}") from error
            except BROKEN as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            except OSError as error:
                raise BalancerError(
                    f"{part} cannot be written ({error.strerror}); make room, or give another --to"
                ) from error
            else:
                if (found := _md5(part)) == archive.md5:
                    part.replace(path)
                    return True
                part.unlink()
                if not before:
                    raise BalancerError(
                        f"{archive.url} gave a file with MD5 {found}, expected {archive.md5}; it was not kept; try again, or {by_hand}"
                    )
                reason = f"{part.name}, begun earlier, was of another file"
            failures = 0 if _size(part) > before else failures + 1
            log.warning("%s: %s (%d bytes so far)", archive.name, reason, _size(part))
    raise BalancerError(
        f"{archive.url} cannot be downloaded ({reason}); try again, which goes on where it broke off, or {by_hand}"
    )


class _WebPage(Exception):
    """A log-in, consent or error page with status 200."""


def _download(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks; where the server does not do parts, begin anew.

    Raises:
        OSError: of the network (see BROKEN) or of the disk; a connection that ends early is a ConnectionError.
    """
    have = _size(part)
    wanted = {"User-Agent": "xray-balancer", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=wanted), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # nothing is lacking, or what is there is no part of it: the hash will tell
        raise
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise _WebPage
        goes_on = answer.status == HTTPStatus.PARTIAL_CONTENT and _begins_at(answer, have)
        start = have if goes_on else 0
        length = answer.headers["Content-Length"]
        total = None if length is None else start + int(length)
        with part.open("ab" if goes_on else "wb") as handle:
            _copy(answer, handle, start, total, part.name.removesuffix(".part"))
    if total is not None and _size(part) < total:
        raise ConnectionError(f"the connection ended after {_size(part)} of {total} bytes")


def _begins_at(answer: Any, position: int) -> bool:
    return str(answer.headers["Content-Range"] or "").startswith(f"bytes {position}-")


def _copy(answer: IO[bytes], handle: IO[bytes], start: int, total: int | None, name: str) -> None:
    with progress.bar(total or 0, f"fetching {name}", "B", start) as bar:
        while block := answer.read(BLOCK):
            handle.write(block)
            bar.update(len(block))
    handle.flush()
    os.fsync(handle.fileno())


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Two processes must not write one ``.part``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(str(path.with_name(f".{path.name}.lock")))
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise BalancerError(f"{path} is being fetched by another process; wait for it") from error
    except OSError as error:
        raise BalancerError(f"{path.parent} cannot be written ({error.strerror}); give another --to") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while held: later, it could be another process's lock
        lock.release()


def _md5(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _counts(root: Path) -> dict[str, tuple[int, ...]]:
    records = read_folder(root)
    return {
        split: tuple(sum(r.split == split and r.label == label for r in records) for label in range(len(CLASSES)))
        for split in SPLITS
    }


def _told(counts: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{split} {' + '.join(f'{n:,}' for n in of)}" for split, of in counts.items())
