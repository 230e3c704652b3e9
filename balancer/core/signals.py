"""The signals of a command: they unwind the stack, at once or at a safe point, so that nothing is left behind."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from balancer.core.errors import Interrupted
from balancer.core.start import end_at_once

log = logging.getLogger("balancer")


def unwind_on_signals(previous: dict[int, Any]) -> None:
    """Let SIGINT and SIGTERM unwind the stack, so that temporary files and locks go; note the handlers before."""

    def terminate(signum: int, _frame: FrameType | None) -> None:
        raise Interrupted(signum, "stopped")

    with contextlib.suppress(ValueError):  # not in the main thread: the caller's own handling stays
        previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, terminate)
        at_once = signal.getsignal(signal.SIGINT) is end_at_once
        on_interrupt = signal.default_int_handler if at_once else signal.getsignal(signal.SIGINT)
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, on_interrupt)


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], int | None]]:
    """Hold SIGINT and SIGTERM back until the work reaches a safe point.

    Yields a function that gives the number of the signal received, or None. A second signal of the same
    kind acts at once, for a user who does not want to wait.

    Raises:
        Interrupted: a signal came, and the work ended without asking for it.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(signum: int, _frame: FrameType | None) -> None:
        received.append(signum)
        signal.signal(signum, previous[signum])
        log.warning("%s: stopping at the next safe point", signal.Signals(signum).name)

    for signum in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[signum] = signal.signal(signum, note)
        except ValueError:  # not in the main thread: the caller's own handling stays
            break
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise Interrupted(received[0], "stopped")
