"""Tables for a terminal and for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence


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
