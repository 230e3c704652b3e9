"""The mean of several trials' probabilities, with the temperature and the threshold that validation gives it.

The networks' own probabilities are averaged (Lakshminarayanan et al. 2017, arXiv:1612.01474), and the temperature is
fitted to the mean. Averaging makes probabilities more cautious by itself, so trials that had been calibrated first
would together be too cautious (Rahaman & Thiery 2021, arXiv:2007.08792).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from classifier.analysis.results import TrialResult
from classifier.evaluation.thresholds import fit_temperature, threshold_rule

Array = np.ndarray


def mean_score(trials: Sequence[TrialResult], fold: str) -> Array:
    """Return the mean of the trials' own probabilities in a fold: (n,) of class 1, or (n, C)."""
    mean: Array = np.mean([trial.predictions[fold].y_score for trial in trials], axis=0)
    return mean


def choose_on_validation(y_true: Array, score: Array, rule: str) -> tuple[float, float]:
    """Return the temperature of mean probabilities and the threshold on them, both chosen on validation.

    With more than two classes there is no threshold: .5 stands for it.

    Args:
        y_true: (n,) the labels of validation.
        score: the mean probabilities on validation, (n,) or (n, C).
        rule: as :func:`~classifier.evaluation.thresholds.threshold_rule` takes it.
    """
    threshold = threshold_rule(rule)(y_true, score) if score.ndim == 1 else 0.5
    return fit_temperature(y_true, score), threshold
