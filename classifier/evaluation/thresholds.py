"""Temperature and decision threshold of a trained classifier, both chosen on validation.

A threshold is chosen on the network's own probabilities and reported on the calibrated ones, the probabilities with the
temperature.

A named rule (:data:`THRESHOLD_RULES`) chooses the threshold, such as ``balanced_accuracy`` or ``sensitivity=0.95``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from balancer.core.errors import UsageError, lookup
from balancer.metrics.classification import falling_scores

Array = np.ndarray
ThresholdRule = Callable[[Array, Array], float]  # (y_true, y_score) of validation -> threshold
MIN_PROBABILITY = 1e-12  # probabilities stay this far off 0 and 1
MAX_TEMPERATURE = 20.0  # a temperature lies between this and its inverse
NEAR_BOUND = 1e-3  # on the logarithm: the bounded search ends a little inside its range
BOUND_NOTE = (
    "at an end of its search (.05 to 20), so validation cannot tell it, and NLL, Brier score and ECE say little"
)


def fit_temperature(y_true: Array, y_score: Array) -> float:
    """Return the temperature with the highest likelihood on validation (Guo et al. 2017, arXiv:1706.04599).

    Args:
        y_true: (n,) in {0, 1}, or in 0 to C - 1.
        y_score: (n,) probabilities of class 1, or (n, C) of each class.

    Returns:
        T in [1 / 20, 20], for :func:`with_temperature`.
    """
    if y_score.ndim == 2:
        logs, of_image = np.log(np.clip(y_score, MIN_PROBABILITY, 1)), np.arange(len(y_true))

        def loss(log_temperature: float) -> float:
            return float(-scipy.special.log_softmax(logs / np.exp(log_temperature), axis=1)[of_image, y_true].mean())
    else:
        logits = _logits(y_score)
        margins = np.where(y_true == 1, logits, -logits)

        def loss(log_temperature: float) -> float:
            return float(np.logaddexp(0, -margins / np.exp(log_temperature)).mean())

    bound = float(np.log(MAX_TEMPERATURE))
    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))


def with_temperature(y_score: Array, temperature: float) -> Array:
    """Return the probabilities with the temperature, float64: the same order and the same most likely class.

    Scores (n,) become sigmoid(logit(y_score) / temperature), on the same side of .5. Scores (n, C) become
    softmax(log(y_score) / temperature).
    """
    if y_score.ndim == 2:
        shares: Array = scipy.special.softmax(np.log(np.clip(y_score, MIN_PROBABILITY, 1)) / temperature, axis=1)
        return shares
    scores: Array = scipy.special.expit(_logits(y_score) / temperature)
    return scores


def is_at_bound(temperature: float) -> bool:
    """Return whether the search for a temperature ended at an end of its range: validation cannot tell the value."""
    return abs(math.log(temperature)) > math.log(MAX_TEMPERATURE) - NEAR_BOUND


def calibrated_threshold(threshold: float, temperature: float) -> float:
    """Return a threshold on the network's own probabilities as a threshold on those with the temperature, in [0, 1]."""
    return float(with_temperature(np.array([threshold]), temperature)[0])


def decide(y_score: Array, temperature: float, chosen: float, threshold: float | None = None) -> Array:
    """Return whether each image is called positive: (n,) bool.

    Args:
        y_score: (n,) the network's own probabilities. A temperature below 1 rounds large ones to 1 and ties them, so
            the chosen threshold is compared with these.
        temperature: of the calibrated probabilities.
        chosen: the threshold chosen on validation, on ``y_score``.
        threshold: another one, on the calibrated probabilities. The calibrated value of ``chosen`` decides as
            ``chosen`` does, to the last image.
    """
    called: Array = y_score >= chosen
    if threshold is not None and threshold != calibrated_threshold(chosen, temperature):
        called = with_temperature(y_score, temperature) >= threshold
    return called


def labels_of(y_score: Array, chosen: float) -> Array:
    """Return the label (n,) int64 by the network's own probabilities.

    Args:
        y_score: (n, C), whose most likely class is the label; or (n,), where ``chosen`` decides as in :func:`decide`.
        chosen: the threshold chosen on validation.
    """
    labels: Array = y_score.argmax(axis=1) if y_score.ndim == 2 else (y_score >= chosen).astype(np.int64)
    return labels


def _logits(y_score: Array) -> Array:
    logits: Array = scipy.special.logit(np.clip(y_score, MIN_PROBABILITY, 1 - MIN_PROBABILITY))
    return logits


@dataclass(frozen=True)
class OperatingPoints:
    """Every decision that a threshold can make on m different scores, from no positive to all: (m + 1,) each."""

    threshold: Array  # the middle of the thresholds that decide so: it carries over better than an edge
    tp: Array  # true positives
    fp: Array  # false positives

    @property
    def sensitivity(self) -> Array:
        """Return the share of positive images that are called positive."""
        shares: Array = self.tp / self.tp[-1]
        return shares

    @property
    def specificity(self) -> Array:
        """Return the share of negative images that are called negative."""
        shares: Array = (self.fp[-1] - self.fp) / self.fp[-1]
        return shares


def operating_points(y_true: Array, y_score: Array) -> OperatingPoints:
    """Return the operating points of scores (n,) with labels (n,) in {0, 1}, both present."""
    y_score = y_score.astype(np.float64)
    order, ends = falling_scores(y_score)
    tp = np.cumsum(y_true[order] == 1)[ends]
    called = y_score[order][ends]  # the lowest score still called positive
    below = np.append(called[1:], called[-1])  # the highest that is not
    middle = (called + below) / 2
    middle = np.where(middle > below, middle, called)  # neighbouring floats have no middle
    nothing = (called[0] + 1) / 2
    if nothing <= called[0]:  # every threshold up to 1 calls a score of 1 positive
        nothing = np.nextafter(called[0], 2)
    return OperatingPoints(np.append(nothing, middle), np.append(0, tp), np.append(0, ends + 1 - tp))


def half(_y_true: Array, _y_score: Array) -> float:
    """Return 0.5."""
    return 0.5


def balanced_accuracy(y_true: Array, y_score: Array) -> float:
    """Return the threshold with the best balanced accuracy, (sensitivity + specificity) / 2; of a tie the highest.

    Youden's J (1950, Cancer 3) is twice the balanced accuracy less 1, so it chooses the same threshold.
    """
    points = operating_points(y_true, y_score)
    gain = points.tp / points.tp[-1] - points.fp / points.fp[-1]
    # The first point, where nothing is called positive, is no better than the last, where everything is.
    return float(points.threshold[1 + int(np.argmax(gain[1:]))])


def f1(y_true: Array, y_score: Array) -> float:
    """Return the threshold with the best F1 of class 1; the highest if several tie."""
    points = operating_points(y_true, y_score)
    return float(points.threshold[int(np.argmax(2 * points.tp / (points.tp + points.fp + points.tp[-1])))])


def at_sensitivity(y_true: Array, y_score: Array, least: float) -> float:
    """Return the highest threshold with a sensitivity of at least ``least``: the one with the best specificity."""
    points = operating_points(y_true, y_score)
    return float(points.threshold[int(np.argmax(points.sensitivity >= least))])


def at_specificity(y_true: Array, y_score: Array, least: float) -> float:
    """Return the lowest threshold with a specificity of at least ``least``: the one with the best sensitivity.

    Where no threshold up to 1 is specific enough, the threshold lies just above 1 and nothing is called positive.
    """
    points = operating_points(y_true, y_score)
    return float(points.threshold[np.flatnonzero(points.specificity >= least)[-1]])


def at_cost(y_true: Array, y_score: Array, ratio: float) -> float:
    """Return the cheapest threshold if a miss of class 1 costs ``ratio`` false alarms; the highest if several tie.

    Assumes the class prevalence of these images. For calibrated probabilities the cheapest threshold would be 1 / (1 +
    ratio) (Elkan 2001, IJCAI); this one needs no calibration.
    """
    points = operating_points(y_true, y_score)
    return float(points.threshold[int(np.argmin(ratio * (points.tp[-1] - points.tp) + points.fp))])


@dataclass(frozen=True)
class RuleEntry:
    """A way to choose a threshold. A rule that takes a value is written with the value: ``sensitivity=0.95``."""

    choose: Callable[..., float]  # (y_true, y_score), and the value if the rule takes one -> threshold
    # What the threshold is chosen for, as the rest of a sentence; {} stands for the value, {positive} for class 1.
    purpose: str
    highest: float | None = None  # the value is above 0 and at most this; None: the rule takes no value


THRESHOLD_RULES = {
    "half": RuleEntry(half, "one half, whatever validation says"),
    "balanced_accuracy": RuleEntry(balanced_accuracy, "the best balanced accuracy on validation"),
    "youden": RuleEntry(balanced_accuracy, "the best balanced accuracy on validation (Youden's J)"),
    "f1": RuleEntry(f1, "the best F1 on validation"),
    "sensitivity": RuleEntry(at_sensitivity, "the best specificity on validation at a sensitivity of {} or more", 1.0),
    "specificity": RuleEntry(at_specificity, "the best sensitivity on validation at a specificity of {} or more", 1.0),
    "cost": RuleEntry(at_cost, "the lowest cost on validation, if a missed {positive} costs {} false alarms", math.inf),
}


def threshold_rule(name: str) -> ThresholdRule:
    """Return the rule of that name, such as ``sensitivity=0.95``.

    Raises:
        UsageError: If there is no such rule, its value is missing or out of range, or it takes no value.
    """
    kind, equals, text = (part.strip() for part in name.partition("="))
    rule = lookup(THRESHOLD_RULES, kind, "threshold")
    if rule.highest is None:
        if equals:
            raise UsageError(f"threshold is {name!r}; {kind} takes no value, write {kind} alone")
        return rule.choose
    expected = "a number above 0" + (f" and at most {rule.highest:g}" if math.isfinite(rule.highest) else "")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value <= rule.highest and math.isfinite(value)):
        example = f"{kind}={5 if rule.highest > 1 else 0.95}"
        raise UsageError(f"threshold is {name!r}; {kind} takes {expected}, as in {example}")
    return lambda y_true, y_score: rule.choose(y_true, y_score, value)


def threshold_purpose(name: str, positive: str) -> str:
    """Return what a rule chooses the threshold for, in words; ``positive`` is the name of class 1.

    >>> threshold_purpose("cost=5", "malignant")
    'the lowest cost on validation, if a missed malignant costs 5 false alarms'
    """
    kind, _, value = (part.strip() for part in name.partition("="))
    return lookup(THRESHOLD_RULES, kind, "threshold").purpose.format(value, positive=positive)
