"""The signals of a command: they unwind the stack, so that nothing is left behind."""

from __future__ import annotations

import contextlib
import signal
from types import FrameType
from typing import Any

from balancer.core.errors import Interrupted
from balancer.core.start import end_at_once


def unwind_on_signals(previous: dict[int, Any]) -> None:
    """Let SIGINT and SIGTERM unwind the stack, so that temporary files and locks go; note the handlers before."""

    def terminate(signum: int, _frame: FrameType | None) -> None:
        raise Interrupted(signum, "stopped")

    with contextlib.suppress(ValueError):  # not in the main thread: the caller's own handling stays
        previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, terminate)
        at_once = signal.getsignal(signal.SIGINT) is end_at_once
        on_interrupt = signal.default_int_handler if at_once else signal.getsignal(signal.SIGINT)
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, on_interrupt)
