"""`classifier ensemble`: the mean of what several trainings say, beside each of them alone.

The members' probabilities are averaged (Lakshminarayanan et al. 2017, arXiv:1612.01474) as the networks give them, and the temperature
is fitted to the mean: averaging makes probabilities more cautious by itself, so members that were each given their own temperature
before would together be too cautious (Rahaman & Thiery 2021, arXiv:2007.08792). Temperature and threshold come from the mean
scores of validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from balancer.core.errors import BalancerError
from balancer.core.files import write_json, write_text
from balancer.metrics.resampling import RESAMPLES, patient_weights, patients_per_class
from balancer.reporting.document import Document, Section, Table, csv_text, to_markdown
from balancer.reporting.numbers import bounds, mean_sd, short, signed
from classifier.analysis.analyse import resample
from classifier.analysis.results import FOLDS, StudyResults, TrialResult, output_folder, read_runs, summarise_seeds
from classifier.analysis.statistics import (
    crossed_estimate,
    metric_interval,
)
from classifier.evaluation.metrics import weighted_metrics
from classifier.evaluation.thresholds import ThresholdRule, fit_temperature, threshold_rule, with_temperature
from classifier.report.tables import COLUMNS

Array = np.ndarray
ALL = "all together"
SHOWN = (
    "auroc",
    "auprc",
    "balanced_accuracy_val_threshold",
    "sensitivity_val_threshold",
    "specificity_val_threshold",
    "balanced_accuracy",
    "nll",
    "brier",
    "ece",
)
METHOD = (
    "An ensemble is the mean of its members' probabilities; its temperature and its threshold (@val) were chosen on the mean "
    "validation scores. Test was used for the figures alone. In brackets 95 % intervals over patients, these trainings taken as they "
    "are: another set of seeds would make another ensemble. Single members: mean ± SD over trainings."
)


@dataclass(frozen=True)
class Group:
    """Trainings to be averaged: the arms weigh the same, whatever their number of members."""

    name: str
    arms: dict[str, list[TrialResult]]

    @property
    def members(self) -> list[TrialResult]:
        """Return the trainings of all arms."""
        return [trial for trials in self.arms.values() for trial in trials]

    def mean_score(self, fold: str) -> Array:
        """(n,) probabilities of PNEUMONIA."""
        of_arms = [np.mean([t.predictions[fold].y_score for t in trials], axis=0) for trials in self.arms.values()]
        mean: Array = np.mean(of_arms, axis=0)
        return mean


@dataclass(frozen=True)
class EnsembleStudy:
    """Ensembles beside their members, and the folder that holds them."""

    folder: Path
    results: StudyResults
    result: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the folder and the figures."""
        return {"out": str(self.folder), **self.result}

    def describe(self) -> str:
        """Return the notes and the table."""
        head = [*self.result["notes"], self.results.counts(), "", table(self.result).to_text(), ""]
        return "\n".join([*head, METHOD, str(self.folder / "ensemble.md")])


def ensemble(runs: Sequence[Path], regimes: Sequence[str], threshold: str, out: Path | None) -> EnsembleStudy:
    """Average the trials of each regime of each run and, of several runs, all of them; compare with single trials on test.

    Args:
        threshold: the rule, as :func:`classifier.evaluation.thresholds.threshold_rule` takes it.
        out: a folder for ensemble.{md,csv,json} and scores.csv, made where it is missing; None: ``ensemble`` in the only run.

    Raises:
        UsageError: an unknown rule or regime, or several runs and no ``out``.
        BalancerError: the runs hold no trial, are of different data or splits, or there is nothing to average.
    """
    rule = threshold_rule(threshold)
    folder = output_folder(out, runs, "ensemble")
    results = read_runs(runs, regimes)
    groups = groups_of(results, len(runs))
    result: dict[str, Any] = {
        "data": results.source,
        "notes": [*results.notes, *_notes(groups)],
        "rule": threshold,
        "n_val": len(results.groups("val")),
        "n_test": len(results.groups("test")),
        "ensembles": compare(groups, results, rule),
    }
    write_outputs(result, results, folder)
    write_text(folder / "scores.csv", scores_csv(groups, result["ensembles"]))
    return EnsembleStudy(folder, results, result)


def groups_of(results: StudyResults, n_runs: int) -> list[Group]:
    """An ensemble per arm that has several members; of several runs, one of all arms too.

    Raises:
        BalancerError: every arm has one member, and there is one run.
    """
    groups = [Group(arm, {arm: trials}) for arm, trials in results.arms.items() if len(trials) > 1]
    if n_runs > 1 and len(results.arms) > 1:
        groups.append(Group(ALL, results.arms))
    if not groups:
        raise BalancerError(
            "every regime here has one trial, which makes no ensemble; give a run with more seeds, or several runs"
        )
    return groups


def _notes(groups: Sequence[Group]) -> list[str]:
    sizes = {len(g.members) for g in groups if g.name != ALL}
    if len(sizes) < 2:
        return []
    return [
        f"Ensembles here have {min(sizes)} to {max(sizes)} members: a larger one gains more by its size alone, so do not compare "
        "regimes by their ensembles."
    ]


def compare(groups: Sequence[Group], results: StudyResults, rule: ThresholdRule) -> list[dict[str, Any]]:
    """The test figures of each ensemble, ready for JSON, with their intervals, the members' and the differences."""
    y_true, patients = results.y_true("test"), results.groups("test")
    weights = patient_weights(y_true, patients, RESAMPLES, seed=0)
    fewest = min(patients_per_class(y_true, patients))
    alone = {
        arm: [resample(trial.predictions["test"], weights) for trial in trials] for arm, trials in results.arms.items()
    }
    return [_entry(group, rule, weights, fewest, [alone[arm] for arm in group.arms]) for group in groups]


def _entry(
    group: Group, rule: ThresholdRule, weights: Array, fewest: int, alone: Sequence[Sequence[Mapping[str, Array]]]
) -> dict[str, Any]:
    val_true, y_true = (group.members[0].predictions[fold].y_true for fold in FOLDS)
    val, test = (group.mean_score(fold) for fold in FOLDS)
    temperature, threshold = fit_temperature(val_true, val), rule(val_true, val)
    calibrated = with_temperature(test, temperature)
    together = weighted_metrics(y_true, test, calibrated, threshold, weights)
    return {
        "ensemble": group.name,
        "members": [f"{arm}, seed {t.trial_seed}" for arm, trials in group.arms.items() for t in trials],
        "arms": list(group.arms),
        "temperature": temperature,
        "threshold": threshold,
        "metrics": {
            key: _figures(key, together[key], [[m[key] for m in arm] for arm in alone], fewest) for key in together
        },
    }


def _figures(key: str, together: Array, alone: Sequence[Sequence[Array]], fewest: int) -> dict[str, float | None]:
    """A figure of the ensemble, of its members by arm, and the difference of the first to their mean; arrays are (1 + resamples,).

    The arms weigh the same in the members' mean too; the SD is over all members.
    """
    own = crossed_estimate(together[:, None, None], fewest)
    low, high = metric_interval(key, own, fewest)
    single = np.mean([np.mean(arm, axis=0) for arm in alone], axis=0)
    gain = crossed_estimate((together - single)[:, None, None], fewest)
    return {
        "mean": own.value,
        "low": low,
        "high": high,
        "members_mean": float(single[0]),
        "members_sd": summarise_seeds([float(m[0]) for arm in alone for m in arm]).sd,
        "gain": gain.value,
        "gain_low": gain.low,
        "gain_high": gain.high,
    }


def scores_csv(groups: Sequence[Group], entries: Sequence[dict[str, Any]]) -> str:
    """What each ensemble says of each test image, with its temperature: the index as in split.csv, from 0."""
    test = groups[0].members[0].predictions["test"]
    scores = [with_temperature(g.mean_score("test"), e["temperature"]) for g, e in zip(groups, entries, strict=True)]
    rows = [[int(i), int(y), *map(float, of)] for i, y, *of in zip(test.index, test.y_true, *scores, strict=True)]
    return csv_text(["index", "y_true", *(g.name for g in groups)], rows)


def table(result: dict[str, Any]) -> Table:
    """Figures down, ensemble by ensemble."""
    header = ["ensemble", "members", "test figure", "ensemble [95 %]", "single members", "difference [95 %]"]
    rows = []
    for e in result["ensembles"]:
        for key in SHOWN:
            f = e["metrics"][key]
            single = mean_sd(f["members_mean"], f["members_sd"])
            difference = f"{signed(f['gain'])} {bounds(f['gain_low'], f['gain_high'])}"
            own = f"{short(f['mean'])} {bounds(f['low'], f['high'])}"
            rows.append([e["ensemble"], str(len(e["members"])), COLUMNS[key].title, own, single, difference])
    return Table(header, rows, numeric=3)


def write_outputs(result: dict[str, Any], results: StudyResults, folder: Path) -> None:
    """Write ensemble.md, .csv and .json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [
        [e["ensemble"], str(len(e["members"])), ", ".join(e["arms"]), f"{e['temperature']:.2f}", short(e["threshold"])]
        for e in result["ensembles"]
    ]
    head = ["ensemble", "members", "of", "temperature", "threshold, without the temperature"]
    document = Document(
        "Ensembles beside their members",
        result["notes"],
        f"Rule of the threshold: {result['rule']}, on validation.",
        [results.counts()],
        [
            Section("Test figures", [METHOD], table(result)),
            Section("What was averaged and chosen", [], Table(head, chosen, numeric=3)),
        ],
    )
    keys = ["mean", "low", "high", "members_mean", "members_sd", "gain", "gain_low", "gain_high"]
    rows = [
        [e["ensemble"], len(e["members"]), metric, *(figures[k] for k in keys)]
        for e in result["ensembles"]
        for metric, figures in e["metrics"].items()
    ]
    write_text(folder / "ensemble.md", to_markdown(document))
    write_text(folder / "ensemble.csv", csv_text(["ensemble", "members", "metric", *keys], rows))
    write_json(folder / "ensemble.json", result)
