"""Figures made of whole curves: ROC, precision and recall, reliability, and what a threshold costs on test.

One panel per regime, with its reference beside it, so that fourteen regimes are as readable as four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from scipy.stats import binomtest

from balancer.metrics.classification import precision_at, roc_at
from balancer.metrics.resampling import CURVE_RESAMPLES, patient_weights, patients_per_class
from balancer.reporting.numbers import short
from classifier.analysis.results import Predictions, regimes_in, values
from classifier.analysis.statistics import crossed_estimate
from classifier.evaluation.thresholds import with_temperature
from classifier.report import axes as panels
from classifier.report.axes import COLOURS
from classifier.training.regimes import REGIMES

Array = np.ndarray
Row = dict[str, Any]
Curve = Callable[[Array, Array, Array, Array], Array]  # of the grid, y_true, y_score and weights
GRID = np.linspace(0.005, 0.995, 100)  # of 1 - specificity, or of recall; the corners are the same for every classifier
BINS = 10
TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True)
class Band:
    """Curves on :data:`GRID`: their mean and its pointwise 95 % interval (len(GRID),), and each trial's (trials, len(GRID))."""

    mean: Array
    low: Array
    high: Array
    trials: Array


def band(trials: Sequence[Sequence[Predictions]], groups: Sequence[str], curve: Curve) -> Band:
    """Mean curve over the trials with its interval.

    The interval is that of a mean over crossed trials at every point (docs/statistics.md), cut off at 0 and 1: it covers the
    sampling of patients and, with several trial seeds, of these, and of GAN seeds where there are three or more. It is no band
    for the curve as a whole, which would be wider.

    Args:
        trials: K trial seeds x G synthetic sets, on the same test images.
        groups: patient of each test image.
    """
    y_true = trials[0][0].y_true
    weights = patient_weights(y_true, groups, CURVE_RESAMPLES, seed=0)
    curves = np.stack(
        [np.stack([curve(GRID, y_true, p.y_score, weights) for p in of_seed], 1) for of_seed in trials], 1
    )
    fewest = min(patients_per_class(y_true, groups))
    points = [crossed_estimate(curves[..., i], fewest) for i in range(len(GRID))]
    low, high = np.clip([(e.low, e.high) for e in points], 0, 1).T
    return Band(curves[0].mean(axis=(0, 1)), low, high, curves[0].reshape(-1, len(GRID)))


def cells(rows: list[Row], regime: str, predictions: dict[str, Predictions]) -> list[list[Predictions]]:
    """The trials of a regime, trial seed by synthetic set; a trial seed that lacks a set is left out."""
    by_seed: dict[int, list[Predictions]] = {}
    for row in sorted((r for r in rows if r["regime"] == regime), key=lambda r: str(r.get("synthetic_set"))):
        by_seed.setdefault(row["trial_seed"], []).append(predictions[row["folder"]])
    whole = max(map(len, by_seed.values()))
    return [by_seed[seed] for seed in sorted(by_seed) if len(by_seed[seed]) == whole]


def roc(rows: list[Row], predictions: dict[str, Predictions], groups: Sequence[str]) -> Figure:
    """Test ROC of each regime: mean curve, band, a thin line per trial, and the reference's mean dashed."""
    figure, shown = _with_bands(rows, predictions, groups, roc_at, "auroc", "AUROC")
    for panel in shown.values():
        panel.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.7, linestyle=":")
        panel.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    panels.outer_labels(shown, "1 - specificity", "sensitivity")
    return figure


def precision_recall(rows: list[Row], predictions: dict[str, Predictions], groups: Sequence[str]) -> Figure:
    """Precision against recall on test, drawn as :func:`roc`; dotted: what a blind classifier has."""
    figure, shown = _with_bands(rows, predictions, groups, precision_at, "auprc", "AUPRC")
    share = float(next(iter(predictions.values())).y_true.mean())
    for panel in shown.values():
        panel.axhline(share, color="#bbbbbb", linewidth=0.7, linestyle=":")
        panel.set(xlim=(-0.01, 1.01), ylim=(min(0.9 * share, 0.5), 1.01))
    panels.outer_labels(shown, "recall (sensitivity)", "precision")
    return figure


def _with_bands(
    rows: list[Row], predictions: dict[str, Predictions], groups: Sequence[str], curve: Curve, key: str, title: str
) -> tuple[Figure, dict[str, Axes]]:
    names = regimes_in(rows)
    figure, shown = panels.grid(names, 2.9)
    made = {name: band(cells(rows, name, predictions), groups, curve) for name in names}
    for name, panel in shown.items():
        mine, colour = made[name], COLOURS[name]
        panel.plot(GRID, mine.trials.T, color=colour, linewidth=0.4, alpha=0.35)
        panel.fill_between(GRID, mine.low, mine.high, color=colour, alpha=0.2, linewidth=0)
        panel.plot(GRID, mine.mean, color=colour, linewidth=1.6)
        against = made.get(_compared_with(name) or "")
        if against:
            panel.plot(GRID, against.mean, color="black", linewidth=0.8, linestyle="--")
        average = np.mean(list(values(rows, name, ("test", key)).values()))
        note = f"{title} {short(float(average))}" + (f"\ndashed: {_compared_with(name)}" if against else "")
        panel.text(0.97, 0.05, note, transform=panel.transAxes, ha="right", va="bottom", fontsize=7)
    return figure, shown


def _compared_with(regime: str) -> str | None:
    """The regime whose curve is drawn beside: the reference, or the baseline for one that is its own reference."""
    reference = REGIMES[regime].reference
    if reference == regime:
        return None if regime == "baseline" else "baseline"
    return reference


def reliability(rows: list[Row], predictions: dict[str, Predictions]) -> Figure:
    """Observed against stated share of PNEUMONIA, before (grey) and after the temperature, with counts per bin below."""
    names = regimes_in(rows)
    figure, shown, strips = panels.grid_with_strips(names, 3.3)
    for name, panel in shown.items():
        mine = [r for r in rows if r["regime"] == name]
        truth = [predictions[r["folder"]].y_true for r in mine]
        before = [predictions[r["folder"]].y_score for r in mine]
        after = [with_temperature(s, r["test"]["temperature"]) for s, r in zip(before, mine, strict=True)]
        below = strips[name]
        looks: tuple[tuple[list[Array], str, str], ...] = (
            (before, "#b0b0b0", "before"),
            (after, COLOURS[name], "after"),
        )
        for scores, colour, label in looks:
            stated, observed, low, high, count = binned(truth, scores)
            panel.plot(stated, observed, color=colour, linewidth=1, marker="o", markersize=3, label=label)
            if label == "after":
                panel.vlines(stated, low, high, color=colour, linewidth=0.9)
            below.stairs(count, np.linspace(0, 1, BINS + 1), color=colour, linewidth=1.1)
        panel.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.7, linestyle=":")
        panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        panel.legend(frameon=False, fontsize=7, loc="upper left", title="temperature", title_fontsize=7)
        below.set_ylim(0, None)
    panels.outer_labels(shown, "", "observed share")
    panels.outer_labels(strips, "stated probability", "images")
    return figure


def binned(truth: Sequence[Array], scores: Sequence[Array]) -> tuple[Array, Array, Array, Array, Array]:
    """Reliability over equal bins of the stated probability, trials pooled.

    Returns:
        For bins that hold at least one image per trial on average: mean stated probability, observed share, its 95 % interval
        (low, high); for all bins, the mean number of images per trial. The interval is Wilson's for the images of one trial
        (all trials see the same ones) and takes them as independent.
    """
    y, p = np.concatenate(truth), np.concatenate(scores)
    which = np.minimum((p * BINS).astype(int), BINS - 1)
    count = np.bincount(which, minlength=BINS) / len(truth)
    found = []
    for b in np.flatnonzero(count >= 1):
        inside, n = which == b, round(float(count[b]))
        share = float(y[inside].mean())
        interval = binomtest(round(share * n), n).proportion_ci(method="wilson")
        found.append((float(p[inside].mean()), share, min(interval.low, share), max(interval.high, share)))
    stated, observed, low, high = np.array(found).reshape(-1, 4).T
    return stated, observed, low, high, count


def balanced_accuracies(y_true: Array, y_score: Array) -> tuple[Array, Array]:
    """Every threshold that matters and the balanced accuracy of ``y_score >= threshold``: two (m,), thresholds rising."""
    positive, negative = np.sort(y_score[y_true == 1]), np.sort(y_score[y_true == 0])
    cuts = np.unique(y_score)
    sensitivity = 1 - np.searchsorted(positive, cuts) / len(positive)
    specificity = np.searchsorted(negative, cuts) / len(negative)
    return cuts, (sensitivity + specificity) / 2


def transfer_loss(trial: Predictions) -> float:
    """Balanced accuracy on test at the best threshold there, which only hindsight knows, less that at validation's."""
    _, reached = balanced_accuracies(trial.y_true, trial.y_score)
    called = trial.y_score >= trial.threshold
    chosen = (called[trial.y_true == 1].mean() + (~called)[trial.y_true == 0].mean()) / 2
    return float(reached.max() - chosen)


def threshold_transfer(rows: list[Row], predictions: dict[str, Predictions]) -> Figure:
    """Balanced accuracy on test against the threshold (with the temperature), a line per trial; a dot marks validation's choice."""
    names = regimes_in(rows)
    figure, shown = panels.grid(names, 2.5)
    lowest = 1.0
    for name, panel in shown.items():
        mine = [(predictions[r["folder"]], r["test"]["temperature"]) for r in rows if r["regime"] == name]
        for trial, temperature in mine:
            cuts, reached = balanced_accuracies(trial.y_true, trial.y_score)
            chosen = with_temperature(np.array([trial.threshold]), temperature)
            panel.step(
                _inside(with_temperature(cuts, temperature)),
                reached,
                where="pre",
                color=COLOURS[name],
                linewidth=0.6,
                alpha=0.45,
            )
            at = np.searchsorted(cuts, trial.threshold)
            height = reached[at] if at < len(reached) else 0.5
            panel.plot(_inside(chosen), height, "o", color="black", markersize=3, zorder=3)
            lowest = min(lowest, float(height))
        losses = [transfer_loss(trial) for trial, _ in mine]
        many = f" ({short(min(losses))} to {short(max(losses))})" if len(losses) > 1 else ""
        text = f"lost against the best\nthreshold in hindsight:\n{short(float(np.mean(losses)))}{many}"
        paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        panel.text(0.98, 0.03, text, transform=panel.transAxes, ha="right", va="bottom", fontsize=7, bbox=paper)
        panel.set_xscale("logit")
        panel.xaxis.set_major_locator(FixedLocator(TICKS))
        panel.xaxis.set_major_formatter(FixedFormatter([f"{t:g}".removeprefix("0") for t in TICKS]))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlim(TICKS[0], TICKS[-1])
    for panel in shown.values():
        panel.set_ylim(max(min(lowest - 0.02, 0.7) - 0.15, 0.3), 1.01)
    panels.outer_labels(shown, "threshold", "balanced accuracy, test")
    return figure


def _inside(threshold: Array) -> Array:
    """Kept on the axis, which ends short of 0 and 1."""
    return np.clip(threshold, TICKS[0], TICKS[-1])
