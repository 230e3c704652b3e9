"""Rules that choose a decision threshold, on validation only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.metrics import roc_curve

from balancer.errors import lookup

Array = np.ndarray


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
