"""The result of one site: the classifier that it holds, on its validation and on a test set."""

from __future__ import annotations

from pathlib import Path

import torch

from balancer.core.environment import git_commit
from balancer.core.files import write_bytes
from balancer.core.settings import TrainConfig
from balancer.data.chest import is_chest
from balancer.data.dataset import Dataset
from balancer.data.subset import Subset
from classifier.analysis.reading import predictions_file
from classifier.analysis.results import PREDICTIONS, TrialPredictions, TrialResult
from classifier.evaluation.fold_metrics import AnyMetrics
from classifier.evaluation.metrics import evaluate
from classifier.experiments.study import Study, code_hash, provenance, recipe_hash
from classifier.training.checkpoint import load_classifier
from classifier.training.inputs import augments_on
from classifier.training.prediction import predict
from classifier.training.regimes import REGIMES


def site_result(
    study: Study,
    config: TrainConfig,
    folder: Path,
    run: Path,
    name: str,
    seed: int,
    site: int | None,
    seconds: float,
    device: torch.device,
) -> TrialResult:
    """Read the classifier in a folder, evaluate it, and write its predictions beside it.

    Args:
        study: with the data of the site, and a test fold.
        config: settings of the training.
        folder: where the site wrote the classifier, with the temperature and the threshold of its validation.
        run: the run directory, which paths are relative to.
        name: what the training is called in the results.
        seed: trial seed.
        site: number of the site; None at a site that knows no number.
        seconds: that the training took.
        device: that predicts.
    """
    data, predictions = study.data, _predictions(study.data, config, folder, device)
    write_bytes(folder / PREDICTIONS, predictions_file(predictions))
    val, test = (_metrics(predictions[fold], is_chest(data.classes)) for fold in ("val", "test"))
    counts = data.counts("train")
    on_device = REGIMES[config.regime].augment and augments_on(config, device) == "device"
    return TrialResult(
        regime=name,
        trial_seed=seed,
        synthetic_set=None,
        dose=None,
        n_train=dict(zip(data.classes, counts, strict=True)),
        added=0,
        steps=config.steps,
        passes_over_real=round(config.steps * config.batch_size / sum(counts), 2),
        selected_step=config.steps,
        history=(),
        val=val,
        test=test,
        seconds=round(seconds, 1),
        **provenance(study),
        recipe_hash=recipe_hash(config),
        code_hash=code_hash(),
        git_commit=git_commit(),
        threads=torch.get_num_threads(),
        folder=folder.relative_to(run).as_posix(),
        fold=None,
        site=site,
        step_mode="plain",
        augmented_on="device" if on_device else None,
        pretraining=None,
        meter=(),
        predictions=predictions,
        meter_scores=(),
    )


def _predictions(data: Dataset, config: TrainConfig, folder: Path, device: torch.device) -> dict[str, TrialPredictions]:
    """Return what the classifier in a folder predicts for validation and test."""
    saved, predictions = load_classifier(folder, device), {}
    for fold in ("val", "test"):
        index = data.indices(fold)
        score = predict(saved.model, Subset(data.images, index), config, device)
        chosen = saved.uncalibrated_threshold, saved.temperature
        predictions[fold] = TrialPredictions(data.labels[index], score, *chosen, index)
    return predictions


def _metrics(p: TrialPredictions, chest: bool) -> AnyMetrics:
    return evaluate(p.y_true, p.y_score, p.threshold, p.temperature, chest)
