"""Progress bars: on stderr, with a time estimate; off when not a terminal or with -q."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from tqdm import tqdm

log = logging.getLogger("balancer")


def bar(total: int, what: str, unit: str = "it", initial: int = 0, show: bool = True) -> tqdm[Any]:
    """Return a bar that ``update`` advances; ``-q`` raises the log level, which switches it off."""
    disable = None if show and log.isEnabledFor(logging.INFO) else True  # None: tqdm itself looks for a terminal
    return tqdm(total=total, desc=what, unit=unit, initial=initial, disable=disable, dynamic_ncols=True, leave=False)


class BarHandler(logging.StreamHandler):
    """Log lines on stderr that do not tear a running bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a log line above the bar. A closed terminal, or a full disk behind stderr, ends no run."""
        with contextlib.suppress(OSError, ValueError):
            tqdm.write(self.format(record), file=self.stream)
