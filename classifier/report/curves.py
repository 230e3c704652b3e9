"""Figures of curves: ROC, precision and recall, reliability, and what a threshold gives on test.

Every regime has axes of its own with its reference beside it, so that fourteen regimes are as readable as four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy

from balancer.metrics.classification import precision_at, roc_at, threshold_sweep
from balancer.metrics.resampling import CURVE_RESAMPLES, patient_weights, patients_per_class
from balancer.reporting.numbers import short
from balancer.reporting.plots import PALETTE
from classifier.analysis.results import StudyResults, TrialPredictions
from classifier.analysis.statistics import crossed_estimate
from classifier.evaluation.metrics import decision_metrics
from classifier.evaluation.thresholds import with_temperature
from classifier.report.axes import COLOURS, compared_with, grid, grid_with_strips, outer_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray
Curve = Callable[[Array, Array, Array, Array], Array]  # of the grid, y_true, y_score and weights
GRID = np.linspace(0.005, 0.995, 100)  # of 1 - specificity, or of recall; every classifier has the same corners
BINS = 10
TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
CHANCE = "#bbbbbb"  # colour of what a blind classifier, or perfect calibration, gives


@dataclass(frozen=True)
class Band:
    """The mean curve of an arm on :data:`GRID` with its pointwise 95 % interval, and the curve of each trial."""

    mean: Array  # (len(GRID),)
    low: Array  # (len(GRID),)
    high: Array  # (len(GRID),)
    trials: Array  # (trials, len(GRID))


def band(trials: Sequence[Sequence[TrialPredictions]], groups: Sequence[str], curve: Curve) -> Band:
    """Return the mean curve over the trials with its interval.

    At every point the interval is that of a mean over crossed trials (docs/statistics.md), cut off at 0 and 1. The
    interval covers the sampling of patients, of several trial seeds, and of three or more GAN seeds. A band for the
    curve as a whole would be wider.

    Args:
        trials: K trial seeds x G synthetic sets, on the same test images.
        groups: patient (n,) of each test image.
        curve: the points of one trial's curve under weights.
    """
    y_true = trials[0][0].y_true
    weights = patient_weights(y_true, groups, CURVE_RESAMPLES, seed=0)
    curves = np.stack(
        [np.stack([curve(GRID, y_true, p.y_score, weights) for p in of_seed], 1) for of_seed in trials], 1
    )
    patients = min(patients_per_class(y_true, groups))
    points = [crossed_estimate(curves[..., i], patients) for i in range(len(GRID))]
    low, high = np.clip([(e.low, e.high) for e in points], 0, 1).T
    return Band(curves[0].mean(axis=(0, 1)), low, high, curves[0].reshape(-1, len(GRID)))


def roc(results: StudyResults) -> Figure:
    """Draw the test ROC of each regime: mean curve, band, a thin line per trial, and the reference's mean dashed."""
    figure, by_name = _with_bands(results, roc_at, "auroc", "AUROC")
    for axes in by_name.values():
        axes.plot([0, 1], [0, 1], color=CHANCE, linewidth=0.7, linestyle=":")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    outer_labels(by_name, "1 - specificity", "sensitivity")
    return figure


def precision_recall(results: StudyResults) -> Figure:
    """Draw precision against recall on test as :func:`roc`; dotted: the precision of a blind classifier."""
    figure, by_name = _with_bands(results, precision_at, "auprc", "AUPRC")
    share = float(results.y_true("test").mean())
    for axes in by_name.values():
        axes.axhline(share, color=CHANCE, linewidth=0.7, linestyle=":")
        axes.set(xlim=(-0.01, 1.01), ylim=(min(0.9 * share, 0.5), 1.01))
    outer_labels(by_name, "recall (sensitivity)", "precision")
    return figure


def roc_of_classes(results: StudyResults) -> Figure:
    """Draw the test ROC of each class against the rest, by regime: the mean curve over the trials."""
    figure, by_name = grid(results.regimes, 2.9)
    y_true = results.y_true("test")
    once = np.ones((1, len(y_true)))
    for name, axes in by_name.items():
        for k, cls in enumerate(results.classes):
            scores = [trial.predictions["test"].y_score[:, k] for trial in results.arms[name]]
            curves = [roc_at(GRID, (y_true == k).astype(int), score, once)[0] for score in scores]
            auroc = float(np.mean(list(results.values(name, f"test.auroc_of_class.{k}").values())))
            label, colour = f"{cls} {short(auroc)}", PALETTE[k % len(PALETTE)]
            axes.plot(GRID, np.mean(curves, axis=0), color=colour, linewidth=1.4, label=label)
        axes.plot([0, 1], [0, 1], color=CHANCE, linewidth=0.7, linestyle=":")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.legend(frameon=False, fontsize=6.5, loc="lower right", title="AUROC", title_fontsize=6.5)
    outer_labels(by_name, "1 - specificity", "sensitivity")
    return figure


def _with_bands(results: StudyResults, curve: Curve, key: str, title: str) -> tuple[Figure, dict[str, Axes]]:
    names, groups = results.regimes, results.groups("test")
    figure, by_name = grid(names, 2.9)
    bands = {
        name: band([[t.predictions["test"] for t in of_seed] for of_seed in results.grid(name)], groups, curve)
        for name in names
    }
    for name, axes in by_name.items():
        own, colour = bands[name], COLOURS[name]
        axes.plot(GRID, own.trials.T, color=colour, linewidth=0.4, alpha=0.35)
        axes.fill_between(GRID, own.low, own.high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(GRID, own.mean, color=colour, linewidth=1.6)
        note = f"{title} {short(float(np.mean(list(results.values(name, f'test.{key}').values()))))}"
        reference = compared_with(name)
        if reference in bands:
            axes.plot(GRID, bands[reference].mean, color="black", linewidth=0.8, linestyle="--")
            note += f"\ndashed: {reference}"
        axes.text(0.97, 0.05, note, transform=axes.transAxes, ha="right", va="bottom", fontsize=7)
    return figure, by_name


def reliability(results: StudyResults) -> Figure:
    """Draw the observed against the stated share of class 1, before (grey) and after the temperature.

    With more than two classes, the probability is of the most likely class, and the share that of right calls. The
    strip below shows the number of images per bin.
    """
    figure, by_name, strips = grid_with_strips(results.regimes, 3.3)
    for name, axes in by_name.items():
        trials = [trial.predictions["test"] for trial in results.arms[name]]
        before, after = [p.y_score for p in trials], [p.calibrated for p in trials]
        for scores, colour, label in ((before, "#b0b0b0", "before"), (after, COLOURS[name], "after")):
            stated, observed, low, high, count = binned(*_as_events([p.y_true for p in trials], scores))
            axes.plot(stated, observed, color=colour, linewidth=1, marker="o", markersize=3, label=label)
            if label == "after":
                axes.vlines(stated, low, high, color=colour, linewidth=0.9)
            strips[name].stairs(count, np.linspace(0, 1, BINS + 1), color=colour, linewidth=1.1)
        axes.plot([0, 1], [0, 1], color=CHANCE, linewidth=0.7, linestyle=":")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(frameon=False, fontsize=7, loc="upper left", title="temperature", title_fontsize=7)
        strips[name].set_ylim(0, None)
    outer_labels(by_name, "", "observed share")
    outer_labels(strips, "stated probability", "images")
    return figure


def _as_events(y_true: Sequence[Array], scores: Sequence[Array]) -> tuple[Sequence[Array], Sequence[Array]]:
    """Return what may be true of each image, and its probability (n,): class 1, or that the most likely is right."""
    if scores[0].ndim == 1:
        return y_true, scores
    hits = [(s.argmax(axis=1) == y).astype(np.int64) for s, y in zip(scores, y_true, strict=True)]
    return hits, [s.max(axis=1) for s in scores]


def binned(y_true: Sequence[Array], scores: Sequence[Array]) -> tuple[Array, Array, Array, Array, Array]:
    """Return reliability over equal bins of the stated probability, trials pooled.

    Args:
        y_true: labels (n,) of each trial.
        scores: probabilities (n,) of each trial.

    Returns:
        Mean stated probability, observed share and its 95 % interval (low, high), for bins that hold at least one image
        per trial on average. Then the mean number of images per trial, for all bins. The interval is Wilson's for the
        images of one trial, since all trials see the same images, and takes images as independent.
    """
    y, p = np.concatenate(y_true), np.concatenate(scores)
    bin_of = np.minimum((p * BINS).astype(int), BINS - 1)
    count = np.bincount(bin_of, minlength=BINS) / len(y_true)
    points = []
    for b in np.flatnonzero(count >= 1):
        inside, n = bin_of == b, round(float(count[b]))
        share = float(y[inside].mean())
        interval = scipy.stats.binomtest(round(share * n), n).proportion_ci(method="wilson")
        points.append((float(p[inside].mean()), share, min(interval.low, share), max(interval.high, share)))
    stated, observed, low, high = np.array(points).reshape(-1, 4).T
    return stated, observed, low, high, count


def balanced_accuracies(y_true: Array, y_score: Array) -> tuple[Array, Array]:
    """Return every threshold that matters, rising, and the balanced accuracy of ``y_score >= threshold``: two (m,)."""
    thresholds = np.unique(y_score)
    sensitivity, specificity = threshold_sweep(y_true, y_score, thresholds, np.ones((1, len(y_true))))
    return thresholds, (sensitivity[0] + specificity[0]) / 2


def transfer_loss(trial: TrialPredictions) -> float:
    """Return the balanced accuracy on test that the threshold of validation loses against the best one in hindsight."""
    _, reached = balanced_accuracies(trial.y_true, trial.y_score)
    return float(reached.max() - decision_metrics(trial.y_true, trial.y_score, trial.threshold)["balanced_accuracy"])


def threshold_transfer(results: StudyResults) -> Figure:
    """Draw balanced accuracy on test against the calibrated threshold, a line per trial; a dot: validation's choice."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    figure, by_name = grid(results.regimes, 2.5)
    lowest = 1.0
    for name, axes in by_name.items():
        trials = [trial.predictions["test"] for trial in results.arms[name]]
        lowest = min(lowest, *(_threshold_line(axes, p, COLOURS[name]) for p in trials))
        losses = [transfer_loss(p) for p in trials]
        extremes = f" ({short(min(losses))} to {short(max(losses))})" if len(losses) > 1 else ""
        text = f"lost against the best\nthreshold in hindsight:\n{short(float(np.mean(losses)))}{extremes}"
        paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        axes.text(0.98, 0.03, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=7, bbox=paper)
        axes.set_xscale("logit")
        axes.xaxis.set_major_locator(FixedLocator(TICKS))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{t:g}".removeprefix("0") for t in TICKS]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(TICKS[0], TICKS[-1])
    for axes in by_name.values():
        axes.set_ylim(max(min(lowest - 0.02, 0.7) - 0.15, 0.3), 1.01)
    outer_labels(by_name, "threshold", "balanced accuracy, test")
    return figure


def _threshold_line(axes: Axes, trial: TrialPredictions, colour: str) -> float:
    """Draw a trial's line and dot; return the height of the dot."""

    def x(threshold: Array) -> Array:
        calibrated = with_temperature(threshold, trial.temperature)
        return np.clip(calibrated, TICKS[0], TICKS[-1])  # the axis ends short of 0 and 1

    thresholds, reached = balanced_accuracies(trial.y_true, trial.y_score)
    axes.step(x(thresholds), reached, where="pre", color=colour, linewidth=0.6, alpha=0.45)
    at = np.searchsorted(thresholds, trial.threshold)
    height = float(reached[at]) if at < len(reached) else 0.5
    axes.plot(x(np.array([trial.threshold])), height, "o", color="black", markersize=3, zorder=3)
    return height
