"""What comes back of a job that a worker ran: its result or its error, as a value, and what it warned of."""

from __future__ import annotations

import logging
import logging.handlers
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from balancer.core.device import limit_threads
from balancer.core.errors import BalancerError, Interrupted

log = logging.getLogger("balancer")
T = TypeVar("T")


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """What a worker sends back: a result or an error, and the warnings logged on the way.

    The error is a value, so that one failed job loses no other.
    """

    result: T | None
    error: Exception | Interrupted | None
    warnings: list[tuple[int, str]]  # level and text


def collect(attempts: Iterator[Attempt[T]], stop: threading.Event) -> Generator[T, None, None]:
    """Yield the results and log the warnings of workers. After a failure, set ``stop`` and go on with what still runs.

    Raises:
        Exception: the first error, once all attempts have ended.
    """
    error: Exception | Interrupted | None = None
    for attempt in attempts:
        for level, text in attempt.warnings:
            log.log(level, "%s", text)
        if attempt.result is not None:
            yield attempt.result
        else:
            error = error or attempt.error
            stop.set()
    if error is not None:
        raise error


def attempt(threads: int, prepare: Callable[[], Any], job: Callable[[Any], T]) -> Attempt[T]:
    """Run ``job`` on what ``prepare`` returns, in a worker with so many threads; return the result or the error.

    No bar is drawn. The warnings of ``prepare`` are dropped: the main process has prepared, and warned, the same way.
    """
    records = logging.handlers.BufferingHandler(1_000_000)
    log.handlers, log.propagate = [records], False
    log.setLevel(logging.WARNING)
    result, problem = None, None
    try:
        _limit_once(threads, len(sys.modules))
        prepared = prepare()
        records.flush()
        result = job(prepared)
    except (Exception, Interrupted) as error:
        if not isinstance(error, (BalancerError, Interrupted)):
            error.add_note(f"In a worker:\n{traceback.format_exc()}")  # pickling drops the traceback, but not a note
        problem = error
    return Attempt(result, problem, [(record.levelno, record.getMessage()) for record in records.buffer])


@lru_cache(maxsize=1)
def _limit_once(threads: int, _modules: int) -> None:
    """Limit the threads of all libraries; again only if a module was imported since: to look for them takes 2 ms."""
    limit_threads(threads)
