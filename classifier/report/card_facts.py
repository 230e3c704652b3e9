"""What a model card rests on: the data, the trials, the test images by subgroup, and the hashes of the models."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from balancer.core.config import validate
from balancer.core.environment import Environment
from balancer.core.errors import BalancerError
from balancer.core.saved_runs import read_environment, saved_config
from balancer.core.sealed import DamagedFile, read_with_sum, zip_seal
from balancer.core.settings import COMMANDS, ClassifierConfig
from balancer.core.shapes import parse
from balancer.data.chest import KIND_WORDS, is_chest, parse_name
from balancer.data.dataset import Dataset
from balancer.data.records import count_units
from balancer.metrics.resampling import RESAMPLES
from classifier.analysis.analyse import Analysis, ResampledStudy, analyse, counts_of
from classifier.analysis.reading import COMMANDS as RUN_COMMANDS
from classifier.analysis.reading import SPLIT, read_patients, read_run, with_predictions
from classifier.analysis.results import MetricSummary, StudyResults, TrialResult
from classifier.analysis.verdicts import answer
from classifier.report.samples import with_grade
from classifier.report.tables import RegimeRow, regime_rows
from classifier.training.checkpoint import CHECKPOINT

Array = np.ndarray
# What the decisions on a class are called, of two classes: the second is the positive one.
DECIDED = ("specificity_val_threshold", "sensitivity_val_threshold")


@dataclass(frozen=True)
class CardData:
    """What a card says of the data, as ``env.json`` has the facts."""

    source: str
    counts: dict[str, dict[str, int]]  # images by fold and class
    image_size: int
    split_hash: str
    fingerprint: str
    notes: list[str] = field(default_factory=list)
    channels: int = 1  # runs of earlier versions say none


@dataclass(frozen=True)
class Kinds:
    """The class and the kind of every image of the data set, such as 1 and ``virus``; an unknown kind is empty."""

    classes: Sequence[str]
    labels: Sequence[int]
    kinds: Sequence[str]

    @classmethod
    def of(cls, data: Dataset) -> Kinds:
        """Return the kinds that the file names of a data set tell."""
        return cls(data.classes, [record.label for record in data.records], [record.source for record in data.records])

    @classmethod
    def read(cls, run: Path, classes: Sequence[str]) -> Kinds:
        """Return the kinds that the file names in the ``split.csv`` of a run tell.

        Raises:
            BalancerError: the file is missing or damaged.
        """
        rows = list(csv.DictReader(io.StringIO(read_with_sum(run / SPLIT))))
        if unknown := {row.get("label") for row in rows} - set(classes):
            raise DamagedFile(run / SPLIT, f"label is {unknown.pop()!r}", f"--resume {run} writes the file again")
        labels = [classes.index(row["label"]) for row in rows]
        if "source" in (rows[0] if rows else ()):
            return cls(classes, labels, [row["source"] for row in rows])
        if not is_chest(classes):  # the names of other sets tell no kind
            return cls(classes, labels, [""] * len(labels))
        stems = (Path(row["name"]).stem for row in rows)
        kinds = [parse_name(stem, min(label, 1))[1] for stem, label in zip(stems, labels, strict=True)]
        return cls(classes, labels, kinds)

    def subgroups(self) -> dict[str, Array]:
        """Return the images of each kind by its name, as ``viral PNEUMONIA``; a class of one kind has no subgroups."""
        labels, kinds = np.asarray(self.labels), np.asarray(self.kinds)
        groups = {}
        for label, name in enumerate(self.classes):
            of_class = sorted({str(kind) for kind in kinds[labels == label]} - {""})
            for kind in of_class if len(of_class) > 1 else ():
                words = f"{name} ({kind} files)" if is_chest(self.classes) else f"{name}, {kind}"
                words = f"{KIND_WORDS[kind]} {name}" if kind in KIND_WORDS else words
                groups[words] = np.flatnonzero((labels == label) & (kinds == kind))
        return groups


@dataclass(frozen=True)
class SubgroupRow:
    """The test metrics of one regime where one class is cut down to a subgroup; None without an interval."""

    subgroup: str
    counts: str  # of the subgroup's test images, in words
    regime: str
    auroc: MetricSummary | None  # the subgroup against all test images of the other class
    decided: str  # which metric of the decisions: the subgroup has one class
    at_threshold: MetricSummary | None


@dataclass(frozen=True)
class CardFacts:
    """Everything that a model card says.

    Attributes:
        analysis: of the trials.
        notes: what every reader must know of the data and of the study.
        synthetic: the sets of synthetic images, in words.
        models: SHA-256 by file, relative to the run; empty where a file carries none.
    """

    environment: Environment
    config: ClassifierConfig
    data: CardData
    results: StudyResults
    analysis: Analysis
    notes: list[str]
    synthetic: list[str]
    subgroups: list[SubgroupRow]
    models: dict[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return self.results.classes

    @property
    def rows(self) -> list[RegimeRow]:
        """Return the rows of the report's tables."""
        return regime_rows(self.results, self.analysis)


def facts_of(
    run: Path,
    config: ClassifierConfig,
    results: StudyResults,
    kinds: Kinds,
    notes: Sequence[str],
    synthetic: Sequence[str],
    analysis: Analysis | None = None,
) -> CardFacts:
    """Return the facts of a run whose trials are known.

    Args:
        run: holds ``env.json`` and the models.
        config: the settings of the run.
        results: the trials with their predictions.
        kinds: of every image of the data set.
        notes: on data and study.
        synthetic: the sets of synthetic images, in words.
        analysis: of the trials, if there is one already.
    """
    environment = read_environment(run)
    data = parse(CardData, environment.data, run / "env.json", where="data")
    analysis = analysis or analysed(results, config.seed)
    two = len(results.classes) == 2
    rows = subgroup_rows(results.main, kinds, config.seed) if two and analysis.regimes else []
    caveats = list(dict.fromkeys([*data.notes, *notes, *analysis.notes]))
    models = model_files(run, results.trials)
    return CardFacts(environment, config, data, results, analysis, caveats, list(synthetic), rows, models)


def read_facts(run: Path) -> CardFacts:
    """Return the facts of a finished run that was made before runs had cards.

    Raises:
        BalancerError: the run is of another command, or one of its files is missing or damaged.
    """
    environment = read_environment(run)
    command = environment.command
    if command not in RUN_COMMANDS:
        raise BalancerError(f"{run} holds a {command} run, which has no model card; give a train or an ablate run")
    config = validate(COMMANDS[command], saved_config(command, run))
    assert isinstance(config, ClassifierConfig), f"{command} trains classifiers"
    trials = [with_predictions(trial, run) for trial in read_run(run)]
    results = StudyResults.of(trials, read_patients(run, trials))
    notes = parse(CardData, environment.data, run / "env.json", where="data").notes
    sets = (
        [with_grade(f"`{path}`", Path(path)) for path in config.synthetic or ()]
        if any(t.synthetic_set for t in trials)
        else []
    )
    return facts_of(run, config, results, Kinds.read(run, results.classes), notes, sets)


def analysed(results: StudyResults, seed: int) -> Analysis:
    """Return the analysis of trials; without intervals, with the reason as a note, if the test set allows none."""
    try:
        return analyse(results, seed=seed)
    except BalancerError as error:
        y_true = results.y_true("test")
        counts = counts_of(y_true, results.classes)
        seeds = sorted({trial.trial_seed for trial in results.trials})
        notes = [f"There are no intervals: {error}."]
        return Analysis(
            len(y_true), results.test_patients, counts, seeds, 0, 0, [], [], answer([]), notes, results.unit
        )


def subgroup_rows(results: StudyResults, kinds: Kinds, seed: int) -> list[SubgroupRow]:
    """Return the test metrics by subgroup and regime, computed as those of all test images."""
    rows = []
    test = results.trials[0].predictions["test"]
    labels = np.asarray(kinds.labels)
    for name, members in kinds.subgroups().items():
        label = int(min(labels[members[0]], 1))
        chosen = np.isin(test.index, members)
        if not chosen.any():
            continue
        study = _resampled(_restricted(results, chosen | (test.y_true != label)), seed)
        counts = count_units([results.patients[i] for i in test.index[chosen]])
        for regime in results.regimes:
            auroc, decided = (study.summary(regime, key) if study else None for key in ("auroc", DECIDED[label]))
            rows.append(SubgroupRow(name, counts, regime, auroc, DECIDED[label].partition("_")[0], decided))
    return rows


def _restricted(results: StudyResults, keep: Array) -> StudyResults:
    """Return the trials on a part of the test images."""

    def of_trial(trial: TrialResult) -> TrialResult:
        p = trial.predictions["test"]
        part = replace(p, y_true=p.y_true[keep], y_score=p.y_score[keep], index=p.index[keep])
        return replace(trial, predictions={**trial.predictions, "test": part})

    return replace(results, arms={arm: [of_trial(t) for t in trials] for arm, trials in results.arms.items()})


def _resampled(results: StudyResults, seed: int) -> ResampledStudy | None:
    """Return the resampled study; None if a class has too few patients for an interval."""
    try:
        return ResampledStudy(results, RESAMPLES, seed)
    except BalancerError:
        return None


def model_files(run: Path, trials: Sequence[TrialResult]) -> dict[str, str]:
    """Return the SHA-256 of each model that a run holds, by its file relative to the run."""
    files = ((Path(trial.folder) / CHECKPOINT).as_posix() for trial in trials)
    return {file: zip_seal(run / file) for file in files if (run / file).exists()}


def is_model_of(models: Mapping[str, str], run: Path, checkpoint: Path) -> bool:
    """Return whether a file is still the model that a card was written for."""
    expected = models.get(checkpoint.relative_to(run).as_posix())
    return expected is not None and expected == zip_seal(checkpoint)
