"""What a classifier minimises: cross-entropy or the focal loss, with class weights, of one logit or of one per class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from balancer.core.errors import UsageError, lookup
from balancer.core.settings import ClassifierConfig
from balancer.data.folder import TASKS
from classifier.training.regimes import Regime
from classifier.training.training_set import TrainingSet

Array = np.ndarray
Loss = Callable[[Tensor, Tensor], Tensor]  # logits (B,) or (B, C) and labels (B,) int64 to a scalar


def _none(counts: Array, _factor: float) -> Array:
    """Every image weighs the same."""
    return np.ones(len(counts))


def _balanced(counts: Array, _factor: float) -> Array:
    """n / (C n_c): every class weighs the same, an image 1 in the mean (scikit-learn's ``balanced``)."""
    weights: Array = counts.sum() / (len(counts) * counts)
    return weights


def _complement(counts: Array, _factor: float) -> Array:
    """1 - n_c / n: the share of the other classes."""
    weights: Array = 1 - counts / counts.sum()
    return weights


def _positive(counts: Array, factor: float) -> Array:
    """n_0 / n_1 times a factor on PNEUMONIA, 1 on NORMAL: torch's ``pos_weight``."""
    return np.array([1.0, factor * counts[0] / counts[1]])


CLASS_WEIGHTS: dict[str, Callable[[Array, float], Array]] = {
    "none": _none,
    "balanced": _balanced,
    "complement": _complement,
    "positive": _positive,
}


def class_weights(kind: str, labels: Array, classes: int, factor: float = 1.0) -> Array:
    """The weight (C,) of each class in the loss.

    Args:
        kind: a key of CLASS_WEIGHTS.
        labels: (n,) of what is trained on, added images too.
        factor: of ``positive``.

    Raises:
        UsageError: an unknown kind, or ``positive`` where there are more than two classes.
    """
    rule = lookup(CLASS_WEIGHTS, kind, "class_weights")
    check_class_weights(kind, classes)
    return rule(np.bincount(labels, minlength=classes), factor)


def check_class_weights(kind: str, classes: int) -> None:
    """
    Raises:
        UsageError: ``positive`` where there are more than two classes.
    """
    if kind == "positive" and classes > 2:
        raise UsageError(
            f"class_weights is 'positive', which is for two classes; of {classes} use balanced or complement"
        )


def make_loss(config: ClassifierConfig, regime: Regime, train: TrainingSet, device: torch.device) -> Loss:
    """The loss of a regime under the settings.

    A regime that is ``weighted`` has balanced weights, whatever the settings say of the others. The loss is the plain mean
    of weighted terms, so that parts of a batch add up to the whole; torch's ``cross_entropy(weight=...)`` divides by the
    weights' mean in the batch instead, which balanced weights make 1 on average. The weight of an image goes by its
    label, smoothed or not. A smoothed label is ``label_smoothing`` off 1 for the true class and shares as much among the
    others: with two classes off 0 and 1. The focal loss takes labels as they are.
    """
    classes = len(TASKS[config.data.task])
    kind = "balanced" if regime.weighted else config.class_weights
    weights = class_weights(kind, train.labels, classes, config.positive_factor)
    family = _binary if classes == 2 else _multiclass
    return family(config, regime.focal, torch.from_numpy(weights).float().to(device))


def _binary(config: ClassifierConfig, focal: bool, weights: Tensor) -> Loss:
    """Of logits (B,); the focal loss is that of Lin et al. 2017, arXiv:1708.02002, without its alpha."""

    def hard(logits: Tensor, y: Tensor) -> Tensor:
        each: Tensor = sigmoid_focal_loss(logits, y.float(), -1, config.focal_gamma, "none")  # -1: no alpha
        return (weights[y] * each).mean()

    targets = torch.tensor([config.label_smoothing, 1 - config.label_smoothing], device=weights.device)
    return (
        hard if focal else lambda logits, y: F.binary_cross_entropy_with_logits(logits, targets[y], weight=weights[y])
    )


def _multiclass(config: ClassifierConfig, focal: bool, weights: Tensor) -> Loss:
    """Of logits (B, C); the focal loss is (1 - p) ** gamma times the cross-entropy, p being the true class's probability."""
    classes, smoothing = len(weights), config.label_smoothing
    targets = torch.full((classes, classes), smoothing / (classes - 1), device=weights.device)
    targets.fill_diagonal_(1 - smoothing)

    def hard(logits: Tensor, y: Tensor) -> Tensor:
        log_p = -F.cross_entropy(logits, y, reduction="none")
        return (weights[y] * (1 - log_p.exp()) ** config.focal_gamma * -log_p).mean()

    def soft(logits: Tensor, y: Tensor) -> Tensor:
        return (weights[y] * F.cross_entropy(logits, targets[y], reduction="none")).mean()

    return hard if focal else soft


def with_penalty(loss_of: Loss, weight: Tensor, strength: float) -> Loss:
    """A loss plus ``strength`` times the sum of squares of a layer's weights: Keras's ``kernel_regularizer``."""
    return lambda logits, y: loss_of(logits, y) + strength * weight.square().sum()
