"""The metrics of one classifier on one fold, as typed records. :mod:`classifier.evaluation.metrics` computes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from balancer.core.files import JsonObject
from classifier.evaluation.thresholds import calibrated_threshold


@dataclass(frozen=True)
class CalibrationMetrics:
    """Metrics of probabilities, which a temperature changes."""

    nll: float  # mean negative log-likelihood in nats
    brier: float
    ece: float  # expected calibration error, in [0, 1]


@dataclass(frozen=True)
class DecisionMetrics:
    """Metrics of two-class decisions at one threshold, each in [0, 1]."""

    accuracy: float
    balanced_accuracy: float
    sensitivity: float
    specificity: float
    precision: float
    f1: float
    confusion: tuple[int, int, int, int]  # TN, FP, FN, TP


@dataclass(frozen=True)
class MulticlassDecision:
    """Metrics of the decision for the most likely of C classes."""

    accuracy: float
    balanced_accuracy: float
    f1: float
    sensitivity: list[float]  # (C,)
    confusion: list[list[int]]  # (C, C), rows are the true classes


@dataclass(frozen=True)
class FoldMetrics:
    """Metrics that binary and multiclass tasks share. NLL, Brier score and ECE are of the calibrated probabilities."""

    n: int  # images
    auroc: float
    auprc: float
    nll: float
    brier: float
    ece: float
    uncalibrated: CalibrationMetrics
    temperature: float

    def to_json(self) -> JsonObject:
        """Return the metrics as they stand in ``results.jsonl``."""
        return asdict(self)


@dataclass(frozen=True)
class BinaryMetrics(FoldMetrics):
    """Metrics of a two-class task."""

    at_half: DecisionMetrics  # at the threshold 0.5
    at_threshold: DecisionMetrics  # at the threshold chosen on validation
    threshold: float  # of at_threshold, on the calibrated probabilities, which `classifier predict` prints
    uncalibrated_threshold: float  # the same on the network's own probabilities, which decide: they do not tie


@dataclass(frozen=True)
class MulticlassMetrics(FoldMetrics):
    """Metrics of a task with more than two classes."""

    auroc_pneumonia: float  # any pneumonia against NORMAL
    most_likely: MulticlassDecision


@dataclass(frozen=True)
class Validation:
    """The losses at one validation pass of a training."""

    step: int  # optimiser steps so far
    train_loss: float  # mean since the last validation pass
    val_nll: float  # in nats, uncalibrated


def fold_metrics(values: Mapping[str, Any]) -> BinaryMetrics | MulticlassMetrics:
    """Return the metrics that :meth:`FoldMetrics.to_json` gave.

    Files of earlier versions have no ``uncalibrated_threshold``; their ``threshold`` is that.

    Raises:
        KeyError, TypeError: a metric is missing or has another name.
    """
    shared = {**values, "uncalibrated": CalibrationMetrics(**values["uncalibrated"])}
    if "most_likely" in values:
        return MulticlassMetrics(**{**shared, "most_likely": MulticlassDecision(**values["most_likely"])})
    at = {key: _decision(values[key]) for key in ("at_half", "at_threshold")}
    uncalibrated = values.get("uncalibrated_threshold", values["threshold"])
    both = {
        "threshold": calibrated_threshold(uncalibrated, values["temperature"]),
        "uncalibrated_threshold": uncalibrated,
    }
    return BinaryMetrics(**{**shared, **at, **both})


def _decision(values: Mapping[str, Any]) -> DecisionMetrics:
    tn, fp, fn, tp = values["confusion"]
    return DecisionMetrics(**{**values, "confusion": (tn, fp, fn, tp)})
