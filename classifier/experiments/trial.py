"""Run one trial, and write its files."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from balancer.core.environment import git_commit
from balancer.core.files import remove_other_kind, write_bytes
from balancer.core.settings import ClassifierConfig
from balancer.data.chest import is_chest
from balancer.data.dataset import Dataset
from balancer.data.sampling import evenly
from balancer.data.subset import Subset
from classifier import novelty
from classifier.analysis.reading import predictions_file
from classifier.analysis.results import PREDICTIONS, TrialPredictions, TrialResult
from classifier.analysis.shortcuts import reading_of
from classifier.evaluation.metrics import evaluate
from classifier.evaluation.shortcut import MeterScores, Reading
from classifier.evaluation.thresholds import BOUND_NOTE, is_at_bound
from classifier.experiments.plan import Trial
from classifier.experiments.study import Study, code_hash, provenance, recipe_hash
from classifier.novelty import Reference
from classifier.training import metering, trainer
from classifier.training.checkpoint import CHECKPOINT, classifier_bytes, load_classifier
from classifier.training.prediction import predict_with_features
from classifier.training.pretraining import pretrained
from classifier.training.synthetic import SyntheticSet

log = logging.getLogger("balancer")
Interrupt = Callable[[], int | None]  # returns the number of a signal that came, or None


@dataclass(frozen=True)
class TrainedTrial:
    """A trial that was run: its result with its predictions, still without a folder, and its checkpoint."""

    trial: Trial
    result: TrialResult
    model: bytes


def run_trial(study: Study, trial: Trial, device: torch.device, interrupt: Interrupt = lambda: None) -> TrainedTrial:
    """Train, select on validation, then evaluate on the test set once.

    Raises:
        Interrupted: if ``interrupt`` returns a signal.
        BalancerError: if the loss is not finite, or memory runs out.
    """
    data, config, regime = study.data, study.config, trial.regime
    weights = pretrained(config, data, trial.seed + regime.seed_offset, device, interrupt)
    begin = time.perf_counter()
    train = study.training_set(trial)
    val, test = data.indices("val"), data.indices("test")
    val_set = Subset(data.images, val), data.labels[val]
    fitted = trainer.train(config, regime, trial.seed, train, val_set, device, interrupt, weights)
    reference = novelty_reference(fitted.model, data, config, device)
    score = trainer.predict(fitted.model, Subset(data.images, test), config, device)
    readings = _readings(fitted.model, study, trial, device)
    if is_at_bound(fitted.temperature):
        log.warning("%s: the temperature %.2f lies %s", trial.name, fitted.temperature, BOUND_NOTE)
    name, seed, synthetic_set, dose = trial.key
    chest = is_chest(data.classes)
    predictions = {
        fold: TrialPredictions(data.labels[index], y_score, fitted.threshold, fitted.temperature, index)
        for fold, index, y_score in (("val", val, fitted.val_score), ("test", test, score))
    }
    result = TrialResult(
        regime=name,
        trial_seed=seed,
        synthetic_set=synthetic_set,
        dose=dose,
        n_train=dict(zip(data.classes, train.counts, strict=True)),
        added=train.added,
        steps=fitted.steps,
        passes_over_real=round(fitted.passes_over_real, 2),
        selected_step=fitted.selected_step,
        history=fitted.history,
        val=evaluate(data.labels[val], fitted.val_score, fitted.threshold, fitted.temperature, chest),
        test=evaluate(data.labels[test], score, fitted.threshold, fitted.temperature, chest),
        seconds=round(time.perf_counter() - begin, 1),
        **provenance(study),
        recipe_hash=recipe_hash(config),
        synthetic_hash=train.synthetic_digest,
        code_hash=code_hash(),
        git_commit=git_commit(),
        threads=torch.get_num_threads(),
        fold=None,
        site=None,
        step_mode=fitted.step_mode,
        augmented_on="device" if fitted.augmented_on == "device" else None,
        meter=tuple(reading for reading, _ in readings),
        pretraining=None if weights is None else weights.facts,
        predictions=predictions,
        meter_scores=tuple(scores for _, scores in readings),
    )
    return TrainedTrial(trial, result, classifier_bytes(config, regime, trial.seed, data, fitted, reference))


def needs_measuring(study: Study, result: TrialResult) -> bool:
    """Return whether an earlier version measured the shortcut meter of a trial with fewer controls than today's."""
    controls = [scores.control.shape[1] for scores in result.meter_scores]
    return study.has_meter and bool(controls) and min(controls) < 2 * metering.HALVINGS


def measure_again(study: Study, trial: Trial, result: TrialResult, run: Path, device: torch.device) -> TrialResult:
    """Return a finished trial with its shortcut meter measured anew, by its checkpoint; nothing is trained.

    Raises:
        BalancerError: the checkpoint is missing or damaged.
    """
    readings = _readings(load_classifier(run / result.folder, device).model, study, trial, device)
    meter, scores = tuple(reading for reading, _ in readings), tuple(scores for _, scores in readings)
    return replace(result, meter=meter, meter_scores=scores)


def write_predictions(result: TrialResult, run: Path) -> None:
    """Write the predictions of a trial and the scores of its meter into its folder, which is there."""
    write_bytes(run / result.folder / PREDICTIONS, predictions_file(result.predictions, result.meter_scores))


def _readings(model: nn.Module, study: Study, trial: Trial, device: torch.device) -> list[tuple[Reading, MeterScores]]:
    """Return what the shortcut meter says: with the trial's own synthetic set, or with every set if it has none."""
    used = study.synthetic_images(trial)
    sets = {i: _shown(study.synthetic[i], used if trial.regime.filtered else None) for i in study.measured_sets(trial)}
    if not sets:
        return []
    measured = metering.measure(model, study.data, study.probes, sets, used, study.config, device)
    data, seed = study.data, study.config.seed
    return [
        (
            reading_of(scores, str(position), data.classes[probe.label], trained_on, data.groups, seed),
            scores,
        )
        for probe, position, scores, trained_on in measured
    ]


def _shown(synthetic: SyntheticSet, kept: SyntheticSet | None) -> SyntheticSet:
    """Return the images of a set that the meter shows: of classes that a filter chose from, those that it kept.

    What the filter left out is no sample of its images. Of the other classes it chose nothing, and all are shown.
    """
    if kept is None:
        return synthetic
    stays = np.isin(synthetic.hashes, kept.hashes) | ~np.isin(synthetic.labels, kept.held)
    return synthetic.at(np.flatnonzero(stays))


def novelty_reference(model: nn.Module, data: Dataset, config: ClassifierConfig, device: torch.device) -> Reference:
    """Return the real training images as the classifier's features, with the limit that validation gives."""
    folds = {fold: data.indices(fold) for fold in ("train", "val")}
    positions = {fold: index[evenly(len(index), novelty.MOST)] for fold, index in folds.items()}
    train, val = (predict_with_features(model, data.images[index], config, device)[1] for index in positions.values())
    return novelty.fit(train, val, data.labels[positions["train"]], positions["train"])


def save_trial(trained: TrainedTrial, run: Path, folder: Path) -> TrialResult:
    """Write the files of a trial; return its result with the folder, relative to the run."""
    for place in (folder.parent, folder):
        if place.is_relative_to(run):
            remove_other_kind(place, is_folder=True)
    for name in (PREDICTIONS, CHECKPOINT):
        remove_other_kind(folder / name, is_folder=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / PREDICTIONS, predictions_file(trained.result.predictions, trained.result.meter_scores))
    write_bytes(folder / CHECKPOINT, trained.model)
    return replace(trained.result, folder=folder.relative_to(run).as_posix())
