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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import platformdirs

from balancer.core import progress
from balancer.core.errors import BalancerError
from balancer.core.files import JsonObject, locked, sweep, temporary_path
from balancer.core.sealed import DamagedFile, read_json, write_json
from balancer.core.system_errors import explained, naming
from balancer.data.images import Decoding, Ranges, Source, depth_notes, is_dim, is_off_range, shared_ranges

FORMAT = 3  # raise when decoding changes
UNREADABLE = "unreadable"  # in place of the digest of a file that cannot be opened
HEADER, CHUNK = 128, 1 << 20  # bytes: of an npy file's header, and written at a time
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Decoded:
    """The readable images of a list of files, in the order of the list."""

    images: np.ndarray  # (n, size, size) uint8, a read-only memory map
    positions: list[int]  # (n,) of the readable files in the list
    digests: list[str]  # (n,) SHA-256 of each file
    bad: list[tuple[str, str]]  # (name, reason) of every unreadable file
    ranges: dict[str, float]  # of deep samples, shared by the set; see :func:`balancer.data.images.white_level`
    notes: list[str]  # what a reader must know of the decoding


def cache_dir(part: str = "") -> Path:
    """Make and return a folder of the cache: below ``BALANCER_CACHE``, else below the user's cache folder.

    Raises:
        BalancerError: the folder cannot be made.
    """
    variable = os.environ.get("BALANCER_CACHE")
    root = Path(variable) if variable else Path(platformdirs.user_cache_dir("xray-balancer", appauthor=False))
    if not variable and not root.is_absolute():  # HOME is not set and the user has no entry
        raise BalancerError("there is no home folder for the cache; set BALANCER_CACHE to a writable folder")
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
    decode: Callable[[int, Ranges | None], Decoding],
    settings: dict[str, str | int],
    max_bad: float,
) -> Decoded:
    """Return the decoded images of a data set, from the cache if they are there.

    Args:
        names: of the images, for messages.
        stamp: names the files as they are on disk; see :func:`stat_stamp`.
        digest: returns the SHA-256 of file ``i``; may raise OSError.
        decode: returns file ``i`` as (size, size) uint8, deep samples in the ranges given, else in a range of its own;
            may raise OSError.
        settings: everything that decoding depends on, with ``size`` in pixels.
        max_bad: share of unreadable files above which the data set is refused.

    Raises:
        BalancerError: too many files are unreadable.
    """
    with explained("or set BALANCER_CACHE to a folder of your own", OSError):
        root = cache_dir("stat").parent
        cache_dir("images")
        sweep(root)
        digests = _digests(root / "stat" / f"{stamp}.json", names, digest)
        key = _hash(json.dumps([FORMAT, digests, settings], sort_keys=True))
        final = root / "images" / key
        if not (final / "meta.json").exists():  # a finished decoding is read from a cache that cannot be written too
            with locked(final.with_name(f"{key}.lock")):
                if not (final / "meta.json").exists():
                    _decode_into(final, names, decode, int(settings["size"]))
    meta = read_json(final / "meta.json")
    bad = [(names[i], reason) for i, reason in meta["bad"]]
    if len(bad) > max_bad * len(names):
        raise BalancerError(
            f"{len(bad)} of {len(names)} files cannot be read, more than --max-bad {max_bad:g} allows"
            f" ({'; '.join(f'{name}: {reason}' for name, reason in bad[:5])}{'; ...' if len(bad) > 5 else ''});"
            " repair or remove them, or raise --max-bad"
        )
    images = np.load(final / "images.npy", mmap_mode="r")
    notes = [
        *depth_notes(meta["ranges"], [names[i] for i in meta["dim"]]),
        *_enlarged(meta, len(names), settings["size"]),
    ]
    return Decoded(images, meta["kept"], [digests[i] for i in meta["kept"]], bad, meta["ranges"], notes)


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
    final: Path, names: Sequence[str], decode: Callable[[int, Ranges | None], Decoding], size: int
) -> None:
    """Decode everything into a temporary folder, then give it its name in one step."""
    folder = temporary_path(final)
    folder.mkdir()
    try:
        decoded = np.lib.format.open_memmap(
            folder / "all.npy", mode="w+", dtype=np.uint8, shape=(len(names), size, size)
        )
        _reserve(folder / "all.npy")

        def one(i: int, ranges: Ranges | None = None) -> Source | str:
            try:
                decoding = decode(i, ranges)
            except OSError as error:
                return (str(error).splitlines() or [""])[0] or type(error).__name__
            decoded[i] = decoding.pixels
            return decoding.source

        results = in_threads(one, len(names), "decoding")
        sources = {i: source for i, source in enumerate(results) if isinstance(source, Source)}
        ranges = shared_ranges(list(sources.values()))
        again = [i for i, source in sources.items() if is_off_range(source, ranges)]
        in_threads(lambda k: one(again[k], ranges), len(again), "decoding again in the range of the set")
        readable = list(sources)
        if len(readable) == len(names):
            decoded.flush()
            (folder / "all.npy").rename(folder / "images.npy")
        else:
            with naming(folder / "images.npy"):
                np.save(folder / "images.npy", decoded[readable])
            (folder / "all.npy").unlink()
        meta = {
            "kept": readable,
            "bad": [(i, reason) for i, reason in enumerate(results) if isinstance(reason, str)],
            "ranges": ranges,
            "dim": [i for i, source in sources.items() if is_dim(source, ranges)],
            "small": sorted({source.side for source in sources.values() if source.side < size}),
            "n_small": sum(source.side < size for source in sources.values()),
        }
        write_json(folder / "meta.json", meta)
        shutil.rmtree(final, ignore_errors=True)
        folder.replace(final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _reserve(file: Path) -> None:
    """Take the space of a sparse file: on a full disk, a write into a memory map kills the process with SIGBUS."""
    size = file.stat().st_size
    with naming(file), file.open("r+b") as handle:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, size)
        else:  # macOS and Windows: the file is all zeros so far, after its header
            start = len(handle.read(HEADER))
            for _ in range(start, size, CHUNK):
                handle.write(bytes(min(CHUNK, size - handle.tell())))


def _enlarged(meta: JsonObject, n: int, size: str | int) -> list[str]:
    if not meta["small"]:
        return []
    sides = " to ".join(map(str, dict.fromkeys((meta["small"][0], meta["small"][-1]))))
    return [
        f"{meta['n_small']} of {n} images are {sides} px and were enlarged to {size} px, which adds no detail: figures"
        f" are those of the smaller images. --image-size {meta['small'][0]} enlarges none."
    ]


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
    """Return a hash of the folder, names, sizes, inodes and times of change of files below ``root``."""
    lines = [str(root.resolve())]  # tells two folders apart whose files have equal names, sizes and times
    for name in names:
        stat = (root / name).stat()
        # The inode and the time of change of the entry: a tool may give another file the old one's size and time.
        lines.append(f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ino}\t{stat.st_ctime_ns}")
    return _hash("\n".join(lines))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:24]
