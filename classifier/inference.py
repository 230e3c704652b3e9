"""Use a saved classifier: on a fold of a data set, or on single images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from balancer.core.command import CommandResult
from balancer.core.config import data_path
from balancer.core.device import limit_threads, resolve_device
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


def evaluate_checkpoint(checkpoint: Path, data: str | None, fold: str, device: str) -> CommandResult:
    """Metrics on a fold; says so when the data are not those of the training."""
    limit_threads()
    where = resolve_device(device)
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
    regime, seed = loaded.content["regime"], loaded.content["trial_seed"]
    metrics = evaluation.evaluate(source.labels[chosen], score, loaded.threshold, loaded.temperature)
    result: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "regime": regime,
        "trial_seed": seed,
        "data": source.source,
        "fold": fold,
        **metrics.to_json(),
    }
    return CommandResult(result, describe(metrics, regime, seed, fold))


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


def predict_files(checkpoint: Path, images: Sequence[Path], threshold: float | None, device: str) -> CommandResult:
    """Label, probability and threshold for each image; of three classes, which need no threshold, the probability of each.

    Raises:
        UsageError: a threshold for three classes.
        BalancerError: a path is missing or a named image cannot be read; in a folder, unreadable ones are reported
            and left out unless none is left.
    """
    limit_threads()
    where = resolve_device(device)
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
    answer = _of_two(loaded, files, scores, threshold) if task == "binary" else _of_classes(files, scores, TASKS[task])
    return CommandResult({"checkpoint": str(checkpoint), "note": note, **answer.data}, f"{answer.text}; {note}")


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


def _of_two(loaded: Loaded, files: list[Path], scores: np.ndarray, threshold: float | None) -> CommandResult:
    """NORMAL or PNEUMONIA by the threshold given, or the one chosen on validation."""
    chosen = float(with_temperature(np.array([loaded.threshold]), loaded.temperature)[0])
    cut = chosen if threshold is None else threshold
    rows = [
        {"file": str(f), "label": CLASSES[int(s >= cut)], "probability_pneumonia": float(s)}
        for f, s in zip(files, scores, strict=True)
    ]
    text = "\n".join(f"{r['label']:<10} p(PNEUMONIA) = {r['probability_pneumonia']:.4f}  {r['file']}" for r in rows)
    by = "chosen on validation" if threshold is None else "given"
    return CommandResult({"threshold": cut, "predictions": rows}, f"{text}\nthreshold {cut:.4f} ({by})")


def _of_classes(files: list[Path], scores: np.ndarray, classes: Sequence[str]) -> CommandResult:
    """The most likely class, with the probability of each and of any pneumonia, for ``scores`` (n, C)."""
    rows = [
        {
            "file": str(f),
            "label": classes[int(s.argmax())],
            "probabilities": dict(zip(classes, s.tolist(), strict=True)),
            "probability_pneumonia": float(1 - s[0]),
        }
        for f, s in zip(files, scores, strict=True)
    ]
    text = "\n".join(
        f"{classes[int(s.argmax())]:<10} {'  '.join(f'p({c}) = {p:.4f}' for c, p in zip(classes, s, strict=True))}  {f}"
        for f, s in zip(files, scores, strict=True)
    )
    return CommandResult({"predictions": rows}, f"{text}\nthe most likely of {len(classes)} classes")


def _expand(path: Path) -> list[Path]:
    if not path.exists():
        raise BalancerError(f"{path} does not exist; give an image or a folder of images")
    files = image_files(path) if path.is_dir() else [path]
    if not files:
        raise BalancerError(f"{path} holds no image; expected files such as {' '.join(sorted(SUFFIXES))}")
    return files
