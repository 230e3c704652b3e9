"""Classifier losses: cross-entropy or the focal loss with class weights, of one logit or of one per class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from balancer.core.settings import ClassifierConfig
from classifier.training.regimes import Regime
from classifier.training.training_set import TrainingSet

Array = np.ndarray
Loss = Callable[[Tensor, Tensor], Tensor]  # logits (B,) or (B, C) and labels (B,) int64 to a scalar

# Images per class (C,) and positive_factor to the weight (C,) of each class.
CLASS_WEIGHTS: dict[str, Callable[[Array, float], Array]] = {
    "none": lambda counts, _: np.ones(len(counts)),
    "balanced": lambda counts, _: counts.sum() / (len(counts) * counts),  # scikit-learn's compute_class_weight
    "complement": lambda counts, _: 1 - counts / counts.sum(),  # the share of the other classes
    "positive": lambda counts, factor: np.array([1.0, factor * counts[0] / counts[1]]),  # torch's pos_weight
}


def make_loss(config: ClassifierConfig, regime: Regime, train_set: TrainingSet, device: torch.device) -> Loss:
    """Return the loss of a regime: the plain mean over a batch of weighted losses.

    A ``weighted`` regime has balanced class weights, whatever the settings say. The plain mean lets parts of a batch
    add up to the batch; torch's ``cross_entropy(weight=...)`` divides by the batch's mean weight instead. Label
    smoothing moves ``label_smoothing`` from the true class to the others, in equal parts; the weight goes by the true
    class. The focal loss takes no smoothing.
    """
    kind = "balanced" if regime.weighted else config.class_weights
    weights = (
        torch.from_numpy(CLASS_WEIGHTS[kind](np.array(train_set.counts), config.positive_factor)).float().to(device)
    )
    return (_binary if train_set.n_classes == 2 else _multiclass)(config, regime.focal, weights)


def _binary(config: ClassifierConfig, focal: bool, weights: Tensor) -> Loss:
    """Return the loss of logits (B,); the focal loss is that of Lin et al. (2017, arXiv:1708.02002) without alpha."""
    targets = torch.tensor([config.label_smoothing, 1 - config.label_smoothing], device=weights.device)

    def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets[y], weight=weights[y])

    if not focal:
        return cross_entropy
    from torchvision.ops import sigmoid_focal_loss

    def focal_loss(logits: Tensor, y: Tensor) -> Tensor:
        losses: Tensor = sigmoid_focal_loss(logits, y.float(), -1, config.focal_gamma, "none")  # -1: no alpha
        return (weights[y] * losses).mean()

    return focal_loss


def _multiclass(config: ClassifierConfig, focal: bool, weights: Tensor) -> Loss:
    """Return the loss of logits (B, C); the focal loss is cross-entropy times (1 - p of the true class) ** gamma."""
    classes, smoothing = len(weights), config.label_smoothing
    targets = torch.full((classes, classes), smoothing / (classes - 1), device=weights.device)
    targets.fill_diagonal_(1 - smoothing)

    def focal_loss(logits: Tensor, y: Tensor) -> Tensor:
        log_p = -F.cross_entropy(logits, y, reduction="none")
        return (weights[y] * (1 - log_p.exp()) ** config.focal_gamma * -log_p).mean()

    def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
        return (weights[y] * F.cross_entropy(logits, targets[y], reduction="none")).mean()

    return focal_loss if focal else cross_entropy


def with_penalty(loss_of: Loss, weight: Tensor, strength: float) -> Loss:
    """Return a loss plus ``strength`` times the sum of squared weights, as Keras's ``kernel_regularizer``."""
    return lambda logits, y: loss_of(logits, y) + strength * weight.square().sum()
