"""The registry of readers: which one reads a path, and what it understands.

A reader turns a path and the settings of the data into a :class:`~balancer.data.listing.Listing`. What no reader can
know is done here for all of them: patients that the settings tell, and the classes of the task.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from balancer.core.errors import BalancerError, lookup
from balancer.core.settings_base import PHANTOM, ColumnsConfig, DataConfig
from balancer.data import chest, folders, npz, table
from balancer.data.dicom_records import with_headers
from balancer.data.images import named
from balancer.data.labels import settle_classes
from balancer.data.listing import Listing, few, printable
from balancer.data.patients import with_patients


@dataclass(frozen=True)
class Reader:
    """One layout of data."""

    name: str
    words: str  # what it reads, for messages
    recognises: Callable[[Path], bool]
    read: Callable[[Path, DataConfig], Listing]


# The first that recognises a path reads it.
READERS = {
    reader.name: reader
    for reader in (
        Reader("medmnist", "a MedMNIST archive (.npz)", npz.recognises, npz.read),
        Reader("chest", "the chest X-ray set, train/NORMAL, train/PNEUMONIA, test/...", chest.recognises, chest.read),
        Reader("splits", "{train,val,test}/<class>/*", folders.recognises_splits, folders.read_splits),
        Reader("classes", "<class>/* without a split", folders.recognises_classes, folders.read_classes),
        Reader("table", "a table with one row an image (.csv, .tsv, .parquet)", table.recognises, table.read),
    )
}


def choose_reader(path: Path, name: str = "auto") -> Reader:
    """Return the reader of a name, or for ``auto`` the first that recognises the path.

    Raises:
        UsageError: there is no such reader.
        BalancerError: there is nothing at the path, or no reader recognises what is there.
    """
    if name != "auto":
        return lookup(READERS, name, "format")
    for reader in READERS.values():
        if reader.recognises(path):
            return reader
    kinds = "; ".join(reader.words for reader in READERS.values())
    if path.is_file():
        raise BalancerError(
            f"data {path} is a file of no kind that is read; give --data or BALANCER_DATA one of: {kinds}"
        )
    if not path.is_dir():
        raise BalancerError(
            f"data folder {path} does not exist{_meant(path)}; give --data or BALANCER_DATA one of: {kinds}"
        )
    hint = folders.tables_hint(path) or f"; expected one of: {kinds}"
    holds = named(sorted(printable(p.name) for p in path.iterdir() if not p.name.startswith(".")), 6) or "nothing"
    raise BalancerError(f"{path} has no train folder and no folders of classes (it holds {holds}){hint}")


def _meant(path: Path) -> str:
    """Return what may be meant by a path that is not there: the built-in drawings, or what lies beside it."""
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, [PHANTOM, *sorted(beside)], n=1, cutoff=0.75)
    return f" (did you mean {close[0]!r}?)" if close else ""


def read_listing(path: Path, config: DataConfig) -> Listing:
    """Return what is at a path, with the patients and the classes of the settings.

    Raises:
        UsageError: a setting does not fit the data.
        BalancerError: the data cannot be read.
    """
    return listed_by(choose_reader(path, config.format), path, config)


def listed_by(reader: Reader, path: Path, config: DataConfig) -> Listing:
    """Return what one reader understands of a path, with the patients and the classes of the settings."""
    listing = with_patients(with_headers(reader.read(path, config), config), config)
    listing = replace(listing, reader=reader.name, notes=[*listing.notes, *_idle_settings(reader, config)])
    if not listing.records:
        seen = f" ({few(listing.left_out)})" if listing.left_out else ""
        raise BalancerError(
            f"{path} holds no image that can be read{seen}; expected {reader.words}{folders.tables_hint(path)}"
        )
    return settle_classes(listing, config)


def _idle_settings(reader: Reader, config: DataConfig) -> list[str]:
    """Return a sentence on settings of tables, where no table is read."""
    given = {"where": config.where, "columns": config.columns != ColumnsConfig(), "images": config.images is not None}
    idle = [f"--{name}" for name, is_given in given.items() if is_given]
    if not idle or reader.name == "table":
        return []
    verb = "is for tables and does" if len(idle) == 1 else "are for tables and do"
    return [f"{named(idle)} {verb} nothing here: the data are read as {reader.words}."]
