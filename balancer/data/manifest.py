"""``manifest.csv``, the only interface of synthesis and classifier: its columns, and its reader.

Any generator can write one. The reader takes nothing on trust: a row that stands twice, or that points outside the
folder, would make the study another one than its report says.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from balancer.core.errors import BalancerError
from balancer.core.sealed import DamagedFile, read_with_sum

MANIFEST = "manifest.csv"
REPORTS = "reports"  # folder beside it, where images of several classes have a report each
LONGEST = 1000  # characters of a file's path
MANIFEST_COLUMNS = ("file", "index", "seed", "sha256", "class", "split_hash")
ORIGIN_COLUMNS = ("source", "source_sha256")  # after these, of images that were imported
UNIQUE: tuple[tuple[str, Callable[[ManifestRow], object]], ...] = (
    ("index", lambda row: row.index),
    ("file", lambda row: row.file),
    ("sha256", lambda row: row.sha256),
)
_NUMBER = re.compile(r"\d{1,20}", re.ASCII)
_SEED = re.compile(r"\d{0,20}", re.ASCII)  # empty: not known
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class ManifestRow:
    """One image of a manifest."""

    line: int  # in the file, from 1
    file: str  # relative to the manifest's folder
    index: int
    sha256: str  # of the file
    class_name: str
    split_hash: str


def reports_of(folder: Path) -> list[Path]:
    """Return the reports that the folder of a manifest may hold: the one beside it, or one of each class."""
    return sorted(folder.glob(f"{REPORTS}/*/report.html")) or [folder / "report.html"]


def read_manifest(folder: Path) -> list[ManifestRow]:
    """Return the rows of a folder's manifest by index.

    Excel's byte-order mark and line ends are read.

    Raises:
        BalancerError: the folder has no manifest, or two rows have one SHA-256.
        DamagedFile: the manifest is not what its SHA-256 says, lacks a column or lists no image; a row is cut short or
            holds no number where one belongs; two rows have one index or file; a file lies outside the folder.
    """
    path = folder / MANIFEST
    remedy = f"synthesize again; if you changed the file on purpose, remove {MANIFEST}.sha256"
    try:
        text = read_with_sum(path, remedy)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BalancerError(
            f"{folder} has no {MANIFEST}; give --synthetic a finished run of `balancer synthesize` or `balancer import`"
        ) from error
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(reader.line_num, line) for line in reader if line]
    except csv.Error as error:
        raise DamagedFile(path, str(error), remedy) from error
    header = [name.strip() for name in lines[0][1]] if lines else []
    _check_header(path, header)
    rows = [_row(path, header, number, line) for number, line in lines[1:]]
    if not rows:
        raise DamagedFile(path, "it lists no image", remedy)
    _check_unique(path, rows)
    _check_inside(path, rows)
    return sorted(rows, key=lambda row: row.index)


def _check_header(path: Path, header: list[str]) -> None:
    """Refuse a manifest without the columns; a file that Excel saved with semicolons gets advice."""
    if len(header) == 1 and (sign := next((s for s in ";\t|" if s in header[0]), None)):
        raise DamagedFile(path, f"its columns are parted by {sign!r}, expected commas", "save it as CSV with commas")
    if missing := [name for name in MANIFEST_COLUMNS if name not in header]:
        raise DamagedFile(path, f"it lacks the columns {', '.join(missing)}", "synthesize again")
    if twice := [name for name in MANIFEST_COLUMNS if header.count(name) > 1]:
        raise DamagedFile(path, f"it has the column {twice[0]} twice", "synthesize again")


def _row(path: Path, header: list[str], number: int, line: list[str]) -> ManifestRow:
    """Return a row whose values are of the right form."""
    if len(line) != len(header):
        raise DamagedFile(
            path, f"line {number} has {len(line)} values, expected {len(header)}; is it cut short?", "synthesize again"
        )
    values = dict(zip(header, line, strict=True))
    for name, form, expected in (
        ("index", _NUMBER, "a whole number from 0"),
        ("seed", _SEED, "a whole number from 0, or nothing"),
        ("sha256", _SHA256, "64 hexadecimal digits"),
    ):
        if not form.fullmatch(values[name]):
            raise DamagedFile(
                path, f"line {number}: {name} is {values[name][:80]!r}, expected {expected}", "synthesize again"
            )
    if not 0 < len(values["file"]) <= LONGEST or not values["file"].isprintable():
        raise DamagedFile(path, f"line {number}: file is {values['file'][:80]!r}, expected a name", "synthesize again")
    return ManifestRow(
        number, values["file"], int(values["index"]), values["sha256"], values["class"], values["split_hash"]
    )


def _check_unique(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Refuse two rows of one index, file or content: the image would count twice."""
    for name, value in UNIQUE:
        first: dict[object, ManifestRow] = {}
        doubles = [(first[value(row)], row) for row in rows if first.setdefault(value(row), row) is not row]
        if doubles and name == "sha256":
            one, other = doubles[0]
            raise BalancerError(
                f"{path}: {len(doubles)} images equal another one (sha256; first line {other.line} that of line"
                f" {one.line}), and every image counts once: the generator has collapsed, so train it longer or with"
                " other settings; or rows stand twice, so remove them"
            )
        if doubles:
            one, other = doubles[0]
            raise DamagedFile(
                path,
                f"{len(doubles)} rows repeat the {name} of another, first line {other.line} that of line {one.line}",
                "every image counts once: remove the rows, or synthesize again",
            )


def _check_inside(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Refuse a file outside the manifest's folder, be it by .., an absolute path or a symbolic link."""
    folder = path.parent.resolve()
    for row in rows:
        try:
            inside = (folder / row.file).resolve().is_relative_to(folder)
        except (OSError, RuntimeError, ValueError):  # a name too long, a loop of links
            inside = False
        if not inside:
            raise DamagedFile(
                path, f"line {row.line}: file {row.file[:80]!r} lies outside {path.parent}", "copy the images into it"
            )
