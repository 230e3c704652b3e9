"""What a command would read and write, and how long it would take: ``--dry-run`` of commands that make no run."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from balancer.core.files import JsonObject


@dataclass(frozen=True)
class Preview:
    """What a command would do."""

    reads: str
    writes: str
    estimated_seconds: float

    def to_json(self) -> JsonObject:
        """Return the facts."""
        return asdict(self)

    def describe(self) -> str:
        """Return the facts as lines."""
        lines = [f"would read {self.reads}", f"would write {self.writes}"]
        return "\n".join([*lines, f"estimated {max(self.estimated_seconds, 1):.0f} s"])
