"""A snapshot of training: its step, its figures, and the rule by which one snapshot is better than another."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class SnapshotQuality:
    """Distances of a snapshot's images to training images, on the shipped chest X-ray features.

    A real baseline is the same distance between two halves of the training images.
    """

    kid: float
    kid_real_baseline: float
    frechet: float
    frechet_real_baseline: float
    diversity: float  # the images' share of the real ones' variance in feature space


@dataclass(frozen=True)
class Snapshot:
    """A step at which the generator was saved; ``quality`` is None where there are too few images to measure it."""

    step: int
    quality: SnapshotQuality | None

    def to_json(self) -> dict[str, float]:
        """Return step and figures as one row."""
        return {"step": self.step, **(asdict(self.quality) if self.quality else {})}

    def is_better_than(self, best: Snapshot | None, rule: str) -> bool:
        """Return whether the selection rule (``kid``, ``frechet`` or ``last``) prefers this to the best before."""
        if rule == "last" or best is None or self.quality is None or best.quality is None:
            return True
        return bool(getattr(self.quality, rule) < getattr(best.quality, rule))

    @classmethod
    def from_json(cls, row: dict[str, float]) -> Snapshot:
        """Return the snapshot of a row; earlier versions called a real baseline a floor."""
        figures = {key.replace("_floor", "_real_baseline"): value for key, value in row.items() if key != "step"}
        return cls(int(row["step"]), SnapshotQuality(**figures) if figures else None)
