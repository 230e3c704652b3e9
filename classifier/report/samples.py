"""Synthetic images beside real ones: a row of each, for the head of the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from balancer.core.sealed import read_json
from balancer.data.dataset import Dataset
from balancer.data.manifest import reports_of
from balancer.quality.grade import grade
from balancer.quality.results import from_json
from balancer.reporting.document import Figure, Section
from balancer.reporting.grids import png_bytes, tile
from balancer.reporting.numbers import listed, plural
from classifier.training.synthetic import SyntheticSet

NAME = "synthetic"  # of the figure
SHOWN = 8  # images in a row
MOST_SETS = 3
SIDE = 128  # pixels a side to which small images are enlarged, without smoothing


def draw(sets: Sequence[SyntheticSet], data: Dataset) -> bytes:
    """Return a PNG file: for each class a row of real images, then a row of each set, unselected."""
    rows = []
    for label in _labels(sets):
        rows.append(data.images[data.indices("train", label)[:SHOWN]])
        rows += [s.images[s.labels == label][:SHOWN] for s in sets[:MOST_SETS]]
    one = sets[0].images.shape[1:]
    padded = [np.concatenate([row, np.full((SHOWN - len(row), *one), 255, np.uint8)]) for row in rows]
    factor = max(1, SIDE // one[0])
    return png_bytes(tile(np.concatenate(padded), SHOWN).repeat(factor, 0).repeat(factor, 1))


def set_grade(*folders: Path) -> str:
    """Return the grade that the report of a synthetic set gives its images; empty if there is no such report.

    With several reports, one of each class, there is a grade of each.
    """
    reports = [report for folder in folders for report in reports_of(folder)]
    grades = [(reported_class(report), brief) for report in reports if (brief := _grade_in(report))]
    return "; ".join(f"{name} {brief}" if len(reports) > 1 else brief for name, brief in grades)


def reported_class(report: Path) -> str:
    """Return the class that a ``report.html`` is on; the name of its folder where the JSON file beside it has none."""
    file = report.with_name("report.json")
    name = read_json(file).get("class") if file.is_file() else None
    return name if isinstance(name, str) else report.parent.name


def _grade_in(report: Path) -> str:
    file = report.with_name("report.json")
    if not file.is_file():
        return ""
    quality = read_json(file).get("quality")
    try:
        return grade(from_json(quality)).brief if isinstance(quality, dict) else ""
    except ValidationError:  # of another program
        return ""


def with_grade(source: str, *folders: Path) -> str:
    """Return the words on a synthetic set with its grade, where there is one."""
    brief = set_grade(*folders)
    return f"{source}, grade {brief}" if brief else source


def section(sets: Sequence[SyntheticSet], data: Dataset) -> Section:
    """Return the section with the figure of :func:`draw`."""
    name = listed([data.classes[label] for label in _labels(sets)])
    more = f" of {plural(len(sets), 'set')}, the first {MOST_SETS} of which are shown" if len(sets) > MOST_SETS else ""
    below = "below it synthetic ones" if len(sets) == 1 else f"below it synthetic ones, a row a set{more}"
    top = "Top row" if len(_labels(sets)) == 1 else "From top to bottom, class by class"
    caption = (
        f"{top}: real {name} images of the training fold; {below}. Each row holds the first {SHOWN} images of its "
        "set, unselected, at the size at which the classifiers saw them."
    )
    graded = [(i, set_grade(*s.paths)) for i, s in enumerate(sets)]
    grades = [f"Grade of the images of set {i}: {brief}." for i, brief in graded if brief]
    return Section(
        "Real and synthetic images", grades, figure=Figure(NAME, caption, f"Real and synthetic {name} images")
    )


def _labels(sets: Sequence[SyntheticSet]) -> list[int]:
    """Return the classes that the sets hold images of."""
    return sorted({int(label) for s in sets for label in s.labels})
