"""The files below a folder that the paths of a table mean.

Tables are often written elsewhere: their paths begin with folders of another machine, or are file names alone, with or
without a suffix. One way of reading them is chosen for the whole table, and said. A file outside the folder is never
read.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from balancer.core.errors import BalancerError
from balancer.data import dicom_files
from balancer.data.listing import SUFFIXES, is_clutter

SAMPLED = 200  # paths by which the way is chosen
MOST_DROPPED = 8  # folders at the start of a path that may be of another machine


class FilesBelow:
    """Finds files below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, str | None] | None = None  # by file name, with and without suffix; None: not unique

    def find(self, paths: Sequence[str], table: Path) -> tuple[list[str | None], list[str]]:
        """Return the name below the root of each path, None where there is no such file, and how paths were read.

        If no path is right as written, folders at the start of all paths are dropped, as many as lead to most files.
        A bare file name, and any path of a table whose folders lead nowhere, is looked for below the root; only a name
        that is there once will do.

        Raises:
            BalancerError: a path leads out of the root.
        """
        written = [self._as_written(path, table) for path in paths]
        names: list[str | None] = [name if self._is_file(name) else None for name in written]
        absent = [i for i, name in enumerate(names) if name is None]
        elsewhere = len(absent) == len(paths)
        if not absent:
            return names, []
        if elsewhere and (drop := self._folders_to_drop(written)):
            shorter = [_without(name, drop) for name in written]
            dropped = f"Paths of {table.name} were read without their first {drop} folder{'s' * (drop > 1)}."
            return [name if name and self._is_file(name) else None for name in shorter], [dropped]
        for i in absent:
            if elsewhere or "/" not in written[i]:
                names[i] = self._by_name(written[i])
        by_name = len({name for i in absent if (name := names[i]) is not None})
        how = [f"{by_name:,} files of {table.name} were found by their names below {self.root}."] if by_name else []
        return names, how

    def count(self) -> int:
        """Return how many images lie below the root; see :meth:`images`."""
        return len(self.images())

    def images(self) -> list[str]:
        """Return the names of the images below the root, sorted: by their suffix, or DICOM files of any name."""
        suffixes = SUFFIXES | dicom_files.SUFFIXES
        return sorted(
            place
            for place in {place for _, place in self._walk()}
            if PurePosixPath(place).suffix.lower() in suffixes or dicom_files.is_dicom_file(self.root / place)
        )

    def _folders_to_drop(self, written: Sequence[str]) -> int:
        """Return how many folders at the start of paths are of another place; 0 if no number leads to a file."""
        sample = [
            written[k] for k in np.unique(np.linspace(0, len(written) - 1, min(SAMPLED, len(written))).astype(int))
        ]
        hits = [
            sum(bool(rest := _without(name, drop)) and self._is_file(rest) for name in sample)
            for drop in range(MOST_DROPPED + 1)
        ]
        return int(np.argmax(hits))

    def _as_written(self, path: str, table: Path) -> str:
        """Return a path with forward slashes, relative to the root."""
        path = path.replace("\\", "/").removeprefix("./")
        if path.startswith("/"):
            place = Path(path)
            if place.is_relative_to(self.root):
                path = place.relative_to(self.root).as_posix()
            elif place.exists():
                raise BalancerError(
                    f"table {table}: {path} lies outside {self.root}; give --images the folder that holds all files"
                )
        if ".." in path:
            path = posixpath.normpath(path)
            if path.startswith(".."):
                raise BalancerError(
                    f"table {table}: {path} leads out of {self.root}; give --images the folder that holds all files"
                )
        return path.lstrip("/")

    def _is_file(self, name: str) -> bool:
        try:
            return (self.root / name).is_file()
        except OSError:  # a name too long to be one
            return False

    def _by_name(self, name: str) -> str | None:
        """Return the only file below the root with the name of a path, or with this name and a suffix of an image."""
        if self._names is None:
            self._names = {}
            for known, place in self._walk():
                self._names[known] = None if known in self._names else place
        return self._names.get(PurePosixPath(name).name)

    def _walk(self) -> Iterator[tuple[str, str]]:
        for at, folders, files in os.walk(self.root):
            folders[:] = sorted(f for f in folders if not is_clutter(f))
            for file in files:
                place = (Path(at) / file).relative_to(self.root)
                yield file, place.as_posix()
                if place.suffix.lower() in SUFFIXES | dicom_files.SUFFIXES:
                    yield place.stem, place.as_posix()


def _without(name: str, drop: int) -> str:
    """Return a path without its first folders; empty if the path has no more than these."""
    return "/".join(name.split("/")[drop:])
