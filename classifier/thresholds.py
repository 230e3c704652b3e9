"""What is chosen on validation once a classifier is trained: its temperature, and the threshold of its decisions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.metrics import roc_curve

from balancer.errors import lookup

Array = np.ndarray
SMALLEST = 1e-12  # probabilities are kept so far off 0 and 1
HOTTEST = 20.0  # a temperature lies between this and its inverse


def fit_temperature(y_true: Array, y_score: Array) -> float:
    """The temperature that makes validation likeliest (Guo et al. 2017, arXiv:1706.04599).

    Args:
        y_true: (n,) in {0, 1}.
        y_score: (n,) probabilities.

    Returns:
        T in [1 / 20, 20], for :func:`with_temperature`.
    """
    logits = _logits(y_score)
    margins = np.where(y_true == 1, logits, -logits)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -margins / np.exp(log_temperature)).mean())

    bound = float(np.log(HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))


def with_temperature(y_score: Array, temperature: float) -> Array:
    """sigmoid(logit(y_score) / temperature), (n,) float64: the same order, the same side of .5."""
    scores: Array = expit(_logits(y_score) / temperature)
    return scores


def _logits(y_score: Array) -> Array:
    logits: Array = logit(np.clip(y_score, SMALLEST, 1 - SMALLEST))
    return logits


def half(_y_true: Array, _y_score: Array) -> float:
    """0.5."""
    return 0.5


def balanced_accuracy(y_true: Array, y_score: Array) -> float:
    """The middle of the range of thresholds with the best balanced accuracy (the same as Youden's J).

    Where classes are well apart a whole range of thresholds is best; its middle carries over better than its edge.
    """
    fpr, tpr, thresholds = roc_curve(y_true, y_score, drop_intermediate=False)
    # The first point, where nothing is called positive, is no better than the last, where everything is.
    best = 1 + int(np.argmax((tpr - fpr)[1:]))
    upper = float(thresholds[best])  # the lowest score still called positive
    below = y_score[y_score < upper]
    return (upper + float(below.max())) / 2 if below.size else upper


THRESHOLDS: dict[str, Callable[[Array, Array], float]] = {"half": half, "balanced_accuracy": balanced_accuracy}


def threshold_rule(name: str) -> Callable[[Array, Array], float]:
    """The registered rule, (y_true, y_score) of validation to a threshold.

    Raises:
        UsageError: no such name.
    """
    return lookup(THRESHOLDS, name, "threshold")
