"""`classifier thresholds`: what decisions cost at every threshold, and how the rules that choose one carry over to test.

Every threshold here is on the probabilities with the temperature, as `classifier predict` states them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from balancer.core.files import write_json, write_text
from balancer.core.settings import THRESHOLD_RULES
from balancer.metrics.classification import threshold_sweep
from balancer.metrics.resampling import CURVE_RESAMPLES, RESAMPLES, patient_weights, patients_per_class
from balancer.reporting.document import Document, Section, Table, csv_text, to_markdown
from balancer.reporting.document import Figure as Picture
from balancer.reporting.numbers import bounds, mean_sd, short, signed
from balancer.reporting.plots import BLUE, GREY, PALETTE, save_figure, subplots
from classifier.analysis.results import (
    FOLDS,
    StudyResults,
    TrialPredictions,
    TrialResult,
    output_folder,
    read_runs,
    summarise_seeds,
)
from classifier.analysis.statistics import crossed_estimate, share_interval
from classifier.evaluation.thresholds import ThresholdRule, threshold_rule, with_temperature
from classifier.report.axes import annotate, fix_ticks

Array = np.ndarray
GRID = np.arange(5, 96) / 100
METRICS = {"balanced_accuracy": "balanced accuracy", "sensitivity": "sensitivity", "specificity": "specificity"}
MARKERS = "os^vDP*X"
WARNING = (
    "The test curves show what a threshold would have given. No threshold may be taken from them, and no rule may be picked by its "
    "test columns: it would be chosen on the images that it is then judged by. Fix the rule first; what it gives on test is the "
    "figure to report."
)
CAPTION = (
    "Rows are arms. Blue: test; grey: validation; bands are pointwise 95 % intervals of the mean over trials. Each rule "
    "stands at the mean of the thresholds that it chose on validation: hollow, what it reached there; filled, what it gives on test."
)


@dataclass(frozen=True)
class Decisions:
    """Figures of one fold's decisions in every trial, by the keys of :data:`METRICS`."""

    values: dict[str, Array]  # (1 + resamples of patients, trial seeds, synthetic sets, thresholds)
    patients: int  # in the class that has fewer

    def figure(self, metric: str, k: int) -> dict[str, float | None]:
        """Mean, SD over trial seeds and 95 % interval at the k-th threshold."""
        found = crossed_estimate(self.values[metric][..., k], self.patients)
        low, high = share_interval(found, self.patients)
        return {"mean": found.value, "sd": found.seed_sd, "low": low, "high": high}

    def observed(self, metric: str) -> Array:
        """(trial seeds, thresholds), averaged over synthetic sets."""
        means: Array = self.values[metric][0].mean(axis=1)
        return means


@dataclass(frozen=True)
class ThresholdStudy:
    """What every threshold and rule gives, and the folder that holds it."""

    folder: Path
    results: StudyResults
    result: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the folder and the figures."""
        return {"out": str(self.folder), **self.result}

    def describe(self) -> str:
        """Return the table of the rules and its headlines."""
        head = [*self.results.notes, self.results.counts(), "", rule_table(self.result).to_text(), ""]
        return "\n".join([*head, *headlines(self.result), WARNING, str(self.folder / "thresholds.md")])


def thresholds(runs: Sequence[Path], regimes: Sequence[str], rules: Sequence[str], out: Path | None) -> ThresholdStudy:
    """Read the runs; write thresholds.{md,csv,json,png,svg} and sweep.csv into ``out``.

    Args:
        rules: as :func:`classifier.evaluation.thresholds.threshold_rule` takes them; none: :data:`THRESHOLD_RULES`.
        out: a folder, made where it is missing; None: ``thresholds`` in the only run.

    Raises:
        UsageError: an unknown rule or regime, or several runs and no ``out``.
        BalancerError: the runs hold no trial, or do not fit together.
    """
    chosen = {name: threshold_rule(name) for name in rules or THRESHOLD_RULES}
    folder = output_folder(out, runs, "thresholds")
    results = read_runs(runs, regimes)
    result = study(results, chosen)
    write_outputs(result, results, folder)
    return ThresholdStudy(folder, results, result)


def study(results: StudyResults, rules: Mapping[str, ThresholdRule]) -> dict[str, Any]:
    """Everything that is reported, ready for JSON: per arm the sweep over :data:`GRID`, the rules, and the best in hindsight."""
    return {
        "data": results.source,
        "notes": results.notes,
        "n_val": len(results.groups("val")),
        "n_test": len(results.groups("test")),
        "thresholds": GRID.tolist(),
        "arms": [_arm(arm, results, rules) for arm in results.arms],
    }


def _arm(arm: str, results: StudyResults, rules: Mapping[str, ThresholdRule]) -> dict[str, Any]:
    cells = results.grid(arm)
    swept = {
        fold: decisions(_shown(cells, fold), [[GRID] * len(c) for c in cells], results.groups(fold), CURVE_RESAMPLES)
        for fold in FOLDS
    }
    best = swept["test"].values["balanced_accuracy"][0].argmax(axis=2)  # of each trial
    return {
        "arm": arm,
        "trial_seeds": len(cells),
        "synthetic_sets": len(results.sets(arm)),
        "sweep": {fold: {m: _curve(swept[fold], m) for m in METRICS} for fold in FOLDS},
        "rules": _rules(cells, results, rules),
        "hindsight": {
            "threshold": _mean_sd(GRID[best].mean(axis=1)),
            "balanced_accuracy": _mean_sd(swept["test"].values["balanced_accuracy"][0].max(axis=2).mean(axis=1)),
        },
    }


def _rules(
    cells: list[list[TrialResult]], results: StudyResults, rules: Mapping[str, ThresholdRule]
) -> list[dict[str, Any]]:
    """What each rule chose on validation, trial by trial, and what that gives there and on test."""
    chosen = [[_chosen(trial, rules) for trial in of_seed] for of_seed in cells]
    found = {
        fold: decisions(
            [[t.predictions[fold] for t in of_seed] for of_seed in cells], chosen, results.groups(fold), RESAMPLES
        )
        for fold in FOLDS
    }
    stated = np.array(
        [
            np.mean([with_temperature(at, t.val.temperature) for at, t in zip(of_seed, c, strict=True)], axis=0)
            for of_seed, c in zip(chosen, cells, strict=True)
        ]
    )
    gaps = {metric: found["test"].observed(metric) - found["val"].observed(metric) for metric in METRICS}
    return [
        {
            "rule": name,
            "threshold": _mean_sd(stated[:, k]),
            **{fold: {metric: found[fold].figure(metric, k) for metric in METRICS} for fold in FOLDS},
            "gap": {metric: _mean_sd(gaps[metric][:, k]) for metric in METRICS},
        }
        for k, name in enumerate(rules)
    ]


def _chosen(trial: TrialResult, rules: Mapping[str, ThresholdRule]) -> Array:
    """Return the threshold that each rule chooses on validation, on uncalibrated probabilities."""
    val = trial.predictions["val"]
    return np.array([rule(val.y_true, val.y_score) for rule in rules.values()])


def _shown(cells: list[list[TrialResult]], fold: str) -> list[list[TrialPredictions]]:
    """Return the fold's predictions with calibrated scores."""
    predictions = [[trial.predictions[fold] for trial in of_seed] for of_seed in cells]
    return [[replace(p, y_score=p.calibrated) for p in of_seed] for of_seed in predictions]


def decisions(
    trials: Sequence[Sequence[TrialPredictions]],
    at: Sequence[Sequence[Array]],
    groups: Sequence[str],
    resamples: int,
) -> Decisions:
    """Decide every trial's images at its own thresholds, on the sample and on resamples of its patients.

    Args:
        trials: trial seeds x synthetic sets, on the same images.
        at: for each of them the thresholds (T,) for ``y_score``.
        groups: patient of each image.
    """
    y_true = trials[0][0].y_true
    weights = patient_weights(y_true, groups, resamples, seed=0)
    pairs = [
        [threshold_sweep(y_true, p.y_score, t, weights) for p, t in zip(of_seed, thresholds, strict=True)]
        for of_seed, thresholds in zip(trials, at, strict=True)
    ]
    sensitivity, specificity = (np.stack([np.stack([p[i] for p in c], 1) for c in pairs], 1) for i in (0, 1))
    values = dict(zip(METRICS, ((sensitivity + specificity) / 2, sensitivity, specificity), strict=True))
    return Decisions(values, min(patients_per_class(y_true, groups)))


def _curve(found: Decisions, metric: str) -> dict[str, list[float | None]]:
    points = [found.figure(metric, k) for k in range(len(GRID))]
    return {key: [p[key] for p in points] for key in ("mean", "low", "high")}


def _mean_sd(of_seeds: Array) -> dict[str, float | None]:
    summary = summarise_seeds(of_seeds.tolist())
    return {"mean": summary.mean, "sd": summary.sd}


def rule_table(result: dict[str, Any]) -> Table:
    """Rules down, figures across, arm by arm; the last line of an arm is what only hindsight knows."""
    header = ["arm", "rule", "threshold", "val bal.acc", "test bal.acc [95 %]", "test - val"]
    header += ["val sens", "test sens", "val spec", "test spec"]
    rows = []
    for arm in result["arms"]:
        for r in arm["rules"]:
            of = [r[fold][m] for m in METRICS for fold in FOLDS]
            cells = [mean_sd(f["mean"], f["sd"]) for f in of]
            cells[1] += f" {bounds(of[1]['low'], of[1]['high'])}"
            gap = signed(r["gap"]["balanced_accuracy"]["mean"])
            threshold = mean_sd(r["threshold"]["mean"], r["threshold"]["sd"])
            rows.append([arm["arm"], r["rule"], threshold, *cells[:2], gap, *cells[2:]])
        best, reached = (mean_sd(f["mean"], f["sd"]) for f in arm["hindsight"].values())
        known = [best, "–", reached]
        rows.append([arm["arm"], "best of the sweep on test, no choice", *known, *["–"] * 5])
    return Table(header, rows, numeric=2)


def headlines(result: dict[str, Any]) -> list[str]:
    """A sentence per arm: what validation promised, what test gave, and what choosing on test would have claimed."""
    found = []
    for arm in result["arms"]:
        best = arm["hindsight"]["balanced_accuracy"]["mean"]
        for r in (r for r in arm["rules"] if r["rule"] in ("balanced_accuracy", "youden")):
            promised, given = (r[fold]["balanced_accuracy"]["mean"] for fold in FOLDS)
            found.append(
                f"{arm['arm']}: the threshold with the best balanced accuracy on validation promises {short(promised)} and gives "
                f"{short(given)} on test; one taken from the test curve would claim {short(best)}, {short(best - given)} too much."
            )
    return found


def write_outputs(result: dict[str, Any], results: StudyResults, folder: Path) -> None:
    """Write the study's tables and its figure into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = Picture("thresholds", CAPTION, "Decisions against the threshold")
    document = Document(
        "How thresholds carry over from validation to test",
        results.notes,
        WARNING,
        headlines(result),
        [
            Section("Rules", [f"{results.counts()}. Mean ± SD over trial seeds."], rule_table(result)),
            Section("Every threshold", figure=picture),
        ],
    )
    write_text(folder / "thresholds.md", to_markdown(document))
    write_text(folder / "thresholds.csv", _rules_csv(result))
    write_text(folder / "sweep.csv", _sweep_csv(result))
    write_json(folder / "thresholds.json", result)
    save_figure(draw(result, results.counts()), folder, "thresholds")


def _rules_csv(result: dict[str, Any]) -> str:
    header = ["arm", "rule", "fold", "metric", "threshold_mean", "threshold_sd", "mean", "sd", "low", "high"]
    rows = [
        [arm["arm"], r["rule"], fold, m, *r["threshold"].values(), *r[fold][m].values()]
        for arm in result["arms"]
        for r in arm["rules"]
        for fold in FOLDS
        for m in METRICS
    ]
    return csv_text(header, rows)


def _sweep_csv(result: dict[str, Any]) -> str:
    rows = [
        [arm["arm"], fold, m, threshold, *(arm["sweep"][fold][m][key][k] for key in ("mean", "low", "high"))]
        for arm in result["arms"]
        for fold in FOLDS
        for m in METRICS
        for k, threshold in enumerate(result["thresholds"])
    ]
    return csv_text(["arm", "fold", "metric", "threshold", "mean", "low", "high"], rows)


def draw(result: dict[str, Any], note: str) -> Figure:
    """The sweep of every arm, a row each, with the rules where they fall."""
    arms = result["arms"]
    figure, grid = subplots(len(arms), len(METRICS), 10.4, 2.3 * len(arms) + 1.1)
    lowest = {m: min(min(arm["sweep"][fold][m]["low"]) for arm in arms for fold in FOLDS) for m in METRICS}
    for arm, line in zip(arms, grid, strict=True):
        for (metric, title), axes in zip(METRICS.items(), line, strict=True):
            for fold, colour in (("val", GREY), ("test", BLUE)):
                curve = arm["sweep"][fold][metric]
                axes.fill_between(GRID, curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0)
                axes.plot(GRID, curve["mean"], color=colour, linewidth=1.4)
            for k, r in enumerate(arm["rules"]):
                for fold, face in (("val", "white"), ("test", None)):
                    _mark(axes, k, r["threshold"]["mean"], r[fold][metric]["mean"], face)
            axes.set(xlim=(0, 1), ylim=(min(lowest[metric], 0.9) - 0.03, 1.02))
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.2)
            fix_ticks(axes.yaxis, 5)
            axes.set_title(f"{arm['arm']}: {title}" if metric == "balanced_accuracy" else title, fontsize=8.5)
    for axes in grid[-1]:
        axes.set_xlabel("threshold", fontsize=8)
    figure.legend(handles=_legend(arms[0]["rules"]), loc="outside upper center", ncols=5, fontsize=7.5, frameon=False)
    annotate(figure, note)
    return figure


def _mark(axes: Any, k: int, x: float, y: float, face: str | None) -> None:
    colour = PALETTE[(k + 2) % len(PALETTE)]
    marker = MARKERS[k % len(MARKERS)]
    axes.plot(x, y, marker, color=colour, markerfacecolor=face or colour, markersize=4.5, clip_on=False, zorder=3)


def _legend(rules: list[dict[str, Any]]) -> list[Line2D]:
    lines = [Line2D([], [], color=c, linewidth=1.6, label=n) for n, c in (("validation", GREY), ("test", BLUE))]
    marks = [
        Line2D(
            [],
            [],
            marker=MARKERS[k % len(MARKERS)],
            color=PALETTE[(k + 2) % len(PALETTE)],
            linestyle="",
            label=r["rule"],
        )
        for k, r in enumerate(rules)
    ]
    return lines + marks
