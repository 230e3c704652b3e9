"""What is chosen on validation once a classifier is trained: its temperature, and the threshold of its decisions.

A threshold is chosen by a named rule (:data:`THRESHOLDS`), such as ``balanced_accuracy`` or ``sensitivity=0.95``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from balancer.core.errors import UsageError, lookup

Array = np.ndarray
Choice = Callable[[Array, Array], float]  # (y_true, y_score) of validation to a threshold
SMALLEST = 1e-12  # probabilities are kept so far off 0 and 1
HOTTEST = 20.0  # a temperature lies between this and its inverse


def fit_temperature(y_true: Array, y_score: Array) -> float:
    """The temperature that makes validation likeliest (Guo et al. 2017, arXiv:1706.04599).

    Args:
        y_true: (n,) in {0, 1}, or in 0 to C - 1.
        y_score: (n,) probabilities of class 1, or (n, C) of each class.

    Returns:
        T in [1 / 20, 20], for :func:`with_temperature`.
    """
    if y_score.ndim == 2:
        logs, of_image = np.log(np.clip(y_score, SMALLEST, 1)), np.arange(len(y_true))

        def loss(log_temperature: float) -> float:
            return float(-log_softmax(logs / np.exp(log_temperature), axis=1)[of_image, y_true].mean())
    else:
        logits = _logits(y_score)
        margins = np.where(y_true == 1, logits, -logits)

        def loss(log_temperature: float) -> float:
            return float(np.logaddexp(0, -margins / np.exp(log_temperature)).mean())

    bound = float(np.log(HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))


def with_temperature(y_score: Array, temperature: float) -> Array:
    """Probabilities with the temperature, float64: the same order, the same likeliest class.

    (n,) gives sigmoid(logit(y_score) / temperature), on the same side of .5; (n, C) gives softmax(log(y_score) / temperature).
    """
    if y_score.ndim == 2:
        shares: Array = softmax(np.log(np.clip(y_score, SMALLEST, 1)) / temperature, axis=1)
        return shares
    scores: Array = expit(_logits(y_score) / temperature)
    return scores


def _logits(y_score: Array) -> Array:
    logits: Array = logit(np.clip(y_score, SMALLEST, 1 - SMALLEST))
    return logits


@dataclass(frozen=True)
class Cuts:
    """Every way to part m different scores by a threshold: from the first, nothing called positive, to all. (m + 1,) each."""

    threshold: Array  # the middle of those that part the images so: it carries over better than an edge
    tp: Array  # positive images that are called positive
    fp: Array  # negative ones that are

    @property
    def sensitivity(self) -> Array:
        shares: Array = self.tp / self.tp[-1]
        return shares

    @property
    def specificity(self) -> Array:
        shares: Array = (self.fp[-1] - self.fp) / self.fp[-1]
        return shares


def cuts(y_true: Array, y_score: Array) -> Cuts:
    """The cuts of scores (n,) with labels (n,) in {0, 1}, both present."""
    y_score = y_score.astype(np.float64)
    order = np.argsort(-y_score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(y_score[order]) != 0, True))  # equal scores are called alike
    tp = np.cumsum(y_true[order] == 1)[ends]
    called = y_score[order][ends]  # the lowest score still called positive
    below = np.append(called[1:], called[-1])  # the highest that is not
    middle = (called + below) / 2
    middle = np.where(middle > below, middle, called)  # neighbouring floats have no middle
    nothing = (called[0] + 1) / 2
    nothing = (
        nothing if nothing > called[0] else np.nextafter(called[0], 2)
    )  # a score of 1 is called by every threshold up to 1
    return Cuts(np.append(nothing, middle), np.append(0, tp), np.append(0, ends + 1 - tp))


def half(_y_true: Array, _y_score: Array) -> float:
    """0.5."""
    return 0.5


def balanced_accuracy(y_true: Array, y_score: Array) -> float:
    """The threshold with the best balanced accuracy, (sensitivity + specificity) / 2; the highest of several such cuts.

    Youden's J (1950, Cancer 3) is twice that less 1: the same threshold.
    """
    found = cuts(y_true, y_score)
    gain = found.tp / found.tp[-1] - found.fp / found.fp[-1]
    # The first cut, where nothing is called positive, is no better than the last, where everything is.
    return float(found.threshold[1 + int(np.argmax(gain[1:]))])


def f1(y_true: Array, y_score: Array) -> float:
    """The threshold with the best F1 of PNEUMONIA; the highest of several such cuts."""
    found = cuts(y_true, y_score)
    return float(found.threshold[int(np.argmax(2 * found.tp / (found.tp + found.fp + found.tp[-1])))])


def at_sensitivity(y_true: Array, y_score: Array, least: float) -> float:
    """The highest cut whose sensitivity is at least so much: of those, the one with the best specificity."""
    found = cuts(y_true, y_score)
    return float(found.threshold[int(np.argmax(found.sensitivity >= least))])


def at_specificity(y_true: Array, y_score: Array, least: float) -> float:
    """The lowest cut whose specificity is at least so much: of those, the one with the best sensitivity.

    Where no threshold up to 1 is specific enough, it lies just above 1 and nothing is called positive.
    """
    found = cuts(y_true, y_score)
    return float(found.threshold[np.flatnonzero(found.specificity >= least)[-1]])


def at_cost(y_true: Array, y_score: Array, ratio: float) -> float:
    """The cheapest threshold where a missed PNEUMONIA costs as much as ``ratio`` false alarms; the highest of several such cuts.

    The cost is that of these images, so it holds for their share of PNEUMONIA. For calibrated probabilities the cheapest
    threshold would be 1 / (1 + ratio) (Elkan 2001, IJCAI); this one does not rest on calibration.
    """
    found = cuts(y_true, y_score)
    return float(found.threshold[int(np.argmin(ratio * (found.tp[-1] - found.tp) + found.fp))])


@dataclass(frozen=True)
class Rule:
    """A way to choose a threshold. One that takes a value is written with it: ``sensitivity=0.95``."""

    words: str  # what it chooses
    choose: Callable[..., float]  # of y_true, y_score and, where it takes one, the value
    highest: float | None = None  # the value is above 0 and at most this; None: it takes none


THRESHOLDS = {
    "half": Rule("0.5", half),
    "balanced_accuracy": Rule("the best mean of sensitivity and specificity", balanced_accuracy),
    "youden": Rule("another name of balanced_accuracy: Youden's J is best at the same point", balanced_accuracy),
    "f1": Rule("the best F1 of PNEUMONIA", f1),
    "sensitivity": Rule("a sensitivity of at least the value, with the best specificity", at_sensitivity, 1.0),
    "specificity": Rule("a specificity of at least the value, with the best sensitivity", at_specificity, 1.0),
    "cost": Rule("the least cost, if a missed PNEUMONIA costs the value in false alarms", at_cost, math.inf),
}


def threshold_rule(name: str) -> Choice:
    """The rule that is written so: (y_true, y_score) of validation, (n,) each, to a threshold.

    Raises:
        UsageError: no such rule, its value is missing or out of range, or it takes none.
    """
    kind, equals, text = (part.strip() for part in name.partition("="))
    rule = lookup(THRESHOLDS, kind, "threshold")
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
