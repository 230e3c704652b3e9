"""How many threads compute, and how they wait.

The default is one thread. Measured by benchmarks/threads.py: on two processors that others use too, two threads were
eight to twenty times slower than one, since every parallel step waits for the slowest thread. One thread also makes
figures independent of the number of processors and of ``--jobs``: sums over several threads add in another order.

This module does without torch, since OpenMP reads its environment when torch is loaded.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from balancer.core.errors import UsageError

log = logging.getLogger("balancer")
DEFAULT = 1
COUNT = "OMP_NUM_THREADS"
WAIT_POLICY = "OMP_WAIT_POLICY"
WAITING = (WAIT_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # by any of these a user says how threads wait


def allowed_processors() -> int:
    """Return the number of processors this process may run on, not those that the machine has (containers, taskset)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_threads(requested: int | None = None, recorded: int | None = None) -> int:
    """Return how many threads compute: as requested, else OMP_NUM_THREADS, else as before a resume, else one.

    Args:
        requested: ``--threads``.
        recorded: the number that the run to resume was computed with; another one is warned of.

    Raises:
        UsageError: OMP_NUM_THREADS is no number.
    """
    threads = requested or _of_environment() or recorded or DEFAULT
    if recorded not in (None, threads):
        log.warning(
            "threads: %d now, %d before: the figures will differ in their last digits from those of an uninterrupted"
            " run; --threads %d keeps them",
            threads,
            recorded,
            recorded,
        )
    elif requested is None and recorded is None and threads != DEFAULT:
        log.warning(
            "%s is %d: the figures will differ in their last digits from those of the default, %d thread; --threads"
            " chooses without this warning",
            COUNT,
            threads,
            DEFAULT,
        )
    return threads


def _of_environment() -> int | None:
    text = os.environ.get(COUNT, "").split(",")[0].strip()  # a list is for nested parallel regions
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not int(text):
        raise UsageError(f"{COUNT} is {os.environ[COUNT]!r}; expected a number of threads, 1 or more")
    return int(text)


@contextlib.contextmanager
def thread_environment(threads: int) -> Iterator[None]:
    """Tell the libraries that are loaded from now on, and child processes, how many threads compute and how they wait.

    A thread that waits sleeps, and leaves the processor to others, unless the user's environment says how to wait.
    """
    values = {COUNT: str(threads)}
    if not any(os.environ.get(name) for name in WAITING):
        values[WAIT_POLICY] = "PASSIVE"
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
