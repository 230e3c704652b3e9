"""The test images that a regime gets wrong most of the time, the most confident mistakes first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from balancer.data.dataset import Dataset
from balancer.data.folder import CLASSES
from balancer.reporting.numbers import short
from balancer.reporting.plots import subplots
from classifier.analysis.results import Predictions, regimes_in
from classifier.evaluation.thresholds import with_temperature
from classifier.report import axes as panels

Row = dict[str, Any]
SHOWN = 6


@dataclass(frozen=True)
class Failure:
    """A test image that more than half of the trials get wrong at their own thresholds."""

    index: int  # in the data set
    name: str
    label: int
    probability: float  # of PNEUMONIA, with the temperature, averaged over the trials
    wrong: int  # trials


@dataclass(frozen=True)
class Failures:
    """What :func:`find_failures` found: of each class, the most confident mistakes first."""

    regime: str
    trials: int
    tested: int
    of_class: tuple[list[Failure], list[Failure]]  # NORMAL called PNEUMONIA, PNEUMONIA called NORMAL


def shown_regime(rows: list[Row]) -> str:
    """The regime whose mistakes are shown: ``combined``, else the last that tries to be good."""
    names = regimes_in(rows)
    return "combined" if "combined" in names else panels.core(names)[-1]


def find_failures(rows: list[Row], predictions: dict[str, Predictions], data: Dataset) -> Failures:
    """Test images that most trials of :func:`shown_regime` get wrong.

    Args:
        rows: of the study proper.
        predictions: by the trial's folder.
    """
    regime = shown_regime(rows)
    mine = [r for r in rows if r["regime"] == regime]
    trials = [predictions[r["folder"]] for r in mine]
    stated = [with_temperature(t.y_score, r["test"]["temperature"]) for t, r in zip(trials, mine, strict=True)]
    truth, mean = trials[0].y_true, np.mean(stated, axis=0)
    wrong = np.sum([(t.y_score >= t.threshold) != t.y_true for t in trials], axis=0)
    found: tuple[list[Failure], list[Failure]] = ([], [])
    for i in np.flatnonzero(2 * wrong > len(trials)):
        label, index = int(truth[i]), int(trials[0].index[i])
        found[label].append(Failure(index, data.records[index].name, label, float(mean[i]), int(wrong[i])))
    found[0].sort(key=lambda f: -f.probability)
    found[1].sort(key=lambda f: f.probability)
    return Failures(regime, len(trials), len(truth), found)


def contact_sheet(failures: Failures, data: Dataset) -> Figure | None:
    """The first of each kind as images with file name and mean probability; None where there is none."""
    if not any(failures.of_class):
        return None
    figure, grid = subplots(2, SHOWN, 10.4, 4.4)
    for axes in grid.flat:
        axes.axis("off")
    for line, found in zip(grid, failures.of_class, strict=True):
        for axes, failure in zip(line, found, strict=False):
            axes.imshow(data.images[failure.index], cmap="gray", vmin=0, vmax=255)
            title = (
                f"{short_name(failure.name)}\np = {short(failure.probability)}, wrong {failure.wrong}/{failures.trials}"
            )
            axes.set_title(title, fontsize=6.5)
    sides = (f"{CLASSES[0]} called {CLASSES[1]}", f"{CLASSES[1]} called {CLASSES[0]}")
    for line, found, side in zip(grid, failures.of_class, sides, strict=True):
        text = f"{side}\n{len(found)} images" if found else f"{side}\nnone"
        line[0].text(-0.08, 0.5, text, transform=line[0].transAxes, rotation=90, ha="right", va="center", fontsize=8)
    figure.suptitle(
        f"{failures.regime}: wrong in most of its {failures.trials} trials, the most confident first (p: probability of {CLASSES[1]})",
        fontsize=9,
    )
    return figure


def short_name(name: str, longest: int = 30) -> str:
    """The file's own name, cut in the middle where it is long."""
    stem = PurePosixPath(name).name
    return stem if len(stem) <= longest else f"{stem[: longest // 2 - 1]}…{stem[-longest // 2 :]}"
