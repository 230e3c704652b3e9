"""What decides on images: one saved classifier, or the trials of a regime together.

Torch and scikit-learn are imported inside functions: an exported ONNX file decides without either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from balancer.core.errors import BalancerError, UsageError, nearest
from balancer.core.exported import SUFFIXES
from balancer.core.saved_runs import inner_runs
from classifier.analysis.results import RESULTS, StudyResults, TrialResult
from classifier.export.runtime import open_onnx
from classifier.training.record import CHECKPOINT, ClassifierRecord

if TYPE_CHECKING:
    import torch

    from classifier.training.checkpoint import SavedClassifier

log = logging.getLogger("balancer")
Array = np.ndarray


@dataclass(frozen=True)
class Judgement:
    """What a predictor says of images."""

    scores: Array  # uncalibrated probabilities, (n,) or (n, C)
    # (n,) distance from the training data, in limits: above 1, an image is unlike 99 of 100 validation images. Of
    # several members the median. None where no member knows its training data.
    novelty: Array | None = None


@dataclass(frozen=True)
class Predictor:
    """One classifier, or several whose probabilities are averaged."""

    model: Path  # as it was named
    saved: ClassifierRecord  # of several the first, with the temperature and the threshold of their mean
    judge: Callable[[Array], Judgement]  # of images (n, size, size) uint8
    members: int
    regime: str


def is_model(path: Path) -> bool:
    """Return whether a path names a classifier: a checkpoint, an exported file, or the folder of a run with some."""
    return path.suffix in (".pt", *SUFFIXES.values()) or (path / RESULTS).is_file() or (path / CHECKPOINT).is_file()


def open_predictor(path: Path, regime: str | None, device: str, threads: int | None = None) -> Predictor:
    """Open a checkpoint, an exported file, the folder of a training, or the folder of an ablation.

    Of an ablation, all trials of one regime decide together, as in `classifier ensemble`: their mean gets the
    temperature and the threshold that their predictions on validation gave, by the rule of the training.

    Args:
        path: of the file or folder.
        regime: of an ablation; None for the one with the lowest NLL on validation.
        device: auto, cpu, cuda, cuda:N or mps.
        threads: that compute; None for OMP_NUM_THREADS, or one.

    Raises:
        BalancerError: the classifier is missing, damaged, or decides on other classes.
        UsageError: the ablation has no such regime, or the path is no ablation.
    """
    if regime is not None and not (path / RESULTS).is_file():
        raise UsageError(f"--regime is {regime!r}, but {path} is no ablation; leave it out, or give an ablation")
    if path.suffix == SUFFIXES["onnx"] and not path.is_dir():
        record, scores = open_onnx(path, device, threads)
        return Predictor(path, record, lambda images: Judgement(scores(images)), 1, record.regime)
    from balancer.core.device import open_device
    from classifier.training.checkpoint import load_classifier

    where = open_device(device, threads)
    if (path / RESULTS).is_file():
        return _of_ablation(path, regime, where)
    saved = load_classifier(path, where)
    return Predictor(path, saved, lambda images: _judge(saved, images, where), 1, saved.regime)


def _judge(saved: SavedClassifier, images: Array, device: torch.device) -> Judgement:
    """Return what one classifier says of images."""
    from classifier.training.prediction import predict, predict_with_features

    if saved.reference is None:
        return Judgement(predict(saved.model, images, saved.config, device))
    scores, features = predict_with_features(saved.model, images, saved.config, device)
    return Judgement(scores, saved.reference.distances(features)[0] / saved.reference.limit)


def _of_ablation(run: Path, regime: str | None, device: torch.device) -> Predictor:
    from classifier.analysis.averaging import choose_on_validation, mean_score
    from classifier.analysis.runs import read_runs
    from classifier.training.checkpoint import load_classifier

    study = read_runs([run], several_classes=True)
    name = regime or _best_on_validation(study)
    if name not in study.arms:
        raise UsageError(f"--regime is {name!r}; {nearest(name, study.arms)}")
    trials = study.arms[name]
    members = [load_classifier(run / trial.folder / CHECKPOINT, device) for trial in trials]
    first = members[0]
    if len(members) == 1:
        return Predictor(run, first, lambda images: _judge(first, images, device), 1, name)
    temperature, threshold = choose_on_validation(
        study.y_true("val"), mean_score(trials, "val"), first.config.threshold
    )
    log.info("%s of %s: the mean of %d trials decides", name, run, len(members))

    def judge(images: Array) -> Judgement:
        judged = [_judge(saved, images, device) for saved in members]
        known = [one.novelty for one in judged if one.novelty is not None]
        mean = np.mean([one.scores for one in judged], axis=0)
        return Judgement(mean, np.median(known, axis=0) if known else None)

    together = replace(first, temperature=temperature, uncalibrated_threshold=threshold)
    return Predictor(run, together, judge, len(members), name)


def _best_on_validation(study: StudyResults) -> str:
    """Return the regime whose trials have the lowest mean NLL on validation; test chooses nothing."""

    def loss(trials: list[TrialResult]) -> float:
        return float(np.mean([trial.metric("val.nll") for trial in trials]))

    name = min(study.arms, key=lambda arm: loss(study.arms[arm]))
    if len(study.arms) > 1:
        log.info("taking regime %s, which has the lowest NLL on validation; --regime names another", name)
    return name


def model_and_images(paths: tuple[Path, ...], newest: Callable[[], Path]) -> tuple[Path, list[Path]]:
    """Return the classifier and the images that a command line names; without a classifier, the newest run's.

    Raises:
        UsageError: no image is named.
        BalancerError: the first path is neither.
    """
    first, *others = paths
    if not is_model(first):
        if not first.exists():
            raise BalancerError(f"{first} does not exist; give a model.pt, the folder of a run, or an image")
        if inner := inner_runs(first, "ablate", "train"):
            raise BalancerError(f"{first} is no classifier itself{inner}")
        try:
            return newest(), list(paths)
        except BalancerError as error:
            kind = "a model.pt made by `classifier train`, or the folder of a run"
            raise BalancerError(f"{first} is no classifier ({kind}): {error}") from error
    if not others:
        raise UsageError(f"{first} is a classifier, and no IMAGE comes after it; see classifier predict --help")
    return first, others
