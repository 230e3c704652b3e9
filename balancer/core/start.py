"""Where the console scripts begin: a signal during the imports ends the process without a traceback.

The imports take a third of a second. So this module imports nothing but the standard library.
"""

from __future__ import annotations

import importlib
import os
import signal
from types import FrameType


def end_at_once(signum: int, _frame: FrameType | None) -> None:
    """End this process with the exit code of the signal: nothing is written yet, or everything is."""
    os._exit(128 + signum)


def balancer() -> None:
    """Run the command line `balancer`."""
    _start("balancer.cli")


def classifier() -> None:
    """Run the command line `classifier`."""
    _start("classifier.cli")


def _start(module: str) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as nohup and the background of a shell script set it
            signal.signal(signum, end_at_once)
    importlib.import_module(module).main()
