"""The index of a folder of runs: one HTML file with thumbnails, which nothing else is needed to read."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from balancer.catalog.records import RunRecord, children, distinct_names, find_runs
from balancer.core.files import JsonObject, write_text
from balancer.core.settings import PHANTOM
from balancer.reporting.numbers import plural
from balancer.reporting.pages import template_environment

INDEX = "index.html"
WIDE, HIGH = 560, 360  # pixels of a thumbnail at most: twice what is shown
TALLEST = 1.2  # the top of a taller picture is shown, so that its images do not become dots


@dataclass(frozen=True)
class Card:
    """What the page shows of a run."""

    anchor: str
    name: str
    command: str
    state: str
    started: str
    data: str
    text: str  # the main figure, or why the run is damaged
    link: str | None  # to the report, relative to the index
    thumbnail: str | None  # a data address
    came_from: list[tuple[str, str | None]]  # names with their anchors on the page
    led_to: list[tuple[str, str | None]]


@dataclass(frozen=True)
class WrittenIndex:
    """The index that was written."""

    path: Path
    runs: int

    def to_json(self) -> JsonObject:
        """Return the file and the number of runs."""
        return {"index": str(self.path), "runs": self.runs}

    def describe(self) -> str:
        """Return the same in words."""
        return f"{plural(self.runs, 'run')}\n{self.path}"


def write_index(folder: Path) -> WrittenIndex:
    """Write the index of a folder of runs into that folder.

    Raises:
        BalancerError: there is no such folder.
    """
    records = find_runs(folder)
    write_text(folder / INDEX, index_page(records, folder))
    return WrittenIndex(folder / INDEX, len(records))


def index_page(records: Sequence[RunRecord], folder: Path) -> str:
    """Return the page, the newest run first; links are relative to the folder."""
    names = distinct_names(records)
    cards = [card(record, records, names, folder) for record in reversed(records)]
    phantom = any(record.data == PHANTOM for record in records)
    page = template_environment().get_template("runs.html")
    return page.render(cards=cards, folder=folder.resolve().name, count=plural(len(cards), "run"), phantom=phantom)


def card(record: RunRecord, records: Sequence[RunRecord], names: Mapping[Path, str], folder: Path) -> Card:
    """Return what the page shows of a run, for the names of all runs on the page by their place."""
    return Card(
        _anchor(names[record.place]),
        names[record.place],
        record.command,
        record.state,
        record.started[:16].replace("T", " "),
        record.data,
        record.reason or record.figure,
        _link(record.page, folder),
        thumbnail(record.picture) if record.picture else None,
        [_named(source, names) for source in record.sources],
        [_named(child.path, names) for child in children(record, records)],
    )


def thumbnail(picture: Path) -> str | None:
    """Return a picture made small, as a data address; None if it cannot be read."""
    try:
        with Image.open(picture) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # whatever Pillow raises
        return None
    if image.height > TALLEST * image.width:
        image = image.crop((0, 0, image.width, image.width))
    image.thumbnail((WIDE, HIGH))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _named(path: Path, names: Mapping[Path, str]) -> tuple[str, str | None]:
    """Return a run's name, with its anchor if the page shows the run."""
    name = names.get(path.resolve())
    return ("/".join(path.parts[-2:]), None) if name is None else (name, _anchor(name))


def _anchor(name: str) -> str:
    """Return the name of a place on the page, for the name of a run; other names give other places."""
    return re.sub(r"[^\w/.-]", lambda character: f"~{ord(character[0]):x}", name)


def _link(page: Path | None, folder: Path) -> str | None:
    """Return a link relative to the folder; a page outside has none."""
    if page is None or not page.resolve().is_relative_to(folder.resolve()):
        return None
    return "./" + quote(page.resolve().relative_to(folder.resolve()).as_posix())
