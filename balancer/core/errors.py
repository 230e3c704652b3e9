"""Errors that reach the user as one line: what was got, what was expected, what to do."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Mapping
from typing import TypeVar

ItemT = TypeVar("ItemT")


class BalancerError(Exception):
    """Anything the user can mend; shown as one line, without a traceback."""

    exit_code = 1


class UsageError(BalancerError):
    """A value or key on the command line, in the environment or in a config file that cannot be used."""

    exit_code = 2


class Interrupted(BaseException):
    """Raised at a safe point after SIGINT or SIGTERM, once the state is saved.

    A BaseException, as KeyboardInterrupt is: what deals with the failure of a part must not go on after a signal.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(signum, message)
        self.signum, self.message, self.exit_code = signum, message, 128 + signum

    def __str__(self) -> str:
        return f"{signal.Signals(self.signum).name}: {self.message}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ``did you mean 'steps'?``, or the list of known names when none is close."""
    known = sorted(known)
    spelt = {other.lower(): other for other in known}  # capitals alone make no other name
    close = difflib.get_close_matches(name.lower(), spelt, n=1, cutoff=0.6)
    return f"did you mean {spelt[close[0]]!r}?" if close else f"known: {', '.join(known)}"


def lookup(registry: Mapping[str, ItemT], name: str, what: str) -> ItemT:
    """Return an entry of a registry.

    Raises:
        UsageError: no such name; the message gives the nearest one.
    """
    if name not in registry:
        raise UsageError(f"{what} is {name!r}; {nearest(name, registry)}")
    return registry[name]
