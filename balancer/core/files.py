"""Files that are written whole or not at all, and what killed processes left of them."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import os
import platform
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

import filelock

from balancer.core.errors import BalancerError
from balancer.core.system_errors import naming

JsonObject = dict[str, Any]  # what json.dumps takes; made and read at the edge of the program only
log = logging.getLogger("balancer")
OLD_SECONDS = 24 * 3600  # a temporary file is written in minutes
SHOWN = 40  # characters of a file's name in the name of its temporary file, which must not get too long
_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)-\d+\.tmp")
# of earlier versions, which did not name the machine
_EARLIER = re.compile(r"\..*\.\d+-\d+\.tmp|\.decoding-\w{8}|\.phantom-[\d-]+-\w{8}")


def temporary_path(path: Path) -> Path:
    """Return the name of a file or folder while it is written, beside ``path``. :func:`sweep` knows such names."""
    return path.parent / f".{path.name[:SHOWN]}.{_machine()}-{os.getpid()}-{threading.get_ident()}.tmp"


@cache
def _machine() -> str:
    """Return eight hex digits for what numbers the processes: a machine, or a container on it."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        namespace = ""
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


@contextlib.contextmanager
def atomic_file(path: Path, previous: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a binary file that gets its name only when it is complete (same-folder temporary, fsync, rename).

    Args:
        path: of the file.
        previous: name that the replaced file gets. A kill between the two renames leaves this name alone.

    Raises:
        OSError: the file cannot be written; the error names ``path``.
    """
    temporary = temporary_path(path)
    try:
        with naming(path, instead_of=temporary):
            with temporary.open("wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            if previous is not None and path.exists():
                path.replace(previous)
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the disk may be gone; the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Write a file atomically; arguments as for :func:`atomic_file`."""
    with atomic_file(path, previous) as handle:
        handle.write(content)


def encoded(text: str) -> bytes:
    """Return text as UTF-8; bytes of a file name that are no UTF-8 become escapes in ASCII."""
    return text.encode(errors="backslashreplace")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8; see :func:`encoded`."""
    write_bytes(path, encoded(text))


def refuse_unwritable(path: Path, flag: str = "--out") -> None:
    """Refuse a file or folder to write, which ``flag`` names, if it could not be made as far as permissions tell.

    Raises:
        BalancerError: naming the folder that refuses it.
    """
    place = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if place != path.absolute() and not place.is_dir():
        raise BalancerError(f"{flag} {path} cannot be written: {place} is a file; give another {flag}")
    if not os.access(place, os.W_OK):
        raise BalancerError(f"{flag} {path} cannot be written: Permission denied for {place}; give another {flag}")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_other_kind(path: Path, is_folder: bool) -> None:
    """Remove a file where a folder is to be made, or a folder where a file is to be written, with a warning.

    Without that, whatever is resumed would end at this place each time.
    """
    if not os.path.lexists(path) or path.is_dir() == is_folder:
        return
    log.warning("%s is no %s: it was removed", path, "folder" if is_folder else "file")
    remove(path)


@contextlib.contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file, which is removed while it is held: later, it could be another process's lock.

    Raises:
        filelock.Timeout: another process holds the lock for longer than ``timeout`` seconds; -1 waits for ever.
    """
    with filelock.FileLock(path, timeout=timeout):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes left below a folder, of any depth.

    Removed is what belongs to a process of this machine that has ended, or what has not changed for a day. What cannot
    be read or removed stays.
    """
    removed = 0
    for where, folders, files in os.walk(folder):
        for name in [n for n in folders + files if n.endswith(".tmp") or _EARLIER.fullmatch(n)]:
            path = Path(where, name)
            if name in folders:
                folders.remove(name)
            removed += _removed(path)
    if removed:
        log.info("removed %d temporary files of killed processes in %s", removed, folder)


def sweep_beside(path: Path) -> None:
    """Remove what killed processes left beside a file or folder that they were writing, as :func:`sweep` does.

    Nothing else in the folder around it is looked at: that may be a home, or a disk.
    """
    for temporary in path.parent.glob(f".{glob.escape(path.name[:SHOWN])}.*.tmp"):
        _removed(temporary)


def _removed(path: Path) -> bool:
    """Return whether a temporary file or folder was left over, and could be removed."""
    with contextlib.suppress(OSError):
        if _is_left_over(path):
            remove(path)
            return True
    return False


def _is_left_over(path: Path) -> bool:
    ours = _TEMPORARY.fullmatch(path.name)
    if ours is None and not _EARLIER.fullmatch(path.name):
        return False
    if ours is not None and ours[1] == _machine() and not _is_alive(int(ours[2])):
        return True
    newest = max((p.stat().st_mtime for p in (path, *path.rglob("*"))), default=0.0)
    return time.time() - newest > OLD_SECONDS


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":  # there, signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def folder_name(text: str) -> str:
    """Return a text as the name of a folder: what a path could take for more is written as in an address.

    What is too long for a name is cut and ends with a hash.

    >>> folder_name("NORMAL"), folder_name("mass/nodule"), folder_name("..")
    ('NORMAL', 'mass%2Fnodule', '%2E.')
    """
    name = "".join(c if c.isalnum() or c in " _-.,+()&=" else "".join(f"%{b:02X}" for b in c.encode()) for c in text)
    name = f"%2E{name[1:]}" if name.startswith(".") else name
    return name if 0 < len(name) <= 60 else f"{name[:50]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
