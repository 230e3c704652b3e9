"""One document model for every report: a `Document` of sections with text, tables and figures.

Markdown, plain text, CSV and LaTeX are made here, HTML in :mod:`balancer.reporting.pages`, all from the same objects,
so that no form can differ from another. All text is plain: `code` stands in backticks, and a line break may part a
cell's figure from its interval.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from balancer.reporting.numbers import fixed

PHANTOM = "PHANTOM"  # how the notice begins that the images are drawings


@dataclass(frozen=True)
class Table:
    """Rows of text cells under a header; an empty header is not shown.

    Columns from ``numeric`` on are set flush right; with ``words``, the last column is text again and set flush left.
    """

    header: list[str]
    rows: list[list[str]]
    numeric: int = 1
    words: bool = False

    def is_numeric(self, column: int) -> bool:
        """Return whether the column is set flush right."""
        return self.numeric <= column < len(self.header) - self.words

    def to_markdown(self) -> str:
        """Return a pipe table."""
        rule = ["---:" if self.is_numeric(i) else "---" for i in range(len(self.header))]
        rows = [[_flat(cell).replace("|", "&#124;") for cell in row] for row in (self.header, rule, *self.rows)]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def to_text(self) -> str:
        """Return columns for a terminal, set flush left under a header with a rule below it."""
        table = [[_flat(cell) for cell in row] for row in (self.header, *self.rows)]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.header))]
        lines = ["  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

    def to_latex(self, caption: str, label: str) -> str:
        r"""Return a ``table`` float to ``\input``, with booktabs; caption and cells are plain text."""
        rows = [" & ".join(latex(_flat(cell)) for cell in row) + r" \\" for row in (self.header, *self.rows)]
        lines = [
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{latex(caption)}}}\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{l{'c' * (len(self.header) - 1)}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Figure:
    """A picture: the name of its file without ``.png``, how to read it, and what it shows (alternative text)."""

    name: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it: paragraphs, figure, gallery, table, bullets.

    The figures of a gallery stand side by side, as many as the page has room for. A section may be ``folded`` on a
    page: a reader opens it by its heading.
    """

    title: str
    paragraphs: list[str] = field(default_factory=list)
    table: Table | None = None
    figure: Figure | None = None
    bullets: list[str] = field(default_factory=list)
    gallery: list[Figure] = field(default_factory=list)
    folded: bool = False

    @property
    def is_empty(self) -> bool:
        """Return whether nothing stands below the heading."""
        return not (self.paragraphs or self.figure or self.gallery or self.table or self.bullets)


@dataclass(frozen=True)
class Link:
    """A page beside the document: what stands there, and its path; a page with an empty path is named alone."""

    text: str
    path: str


@dataclass(frozen=True)
class Document:
    """A report: what the images are, the answer, what limits the answer, and the sections.

    Attributes:
        warnings: what no reader may miss, shown above the answer: drawings, research only. The phantom notice, which
            begins with ``PHANTOM``, is shown largest.
        headline: sentences that give the verdict's reasons, or what to do next, as a list.
        links: pages beside the document, after the caveats.
        introduction: paragraphs between the links and the first section.
        alarm: show the verdict in red.
        grade: a line before the verdict; empty where nothing is graded.
        caveats: what limits the answer, shown below it.
    """

    title: str
    warnings: list[str]
    verdict: str
    headline: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    introduction: list[str] = field(default_factory=list)
    alarm: bool = False
    links: list[Link] = field(default_factory=list)
    grade: str = ""
    caveats: list[str] = field(default_factory=list)

    @property
    def answer(self) -> str:
        """Return grade and verdict as one paragraph."""
        return f"{self.grade} {self.verdict}".strip()


def part_notes(notes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the notes that belong above the answer, which is the phantom notice, and the caveats below the answer."""
    top = [note for note in notes if note.startswith(PHANTOM)]
    return top, [note for note in notes if note not in top]


def to_markdown(document: Document, picture_folder: str = "") -> str:
    """Return the document as Markdown, with pictures as PNG files in ``picture_folder``, relative to the document."""
    blocks = [f"# {document.title}", *(f"> **{warning}**" for warning in document.warnings), f"**{document.answer}**"]
    blocks += _bullets(document.headline)
    blocks += [f"> {caveat}" for caveat in document.caveats]
    if document.links:
        links = (f"[{link.text}]({link.path})" if link.path else link.text for link in document.links)
        blocks.append(f"Beside this page: {', '.join(links)}.")
    blocks += document.introduction
    for section in document.sections:
        blocks += [f"## {section.title}", *section.paragraphs]
        for figure in (*([section.figure] if section.figure else []), *section.gallery):
            path = f"{picture_folder}/" * bool(picture_folder) + f"{figure.name}.png"
            blocks += [f"![{figure.alt}]({path})", figure.caption]
        if section.table:
            blocks.append(section.table.to_markdown())
        blocks += _bullets(section.bullets)
    return "\n\n".join(blocks) + "\n"


def csv_text(header: Sequence[str], rows: Sequence[Sequence[str | float | int | None]]) -> str:
    """Return CSV with six decimals; None is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([fixed(v, 6) if isinstance(v, float) else "" if v is None else v for v in row])
    return buffer.getvalue()


def latex(text: str) -> str:
    """Return plain text for LaTeX: commands are escaped, backticks dropped, signs set as maths."""
    text = re.sub(r"(?<!\w)-", "−", text.replace("`", ""))  # hyphens within words stay
    return "".join(_LATEX.get(c, c) for c in text)


def _flat(cell: str) -> str:
    return cell.replace("\n", " ")


def _bullets(items: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {item}" for item in items)] if items else []


_LATEX = {c: f"\\{c}" for c in "_%&#${}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "±": "$\\pm$",
    "<": "$<$",
    ">": "$>$",
    "–": "--",
    "+": "$+$",
    "−": "$-$",
}
