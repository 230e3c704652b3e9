"""A snapshot of training: its step, its figures, and the rule by which one snapshot is better than another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat

from balancer.core.jsonl import numbered_rows
from balancer.core.marker import check_stated
from balancer.core.sealed import DamagedFile
from balancer.core.shapes import parse


@dataclass(frozen=True)
class SnapshotQuality:
    """Distances of a snapshot's images to training images, on the features of a trained network.

    A real baseline is the same distance between two halves of the training images.
    """

    kid: FiniteFloat
    kid_real_baseline: FiniteFloat
    frechet: FiniteFloat
    frechet_real_baseline: FiniteFloat
    diversity: FiniteFloat  # the images' share of the real ones' variance in feature space


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
    def from_json(cls, row: Any, path: Path, name: str) -> Snapshot:
        """Return the snapshot of a row; earlier versions called a real baseline a floor.

        Raises:
            DamagedFile: a value is missing or no finite number; the message gives ``path``, ``name`` and the key.
        """
        if not isinstance(row, Mapping):
            raise DamagedFile(path, f"{name}: expected a snapshot, got {type(row).__name__}")
        values = {str(key).replace("_floor", "_real_baseline"): value for key, value in row.items()}
        step = {key: values.pop(key) for key in ("step",) if key in values}
        return parse(cls, {**step, "quality": values or None}, path, where=name)


@dataclass(frozen=True)
class History:
    """What a training logged, as metrics.jsonl holds it.

    Attributes:
        losses: by name, with the step of each row.
        snapshots: those that were measured.
    """

    losses: list[dict[str, float]]
    snapshots: list[Snapshot]


def read_history(path: Path) -> History:
    """Return what a training logged; nothing if there is no file.

    Raises:
        DamagedFile: a row is no mapping of names to numbers with its step; the message gives the line and the key. Or
            the run is finished, and ended with another file.
    """
    losses, snapshots = [], []
    for number, row in numbered_rows(path):
        line, remedy = f"line {number}", "remove that line"
        if "kid" in row:
            snapshots.append(Snapshot.from_json(row, path, line))
            continue
        values = parse(dict[str, FiniteFloat], row, path, remedy, line)
        for key in ("step", "loss_D", "loss_G"):
            if key not in values:
                raise DamagedFile(path, f"{line}: {key}: missing", remedy)
        losses.append(values)
    check_stated(path)
    return History(losses, snapshots)
