"""The marker ``done`` of a finished run, which states the SHA-256 of each file that later commands read.

So a row that was deleted, or a file of another run, is refused as a damaged file is. The files' own seals cannot find
either. A marker of an earlier version holds the time alone: such a run is read, with a warning.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from balancer.core.sealed import DamagedFile, content_of, digest, read_json, warn_of_no_seal, write_json
from balancer.core.shapes import parse

MARKER = "done"
# What later commands read, of every command, and what is small. Weights and images are named and hashed elsewhere.
STATED = (
    *("config.yaml", "env.json", "split.csv"),
    *("metrics.jsonl", "results.jsonl", "folds.jsonl", "journal.log", "result.json"),
)


@dataclass(frozen=True)
class Marker:
    """What ``done`` holds."""

    finished: str  # the time
    files: dict[str, str]  # the SHA-256 of each file by its name


def write_marker(run: Path) -> None:
    """Mark a run as finished."""
    files = {name: digest((run / name).read_bytes()) for name in STATED if (run / name).is_file()}
    write_json(run / MARKER, {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "files": files})


def stated_files(run: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of a finished run by name; nothing for any other run, or an earlier version's.

    Raises:
        DamagedFile: the marker is damaged.
    """
    marker, remedy = run / MARKER, _remedy(run)
    try:
        content = content_of(marker, remedy)
    except FileNotFoundError:
        return {}
    if not content.startswith(b"{"):  # a time, or nothing
        warn_of_no_seal(marker)
        return {}
    return parse(Marker, read_json(marker, remedy), marker, remedy).files


def check_stated(path: Path) -> None:
    """Refuse a file of a finished run that is not the one that the run ended with.

    Raises:
        DamagedFile: the file is gone, lost or got rows, or is of another run; or the marker is damaged.
    """
    expected = stated_files(path.parent).get(path.name)
    if expected is None:
        return
    if not path.exists():
        raise DamagedFile(path, f"it is missing, and {MARKER} states it", _remedy(path.parent))
    if digest(content_of(path)) != expected:
        problem = f"it is not the file that the run ended with, by the SHA-256 in {MARKER}"
        raise DamagedFile(path, problem, _remedy(path.parent))


def _remedy(run: Path) -> str:
    return f"bring it back, or delete {run / MARKER} and continue with --resume {run}"
