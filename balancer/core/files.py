"""Files that are written whole or not at all, and JSON lines that survive a kill."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import filelock

JsonObject = dict[str, Any]  # what json.dumps takes; made and read at the edge of the program only
log = logging.getLogger("balancer")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that gets its name only when it is complete (same-folder temporary, fsync, rename)."""
    temporary = path.parent / f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_file(path) as handle:
        handle.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; a number that is not finite is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line in one write, under a lock, so that two processes cannot mix their lines."""
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    with filelock.FileLock(path.with_name(f".{path.name}.lock")), path.open("ab") as handle:
        if handle.tell() and not _ends_with_newline(path):
            line = b"\n" + line  # a torn last line must not swallow this one
        handle.write(line)
        handle.flush()
        os.fsync(handle.fileno())


def read_jsonl(path: Path) -> list[JsonObject]:
    """Return the rows of a JSON-lines file; skip a line that a kill has torn, with a warning."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if path.exists() else ():
        try:
            if line.strip():
                rows.append(json.loads(line))
        except json.JSONDecodeError:
            log.warning("%s: line %d is torn and was skipped", path, number)
    return rows


def keep_jsonl(path: Path, wanted: Callable[[JsonObject], bool]) -> None:
    """Drop the rows of a JSON-lines file that are not wanted."""
    rows = [row for row in read_jsonl(path) if wanted(row)]
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) == b"\n"
