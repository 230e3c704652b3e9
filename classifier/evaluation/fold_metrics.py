"""The metrics of one classifier on one fold, as typed records. :mod:`classifier.evaluation.metrics` computes them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Discriminator, Tag

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

    most_likely: MulticlassDecision
    auroc_of_class: list[float] = field(default_factory=list)  # (C,) each against the rest; earlier versions lack it
    auroc_pneumonia: float | None = None  # any pneumonia against NORMAL; None but for the chest set


@dataclass(frozen=True)
class Validation:
    """The losses at one validation pass of a training."""

    step: int  # optimiser steps so far
    train_loss: float  # mean since the last validation pass
    val_nll: float  # in nats, uncalibrated


def _of_older_version(values: Any) -> Any:
    """Return plain values with both thresholds; earlier versions have ``threshold`` alone, on the uncalibrated."""
    if not isinstance(values, dict) or "uncalibrated_threshold" in values:
        return values
    threshold, temperature = values.get("threshold"), values.get("temperature")
    if not isinstance(threshold, float | int) or not isinstance(temperature, float | int):
        return values  # which the check of the types refuses
    both = {"threshold": calibrated_threshold(threshold, temperature), "uncalibrated_threshold": threshold}
    return {**values, **both}


def _kind(values: Any) -> str:
    """Return the tag of metrics, or of the plain values that :meth:`FoldMetrics.to_json` gave."""
    several = "most_likely" in values if isinstance(values, dict) else isinstance(values, MulticlassMetrics)
    return "multiclass" if several else "binary"


# For a reader of files, which checks the values of the kind that the file holds.
AnyMetrics: TypeAlias = Annotated[
    Annotated[BinaryMetrics, BeforeValidator(_of_older_version), Tag("binary")]
    | Annotated[MulticlassMetrics, Tag("multiclass")],
    Discriminator(_kind),
]
