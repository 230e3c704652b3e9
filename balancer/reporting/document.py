"""One document model: sections with text, tables and figures, rendered as Markdown, plain text, CSV and LaTeX.

HTML pages are rendered from the same sections by :mod:`balancer.reporting.pages`. Text may hold `code` in backticks.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """Cells as text; columns from ``numeric`` on are set flush right, but for the last if ``words``."""

    header: list[str]
    rows: list[list[str]]
    numeric: int = 1
    words: bool = False

    def is_numeric(self, column: int) -> bool:
        return self.numeric <= column < len(self.header) - self.words


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it, in this order."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    table: Table | None = None
    figure: str | None = None
    bullets: list[str] = field(default_factory=list)


def markdown_table(table: Table) -> list[str]:
    def row(cells: list[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"

    ruler = ["---:" if table.is_numeric(i) else "---" for i in range(len(table.header))]
    return [row(table.header), row(ruler), *map(row, table.rows)]


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns set flush left under a header with a rule below it."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = ["  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def csv_text(header: Sequence[str], rows: Sequence[Sequence[str | float | int | None]]) -> str:
    """CSV with six decimals; None is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"{v:.6f}" if isinstance(v, float) else "" if v is None else v for v in row])
    return buffer.getvalue()


def latex_table(header: list[str], rows: list[list[str]], text: str, label: str) -> str:
    lines = [
        "\\begin{table}",
        "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}",
        f"\\caption{{{text}}}\\label{{tab:{label}}}",
        f"\\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}",
        "\\toprule",
        " & ".join(header) + " \\\\",
        "\\midrule",
        *(" & ".join(latex(c) for c in row) + " \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
        "",
    ]
    return "\n".join(lines)


def latex(text: str) -> str:
    """Plain text for LaTeX: what it would take as a command is escaped, signs become maths."""
    return "".join(_LATEX.get(c, c) for c in re.sub(r"(?<!\w)-", "−", text))  # the hyphens left are within words


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
