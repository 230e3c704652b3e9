"""Where the console scripts begin: a process of our own, which is made ready before anything is imported.

A signal during the imports ends the process without a traceback. The imports take a quarter of a second. So this module
imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
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


def open_streams() -> None:
    """Let standard streams that the caller has closed lead nowhere, as ``2>&-`` and some schedulers close them.

    Else the next file that is opened would take the number of the stream, and texts would be written into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
                setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def _start(module: str) -> None:
    open_streams()
    os.environ["MPLBACKEND"] = "agg"  # figures become files; the shell's backend may be unknown here, or want a screen
    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as nohup and the background of a shell script set it
            signal.signal(signum, end_at_once)
    importlib.import_module(module).main()
