"""JSON lines that survive a kill; each line carries its own SHA-256."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balancer.core.files import JsonObject, locked, write_bytes, write_text
from balancer.core.sealed import sealed_json, unsealed_json, warn_of_no_seal
from balancer.core.system_errors import naming

log = logging.getLogger("balancer")


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one sealed line in one write, under a lock, so that two processes cannot mix their lines."""
    line = (sealed_json(row, indent=None) + "\n").encode()
    lock = path.with_name(f".{path.name}.lock")
    with naming(path, instead_of=lock), locked(lock), path.open("ab") as handle:
        if handle.tell() and not _ends_with_newline(path):
            line = b"\n" + line  # a torn last line must not swallow this one
        handle.write(line)
        handle.flush()
        os.fsync(handle.fileno())


@dataclass(frozen=True)
class JsonLines:
    """The lines of a JSON-lines file by number, from 1; an empty line is neither row nor damaged."""

    rows: dict[int, JsonObject]  # without their seals
    damaged: dict[int, str]  # what is wrong with a line, in words


def scan_jsonl(path: Path) -> JsonLines:
    """Return the rows of a JSON-lines file, and the lines that a kill has torn or that differ from their SHA-256."""
    rows: dict[int, JsonObject] = {}
    damaged: dict[int, str] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if path.exists() else ():
        if not line.strip():
            continue
        try:
            rows[number], sealed = unsealed_json(line)
        except (ValueError, RecursionError) as error:
            damaged[number] = "torn" if isinstance(error, json.JSONDecodeError) else f"damaged ({error})"
            continue
        if not sealed:
            warn_of_no_seal(path)
    return JsonLines(rows, damaged)


def read_jsonl(path: Path) -> list[JsonObject]:
    """Return the rows of a JSON-lines file, without their seals; none if there is no file.

    A line that a kill has torn, or that differs from its SHA-256, is left out with a warning.
    """
    return [row for _, row in numbered_rows(path)]


def numbered_rows(path: Path) -> list[tuple[int, JsonObject]]:
    """Return the rows of :func:`read_jsonl`, each with the number of its line from 1."""
    lines = scan_jsonl(path)
    for number, problem in lines.damaged.items():
        log.warning("%s: line %d is %s and was left out", path, number, problem)
    return list(lines.rows.items())


def drop_lines(path: Path, numbers: Collection[int]) -> None:
    """Drop lines of a JSON-lines file by number, from 1; the others stay as they are, byte by byte."""
    lines = enumerate(path.read_bytes().split(b"\n"), 1)
    write_bytes(path, b"".join(line + b"\n" for number, line in lines if number not in numbers and line.strip()))


def keep_jsonl(path: Path, wanted: Callable[[JsonObject], bool]) -> None:
    """Drop the rows of a JSON-lines file that are not wanted."""
    rows = [row for row in read_jsonl(path) if wanted(row)]
    write_text(path, "".join(sealed_json(row, indent=None) + "\n" for row in rows))


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) == b"\n"
