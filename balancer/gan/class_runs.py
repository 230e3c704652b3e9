"""Where the runs of single classes lie in a run of `balancer gan-train --class all`. Needs no torch."""

from __future__ import annotations

from pathlib import Path

ALL = "all"  # as target_class: a GAN for every class that lacks images
FOLDER = "classes"  # in the run: a folder for each class


def runs_of(run: Path) -> list[Path]:
    """Return the runs of the classes that a run holds; none if it is of one class."""
    return sorted(path.parent for path in run.glob(f"{FOLDER}/*/config.yaml"))
