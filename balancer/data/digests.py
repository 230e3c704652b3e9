"""SHA-256 digests of many files: held in little memory, and searched for equal ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

ROW = np.dtype("S64")  # a digest in hexadecimal


class Digests(Sequence[str]):
    """Digests in hexadecimal, at 64 bytes each; in a list of texts each would take 121."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.rows = np.fromiter((text.encode() for text in texts), ROW)  # (n,)

    @classmethod
    def of_rows(cls, rows: np.ndarray) -> Digests:
        """Return the digests of rows (n,), as ``rows`` gave them."""
        made = cls(())
        made.rows = rows
        return made

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, position: int) -> str: ...

    @overload
    def __getitem__(self, position: slice) -> list[str]: ...

    def __getitem__(self, position: int | slice) -> str | list[str]:
        if isinstance(position, slice):
            return [row.decode() for row in self.rows[position]]
        text: str = self.rows[position].decode()
        return text

    def __iter__(self) -> Iterator[str]:
        return (row.decode() for row in self.rows)


def equal_positions(keys: Sequence[str]) -> list[list[int]]:
    """Return groups of two and more positions with the same key, in order of their first.

    Keys are sorted: a dictionary of every key of a large set would fill the memory.
    """
    rows = keys.rows if isinstance(keys, Digests) else np.array([key.encode(errors="surrogatepass") for key in keys])
    in_order = np.argsort(rows, kind="stable").tolist()
    groups = (list(group) for _, group in itertools.groupby(in_order, key=rows.__getitem__))
    return sorted(group for group in groups if len(group) > 1)
