"""The figures of an ablation, from its results and its analysis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from balancer.data.dataset import Dataset
from balancer.reporting.numbers import short, signed
from balancer.reporting.plots import PALETTE, subplots
from classifier.analysis.analyse import Analysis, endpoint_of
from classifier.analysis.results import StudyResults, TrialResult
from classifier.analysis.verdicts import short_margin
from classifier.evaluation.fold_metrics import BinaryMetrics, MulticlassMetrics
from classifier.evaluation.metrics import of_class
from classifier.report import curves, effects, meter, tables
from classifier.report.axes import (
    COLOURS,
    SET_MARKERS,
    annotate,
    competitive,
    fix_ticks,
    grid,
    limits,
    margin_bands,
    mark_outside,
    outer_labels,
    rows_axes,
    spread,
)
from classifier.report.failures import Failures, contact_sheet
from classifier.report.tables import AUROC

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAND_WORDS = f"; band: reference's mean ±{short_margin()}"


def draw_all(results: StudyResults, analysis: Analysis, data: Dataset, failures: Failures) -> dict[str, Figure]:
    """Return every figure that has something to show, by name, each with data and n below it."""
    main = results.main
    several = len(results.classes) > 2
    figures = {
        "forest": effects.forest(analysis),
        "seeds": seeds(main, analysis),
        "dose": effects.dose_response(results, analysis),
        meter.NAME: meter.draw(analysis.meter),
        "roc": curves.roc_of_classes(main) if several else curves.roc(main),
        "precision_recall": None if several else curves.precision_recall(main),
        "gap": validation_gap(main, analysis.margin),
        "thresholds": None if several else curves.threshold_transfer(main),
        "reliability": curves.reliability(main),
        "recall": recall(main, analysis) if several else None,
        "confusion": confusion(main),
        "failures": contact_sheet(failures, data),
        "training": training(main),
    }
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    for figure in drawn.values():
        annotate(figure, f"{data_name(data)}; {tables.counts(analysis)}")
    return drawn


def data_name(data: Dataset) -> str:
    """Return what the images are, for the foot of a figure."""
    return "phantom: drawings, not X-rays" if data.is_phantom else data.source.rstrip("/").rsplit("/", 1)[-1]


def seeds(results: StudyResults, analysis: Analysis) -> Figure:
    """Draw the test AUROC of every trial, marker by synthetic set, over the mean and its interval.

    Lines join the trials of a seed.
    """
    names = results.regimes
    figure, (axes,) = rows_axes(names)
    by_seed = {name: results.values(name, AUROC) for name in names}
    means = {name: float(np.mean(list(by_seed[name].values()))) for name in names}
    intervals = {name: m.interval for name in names if (m := analysis.metric(name, "auroc")) and m.interval}
    every = [trial.metric(AUROC) for trial in results.trials]
    covered = [trial.metric(AUROC) for name in competitive(names) for trial in results.arms[name]]
    covered += [end for name in competitive(names) for end in intervals.get(name, ())]
    bands = margin_bands(axes, means, analysis.margin)
    axes.set_xlim(limits([*covered, *bands], every, 0.02))
    for seed in sorted(set().union(*by_seed.values())):
        line = np.array([by_seed[name].get(seed, np.nan) for name in names])
        line[(line < axes.get_xlim()[0]) | (line > axes.get_xlim()[1])] = np.nan
        axes.plot(line, range(len(names)), color="#c8c8c8", linewidth=0.7, zorder=1)
    sets = results.sets(*names)
    for y, name in enumerate(names):
        _trials_of_regime(axes, y, results.arms[name], sets)
        if name in intervals:
            axes.plot(
                intervals[name], [y, y], color=COLOURS[name], linewidth=7, alpha=0.22, solid_capstyle="butt", zorder=1.5
            )
        mean = means[name]
        axes.plot([mean, mean], [y - 0.32, y + 0.32], color=COLOURS[name], linewidth=2.2, zorder=2)
        if mean < axes.get_xlim()[0]:
            place = axes.get_yaxis_transform()
            axes.text(0.02, y + 0.3, f"mean {short(mean)}", transform=place, fontsize=7, va="center")
    if len(sets) > 1:
        _set_legend(axes, sets)
    fix_ticks(axes.xaxis, 7)
    joined = " (a line joins the trials of one seed)" if len(every) > len(names) else ""
    axes.set_xlabel(f"test {endpoint_of(results.classes)}{joined}{BAND_WORDS * bool(bands)}", fontsize=8)
    return figure


def _set_legend(axes: Axes, sets: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color="#555555", linestyle="", marker=SET_MARKERS[i % len(SET_MARKERS)], markersize=5, label=label
        )
        for i, label in enumerate(f"synthetic set {s}" for s in sets)
    ]
    axes.legend(
        handles=handles, fontsize=7, frameon=False, loc="lower center", ncols=len(sets), bbox_to_anchor=(0.5, 1.0)
    )


def _trials_of_regime(axes: Axes, y: int, trials: Sequence[TrialResult], sets: Sequence[str]) -> None:
    """Draw the trials of one regime; an arrow at the edge stands for a trial off the axis."""
    low, high = axes.get_xlim()
    present: list[str | None] = [s for s in sets if any(t.synthetic_set == s for t in trials)] or [None]
    for name, offset in zip(present, spread(len(present), 0.36), strict=True):
        values = [t.metric(AUROC) for t in trials if t.synthetic_set == name]
        marker = SET_MARKERS[sets.index(name) % len(SET_MARKERS)] if name is not None else "o"
        colour, inside = COLOURS[trials[0].regime], [v for v in values if low <= v <= high]
        heights = [y + offset] * len(inside)
        axes.scatter(inside, heights, color=colour, marker=marker, s=22, edgecolor="white", linewidth=0.5, zorder=3)
        mark_outside(axes, values, [y + offset] * len(values), colour)


def validation_gap(results: StudyResults, margin: float) -> Figure:
    """Draw the metrics on validation (hollow) and on test (filled), trial by trial.

    The band around the test AUROC of a regime's reference is ``margin`` wide on either side.
    """
    names = results.regimes
    figure, (left, right) = rows_axes(names, columns=2)
    decided = ("at_threshold.balanced_accuracy", "balanced accuracy, threshold of validation")
    if len(results.classes) > 2:
        decided = ("most_likely.balanced_accuracy", "balanced accuracy, most likely class")
    for axes, metric, title in ((left, "auroc", endpoint_of(results.classes)), (right, *decided)):
        pairs = {
            name: [(t.metric(f"val.{metric}"), t.metric(f"test.{metric}")) for t in results.arms[name]]
            for name in names
        }
        every = [value for of_regime in pairs.values() for pair in of_regime for value in pair]
        covered = [value for name in competitive(names) for pair in pairs[name] for value in pair]
        if metric == "auroc":
            means = {name: float(np.mean([test for _, test in pairs[name]])) for name in names}
            covered += margin_bands(axes, means, margin)
        axes.set_xlim(limits(covered, every, 0.02))
        for y, name in enumerate(names):
            colour = COLOURS[name]
            for offset, (val, test) in zip(spread(len(pairs[name]), 0.5), pairs[name], strict=True):
                axes.plot([val, test], [y + offset] * 2, color=colour, linewidth=0.8, alpha=0.6)
                axes.plot(val, y + offset, "o", color=colour, markerfacecolor="white", markersize=4, zorder=3)
                axes.plot(test, y + offset, "o", color=colour, markersize=4, zorder=3)
                mark_outside(axes, [test], [y + offset], colour)
            gap = float(np.mean([test - val for val, test in pairs[name]]))
            axes.text(1.02, y, signed(gap), transform=axes.get_yaxis_transform(), fontsize=7.5, va="center")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("validation ○   test ●   at the right: mean change", fontsize=8)
        fix_ticks(axes.xaxis, 5)
    return figure


def confusion(results: StudyResults) -> Figure:
    """Draw the test confusion matrices, counts averaged over trials.

    With two classes there is one at 0.5 and one at validation's threshold, else one for the most likely class.
    """
    names, classes = results.regimes, results.classes
    columns, kinds, side = min(len(names), 4), 2 if len(classes) == 2 else 1, 0.75 * len(classes)
    rows = -(-len(names) // columns)
    size = (2.3, 4.9) if len(classes) == 2 else (0.9 + side, 1.1 + side)
    figure, array = subplots(kinds * rows, columns, max(size[0] * columns, 5), size[1] * rows + 0.5)
    for unused in array.flat:
        unused.axis("off")
    for i, regime in enumerate(names):
        for row, (title, matrices) in enumerate(_confusions(results.arms[regime])):
            axes = array[kinds * (i // columns) + row, i % columns]
            axes.axis("on")
            axes.set_title(f"{regime}\n{title}", fontsize=8)
            axes.set_ylabel("true" if i % columns == 0 else "", fontsize=8)
            _matrix(axes, np.mean(matrices, axis=0).reshape(len(classes), -1), classes)
    return figure


def _confusions(trials: Sequence[TrialResult]) -> list[tuple[str, list[Any]]]:
    """Return the confusion matrices of the trials on test, by how they decided, in words."""
    tests = [trial.test for trial in trials]
    two = [test for test in tests if isinstance(test, BinaryMetrics)]
    several = [test for test in tests if isinstance(test, MulticlassMetrics)]
    if several:
        return [("most likely class", [test.most_likely.confusion for test in several])]
    return [
        ("threshold .5", [test.at_half.confusion for test in two]),
        ("validation's threshold", [test.at_threshold.confusion for test in two]),
    ]


def recall(results: StudyResults, analysis: Analysis) -> Figure:
    """Draw the recall of each class on test by regime, with its 95 % interval."""
    names, classes = results.regimes, results.classes
    figure, (axes,) = rows_axes(names)
    for k, (name, offset) in enumerate(zip(classes, spread(len(classes), 0.5), strict=True)):
        colour = PALETTE[k % len(PALETTE)]
        for y, regime in enumerate(names):
            summary = analysis.metric(regime, of_class("recall", name))
            if summary is not None:
                axes.plot(summary.interval or (summary.mean,) * 2, [y + offset] * 2, color=colour, linewidth=1.4)
                axes.plot(summary.mean, y + offset, "o", color=colour, markersize=4)
        axes.plot([], [], "o-", color=colour, markersize=4, label=name)
    axes.set_xlim(-0.02, 1.02)
    axes.legend(fontsize=7, frameon=False, loc="lower center", ncols=min(len(classes), 5), bbox_to_anchor=(0.5, 1.0))
    axes.set_xlabel("recall on test, 95 % interval", fontsize=8)
    return figure


def _matrix(axes: Axes, counts: np.ndarray, classes: Sequence[str]) -> None:
    """Draw counts (true, predicted) over their share of the true class."""
    places = range(len(classes))
    share = counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(counts):
        text = f"{value:.1f}".removesuffix(".0") + f"\n({share[i, j]:.0%})"
        colour = "white" if share[i, j] > 0.6 else "black"
        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(places, classes, fontsize=7)
    axes.set_yticks(places, classes, fontsize=7, rotation=90, va="center")
    axes.set_xlabel("predicted", fontsize=8)


def training(results: StudyResults) -> Figure:
    """Draw training loss (grey) and validation NLL against steps, a line per trial; a dot: the step kept."""
    from matplotlib.ticker import LogLocator

    figure, by_name = grid(results.regimes, 2.3)
    losses = [loss for t in results.trials for v in t.history for loss in (v.train_loss, v.val_nll)]
    for name, axes in by_name.items():
        for trial in results.arms[name]:
            steps, nlls = [v.step for v in trial.history], [v.val_nll for v in trial.history]
            axes.plot(steps, [v.train_loss for v in trial.history], color="#999999", linewidth=0.8)
            axes.plot(steps, nlls, color=COLOURS[name], linewidth=0.9, alpha=0.8)
            chosen = steps.index(trial.selected_step)
            axes.plot(steps[chosen], nlls[chosen], "o", color=COLOURS[name], markersize=3.5)
        axes.set_yscale("log")
        axes.set_ylim(0.9 * min(losses), 1.1 * max(losses))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5), numticks=9))  # 0.2, 0.3, not 2 × 10⁻¹, 3 × 10⁻¹
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        fix_ticks(axes.xaxis, 4)
    outer_labels(by_name, "optimiser step", "training loss (grey),\nvalidation NLL")
    return figure
