"""Runs by name: what a user may write in place of the path of a run directory, and the link to the newest run."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from balancer.core.errors import UsageError
from balancer.core.files import temporary_path

RUNS = Path("runs")
SYNTHESES = ("synthesize", "import")  # commands whose runs hold synthetic images with a manifest
LATEST = "latest"  # a link in runs/<command>/ to the run that was finished last
NAME = re.compile(r"[^\W_][\w.-]*")


def named_folder(command: str, name: str) -> Path:
    """Return the directory of a new run by its name: ``runs/<command>/<name>``.

    Raises:
        UsageError: the name is a path, hidden, or the name of the link to the newest run.
    """
    if not NAME.fullmatch(name) or name == LATEST:
        raise UsageError(
            f"--name is {name!r}; expected letters, digits, '.', '_' and '-', with a letter or digit first, and not"
            f" {LATEST!r}; --out takes a path"
        )
    return RUNS / command / name


def find_run(run: Path, *commands: str) -> Path:
    """Return the directory of a run by its path, else by its name under ``runs/<command>/``; a path goes first."""
    places = [run, *(RUNS / command / run for command in commands)]
    return next((place for place in places if place.exists()), run)


def point_latest(run: Path) -> None:
    """Let the link ``latest`` beside a run under ``runs/`` point to that run, on disks that have links."""
    run = run.resolve()  # it may be named by this very link
    link = run.parent / LATEST
    if run.parent.parent != RUNS.resolve() or (link.exists() and not link.is_symlink()):
        return
    temporary = temporary_path(link)
    with contextlib.suppress(OSError):  # Windows needs a privilege for links
        temporary.symlink_to(run.name, target_is_directory=True)
        temporary.replace(link)
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
