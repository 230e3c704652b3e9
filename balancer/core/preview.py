"""What a command would read and write, and how long it would take: ``--dry-run`` of commands that make no run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from balancer.core.files import JsonObject


@dataclass(frozen=True)
class Undecoded:
    """The images of a data set whose pixels a dry run has not read, since the cache does not hold them yet."""

    images: int
    seconds: float  # that this machine takes to decode them

    def describe(self) -> str:
        """Return which checks are left for the run."""
        return (
            f"the pixels of {self.images:,} images, of which the headers were read; the run decodes them"
            f" (about {duration(self.seconds)}, once) and leaves out those that are damaged"
        )


def together(parts: Iterable[Undecoded | None]) -> Undecoded | None:
    """Return what several folders leave undecoded, or None if they leave nothing."""
    left = [part for part in parts if part is not None]
    return Undecoded(sum(p.images for p in left), sum(p.seconds for p in left)) if left else None


@dataclass(frozen=True)
class Preview:
    """What a command would do."""

    reads: str
    writes: str
    estimated_seconds: float | None  # None: the speed of this machine does not decide
    settings: Mapping[str, Any] = field(default_factory=dict)  # None: not shown
    unchecked: str = ""  # what is left to the run, in words

    def to_json(self) -> JsonObject:
        """Return the facts."""
        seconds = self.estimated_seconds
        rounded = None if seconds is None else round(seconds, 3)
        return {**asdict(self), "settings": dict(self.settings), "estimated_seconds": rounded}

    def describe(self) -> str:
        """Return the facts as lines."""
        settings = [f"{name}: {value}" for name, value in self.settings.items() if value is not None]
        left = [f"not checked: {self.unchecked}"] if self.unchecked else []
        lines = [f"would read {self.reads}", f"would write {self.writes}", *settings, *left]
        seconds = self.estimated_seconds
        cost = "how long depends on the connection" if seconds is None else f"estimated {duration(seconds)}"
        return "\n".join([*lines, cost])


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours.

    >>> duration(0.2), duration(75), duration(2300), duration(20000)
    ('1 s', '75 s', '38 minutes', '5.6 hours')
    """
    if seconds < 120:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
