"""The test images that a regime gets wrong most of the time, the most confident mistakes first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from balancer.data.dataset import Dataset
from balancer.reporting.numbers import short
from balancer.reporting.plots import subplots
from classifier.analysis.results import StudyResults
from classifier.report.axes import competitive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6


@dataclass(frozen=True)
class Failure:
    """A test image that more than half of the trials get wrong: at their thresholds, or by the most likely class."""

    index: int  # in the data set
    name: str
    label: int
    called: str  # the wrong class that most trials call
    probability: float  # calibrated, averaged over the trials: of class 1 of two, else of the class called
    wrong: int  # trials


@dataclass(frozen=True)
class Failures:
    """The failures of one regime, by true class."""

    regime: str
    trials: int
    tested: int  # images
    of_class: tuple[list[Failure], ...]  # the most confident mistakes first


def shown_regime(regimes: list[str]) -> str:
    """Return the regime whose failures are shown: ``combined``, else the last that is meant to do well."""
    return "combined" if "combined" in regimes else competitive(regimes)[-1]


def find_failures(results: StudyResults, data: Dataset) -> Failures:
    """Return the test images that most trials of :func:`shown_regime` get wrong."""
    regime = shown_regime(results.regimes)
    trials = [trial.predictions["test"] for trial in results.arms[regime]]
    y_true, index = trials[0].y_true, trials[0].index
    mean = np.mean([p.calibrated for p in trials], axis=0)
    decisions = np.array([p.decisions for p in trials], dtype=np.int64)
    wrong = (decisions != y_true).sum(axis=0)
    classes = results.classes
    of_class: tuple[list[Failure], ...] = tuple([] for _ in classes)
    for i in np.flatnonzero(2 * wrong > len(trials)):
        label, position = int(y_true[i]), int(index[i])
        called = int(np.bincount(decisions[decisions[:, i] != label, i], minlength=len(classes)).argmax())
        probability = float(mean[i] if len(classes) == 2 else mean[i, called])
        name = data.records[position].name
        of_class[label].append(Failure(position, name, label, classes[called], probability, int(wrong[i])))
    for label, failures in enumerate(of_class):
        rising = len(classes) == 2 and label == 1  # the lower the probability of class 1, the surer the mistake
        failures.sort(key=lambda f: f.probability if rising else -f.probability)
    return Failures(regime, len(trials), len(y_true), of_class)


def contact_sheet(failures: Failures, data: Dataset) -> Figure | None:
    """Draw the first failures of each class with file name and mean probability; return None if there is none."""
    if not any(failures.of_class):
        return None
    classes = data.classes
    two = len(classes) == 2
    figure, grid = subplots(len(classes), SHOWN, 10.4, 2.2 * len(classes))
    for axes in grid.flat:
        axes.axis("off")
    sides = [f"{name} called {classes[1 - k]}" if two else name for k, name in enumerate(classes)]
    for row, of_class, side in zip(grid, failures.of_class, sides, strict=True):
        for axes, failure in zip(row, of_class, strict=False):
            axes.imshow(data.images[failure.index], cmap="gray", vmin=0, vmax=255)
            counts = f"p = {short(failure.probability)}, wrong {failure.wrong}/{failures.trials}"
            called = "" if two else f"called {failure.called}\n"
            axes.set_title(f"{short_name(failure.name)}\n{called}{counts}", fontsize=6.5)
        text = f"{side}\n{f'{len(of_class)} images' if of_class else 'none'}"
        row[0].text(-0.08, 0.5, text, transform=row[0].transAxes, rotation=90, ha="right", va="center", fontsize=8)
    figure.suptitle(
        f"{failures.regime}: wrong in most of its {failures.trials} trials, the most confident first "
        f"(p: probability of {classes[1] if two else 'the class called'})",
        fontsize=9,
    )
    return figure


def short_name(name: str, longest: int = 30) -> str:
    """Return the file's name without its folder, cut in the middle if it is long."""
    stem = PurePosixPath(name).name
    return stem if len(stem) <= longest else f"{stem[: longest // 2 - 1]}…{stem[-longest // 2 :]}"
