"""The folder of an explanation: written beside its place, then put there, so that no half of it is ever seen."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from balancer.core.errors import BalancerError
from balancer.core.files import sweep_beside, temporary_path

CONTENT = "explain.json"  # written last; names a folder an explanation


def check_replaceable(folder: Path, images: Sequence[Path] = ()) -> None:
    """Refuse a folder that holds anything but an earlier explanation, or that lies inside a folder of images.

    Raises:
        BalancerError: it is a file, other files lie there, or the next command would read its pictures as images.
    """
    for read in (path for path in images if path.is_dir()):
        if folder.resolve().is_relative_to(read.resolve()):
            raise BalancerError(f"--out {folder} lies inside {read}, the images to read; give a folder elsewhere")
    if folder.exists() and not folder.is_dir():
        raise BalancerError(f"--out {folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONTENT).exists():
        raise BalancerError(f"--out {folder} is not empty and holds no explanation; give a new or empty folder")


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write to, which takes the place of ``folder`` once all is written.

    Raises:
        BalancerError: as :func:`check_replaceable`.
    """
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f"old-{folder.name}")
    for path in (folder, aside):
        sweep_beside(path)
    new, old = temporary_path(folder), temporary_path(aside)
    new.mkdir()
    try:
        yield new
        if folder.exists():
            folder.replace(old)  # removed in its place, a kill would leave a part of it there
        new.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        if old.exists() and not folder.exists():
            old.replace(folder)
        shutil.rmtree(new, ignore_errors=True)
        raise
