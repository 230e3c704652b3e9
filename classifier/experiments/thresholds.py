"""`classifier thresholds`: decisions at every threshold, and how the rules that choose a threshold carry over to test.

Every threshold here is on the calibrated probabilities, which `classifier predict` states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from balancer.core import progress
from balancer.core.files import JsonObject, write_text
from balancer.core.preview import Preview
from balancer.core.sealed import write_json
from balancer.core.settings import THRESHOLD_RULES
from balancer.metrics.classification import threshold_sweep
from balancer.metrics.resampling import CURVE_RESAMPLES, RESAMPLES, patient_weights, patients_per_class
from balancer.reporting.document import Document, Figure, Section, Table, csv_text, part_notes
from balancer.reporting.links import documentation
from balancer.reporting.numbers import DASH, bounds, mean_sd, short, signed
from balancer.reporting.pages import write_document
from balancer.reporting.plots import save_figure
from classifier.analysis.results import FOLDS, MetricSummary, StudyResults, TrialPredictions, TrialResult
from classifier.analysis.runs import RunFacts, output_folder, read_runs
from classifier.analysis.runs import preview as preview_of
from classifier.analysis.statistics import crossed_estimate, share_interval
from classifier.analysis.verdicts import over_seeds
from classifier.evaluation.thresholds import ThresholdRule, calibrated_threshold, threshold_rule, with_temperature
from classifier.experiments.threshold_figure import GRID, METRICS, draw

Array = np.ndarray
SECONDS_A_SCORE = 0.0025  # of an estimate; on the reference machine
WARNING = (
    "The test curves show what a threshold would have given. Do not take a threshold from them, and do not choose a "
    "rule by its test columns: the choice would be judged on the images that it was made on. Fix the rule first, then "
    "report what the rule gives on test."
)
ROUNDED = (
    "The temperature rounds probabilities near 1 together, and thresholds with them ({rules}): `classifier predict "
    "--threshold` cannot part these images. Train with `--threshold RULE` to decide by such a rule."
)
CAPTION = (
    "Rows are arms. Blue: test; grey: validation; bands are pointwise 95 % intervals of the mean over trials. Each "
    "rule stands at the mean of the thresholds that it chose on validation: hollow, the result there; filled, the "
    "result on test."
)


@dataclass(frozen=True)
class MeanSd:
    """Mean and SD over trial seeds."""

    mean: float
    sd: float | None  # None for one seed

    @classmethod
    def of(cls, by_seed: Array) -> MeanSd:
        """Return mean and SD of one value per trial seed."""
        return cls(float(np.mean(by_seed)), float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None)

    def __str__(self) -> str:
        return mean_sd(self.mean, self.sd)


@dataclass(frozen=True)
class Curve:
    """A metric at each threshold of :data:`GRID`, with its pointwise 95 % interval."""

    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class RuleResult:
    """The thresholds that a rule chose on validation, and the metrics there and on test."""

    rule: str
    threshold: MeanSd
    val: dict[str, MetricSummary]  # by the keys of METRICS
    test: dict[str, MetricSummary]
    gap: dict[str, MeanSd]  # test - val


@dataclass(frozen=True)
class Hindsight:
    """The best balanced accuracy of the sweep on test, and its threshold; both known in hindsight only."""

    threshold: MeanSd
    balanced_accuracy: MeanSd


@dataclass(frozen=True)
class ArmThresholds:
    """The results of one arm."""

    arm: str
    trial_seeds: int
    synthetic_sets: int  # 0 if the arm uses no synthetic images
    sweep: dict[str, dict[str, Curve]]  # by fold, then by the keys of METRICS
    rules: list[RuleResult]
    hindsight: Hindsight

    @property
    def trials(self) -> int:
        """Return the number of trials."""
        return self.trial_seeds * max(self.synthetic_sets, 1)


@dataclass(frozen=True)
class ThresholdResults:
    """Everything that is reported."""

    runs: RunFacts
    thresholds: list[float]
    arms: list[ArmThresholds]

    def content(self) -> JsonObject:
        """Return the content of thresholds.json."""
        return {**self.runs.to_json(), "thresholds": self.thresholds, "arms": [asdict(arm) for arm in self.arms]}

    def to_json(self) -> JsonObject:
        """Return the folder and the content of thresholds.json."""
        return {"out": str(self.runs.folder), **self.content()}

    def describe(self) -> str:
        """Return the headlines and the table of the rules, then the notes."""
        lines = [*headlines(self), "", rule_table(self).to_text(), "", WARNING, self.runs.counts, *self.runs.notes]
        return "\n".join(lines)


@dataclass(frozen=True)
class Decisions:
    """Metrics of one fold's decisions in every trial, by the keys of :data:`METRICS`."""

    values: dict[str, Array]  # (1 + resamples of patients, trial seeds, synthetic sets, thresholds)
    patients: int  # in the class that has fewer

    def summary(self, metric: str, k: int) -> MetricSummary:
        """Return mean, SD over trial seeds and 95 % interval at the k-th threshold."""
        e = crossed_estimate(self.values[metric][..., k], self.patients)
        return MetricSummary(e.value, e.seed_sd, *share_interval(e, self.patients))

    def curve(self, metric: str) -> Curve:
        """Return mean and interval at every threshold."""
        points = [self.summary(metric, k) for k in range(self.values[metric].shape[-1])]
        return Curve([p.mean for p in points], [p.low or 0.0 for p in points], [p.high or 0.0 for p in points])

    def by_seed(self, metric: str) -> Array:
        """Return the observed values (trial seeds, thresholds), averaged over synthetic sets."""
        means: Array = self.values[metric][0].mean(axis=1)
        return means


def preview(runs: Sequence[Path], regimes: Sequence[str], rules: Sequence[str], out: Path | None) -> Preview:
    """Return what :func:`thresholds` would read and write, and how long it would take."""
    for name in rules:
        threshold_rule(name)  # refuses an unknown one
    settings = {"rules": ", ".join(rules or THRESHOLD_RULES)}
    return preview_of(runs, regimes, output_folder(out, runs, "thresholds"), SECONDS_A_SCORE, settings)


def thresholds(
    runs: Sequence[Path], regimes: Sequence[str], rules: Sequence[str], out: Path | None
) -> ThresholdResults:
    """Read the runs; write thresholds.{md,csv,json,png,svg} and sweep.csv.

    Args:
        runs: folders of ablations or trainings.
        regimes: the regimes to read; all if empty.
        rules: as :func:`~classifier.evaluation.thresholds.threshold_rule` takes them; :data:`THRESHOLD_RULES` if empty.
        out: where to write; by default the folder ``thresholds`` in the only run.

    Raises:
        UsageError: if a rule or regime is unknown, or there are several runs and no ``out``.
        BalancerError: if the runs hold no trial, or do not fit together.
    """
    chosen = {name: threshold_rule(name) for name in rules or THRESHOLD_RULES}
    folder = output_folder(out, runs, "thresholds")
    study = read_runs(runs, regimes)
    arms = [_arm(arm, study, chosen) for arm in progress.each(list(study.arms), "thresholds", "regime")]
    rounded = [name for name in chosen for arm in study.arms if _is_rounded(study.grid(arm), chosen[name])]
    notes = [ROUNDED.format(rules=", ".join(dict.fromkeys(rounded)))] if rounded else []
    results = ThresholdResults(RunFacts.of(study, folder, notes), GRID.tolist(), arms)
    write_thresholds(results)
    return results


def _arm(arm: str, study: StudyResults, rules: Mapping[str, ThresholdRule]) -> ArmThresholds:
    grid = study.grid(arm)
    at = [[GRID] * len(of_seed) for of_seed in grid]
    swept = {fold: decide(grid, fold, study, lambda p: p.calibrated, at, CURVE_RESAMPLES) for fold in FOLDS}
    on_test = swept["test"].values["balanced_accuracy"][0]  # (trial seeds, synthetic sets, thresholds)
    best = GRID[on_test.argmax(axis=2)]
    return ArmThresholds(
        arm=arm,
        trial_seeds=len(grid),
        synthetic_sets=len(study.sets(arm)),
        sweep={fold: {metric: swept[fold].curve(metric) for metric in METRICS} for fold in FOLDS},
        rules=_rules(grid, study, rules),
        hindsight=Hindsight(MeanSd.of(best.mean(axis=1)), MeanSd.of(on_test.max(axis=2).mean(axis=1))),
    )


def _rules(grid: list[list[TrialResult]], study: StudyResults, rules: Mapping[str, ThresholdRule]) -> list[RuleResult]:
    """Return what each rule chose on validation, trial by trial, and the decisions there and on test."""
    val = [[trial.predictions["val"] for trial in of_seed] for of_seed in grid]
    chosen = [[np.array([rule(p.y_true, p.y_score) for rule in rules.values()]) for p in of_seed] for of_seed in val]
    made = {fold: decide(grid, fold, study, lambda p: p.y_score, chosen, RESAMPLES) for fold in FOLDS}
    calibrated = np.array(
        [
            np.mean([with_temperature(t, p.temperature) for t, p in zip(at, of_seed, strict=True)], axis=0)
            for at, of_seed in zip(chosen, val, strict=True)
        ]
    )
    gaps = {metric: made["test"].by_seed(metric) - made["val"].by_seed(metric) for metric in METRICS}
    return [
        RuleResult(
            rule=name,
            threshold=MeanSd.of(calibrated[:, k]),
            val={metric: made["val"].summary(metric, k) for metric in METRICS},
            test={metric: made["test"].summary(metric, k) for metric in METRICS},
            gap={metric: MeanSd.of(gaps[metric][:, k]) for metric in METRICS},
        )
        for k, name in enumerate(rules)
    ]


def _is_rounded(grid: list[list[TrialResult]], rule: ThresholdRule) -> bool:
    """Return whether the calibrated threshold of some trial calls images positive that the rule's own does not."""
    for trial in (trial for of_seed in grid for trial in of_seed):
        chosen = rule(trial.predictions["val"].y_true, trial.predictions["val"].y_score)
        for p in (trial.predictions[fold] for fold in FOLDS):
            if ((p.y_score >= chosen) != (p.calibrated >= calibrated_threshold(chosen, p.temperature))).any():
                return True
    return False


def decide(
    grid: Sequence[Sequence[TrialResult]],
    fold: str,
    study: StudyResults,
    score: Callable[[TrialPredictions], Array],
    at: Sequence[Sequence[Array]],
    resamples: int,
) -> Decisions:
    """Decide every trial's images at its own thresholds, on the sample and on resamples of its patients.

    Args:
        grid: trial seeds x synthetic sets.
        fold: the images.
        study: the labels (n,) and patients of the images.
        score: which probabilities (n,) of a trial are compared with its thresholds.
        at: for each trial the thresholds (T,).
        resamples: number of resamples of patients.
    """
    y_true, groups = study.y_true(fold), study.groups(fold)
    weights = patient_weights(y_true, groups, resamples, seed=0)
    pairs = [
        [threshold_sweep(y_true, score(trial.predictions[fold]), t, weights) for trial, t in zip(*pair, strict=True)]
        for pair in zip(grid, at, strict=True)
    ]
    sensitivity, specificity = (np.stack([np.stack([p[i] for p in c], 1) for c in pairs], 1) for i in (0, 1))
    values = dict(zip(METRICS, ((sensitivity + specificity) / 2, sensitivity, specificity), strict=True))
    return Decisions(values, min(patients_per_class(y_true, groups)))


def rule_table(results: ThresholdResults) -> Table:
    """Return a row per arm and rule; the last row of an arm is what only hindsight knows."""
    header = ["arm", "rule", "threshold", "val bal.acc", "test bal.acc [95 %]", "test - val"]
    header += ["val sens", "test sens", "val spec", "test spec"]
    rows = []
    for arm in results.arms:
        for r in arm.rules:
            pairs = [[mean_sd(f.mean, f.sd) for f in (r.val[m], r.test[m])] for m in METRICS]
            on_test = r.test["balanced_accuracy"]
            pairs[0][1] += f" {bounds(on_test.low or 0.0, on_test.high or 0.0)}"
            gap = signed(r.gap["balanced_accuracy"].mean)
            # One trial: the threshold of one model, in full, for `classifier predict --threshold`.
            threshold = str(r.threshold.mean) if arm.trials == 1 else str(r.threshold)
            rows.append([arm.arm, r.rule, threshold, *pairs[0], gap, *pairs[1], *pairs[2]])
        best = arm.hindsight
        known = [str(best.threshold), DASH, str(best.balanced_accuracy)]
        rows.append([arm.arm, "best of the sweep on test, no choice", *known, *[DASH] * 5])
    return Table(header, rows, numeric=2)


MOST_SENTENCES = 5  # at the head of the page
AIMING = ("balanced_accuracy", "youden")  # the rules that aim at balanced accuracy


def verdict(results: ThresholdResults) -> str:
    """Return how much balanced accuracy a threshold from the test curve would claim too much, at most."""
    claims = [
        (arm.hindsight.balanced_accuracy.mean - r.test["balanced_accuracy"].mean, arm.arm)
        for arm in results.arms
        for r in arm.rules
        if r.rule in AIMING
    ]
    if not claims:
        return "No rule here aims at balanced accuracy, so nothing is said of thresholds from the test curve."
    most, arm = max(claims)
    if most < 0.0005:  # no digit of what is shown
        return "A threshold from the test curve would claim no more balanced accuracy than one from validation gives."
    return (
        f"A threshold from the test curve would claim up to {short(most)} balanced accuracy too much ({arm}), compared "
        "with a threshold from validation."
    )


def headlines(results: ThresholdResults) -> list[str]:
    """Return a sentence per arm: validation's promise, test's result, and the claim of a threshold taken from test."""
    sentences = []
    for arm in results.arms:
        best = arm.hindsight.balanced_accuracy.mean
        for r in (r for r in arm.rules if r.rule in AIMING):
            promised, reached = r.val["balanced_accuracy"].mean, r.test["balanced_accuracy"].mean
            sentences.append(
                f"{arm.arm}: the threshold with the best balanced accuracy on validation promises {short(promised)} "
                f"and gives {short(reached)} on test; a threshold from the test curve would claim {short(best)}, "
                f"{short(best - reached)} too much."
            )
    return sentences


def write_thresholds(results: ThresholdResults) -> None:
    """Write the page, the tables and the figure into the folder of the results."""
    folder, runs = results.runs.folder, results.runs
    folder.mkdir(parents=True, exist_ok=True)
    seeds = over_seeds(min(arm.trial_seeds for arm in results.arms))
    sentences = headlines(results)
    is_short = len(sentences) <= MOST_SENTENCES
    picture = Figure("thresholds", CAPTION, "Decisions against the threshold")
    warnings, caveats = part_notes(runs.notes)
    page = Document(
        "How thresholds carry over from validation to test",
        warnings,
        verdict(results),
        sentences if is_short else [],
        [
            *([] if is_short else [Section("What each arm gives", bullets=sentences)]),
            Section("Rules", [f"{runs.counts}. {seeds[0].upper()}{seeds[1:]}."], rule_table(results)),
            Section("Every threshold", figure=picture),
        ],
        links=documentation("thresholds"),
        caveats=[WARNING, *caveats],
    )
    write_text(folder / "thresholds.csv", _rules_csv(results))
    write_text(folder / "sweep.csv", _sweep_csv(results))
    write_json(folder / "thresholds.json", results.content())
    write_document(page, folder, "thresholds", {"thresholds": save_figure(draw(results), folder, "thresholds")})


def _rules_csv(results: ThresholdResults) -> str:
    rows = [
        [arm.arm, r.rule, fold, metric, str(r.threshold.mean), r.threshold.sd, f.mean, f.sd, f.low, f.high]
        for arm in results.arms
        for r in arm.rules
        for fold, summaries in (("val", r.val), ("test", r.test))
        for metric, f in summaries.items()
    ]
    header = ["arm", "rule", "fold", "metric", "threshold_mean", "threshold_sd", "mean", "sd", "low", "high"]
    return csv_text(header, rows)


def _sweep_csv(results: ThresholdResults) -> str:
    rows: list[list[str | float | int | None]] = [
        [arm.arm, fold, metric, threshold, c.mean[k], c.low[k], c.high[k]]
        for arm in results.arms
        for fold, curves in arm.sweep.items()
        for metric, c in curves.items()
        for k, threshold in enumerate(results.thresholds)
    ]
    return csv_text(["arm", "fold", "metric", "threshold", "mean", "low", "high"], rows)
