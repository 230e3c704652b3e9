"""How large an upload may be: the defaults of `classifier serve`. Needs none of the packages that serve."""

from __future__ import annotations

from dataclasses import dataclass

MEGA = 1_000_000


@dataclass(frozen=True)
class Limits:
    """How large an upload may be."""

    megabytes: float = 32.0
    megapixels: float = 25.0  # the largest X-ray detectors have 16
    seconds: float = 60.0  # to send it
    patience: float = 10.0  # seconds before the pace counts
    pace: float = 20_000.0  # bytes a second

    @property
    def most_bytes(self) -> int:
        """Return the limit in bytes."""
        return round(self.megabytes * MEGA)

    def seconds_for(self, received: int) -> float:
        """Return how long a client may take for the bytes that arrived, and for the next ones."""
        return min(self.seconds, self.patience + received / self.pace)
