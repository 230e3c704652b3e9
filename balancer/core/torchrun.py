"""What torchrun says of this process: one of several ranks that train one network together.

torchrun starts the same command line once for each rank. Only the first rank writes files and prints, so that a user
sees one command. An error is told once, by the first rank that meets one. This module does without torch.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from balancer.core.errors import UsageError

ID = "TORCHELASTIC_RUN_ID"  # set by torchrun alone; a job of another kind may have RANK and WORLD_SIZE
COMMANDS = ("gan-train",)  # that several ranks work on together
LONGEST_START = 30  # seconds between the first rank's start and the last one's, on a busy machine


@dataclass(frozen=True)
class Launch:
    """This process among those that one torchrun, or one on each of several machines, has started.

    Attributes:
        rank: number among all, from 0.
        ranks: how many there are.
        local_rank: number among those of this machine, from 0.
        restarts: how often torchrun has started the ranks anew after one ended.
        most_restarts: how often it may.
        identity: of the job; the same after a restart, and for no other job on these machines.
        is_named: whether a later torchrun may be the same job; otherwise it can only have the same number by chance.
    """

    rank: int
    ranks: int
    local_rank: int
    restarts: int
    most_restarts: int
    identity: str
    is_named: bool

    @property
    def is_first(self) -> bool:
        """Return whether this rank writes the files and prints."""
        return self.rank == 0


def launched() -> Launch | None:
    """Return what torchrun says of this process; None where it has started nothing.

    Raises:
        UsageError: a variable that torchrun sets is missing or no number.
    """
    identity = os.environ.get(ID)
    if identity is None:
        return None
    variables = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS")
    numbers = [_number(variable) for variable in variables]
    is_named = identity != "none"
    if not is_named:  # no --rdzv-id: the first rank stays on its machine, below the same torchrun
        identity = f"{platform.node()}-{os.getppid()}"
    rank, ranks, local_rank, restarts, most_restarts = numbers
    return Launch(rank, ranks, local_rank, restarts, most_restarts, identity, is_named)


def _number(variable: str) -> int:
    text = os.environ.get(variable, "")
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"{ID} is set and {variable} is {text!r}; expected a number, as torchrun sets it")
    return int(text)


def several() -> Launch | None:
    """Return what torchrun says of this process where it has started more than one rank, else None."""
    launch = launched()
    return launch if launch and launch.ranks > 1 else None


def is_silent() -> bool:
    """Return whether this process leaves files, logs and results to the first rank."""
    launch = launched()
    return launch is not None and not launch.is_first


def after_a_loss() -> str:
    """Return what follows when a rank is lost, for a message."""
    launch = launched()
    if launch and launch.restarts < launch.most_restarts:
        return f"torchrun starts all ranks again ({launch.restarts + 1} of {launch.most_restarts}), or gives up"
    return "give torchrun --max-restarts to go on by itself"


def check_command(name: str | None) -> None:
    """Refuse a command that several ranks would do several times over.

    Raises:
        UsageError: naming what to use instead.
    """
    launch = several()
    if launch and name not in COMMANDS:
        raise UsageError(
            f"torchrun has started {launch.ranks} ranks of {name}, and only {' and '.join(COMMANDS)} works in ranks;"
            f" start {name} without torchrun, with --jobs, or with --backend dask for a cluster"
        )


_claim: Callable[[], bool] | None = None


def let_one_speak(claim: Callable[[], bool]) -> None:
    """Decide by ``claim``, which is true for one rank alone, who tells why the command ends."""
    global _claim
    _claim = claim


def may_speak() -> bool:
    """Return whether this process tells the user why the command ends.

    Before the ranks know each other, that is the first of every machine: there all ranks mostly meet the same error.
    """
    try:
        launch = several()
        if launch is None or _claim is None:
            return launch is None or launch.local_rank == 0
        return _claim()
    except (UsageError, RuntimeError):  # the second: torchrun itself is gone, and with it what the ranks share
        return True


def other_rank() -> str:
    """Return, for an error that this rank alone tells, which rank this is; nothing for the first one."""
    launch = None if _claim is None else several()
    return f"rank {launch.rank} on {platform.node()}: " if launch and launch.rank else ""


def others_go_on(code: int) -> bool:
    """Wait for torchrun to end this silent rank, once the rank that speaks has ended; return whether it has not.

    torchrun ends all ranks when one has failed: a silent one that ended first would silence the error. After the wait,
    the other ranks have met no error, and this one must speak after all.
    """
    if _claim is not None:  # who speaks has spoken
        return False
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, lambda *_: os._exit(code))
    time.sleep(LONGEST_START)
    return True


def end_rank(code: int) -> None:
    """End this process at once if it has met other ranks: the threads of their connections would abort it."""
    if _claim is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
