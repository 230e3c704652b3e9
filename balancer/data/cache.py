"""Decode once: a memory-mapped array of images, keyed by content and settings.

The cache has two levels. ``stat/`` maps a list of files with their sizes and times of change to the SHA-256 of each.
``images/`` holds the decoded array under a key made of these digests and the settings. So a second start reads no
image, and files that were touched but not changed are only hashed again.

Whatever is read from the cache is checked against its SHA-256 first. What is damaged, or of another shape, is made
again, with a warning.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import platformdirs
from pydantic import FiniteFloat

from balancer.core import progress
from balancer.core.errors import BalancerError
from balancer.core.files import locked, remove, sweep, temporary_path
from balancer.core.pixels import GREY, shape_of
from balancer.core.sealed import DamagedFile, load_arrays, read_json, save_arrays, write_json
from balancer.core.shapes import check_arrays, parse
from balancer.core.system_errors import explained, naming
from balancer.core.threads import allowed_processors
from balancer.data.decoded import Decoded, Reader, by_headers, enlarged_note, refuse_too_many
from balancer.data.depth import Decoding, Ranges, Source, is_dim, is_off_range, ranges_within, shared_ranges
from balancer.data.depth_notes import depth_notes, shown_note
from balancer.data.digests import ROW, Digests
from balancer.data.subset import Subset

FORMAT = 6  # raise when decoding changes, or what is stored of it
HEADER, CHUNK = 128, 1 << 20  # bytes: of an npy file's header, and written at a time
WINDOW = 1024  # images that are read, or written, before the next are begun
AGAIN = "tried again at the next start"
UNREADABLE = "unreadable"  # in place of the digest of a file that cannot be opened
ResultT = TypeVar("ResultT")
Shape = tuple[int, ...]  # of one image: (size, size) or (size, size, 3)
log = logging.getLogger("balancer")


@dataclass(frozen=True)
class Index:
    """What meta.json says of the decoded images beside it. Numbers of files are positions in the list of files."""

    kept: list[int]  # the readable files
    bad: list[tuple[int, str]]  # the others, each with a reason
    ranges: dict[str, FiniteFloat]
    dim: list[int]
    small: list[int]  # the sides of images that were enlarged
    n_small: int
    images_sha256: str  # of images.npy
    windows: int = 0  # DICOM files in grey that were read in a window
    full: int = 0  # and in full
    refused: list[int] = field(default_factory=list)  # of the bad: not damaged, but refused by the disk at that time
    in_colour: list[int] | None = None  # of the kept: see Decoded; None in files of earlier versions
    without_colour: list[int] | None = None


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
    reader: Reader,
    settings: dict[str, str | int],
    max_bad: float,
    ranges: Ranges | None = None,
    decode: bool = True,
) -> Decoded:
    """Return the decoded images of a data set, from the cache if they are there.

    Args:
        names: of the images, for messages.
        stamp: names the files as they are on disk; see :func:`stat_stamp`.
        digest: returns the SHA-256 of file ``i``; may raise OSError.
        reader: decodes file ``i`` to (size, size) or (size, size, 3) uint8, and reads its header.
        settings: everything that decoding depends on, with ``size`` in pixels, and ``channels`` unless the images are
            grey.
        max_bad: share of unreadable files above which the data set is refused.
        ranges: of deep samples, such as those of a training; other kinds have the range of this set.
        decode: whether to decode what the cache does not hold. A dry run only reads the headers of such files.

    Raises:
        BalancerError: too many files are unreadable.
    """
    size, channels = int(settings["size"]), int(settings.get("channels", GREY))
    shape = shape_of(size, channels)
    with explained("or set BALANCER_CACHE to a folder of your own", OSError):
        root = cache_dir("stat").parent
        cache_dir("images")
        sweep(root)
        digests = file_digests(names, stamp, digest)
        key = _hash(_facts(digests, settings, *([ranges] if ranges else [])))

        def decode_hashed(i: int, ranges: Ranges | None) -> Decoding:
            decoding = reader.decode(i, ranges)
            if digests[i] == UNREADABLE:  # its content is not in the key
                raise OSError(errno.EIO, "it could not be read at first")
            return decoding

        folder = root / "images" / key
        if not decode and not _is_there(folder, len(names), shape):
            decoded = by_headers(names, digests, Reader(decode_hashed, reader.side), size, ranges, channels)
            refuse_too_many(decoded.bad, len(names), max_bad)
            return decoded
        index, images = _open_or_decode(folder, names, decode_hashed, shape, ranges or {})
    bad = [(names[i], reason) for i, reason in index.bad]
    refuse_too_many(bad, len(names), max_bad)
    notes = [
        *depth_notes({k: w for k, w in index.ranges.items() if k not in (ranges or {})}, [names[i] for i in index.dim]),
        *shown_note(index.windows, index.full, str(settings.get("window", "auto"))),
        *enlarged_note(index.small, index.n_small, len(names), size),
    ]
    of_kept = Digests.of_rows(digests.rows[index.kept]), bad, index.ranges, notes
    return Decoded(images, index.kept, *of_kept, in_colour=index.in_colour, without_colour=index.without_colour)


def _facts(digests: Digests, *more: Mapping[str, object]) -> Iterator[str]:
    """Yield the JSON text ``[FORMAT, [digest, ...], more, ...]`` in parts: that of a large set is never held."""
    yield f"[{FORMAT}, ["
    for i, text in enumerate(digests):
        yield f'{", " if i else ""}"{text}"'
    yield "]"
    for facts in more:
        yield f", {json.dumps(facts, sort_keys=True)}"
    yield "]"


def _is_there(folder: Path, n: int, shape: Shape) -> bool:
    """Return whether decoded images of n files are there, and are what was written."""
    try:
        _open(folder, n, shape)
    except DamagedFile as damage:
        log.warning("%s; the run decodes the images again", damage)
        return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def file_digests(names: Sequence[str], stamp: str, digest: Callable[[int], str]) -> Digests:
    """Return the SHA-256 of each file, from the cache if the files are as they were; arguments as in decode_all."""
    file = cache_dir("stat") / f"{stamp}.npz"
    try:
        return _stored_digests(file, len(names))
    except FileNotFoundError:
        pass
    except DamagedFile as damage:
        log.warning("%s; the files are hashed again", damage)
        remove(file)

    def one(i: int) -> str:
        try:
            return digest(i)
        except OSError:
            return UNREADABLE

    digests = Digests(in_threads(one, len(names), "hashing"))
    if UNREADABLE not in digests:  # permissions can change without size or time changing: try again next time
        save_arrays(file, {"digests": digests.rows})
        remove(file.with_suffix(".json"))  # of an earlier version
    return digests


def _stored_digests(file: Path, n: int) -> Digests:
    """Return the digests of n files from a file under ``stat/``.

    Raises:
        OSError: it is not there, or cannot be read.
        DamagedFile: it is not what was written.
    """
    rows = load_arrays(file).get("digests")
    if rows is None or (rows.shape, rows.dtype) != ((n,), ROW):
        found = "missing" if rows is None else f"{rows.dtype} {rows.shape}"
        raise DamagedFile(file, f"digests: {found}; expected {ROW} {(n,)}")
    return Digests.of_rows(rows)


def _open_or_decode(
    final: Path, names: Sequence[str], decode: Callable[[int, Ranges | None], Decoding], shape: Shape, fixed: Ranges
) -> tuple[Index, np.ndarray]:
    """Return the decoded images and their index; decode them first if they are not there, or damaged.

    Files that the disk refused are tried again: no such failure is kept once it is over.
    """
    # What looks damaged may just be replaced by another process: only under the lock the second look counts.
    with contextlib.suppress(DamagedFile, FileNotFoundError, NotADirectoryError):
        index, images = _open(final, len(names), shape)
        if not _is_readable_now(index, decode):
            return index, images
    with locked(final.with_name(f"{final.name}.lock")):
        try:
            index, images = _open(final, len(names), shape)
            if not _is_readable_now(index, decode):
                return index, images
            log.warning("files that the disk refused can be read now; the images are decoded again")
        except (DamagedFile, FileNotFoundError, NotADirectoryError) as error:
            if final.exists():
                problem = error if isinstance(error, DamagedFile) else f"{final} is not complete"
                log.warning("%s; the images are decoded again", problem)
        _decode_into(final, names, decode, shape, fixed)
        return _open(final, len(names), shape)


def _is_readable_now(index: Index, decode: Callable[[int, Ranges | None], Decoding]) -> bool:
    """Return whether a file that the disk refused when the images were decoded can be read now."""
    for i in index.refused:
        with contextlib.suppress(OSError):
            decode(i, None)
            return True
    return False


def _is_refusal(error: OSError) -> bool:
    """Return whether the disk refused a file, as opposed to a decoder: damaged files make some seek to nowhere."""
    return error.errno is not None and error.errno != errno.EINVAL


def _open(final: Path, n: int, shape: Shape) -> tuple[Index, np.ndarray]:
    """Return decoded images of n files, each of that shape, and their index, once both are checked.

    Raises:
        OSError: they are not there, or cannot be read.
        DamagedFile: they are not what was written.
    """
    meta, file = final / "meta.json", final / "images.npy"
    index = parse(Index, read_json(meta), meta)
    bad = [i for i, _ in index.bad]
    named = {*index.dim, *(index.in_colour or ()), *(index.without_colour or ())}
    known = named <= set(index.kept) and set(index.refused) <= set(bad)
    if sorted([*index.kept, *bad]) != list(range(n)) or not known:
        raise DamagedFile(meta, f"kept, bad, dim, refused, in_colour, without_colour: expected positions of {n} files")
    try:
        if sha256_of(file) != index.images_sha256:
            raise DamagedFile(file, f"its content differs from its SHA-256 in {meta.name}")
        images = np.load(file, mmap_mode="r")
    except (IsADirectoryError, ValueError, EOFError) as error:
        raise DamagedFile(file, "it is no array") from error
    if (images.shape, images.dtype) != ((len(index.kept), *shape), np.uint8):
        raise DamagedFile(file, f"{images.dtype} {images.shape}; expected uint8 {(len(index.kept), *shape)}")
    return index, images


def _decode_into(
    final: Path, names: Sequence[str], decode: Callable[[int, Ranges | None], Decoding], shape: Shape, fixed: Ranges
) -> None:
    """Decode everything into a temporary folder, then give it its name in one step."""
    folder = temporary_path(final)
    folder.mkdir(exist_ok=True)
    file = folder / "images.npy"
    try:
        decoded = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(len(names), *shape))
        reserve(file)
        refused: set[int] = set()

        def one(i: int, ranges: Ranges) -> Source | str:
            try:
                decoding = decode(i, ranges)
            except OSError as error:
                reason = (str(error).splitlines() or [""])[0] or type(error).__name__
                if not _is_refusal(error):
                    return reason
                refused.add(i)
                return f"{reason}; {AGAIN}"
            decoded[i] = decoding.pixels
            return decoding.source

        results = in_threads(lambda i: one(i, fixed), len(names), "decoding")
        sources = {i: source for i, source in enumerate(results) if isinstance(source, Source)}
        ranges = shared_ranges(list(sources.values()))
        again = [i for i, source in sources.items() if source.kind not in fixed and is_off_range(source, ranges)]
        ranges |= ranges_within(fixed, ranges)
        retried = in_threads(lambda k: one(again[k], ranges), len(again), "decoding again in the range of the set")
        for i, result in zip(again, retried, strict=True):
            results[i] = result
        sources = {i: source for i, source in enumerate(results) if isinstance(source, Source)}
        readable = list(sources)
        decoded.flush()
        if len(readable) < len(names):
            file.unlink()
            _write_array(file, Subset(decoded, np.array(readable, dtype=np.int64)))
        index = Index(
            kept=readable,
            bad=[(i, reason) for i, reason in enumerate(results) if isinstance(reason, str)],
            ranges=ranges,
            dim=[i for i, source in sources.items() if is_dim(source, ranges)],
            small=sorted({source.side for source in sources.values() if source.side < shape[0]}),
            n_small=sum(source.side < shape[0] for source in sources.values()),
            images_sha256=sha256_of(file),
            windows=sum(source.shown == "window" for source in sources.values()),
            full=sum(source.shown == "full" for source in sources.values()),
            refused=sorted(refused),
            in_colour=[i for i, source in sources.items() if source.in_colour],
            without_colour=[i for i, s in sources.items() if not s.coloured] if len(shape) > 2 else None,
        )
        write_json(folder / "meta.json", asdict(index))
        remove(final)
        folder.replace(final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def reserve(file: Path) -> None:
    """Take the space of a sparse file: on a full disk, a write into a memory map kills the process with SIGBUS."""
    size = file.stat().st_size
    with naming(file), file.open("r+b") as handle:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, size)
        else:  # macOS and Windows: the file is all zeros so far, after its header
            start = len(handle.read(HEADER))
            for _ in range(start, size, CHUNK):
                handle.write(bytes(min(CHUNK, size - handle.tell())))


def _write_array(file: Path, images: Subset) -> None:
    """Write an ``npy`` file, part by part. On a full disk numpy's own writer hides the operating system's error."""
    header = {"descr": np.lib.format.dtype_to_descr(images.dtype), "fortran_order": False, "shape": images.shape}
    with naming(file), file.open("wb") as handle:
        np.lib.format.write_array_header_1_0(handle, header)
        for start in range(0, len(images), WINDOW):
            handle.write(images[start : start + WINDOW].tobytes())


def cached_arrays(
    path: Path,
    layout: Mapping[str, tuple[str, tuple[int, ...]]],
    make: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Return arrays from a file of the cache; make and store them if they are not there, or damaged.

    Args:
        path: of the ``npz`` file.
        layout: dtype and shape of each array.
        make: returns the arrays.
    """
    try:
        arrays = load_arrays(path)
        check_arrays(path, arrays, layout)
        return arrays
    except FileNotFoundError:
        pass
    except DamagedFile as damage:
        log.warning("%s; it is made again", damage)
        remove(path)
    arrays = make()
    save_arrays(path, arrays)
    return arrays


def in_threads(work: Callable[[int], ResultT], n: int, what: str) -> list[ResultT]:
    """Return ``work(0)`` to ``work(n - 1)``, several at a time, with a progress bar.

    Threads suffice: PIL and numpy release the interpreter lock while they decode and resize.
    """
    with progress.bar(n, what, "image") as bar, ThreadPoolExecutor(min(8, allowed_processors())) as pool:
        results = []
        try:
            for start in range(0, n, WINDOW):  # a future for each image of a large set would take a gigabyte
                for result in pool.map(work, range(start, min(n, start + WINDOW)), chunksize=1):
                    results.append(result)
                    bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def stat_stamp(root: Path, names: Sequence[str]) -> str:
    """Return a hash of the folder, names, sizes, inodes and times of change of files below ``root``."""

    def lines() -> Iterator[str]:
        yield str(root.resolve())  # tells two folders apart whose files have equal names, sizes and times
        for name in names:
            stat = (root / name).stat()
            # The inode and the time of change of the entry: a tool may give another file the old one's size and time.
            yield f"\n{name}\t{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ino}\t{stat.st_ctime_ns}"

    return _hash(lines())


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _hash(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode(errors="surrogateescape"))
    return digest.hexdigest()[:24]
