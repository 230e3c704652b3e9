"""The models that are served: read once, checked, and tried out before the first request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from balancer.core.errors import BalancerError, UsageError
from balancer.core.pixels import shape_of
from balancer.data.dataset import Dataset, load_dataset
from classifier.analysis.reading import RESULT, read_result, read_trials
from classifier.analysis.results import RESULTS, TrialResult
from classifier.evaluation.fold_metrics import BinaryMetrics
from classifier.evaluation.thresholds import threshold_purpose
from classifier.explain.heatmaps import explain
from classifier.explain.pictures import heat_rgba
from classifier.serving.answers import ModelFacts, TestFigures
from classifier.training.checkpoint import CHECKPOINT, SavedClassifier, load_classifier

Array = np.ndarray


@dataclass(frozen=True)
class ServedModel:
    """A model with what is said of it."""

    name: str
    path: Path
    saved: SavedClassifier
    device: torch.device
    facts: ModelFacts

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of its classes."""
        return self.facts.classes


def load_models(paths: Sequence[Path], device: torch.device) -> list[ServedModel]:
    """Read the models of checkpoints, trainings and ablations; each explains a grey image once.

    Of an ablation the first trial of each regime is taken.

    Raises:
        BalancerError: if a model is missing, damaged, or none; or predicts what is not finite.
        UsageError: if models decide between different classes.
    """
    models: list[ServedModel] = []
    for path in paths:
        for checkpoint, trial in _checkpoints(path):
            saved = load_classifier(checkpoint, device)
            name = _new_name(saved, [model.name for model in models])
            models.append(ServedModel(name, checkpoint, saved, device, _facts(name, saved, trial)))
    for model in models:
        if model.classes != models[0].classes:
            raise UsageError(
                f"{model.path} decides between {', '.join(model.classes)} and {models[0].path} between"
                f" {', '.join(models[0].classes)}; serve them apart"
            )
        size = model.saved.config.data.image_size
        heat_rgba(explain(model.saved, np.full((1, *shape_of(size, model.saved.channels)), 128, np.uint8)).maps[0])
    return models


def _checkpoints(path: Path) -> Iterator[tuple[Path, TrialResult | None]]:
    """Yield the checkpoints that a path stands for, each with its trial where the run lies around it."""
    if path.is_dir() and (path / RESULTS).is_file():
        regimes: dict[str, TrialResult] = {}
        for trial in read_trials(path / RESULTS):
            regimes.setdefault(trial.arm, trial)
        if not regimes:
            raise BalancerError(f"{path} has no finished trial; give a finished ablation, or a model.pt")
        for trial in regimes.values():
            yield path / trial.folder / CHECKPOINT, trial
        return
    checkpoint = path / CHECKPOINT if path.is_dir() else path
    yield checkpoint, _trial_of(checkpoint)


def _trial_of(checkpoint: Path) -> TrialResult | None:
    """Return the trial that made a checkpoint, from the run that it lies in."""
    folder = checkpoint.parent
    if (folder / RESULT).is_file():
        return read_result(folder)
    run = folder.parent.parent  # of <run>/trials/<trial>/model.pt
    if folder.parent.name == "trials" and (run / RESULTS).is_file():
        trials = read_trials(run / RESULTS)
        return next((trial for trial in trials if trial.folder == folder.relative_to(run).as_posix()), None)
    return None


def _new_name(saved: SavedClassifier, taken: Sequence[str]) -> str:
    """Return the regime, with the seed and a number where the name is taken."""
    candidates = [saved.regime, f"{saved.regime}, seed {saved.trial_seed}"]
    candidates += [f"{candidates[1]} ({i})" for i in range(2, len(taken) + 3)]
    return next(name for name in candidates if name not in taken)


def _facts(name: str, saved: SavedClassifier, trial: TrialResult | None) -> ModelFacts:
    config = saved.config
    classes = saved.classes
    several = len(classes) > 2
    return ModelFacts(
        name=name,
        network=config.model,
        regime=saved.regime,
        trial_seed=saved.trial_seed,
        classes=classes,
        image_size=config.data.image_size,
        threshold=None if several else saved.threshold,
        threshold_rule="" if several else config.threshold,
        threshold_purpose="the most likely class" if several else threshold_purpose(config.threshold, classes[1]),
        temperature=saved.temperature,
        trained_on_drawings=saved.trained_on_drawings,
        knows_training_data=saved.reference is not None,
        test=None if trial is None else _test_figures(trial),
    )


def _test_figures(trial: TrialResult) -> TestFigures:
    test = trial.test
    at = test.at_threshold if isinstance(test, BinaryMetrics) else None
    return TestFigures(
        test.n, test.auroc, None if at is None else at.sensitivity, None if at is None else at.specificity
    )


def training_images(models: Sequence[ServedModel], data: str | None, decode: bool = True) -> Dataset:
    """Return the data set that the models were trained on, so that its images can be shown.

    Args:
        models: that are served.
        data: where the data lie now; None for where they lay in training.
        decode: False for a dry run, as for :func:`~balancer.data.dataset.load_dataset`.

    Raises:
        BalancerError: if the data are missing, or not exactly those of every training.
    """
    config = models[0].saved.data_config
    if data is not None:
        config = config.model_copy(update={"path": data})
    source = load_dataset(config, decode=decode, expected_split=models[0].saved.split_hash)
    for model in models:
        if model.saved.fingerprint != source.fingerprint:
            raise BalancerError(
                f"{source.source} is not exactly the data that {model.path} was trained on; give them with --data, or"
                " leave out --show-training"
            )
    return source
