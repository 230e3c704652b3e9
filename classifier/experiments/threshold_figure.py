"""The figure of `classifier thresholds`: decisions at every threshold, with the rules at theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from balancer.reporting.plots import BLUE, GREY, PALETTE, subplots
from classifier.analysis.results import FOLDS
from classifier.report.axes import annotate, fix_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from classifier.experiments.thresholds import ThresholdResults

GRID = np.arange(5, 96) / 100
METRICS = {"balanced_accuracy": "balanced accuracy", "sensitivity": "sensitivity", "specificity": "specificity"}
MARKERS = "os^vDP*X"


def draw(results: ThresholdResults) -> Figure:
    """Return the sweep of every arm, a row each, with the rules at their thresholds."""
    arms = results.arms
    figure, grid = subplots(len(arms), len(METRICS), 10.4, 2.3 * len(arms) + 1.1)
    lowest = {m: min(min(arm.sweep[fold][m].low) for arm in arms for fold in FOLDS) for m in METRICS}
    for arm, line in zip(arms, grid, strict=True):
        for (metric, title), axes in zip(METRICS.items(), line, strict=True):
            for fold, colour in (("val", GREY), ("test", BLUE)):
                curve = arm.sweep[fold][metric]
                axes.fill_between(GRID, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
                axes.plot(GRID, curve.mean, color=colour, linewidth=1.4)
            for k, r in enumerate(arm.rules):
                _mark(axes, k, r.threshold.mean, r.val[metric].mean, "white")
                _mark(axes, k, r.threshold.mean, r.test[metric].mean, None)
            axes.set(xlim=(0, 1), ylim=(min(lowest[metric], 0.9) - 0.03, 1.02))
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.2)
            fix_ticks(axes.yaxis, 5)
            axes.set_title(f"{arm.arm}: {title}" if metric == "balanced_accuracy" else title, fontsize=8.5)
    for axes in grid[-1]:
        axes.set_xlabel("threshold", fontsize=8)
    names = [r.rule for r in arms[0].rules]
    figure.legend(handles=_legend(names), loc="outside upper center", ncols=5, fontsize=7.5, frameon=False)
    annotate(figure, results.runs.counts)
    return figure


def _mark(axes: Axes, k: int, x: float, y: float, face: str | None) -> None:
    colour, marker = _style(k)
    axes.plot(x, y, marker, color=colour, markerfacecolor=face or colour, markersize=4.5, clip_on=False, zorder=3)


def _style(k: int) -> tuple[str, str]:
    """Return colour and marker of the k-th rule."""
    return PALETTE[(k + 2) % len(PALETTE)], MARKERS[k % len(MARKERS)]


def _legend(rules: Sequence[str]) -> list[Line2D]:
    from matplotlib.lines import Line2D

    folds = [Line2D([], [], color=c, linewidth=1.6, label=n) for n, c in (("validation", GREY), ("test", BLUE))]
    styles = [_style(k) for k in range(len(rules))]
    marks = [
        Line2D([], [], marker=marker, color=colour, linestyle="", label=rule)
        for rule, (colour, marker) in zip(rules, styles, strict=True)
    ]
    return folds + marks
