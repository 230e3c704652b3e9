"""`classifier ensemble`: the mean prediction of several trials, beside each trial alone.

How trials are averaged: :mod:`classifier.analysis.averaging`. Temperature and threshold come from validation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import numpy as np

from balancer.core import progress
from balancer.core.errors import BalancerError
from balancer.core.files import JsonObject, write_text
from balancer.core.preview import Preview
from balancer.core.sealed import write_json
from balancer.metrics.resampling import RESAMPLES, patient_weights, patients_per_class
from balancer.reporting.document import Document, Section, Table, csv_text, part_notes
from balancer.reporting.numbers import bounds, mean_sd, plural, short, signed
from balancer.reporting.pages import write_document
from classifier.analysis.analyse import resample
from classifier.analysis.averaging import choose_on_validation, mean_score
from classifier.analysis.results import StudyResults, TrialResult, summarise_seeds
from classifier.analysis.runs import RunFacts, output_folder, read_runs
from classifier.analysis.runs import preview as preview_of
from classifier.analysis.statistics import crossed_estimate, largest_value, metric_interval
from classifier.evaluation.metrics import weighted_metrics
from classifier.evaluation.thresholds import (
    BOUND_NOTE,
    calibrated_threshold,
    is_at_bound,
    threshold_rule,
    with_temperature,
)
from classifier.report.tables import COLUMNS

Array = np.ndarray
ALL = "all together"
SECONDS_A_SCORE = 0.0005  # of an estimate; on the reference machine
AT_VAL = tuple(f"{metric}_val_threshold" for metric in ("balanced_accuracy", "sensitivity", "specificity"))
SHOWN = ("auroc", "auprc", *AT_VAL, "balanced_accuracy", "nll", "brier", "ece")
METHOD = (
    "An ensemble is the mean of its members' probabilities. Its temperature and its threshold (@val) were chosen on "
    "the mean validation scores; test served for the metrics alone. In brackets: 95 % intervals over the test set, for "
    "these trials as they are; another set of seeds would make another ensemble. Single members: mean ± SD over trials."
)


@dataclass(frozen=True)
class Ensemble:
    """Trials to average. The arms weigh the same, whatever their number of trials."""

    name: str
    arms: dict[str, list[TrialResult]]

    @property
    def members(self) -> list[TrialResult]:
        """Return the trials."""
        return [trial for trials in self.arms.values() for trial in trials]

    def mean_score(self, fold: str) -> Array:
        """Return the mean probabilities of class 1 (n,)."""
        mean: Array = np.mean([mean_score(trials, fold) for trials in self.arms.values()], axis=0)
        return mean


@dataclass(frozen=True)
class EnsembleMetric:
    """A test metric of an ensemble and of its members, and the difference; intervals are of 95 %."""

    mean: float
    low: float
    high: float
    members_mean: float
    members_sd: float | None
    gain: float
    gain_low: float
    gain_high: float


@dataclass(frozen=True)
class EnsembleResult:
    """What an ensemble chose on validation, and its test metrics."""

    ensemble: str
    members: list[str]
    arms: list[str]
    temperature: float
    threshold: float  # on the calibrated mean probabilities
    uncalibrated_threshold: float  # the same on the mean probabilities, which decide
    metrics: dict[str, EnsembleMetric]


@dataclass(frozen=True)
class EnsembleResults:
    """Everything that is reported."""

    runs: RunFacts
    rule: str
    ensembles: list[EnsembleResult]

    def content(self) -> JsonObject:
        """Return the content of ensemble.json."""
        return {**self.runs.to_json(), "rule": self.rule, "ensembles": [asdict(e) for e in self.ensembles]}

    def to_json(self) -> JsonObject:
        """Return the folder and the content of ensemble.json."""
        return {"out": str(self.runs.folder), **self.content()}

    def describe(self) -> str:
        """Return the table, then the notes."""
        return "\n".join([metric_table(self).to_text(), "", METHOD, "", self.runs.counts, *self.runs.notes])


def preview(runs: Sequence[Path], regimes: Sequence[str], threshold: str, out: Path | None) -> Preview:
    """Return what :func:`ensemble` would read and write, and how long it would take."""
    threshold_rule(threshold)  # refuses an unknown one
    settings = {"threshold": threshold}
    return preview_of(runs, regimes, output_folder(out, runs, "ensemble"), SECONDS_A_SCORE, settings)


def ensemble(runs: Sequence[Path], regimes: Sequence[str], threshold: str, out: Path | None) -> EnsembleResults:
    """Average the trials of each regime of each run and, if there are several runs, all of them; compare on test.

    Args:
        runs: folders of ablations or trainings.
        regimes: the regimes to read; all if empty.
        threshold: the rule, as :func:`~classifier.evaluation.thresholds.threshold_rule` takes it.
        out: a folder for ensemble.{md,csv,json} and scores.csv; by default ``ensemble`` in the only run.

    Raises:
        UsageError: if a rule or regime is unknown, or there are several runs and no ``out``.
        BalancerError: if the runs hold no trial, differ in data or split, or there is nothing to average.
    """
    threshold_rule(threshold)  # refuses an unknown one before anything is read
    folder = output_folder(out, runs, "ensemble")
    study = read_runs(runs, regimes)
    ensembles = ensembles_of(study, len(runs))
    compared = compare(ensembles, study, threshold)
    notes = [*_notes(ensembles), *_bound_notes(compared)]
    results = EnsembleResults(RunFacts.of(study, folder, notes), threshold, compared)
    write_ensembles(results)
    write_text(folder / "scores.csv", scores_csv(ensembles, results.ensembles))
    return results


def ensembles_of(study: StudyResults, n_runs: int) -> list[Ensemble]:
    """Return an ensemble per arm with several trials and, of several runs, one of all arms.

    Raises:
        BalancerError: if every arm has one trial, and there is one run.
    """
    ensembles = [Ensemble(arm, {arm: trials}) for arm, trials in study.arms.items() if len(trials) > 1]
    if n_runs > 1 and len(study.arms) > 1:
        ensembles.append(Ensemble(ALL, study.arms))
    if not ensembles:
        raise BalancerError(
            "every regime here has one trial, which makes no ensemble; give a run with more seeds, or several runs"
        )
    return ensembles


def _notes(ensembles: Sequence[Ensemble]) -> list[str]:
    sizes = {len(e.members) for e in ensembles if e.name != ALL}
    if len(sizes) < 2:
        return []
    return [
        f"Ensembles here have {min(sizes)} to {max(sizes)} members: a larger one gains more by its size alone, so do "
        "not compare regimes by their ensembles."
    ]


def _bound_notes(results: Sequence[EnsembleResult]) -> list[str]:
    at_bound = [e for e in results if is_at_bound(e.temperature)]
    return [f"{e.ensemble}: the temperature {e.temperature:.2f} lies {BOUND_NOTE}." for e in at_bound]


def compare(ensembles: Sequence[Ensemble], study: StudyResults, rule: str) -> list[EnsembleResult]:
    """Return the test metrics of each ensemble and of its members, with intervals."""
    y_true, groups = study.y_true("test"), study.groups("test")
    weights = patient_weights(y_true, groups, RESAMPLES, seed=0)
    fewest = min(patients_per_class(y_true, groups))
    single = {
        arm: [resample(t.predictions["test"], weights, study.classes) for t in trials]
        for arm, trials in progress.each(list(study.arms.items()), "resampling test patients", "regime")
    }
    results = []
    for e in progress.each(ensembles, "ensembles", "ensemble"):
        test = e.mean_score("test")
        temperature, threshold = choose_on_validation(study.y_true("val"), e.mean_score("val"), rule)
        together = weighted_metrics(y_true, test, with_temperature(test, temperature), threshold, weights)
        members = {metric: [[trial[metric] for trial in single[arm]] for arm in e.arms] for metric in together}
        results.append(
            EnsembleResult(
                ensemble=e.name,
                members=[_member(arm, trial, trials) for arm, trials in e.arms.items() for trial in trials],
                arms=list(e.arms),
                temperature=temperature,
                threshold=calibrated_threshold(threshold, temperature),
                uncalibrated_threshold=threshold,
                metrics={m: _metric(m, together[m], members[m], fewest, _are_copies(e.members)) for m in together},
            )
        )
    return results


def _member(arm: str, trial: TrialResult, of: Sequence[TrialResult]) -> str:
    """Return the name of one of an arm's trials."""
    several = len({t.synthetic_set for t in of}) > 1
    return f"{arm}{f', set {trial.synthetic_set}' if several else ''}, seed {trial.trial_seed}"


def _are_copies(trials: Sequence[TrialResult]) -> bool:
    """Return whether all trials predict the same: then averaging cannot change a metric."""
    first, *others = (trial.predictions["test"].y_score for trial in trials)
    return all(np.array_equal(first, scores) for scores in others)


def _metric(
    name: str, together: Array, members: Sequence[Sequence[Array]], fewest: int, copies: bool
) -> EnsembleMetric:
    """Return a metric of the ensemble, of its members by arm, and the difference; arrays are (1 + resamples,).

    The arms weigh the same in the members' mean too; the SD is over all members. Members that are perfect on this test
    set show no difference in any resample, and need not be so on other patients: their interval is widened by
    ``limit``. The difference of ``copies`` is 0 and stays so.
    """
    estimate = crossed_estimate(together[:, None, None], fewest)
    low, high = metric_interval(name, estimate, fewest)
    mean = np.mean([np.mean(arm, axis=0) for arm in members], axis=0)
    most = largest_value(name) or math.inf
    limit = None if copies or most == math.inf else most
    gain = crossed_estimate((together - mean)[:, None, None], fewest, limit=limit)
    gain_low, gain_high = max(gain.low, -most), min(gain.high, most)
    sd = summarise_seeds([float(trial[0]) for arm in members for trial in arm]).sd
    return EnsembleMetric(estimate.value, low, high, float(mean[0]), sd, gain.value, gain_low, gain_high)


def scores_csv(ensembles: Sequence[Ensemble], results: Sequence[EnsembleResult]) -> str:
    """Return the calibrated test probabilities of each ensemble; the index is that of split.csv, from 0."""
    test = ensembles[0].members[0].predictions["test"]
    scores = [with_temperature(e.mean_score("test"), r.temperature) for e, r in zip(ensembles, results, strict=True)]
    rows = [[int(i), int(y), *map(float, of)] for i, y, *of in zip(test.index, test.y_true, *scores, strict=True)]
    return csv_text(["index", "y_true", *(e.name for e in ensembles)], rows)


def metric_table(results: EnsembleResults) -> Table:
    """Return a row per ensemble and metric."""
    header = ["ensemble", "members", "test metric", "ensemble [95 %]", "single members", "difference [95 %]"]
    rows = []
    for e in results.ensembles:
        for metric in SHOWN:
            m = e.metrics[metric]
            rows.append(
                [
                    e.ensemble,
                    str(len(e.members)),
                    COLUMNS[metric].title,
                    f"{short(m.mean)} {bounds(m.low, m.high)}",
                    mean_sd(m.members_mean, m.members_sd),
                    f"{signed(m.gain)} {bounds(m.gain_low, m.gain_high)}",
                ]
            )
    return Table(header, rows, numeric=3)


MOST_SENTENCES = 5  # at the head of the page: the table below has the same figures


def verdict(ensembles: Sequence[EnsembleResult]) -> str:
    """Return in how many ensembles averaging changes the test AUROC, as far as the intervals tell."""
    gains = [e.metrics["auroc"] for e in ensembles]
    higher, lower = sum(m.gain_low > 0 for m in gains), sum(m.gain_high < 0 for m in gains)
    of = f"of {plural(len(gains), 'ensemble')}"
    if not higher and not lower:
        return f"Averaging is not shown to change the test AUROC in any {of}."
    parts = [f"{does} the test AUROC in {n} {of}" for does, n in (("raises", higher), ("lowers", lower)) if n]
    return f"Averaging {' and '.join(parts)}, by intervals that are not adjusted for their number."


def headline(result: EnsembleResult) -> str:
    """Return the test AUROC of an ensemble beside that of its members."""
    m = result.metrics["auroc"]
    gain = f"{signed(m.gain)} {bounds(m.gain_low, m.gain_high)}"
    members = f"single members {mean_sd(m.members_mean, m.members_sd)}"
    return f"{result.ensemble}: AUROC {short(m.mean)} {bounds(m.low, m.high)}, {members}, gain {gain}."


def write_ensembles(results: EnsembleResults) -> None:
    """Write ensemble.md, .csv and .json into the folder of the results."""
    folder, runs = results.runs.folder, results.runs
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [
        [e.ensemble, str(len(e.members)), ", ".join(e.arms), f"{e.temperature:.2f}", short(e.threshold)]
        for e in results.ensembles
    ]
    head = ["ensemble", "members", "of", "temperature", "threshold"]
    sentences = [headline(e) for e in results.ensembles]
    rule = f"Rule of the threshold: {results.rule}, on validation."
    warnings, caveats = part_notes(runs.notes)
    page = Document(
        "Ensembles beside their members",
        warnings,
        verdict(results.ensembles),
        sentences if len(sentences) <= MOST_SENTENCES else [],
        [
            Section("Test metrics", [METHOD], metric_table(results)),
            Section("What was averaged and chosen", [rule], Table(head, chosen, numeric=3)),
        ],
        [f"{runs.counts}."],
        caveats=caveats,
    )
    rows = [
        [e.ensemble, len(e.members), metric, *astuple(values)]
        for e in results.ensembles
        for metric, values in e.metrics.items()
    ]
    header = ["ensemble", "members", "metric", *(field.name for field in fields(EnsembleMetric))]
    write_document(page, folder, "ensemble", {})
    write_text(folder / "ensemble.csv", csv_text(header, rows))
    write_json(folder / "ensemble.json", results.content())
