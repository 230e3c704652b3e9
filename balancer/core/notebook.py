"""Progress in a Jupyter notebook: all bars of a cell in one output, which is empty when the work is done.

The output is plain HTML that is written over, so no widget has to be installed, and a saved notebook holds no
half-drawn bar. IPython is there wherever a notebook runs; elsewhere this module imports nothing.
"""

from __future__ import annotations

import sys
from html import escape
from typing import Any

BAR = '<progress style="width: 24em; vertical-align: middle" max="{total}" value="{done}"></progress>'


class Board:
    """The output of one cell, with a line for each bar that runs."""

    def __init__(self, cell: int, display: Any, html: Any) -> None:
        self.cell, self._html = cell, html  # the number of the execution
        self._lines: dict[int, str] = {}
        self._handle = display(html(""), display_id=True)

    def show(self, bar: int, done: float, total: float | None, text: str) -> None:
        """Draw a bar, or draw it again.

        Args:
            bar: its number.
            done: of the total.
            total: None if that is not known.
            text: beside the bar.
        """
        drawn = BAR.format(total=total, done=done) if total else ""
        self._lines[bar] = f"<div>{drawn} <code>{escape(text)}</code></div>"
        self._draw()

    def remove(self, bar: int) -> None:
        """Take a bar away."""
        if self._lines.pop(bar, None) is not None:
            self._draw()

    def _draw(self) -> None:
        self._handle.update(self._html("".join(self._lines.values())))


_current: Board | None = None


def board() -> Board | None:
    """Return the output for bars of the cell that is executed; None outside a notebook."""
    global _current
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):  # a terminal's IPython has none
        return None
    from IPython.display import HTML, display

    if _current is None or _current.cell != shell.execution_count:
        _current = Board(shell.execution_count, display, HTML)
    return _current
