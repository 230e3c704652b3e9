"""Decode once: a memory-mapped array of grey images, keyed by content and settings.

The cache has two levels. ``stat/`` maps a list of files with their sizes and times of change to the SHA-256 of each.
``images/`` holds the decoded array under a key made of these digests and the settings. So a second start reads no
image, and files that were touched but not changed are only hashed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import filelock
import numpy as np
import platformdirs

from balancer.core import progress
from balancer.core.errors import BalancerError
from balancer.core.sealed import DamagedFile, read_json, write_json

FORMAT = 2  # raise when decoding changes
UNREADABLE = "unreadable"  # in place of the digest of a file that cannot be opened
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Decoded:
    """The readable images of a list of files, in the order of the list."""

    images: np.ndarray  # (n, size, size) uint8, a read-only memory map
    positions: list[int]  # (n,) of the readable files in the list
    digests: list[str]  # (n,) SHA-256 of each file
    bad: list[tuple[str, str]]  # (name, reason) of every unreadable file


def cache_dir(part: str = "") -> Path:
    """Make and return a folder of the cache: below ``BALANCER_CACHE``, else below the user's cache folder.

    Raises:
        BalancerError: the folder cannot be made.
    """
    variable = os.environ.get("BALANCER_CACHE")
    root = Path(variable) if variable else Path(platformdirs.user_cache_dir("xray-balancer", appauthor=False))
    try:
        (root / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BalancerError(
            f"cache folder {root} cannot be made ({error.strerror}); set BALANCER_CACHE to a writable folder"
        ) from error
    return root / part


def decode_all(
    names: Sequence[str],
    stamp: str,
    digest: Callable[[int], str],
    decode: Callable[[int], np.ndarray],
    settings: dict[str, str | int],
    max_bad: float,
) -> Decoded:
    """Return the decoded images of a data set, from the cache if they are there.

    Args:
        names: of the images, for messages.
        stamp: names the files as they are on disk; see :func:`stat_stamp`.
        digest: returns the SHA-256 of file ``i``; may raise OSError.
        decode: returns file ``i`` as (size, size) uint8; may raise OSError.
        settings: everything that decoding depends on, with ``size`` in pixels.
        max_bad: share of unreadable files above which the data set is refused.

    Raises:
        BalancerError: too many files are unreadable.
    """
    root = cache_dir("stat").parent
    cache_dir("images")
    digests = _digests(root / "stat" / f"{stamp}.json", names, digest)
    key = _hash(json.dumps([FORMAT, digests, settings], sort_keys=True))
    final = root / "images" / key
    with filelock.FileLock(str(final) + ".lock"):
        if not (final / "meta.json").exists():
            _decode_into(final, names, digests, decode, int(settings["size"]))
    meta = read_json(final / "meta.json")
    bad = [(names[i], reason) for i, reason in meta["bad"]]
    if len(bad) > max_bad * len(names):
        raise BalancerError(
            f"{len(bad)} of {len(names)} files cannot be read, more than --max-bad {max_bad:g} allows"
            f" ({'; '.join(f'{name}: {reason}' for name, reason in bad[:5])}{'; ...' if len(bad) > 5 else ''});"
            " repair or remove them, or raise --max-bad"
        )
    images = np.load(final / "images.npy", mmap_mode="r")
    return Decoded(images, meta["kept"], [digests[i] for i in meta["kept"]], bad)


def _digests(file: Path, names: Sequence[str], digest: Callable[[int], str]) -> list[str]:
    with contextlib.suppress(OSError, DamagedFile):
        return list(read_json(file)["digests"])

    def one(i: int) -> str:
        try:
            return digest(i)
        except OSError:
            return UNREADABLE

    digests = in_threads(one, len(names), "hashing")
    if UNREADABLE not in digests:  # permissions can change without size or time changing: try again next time
        write_json(file, {"digests": digests})
    return digests


def _decode_into(
    final: Path, names: Sequence[str], digests: list[str], decode: Callable[[int], np.ndarray], size: int
) -> None:
    """Decode everything into a temporary folder, then give it its name in one step."""
    folder = Path(tempfile.mkdtemp(dir=final.parent, prefix=".decoding-"))
    try:
        decoded = np.lib.format.open_memmap(
            folder / "all.npy", mode="w+", dtype=np.uint8, shape=(len(names), size, size)
        )

        def one(i: int) -> str | None:
            try:
                decoded[i] = decode(i)
            except OSError as error:
                return str(error).splitlines()[0] or type(error).__name__
            return None

        reasons = in_threads(one, len(names), "decoding")
        readable = [i for i, reason in enumerate(reasons) if reason is None]
        if len(readable) == len(names):
            decoded.flush()
            (folder / "all.npy").rename(folder / "images.npy")
        else:
            np.save(folder / "images.npy", decoded[readable])
            (folder / "all.npy").unlink()
        write_json(
            folder / "meta.json", {"kept": readable, "bad": [(i, r) for i, r in enumerate(reasons) if r is not None]}
        )
        shutil.rmtree(final, ignore_errors=True)
        folder.replace(final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def in_threads(work: Callable[[int], ResultT], n: int, what: str) -> list[ResultT]:
    """Return ``work(0)`` to ``work(n - 1)``, several at a time, with a progress bar.

    Threads suffice: PIL and numpy release the interpreter lock while they decode and resize.
    """
    with progress.bar(n, what, "image") as bar, ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = []
        try:
            for result in pool.map(work, range(n), chunksize=1):
                results.append(result)
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def stat_stamp(root: Path, names: Sequence[str]) -> str:
    """Return a hash of the folder, names, sizes and times of change of files below ``root``."""
    lines = [str(root.resolve())]  # tells two folders apart whose files have equal names, sizes and times
    for name in names:
        stat = (root / name).stat()
        lines.append(f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}")
    return _hash("\n".join(lines))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
