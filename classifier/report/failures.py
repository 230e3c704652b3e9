"""The test images that a regime gets wrong most of the time, the most confident mistakes first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from matplotlib.figure import Figure

from balancer.data.chest import CLASSES
from balancer.data.dataset import Dataset
from balancer.reporting.numbers import short
from balancer.reporting.plots import subplots
from classifier.analysis.results import StudyResults
from classifier.report.axes import competitive

SHOWN = 6


@dataclass(frozen=True)
class Failure:
    """A test image that more than half of the trials get wrong at their own thresholds."""

    index: int  # in the data set
    name: str
    label: int
    probability: float  # of PNEUMONIA, calibrated, averaged over the trials
    wrong: int  # trials


@dataclass(frozen=True)
class Failures:
    """The failures of one regime, by true class."""

    regime: str
    trials: int
    tested: int  # images
    of_class: tuple[list[Failure], list[Failure]]  # NORMAL called PNEUMONIA, PNEUMONIA called NORMAL


def shown_regime(regimes: list[str]) -> str:
    """Return the regime whose failures are shown: ``combined``, else the last that is meant to do well."""
    return "combined" if "combined" in regimes else competitive(regimes)[-1]


def find_failures(results: StudyResults, data: Dataset) -> Failures:
    """Return the test images that most trials of :func:`shown_regime` get wrong."""
    regime = shown_regime(results.regimes)
    trials = [trial.predictions["test"] for trial in results.arms[regime]]
    y_true, index = trials[0].y_true, trials[0].index
    mean = np.mean([p.calibrated for p in trials], axis=0)
    wrong = np.sum([p.decisions != p.y_true for p in trials], axis=0)
    of_class: tuple[list[Failure], list[Failure]] = ([], [])
    for i in np.flatnonzero(2 * wrong > len(trials)):
        label, position = int(y_true[i]), int(index[i])
        of_class[label].append(Failure(position, data.records[position].name, label, float(mean[i]), int(wrong[i])))
    of_class[0].sort(key=lambda f: -f.probability)
    of_class[1].sort(key=lambda f: f.probability)
    return Failures(regime, len(trials), len(y_true), of_class)


def contact_sheet(failures: Failures, data: Dataset) -> Figure | None:
    """Draw the first failures of each class with file name and mean probability; return None if there is none."""
    if not any(failures.of_class):
        return None
    figure, grid = subplots(2, SHOWN, 10.4, 4.4)
    for axes in grid.flat:
        axes.axis("off")
    sides = (f"{CLASSES[0]} called {CLASSES[1]}", f"{CLASSES[1]} called {CLASSES[0]}")
    for row, of_class, side in zip(grid, failures.of_class, sides, strict=True):
        for axes, failure in zip(row, of_class, strict=False):
            axes.imshow(data.images[failure.index], cmap="gray", vmin=0, vmax=255)
            counts = f"p = {short(failure.probability)}, wrong {failure.wrong}/{failures.trials}"
            axes.set_title(f"{short_name(failure.name)}\n{counts}", fontsize=6.5)
        text = f"{side}\n{f'{len(of_class)} images' if of_class else 'none'}"
        row[0].text(-0.08, 0.5, text, transform=row[0].transAxes, rotation=90, ha="right", va="center", fontsize=8)
    figure.suptitle(
        f"{failures.regime}: wrong in most of its {failures.trials} trials, the most confident first "
        f"(p: probability of {CLASSES[1]})",
        fontsize=9,
    )
    return figure


def short_name(name: str, longest: int = 30) -> str:
    """Return the file's name without its folder, cut in the middle if it is long."""
    stem = PurePosixPath(name).name
    return stem if len(stem) <= longest else f"{stem[: longest // 2 - 1]}…{stem[-longest // 2 :]}"
