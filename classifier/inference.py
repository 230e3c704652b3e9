"""Use a saved classifier: on a fold of a data set, or on single images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from balancer.core.config import data_path
from balancer.core.device import open_device
from balancer.core.errors import BalancerError, UsageError
from balancer.data.dataset import load_dataset
from balancer.data.folder import CLASSES, SUFFIXES, TASKS, image_files
from balancer.data.images import read_image
from classifier.evaluation import metrics as evaluation
from classifier.evaluation.fold_metrics import BinaryMetrics, MulticlassMetrics
from classifier.evaluation.thresholds import with_temperature
from classifier.training.checkpoint import Loaded, load_classifier
from classifier.training.prediction import predict as predict_scores

log = logging.getLogger("balancer")


@dataclass(frozen=True)
class Evaluation:
    """What a saved classifier reaches on a fold."""

    checkpoint: Path
    regime: str
    trial_seed: int
    data: str
    fold: str
    metrics: BinaryMetrics | MulticlassMetrics

    def to_json(self) -> dict[str, Any]:
        """Return the metrics, after what they are of."""
        source = {"checkpoint": str(self.checkpoint), "regime": self.regime, "trial_seed": self.trial_seed}
        return {**source, "data": self.data, "fold": self.fold, **self.metrics.to_json()}

    def describe(self) -> str:
        """Return the metrics as text."""
        return describe(self.metrics, self.regime, self.trial_seed, self.fold)


def evaluate_checkpoint(checkpoint: Path, data: str | None, fold: str, device: str) -> Evaluation:
    """Evaluate a saved classifier on a fold; warn when the data are not those of the training."""
    where = open_device(device)
    loaded = load_classifier(checkpoint, where)
    config = loaded.config.data
    if data is not None:
        config = config.model_copy(update={"path": data_path(data)})
    source = load_dataset(config, require=(fold,))
    trained_on = loaded.content["data"]
    if source.fingerprint != trained_on["fingerprint"]:
        log.warning("these data are not exactly those of the training: some file differs")
    if source.split_hash != trained_on["split_hash"]:
        log.warning(
            "these data (split %s) are not those of the training (split %s)",
            source.split_hash,
            trained_on["split_hash"],
        )
        if fold != "test":
            raise BalancerError(
                f"the {fold} fold here is another than in training and could mix the two; evaluate on --fold test"
            )
    chosen = source.indices(fold)
    score = predict_scores(loaded.model, source.images[chosen], loaded.config, where)
    metrics = evaluation.evaluate(source.labels[chosen], score, loaded.threshold, loaded.temperature)
    content = loaded.content
    return Evaluation(checkpoint, content["regime"], content["trial_seed"], source.source, fold, metrics)


def describe(metrics: BinaryMetrics | MulticlassMetrics, regime: str, trial_seed: int, fold: str) -> str:
    """Return the metrics of a fold as text."""
    title = f"{regime}, seed {trial_seed}, {fold} n = {metrics.n}"
    if isinstance(metrics, MulticlassMetrics):
        return "\n".join([title, *_describe_classes(metrics)])
    lines = [title, _figures(metrics, evaluation.RANKING)]
    for threshold, decisions in ((0.5, metrics.at_half), (metrics.threshold, metrics.at_threshold)):
        lines.append(f"threshold {threshold:.4f}: {_figures(decisions, evaluation.DECISION)}")
        lines.append("  TN {} FP {} FN {} TP {}".format(*decisions.confusion))
    return "\n".join(lines)


def _figures(metrics: object, keys: Sequence[str]) -> str:
    return "  ".join(f"{key} {getattr(metrics, key):.4f}" for key in keys)


def _describe_classes(metrics: MulticlassMetrics) -> list[str]:
    decisions, names = metrics.most_likely, TASKS["multiclass"]
    columns = [["truth", *names, "sensitivity"]]
    for name, row, sensitivity in zip(names, decisions.confusion, decisions.sensitivity, strict=True):
        columns.append([name, *map(str, row), f"{sensitivity:.4f}"])
    return [
        _figures(metrics, evaluation.MULTICLASS_RANKING),
        f"most likely class: {_figures(decisions, evaluation.MULTICLASS_DECISION)}",
        *("  " + " ".join(f"{cell:>11}" for cell in row) for row in columns),
    ]


@dataclass(frozen=True)
class ImagePrediction:
    """What a classifier says of one image."""

    file: Path
    label: str
    probability_pneumonia: float
    probabilities: dict[str, float] | None = None  # by class; None where there are two classes

    def to_json(self) -> dict[str, Any]:
        """Return the prediction."""
        classes = {} if self.probabilities is None else {"probabilities": self.probabilities}
        pneumonia = {"probability_pneumonia": self.probability_pneumonia}
        return {"file": str(self.file), "label": self.label, **classes, **pneumonia}

    def describe(self) -> str:
        """Return the prediction as one line."""
        if self.probabilities is None:
            return f"{self.label:<10} p(PNEUMONIA) = {self.probability_pneumonia:.4f}  {self.file}"
        return f"{self.label:<10} {'  '.join(f'p({c}) = {p:.4f}' for c, p in self.probabilities.items())}  {self.file}"


@dataclass(frozen=True)
class FilePredictions:
    """What a classifier says of several images."""

    checkpoint: Path
    note: str
    images: list[ImagePrediction]
    rule: str  # how the labels were chosen
    threshold: float | None  # None where there are more than two classes

    def to_json(self) -> dict[str, Any]:
        """Return the predictions and the threshold."""
        threshold = {} if self.threshold is None else {"threshold": self.threshold}
        images = [image.to_json() for image in self.images]
        return {"checkpoint": str(self.checkpoint), "note": self.note, **threshold, "predictions": images}

    def describe(self) -> str:
        """Return a line per image, and how the labels were chosen."""
        return "\n".join([*(image.describe() for image in self.images), f"{self.rule}; {self.note}"])


def predict_files(checkpoint: Path, images: Sequence[Path], threshold: float | None, device: str) -> FilePredictions:
    """Predict the label and the probabilities of each image. Three classes need no threshold: the most likely one counts.

    Raises:
        UsageError: a threshold for three classes.
        BalancerError: a path is missing or a named image cannot be read; in a folder, unreadable ones are reported
            and left out unless none is left.
    """
    where = open_device(device)
    loaded = load_classifier(checkpoint, where)
    task = loaded.config.data.task
    if threshold is not None and task != "binary":
        raise UsageError(
            f"{checkpoint} tells {len(TASKS[task])} classes apart by the most likely one; leave out --threshold"
        )
    files, pixels = _readable(images, loaded)
    scores = with_temperature(predict_scores(loaded.model, pixels, loaded.config, where), loaded.temperature)
    note = (
        "trained on drawings, not X-rays"
        if loaded.content["data"]["source"] == "phantom"
        else "for research; not a medical device"
    )
    if task != "binary":
        predictions = [_of_classes(file, row, TASKS[task]) for file, row in zip(files, scores, strict=True)]
        return FilePredictions(checkpoint, note, predictions, f"the most likely of {len(TASKS[task])} classes", None)
    chosen = float(with_temperature(np.array([loaded.threshold]), loaded.temperature)[0])
    cut = chosen if threshold is None else threshold
    predictions = [ImagePrediction(f, CLASSES[int(s >= cut)], float(s)) for f, s in zip(files, scores, strict=True)]
    source = "chosen on validation" if threshold is None else "given"
    return FilePredictions(checkpoint, note, predictions, f"threshold {cut:.4f} ({source})", cut)


def _of_classes(file: Path, score: np.ndarray, classes: Sequence[str]) -> ImagePrediction:
    """Return the most likely class, with the probability of each and of any pneumonia, for a score (C,)."""
    probabilities = dict(zip(classes, score.tolist(), strict=True))
    return ImagePrediction(file, classes[int(score.argmax())], float(1 - score[0]), probabilities)


def _readable(images: Sequence[Path], loaded: Loaded) -> tuple[list[Path], np.ndarray]:
    """The files that can be read and their pixels (n, size, size) uint8."""
    size, resize = loaded.config.data.image_size, loaded.config.data.resize
    files, pixels = [], []
    for path in images:
        for file in _expand(path):
            try:
                pixels.append(read_image(file, size, resize))
                files.append(file)
            except OSError as error:
                if not path.is_dir():
                    raise BalancerError(f"{file} is not a readable image ({error})") from error
                log.warning("left out: %s cannot be read (%s)", file, error)
    if not files:
        raise BalancerError(
            f"none of {len(images)} path(s) gave a readable image; give PNG or JPEG files or a folder of them"
        )
    return files, np.stack(pixels)


def _expand(path: Path) -> list[Path]:
    if not path.exists():
        raise BalancerError(f"{path} does not exist; give an image or a folder of images")
    files = image_files(path) if path.is_dir() else [path]
    if not files:
        raise BalancerError(f"{path} holds no image; expected files such as {' '.join(sorted(SUFFIXES))}")
    return files
