"""Progress with the time left: a bar on a terminal or in a notebook, lines in log files; neither with -q."""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from balancer.core.notebook import board

log = logging.getLogger("balancer")
T = TypeVar("T")
FIRST_LINE = 2.0  # seconds; what is over before needs no line
MOST_BETWEEN = 60.0  # seconds; before, the time between lines grows with the time that has passed
NOTEBOOK = "{desc}: {n_fmt} of {total_fmt} {unit}s, {remaining} left"  # beside a bar in a notebook
LINE = {"progress": True}  # marks a log line that a bar shows already


class Bar(tqdm):
    """A bar that also writes lines on its progress to the log."""

    def __init__(self, total: int, what: str, unit: str, initial: int, show: bool, lines: bool) -> None:
        loud = log.isEnabledFor(logging.INFO)  # -q raises the level
        self.what, self.units, self.lines = what, f"{unit}s", lines and loud
        self.done, self.before = initial, initial
        self.begin = self.last = time.monotonic()
        # A notebook's program has asked for no lines, and looks at the cell; a level above INFO there means -q.
        self.board = board() if show and log.level <= logging.INFO else None
        in_cell = self.board is not None
        super().__init__(
            total=total,
            desc=what,
            unit=unit,
            initial=initial,
            disable=False if in_cell else None if show and loud else True,  # None: tqdm itself looks for a terminal
            dynamic_ncols=True,
            leave=False,
            file=io.StringIO() if in_cell else None,  # None: stderr
            bar_format=NOTEBOOK if in_cell else None,
            delay=FIRST_LINE / 4 if in_cell else 0,
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, in a notebook in the output of the cell. An empty ``msg`` takes the bar away."""
        if self.board is None:
            super().display(msg, pos)
        elif msg == "":
            self.board.remove(id(self))
        else:
            self.board.show(id(self), self.n, self.total, str(self))

    def update(self, n: float | None = 1) -> bool | None:
        """Advance by ``n``."""
        self.done += int(n or 0)
        now = time.monotonic()
        passed = now - self.begin
        over = self.total is not None and self.done >= self.total
        if self.lines and not over and now - self.last >= min(max(passed / 2, FIRST_LINE), MOST_BETWEEN):
            self.last = now
            left = passed / max(self.done - self.before, 1) * max((self.total or 0) - self.done, 0)
            log.info(
                "%s: %d of %d %s, about %s left", self.what, self.done, self.total, self.units, _time(left), extra=LINE
            )
        return super().update(n)


def bar(total: int, what: str, unit: str = "it", initial: int = 0, show: bool = True, lines: bool | None = None) -> Bar:
    """Return a bar that ``update`` advances.

    Args:
        total: how much there is to do.
        what: is done, in words.
        unit: of the total, in the singular.
        initial: how much was done before.
        show: whether to draw a bar.
        lines: whether to write lines to the log; None: where a bar is drawn.
    """
    return Bar(total, what, unit, initial, show, show if lines is None else lines)


def each(items: Sequence[T], what: str, unit: str) -> Iterator[T]:
    """Yield the items, with a bar over them."""
    with bar(len(items), what, unit) as shown:
        for item in items:
            yield item
            shown.update()


def _time(seconds: float) -> str:
    """Return a duration in words, to two digits or so."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class BarHandler(logging.StreamHandler):
    """Log lines on stderr that do not tear a running bar, and that do not repeat it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a log line above the bar. A closed terminal, or a full disk behind stderr, ends no run."""
        with contextlib.suppress(OSError, ValueError):
            if getattr(record, "progress", False) and self.stream.isatty():
                return
            tqdm.write(self.format(record), file=self.stream)
