"""The files that the rows of a table mean: by their names, else by an element of their DICOM headers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from balancer.core.errors import BalancerError
from balancer.data import dicom_files
from balancer.data.dicom_join import ELEMENTS, files_by_element
from balancer.data.files_below import FilesBelow

ByElement = Mapping[str, Mapping[str, list[str]]]


class TableFiles:
    """Finds the files of a table below a root; headers are read only where no name leads to a file."""

    def __init__(self, root: Path, table: Path) -> None:
        self.root, self.table = root, table
        self._below = FilesBelow(root)
        self._headers: ByElement | None = None

    def hits(self, cells: Sequence[str]) -> int | None:
        """Return how many cells lead to files by their names; None if one of them leads out of the root."""
        if not cells:
            return 0
        try:
            names, _ = self._below.find(cells, self.table)
        except BalancerError:
            return None
        return len({name for name in names if name is not None})

    def column_of_headers(self, samples: Mapping[int, Sequence[str]], enough: float) -> int | None:
        """Return the column of which most cells stand in the headers of files; None if there is none."""
        shares = {column: self._element(cells)[1] for column, cells in samples.items() if cells}
        best = max(shares, key=lambda column: shares[column], default=None)
        return best if best is not None and shares[best] >= enough else None

    def locate(self, cells: Sequence[str]) -> tuple[list[list[str]], list[str]]:
        """Return the files of each cell, relative to the root, and how they were found.

        Raises:
            BalancerError: a path leads out of the root.
        """
        names, how = self._below.find(cells, self.table)
        if any(name is not None for name in names):
            return [[] if name is None else [name] for name in names], how
        element, share = self._element(cells)
        if not share:
            return [[] for _ in cells], how
        files = self._by_element()[element]
        places = [files.get(cell, []) for cell in cells]
        n = len({name for place in places for name in place})
        rows = sum(bool(place) for place in places)
        return places, [f"{n:,} DICOM files were joined to {rows:,} rows of {self.table.name} by their {element}."]

    def any_images(self) -> int:
        """Return how many images lie below the root."""
        return self._below.count()

    def no_column(self) -> str:
        """Return a sentence for a table of which no column leads to files."""
        links = sorted(path for path in self.root.iterdir() if path.is_symlink() and path.is_dir())
        linked = f" Linked folders are not searched: --images {shlex.quote(str(links[0]))} does that." if links else ""
        return (
            f"No column leads to one of the {self.any_images():,} images below {self.root}. Tables are joined by file"
            f" name, or by the {', '.join(ELEMENTS[:-1])} or {ELEMENTS[-1]} of DICOM files. Another folder is --images"
            f" DIR.{linked}"
        )

    def _element(self, cells: Sequence[str]) -> tuple[str, float]:
        """Return the element of headers in which most cells stand, and their share."""
        by_element = self._by_element()
        shares = {element: sum(cell in by_element[element] for cell in cells) / len(cells) for element in ELEMENTS}
        best = max(shares, key=lambda element: shares[element])
        return best, shares[best]

    def _by_element(self) -> ByElement:
        if self._headers is None:
            readable = dicom_files.can_read()
            self._headers = files_by_element(self.root) if readable else {element: {} for element in ELEMENTS}
        return self._headers
