"""Metrics of two classes under weights, for many resamples at once; tests compare each with scikit-learn.

Every function takes ``y_true`` (n,) in {0, 1}, something (n,) to judge, and ``weights`` (b, n) of at least 0. One row
of weights is one resample: how often each image counts (:mod:`balancer.metrics.resampling`). A function returns one
value per row. Each raises a :class:`BalancerError` where there is no image, a value is NaN or infinite, or a class is
missing that the metric divides by.
"""

from __future__ import annotations

import numpy as np

from balancer.core.errors import BalancerError

Array = np.ndarray
EPSILON = 1e-7  # the negative log-likelihood keeps probabilities this far from 0 and 1
ECE_BINS = 15
CHUNK = 250  # resamples at once: their sums stay in the processor's cache
MOST_WEIGHTS = 5_000_000  # at once, 40 MB: fewer resamples at once where there are more than 20,000 images


def parts_of(resamples: int, images: int) -> list[slice]:
    """Return the rows of weights that are worked on at once, so that memory does not grow with their product."""
    rows = max(1, min(CHUNK, MOST_WEIGHTS // max(images, 1)))
    return [slice(start, min(start + rows, resamples)) for start in range(0, resamples, rows)]


def ordered_pairs(y_true: Array, y_score: Array, weights: Array) -> tuple[Array, Array]:
    """Return the weight (b,) of (class 0, class 1) pairs in the right order, ties counted half, and of all pairs."""
    _check(y_score)
    order = np.argsort(y_score, kind="stable")
    negative, positive = order[y_true[order] == 0], order[y_true[order] == 1]
    below = np.searchsorted(y_score[negative], y_score[positive], "left")
    to_tie = np.searchsorted(y_score[negative], y_score[positive], "right")
    ordered, pairs = np.empty(len(weights)), np.empty(len(weights))
    for part in parts_of(*weights.shape):
        w_negative, w_positive = weights[part, negative], weights[part, positive]
        cumulative = np.concatenate([np.zeros((len(w_negative), 1)), np.cumsum(w_negative, axis=1)], axis=1)
        ordered[part] = np.einsum("bi,bi->b", w_positive, cumulative[:, below] + cumulative[:, to_tie]) / 2
        pairs[part] = cumulative[:, -1] * w_positive.sum(axis=1)
    return ordered, pairs


def weighted_auroc(y_true: Array, y_score: Array, weights: Array) -> Array:
    """Return the AUROC (b,): the weighted share of pairs in the right order. NaN where a class has no weight."""
    ordered, pairs = ordered_pairs(y_true, y_score, weights)
    return np.divide(ordered, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def weighted_average_precision(y_true: Array, y_score: Array, weights: Array) -> Array:
    """Return the average precision (b,): the step-wise area under precision and recall."""
    order, ends = falling_scores(y_score)
    _check_classes(y_true, 1)
    area = np.empty(len(weights))
    for part in parts_of(*weights.shape):
        w = weights[part, order]
        called, hits = np.cumsum(w, axis=1)[:, ends], np.cumsum(w * y_true[order], axis=1)[:, ends]
        precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
        steps = np.diff(hits, axis=1, prepend=0.0)
        area[part] = np.einsum("bi,bi->b", steps, precision) / hits[:, -1]
    return area


def weighted_calibration(y_true: Array, probability: Array, weights: Array) -> dict[str, Array]:
    """Return ``brier``, ``nll`` (nats) and ``ece`` (expected calibration error), (b,) each."""
    _check(probability)
    p = np.clip(probability, EPSILON, 1 - EPSILON)
    losses = np.stack([(probability - y_true) ** 2, -np.where(y_true == 1, np.log(p), np.log(1 - p))], axis=1)
    bin_of = np.minimum((probability * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.eye(ECE_BINS)[bin_of] * (y_true - probability)[:, None]
    total = weights.sum(axis=1)
    brier, nll = (weights @ losses).T / total
    return {"brier": brier, "nll": nll, "ece": np.abs(weights @ gaps).sum(axis=1) / total}


def weighted_decisions(y_true: Array, called: Array, weights: Array) -> dict[str, Array]:
    """Return the metrics (b,) of the decisions ``called`` (n,) bool; a ratio with a denominator of 0 is 0.

    Keys: ``accuracy``, ``balanced_accuracy``, ``sensitivity``, ``specificity``, ``precision``, ``f1``.
    """
    _check(called)
    cells = np.stack([called & (y_true == 1), called & (y_true == 0), ~called & (y_true == 1), ~called & (y_true == 0)])
    tp, fp, fn, tn = (weights @ cells.T.astype(float)).T

    def ratio(a: Array, b: Array) -> Array:
        return np.divide(a, b, out=np.zeros_like(a), where=b > 0)

    sensitivity, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
    return {
        "accuracy": (tp + tn) / (tp + fp + fn + tn),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": ratio(tp, tp + fp),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
    }


def threshold_sweep(y_true: Array, y_score: Array, thresholds: Array, weights: Array) -> tuple[Array, Array]:
    """Return sensitivity and specificity (b, T) of ``y_score >= threshold`` at every threshold (T,)."""
    _check(y_score)
    _check_classes(y_true, 0, 1)
    called = (y_score[:, None] >= thresholds).astype(float)
    shares = []
    for label in (1, 0):
        of_class = y_true == label
        shares.append(weights[:, of_class] @ called[of_class] / weights[:, of_class].sum(axis=1, keepdims=True))
    return shares[0], 1 - shares[1]


def roc_at(grid: Array, y_true: Array, y_score: Array, weights: Array) -> Array:
    """Return the sensitivity (b, len(grid)) at each 1 - specificity of ``grid``, straight between operating points."""
    false, true = _passing(y_true, y_score, weights)
    return np.stack([np.interp(grid, f, t) for f, t in zip(false, true, strict=True)])


def precision_at(grid: Array, y_true: Array, y_score: Array, weights: Array) -> Array:
    """Return the precision (b, len(grid)) at the highest threshold that reaches each recall of ``grid``.

    Nothing is interpolated, so the area below the points is the average precision.
    """
    false, true = _passing(y_true, y_score, weights)
    negatives, positives = weights[:, y_true == 0].sum(axis=1), weights[:, y_true == 1].sum(axis=1)
    points = []
    for f, t, n, p in zip(false, true, negatives, positives, strict=True):
        first = np.searchsorted(t, grid)
        points.append(t[first] * p / (t[first] * p + f[first] * n))
    return np.stack(points)


def _passing(y_true: Array, y_score: Array, weights: Array) -> tuple[Array, Array]:
    """Return the shares (b, thresholds + 1) of class 0 and of class 1 that pass each threshold, from none to all."""
    order, ends = falling_scores(y_score)
    _check_classes(y_true, 0, 1)
    shares = []
    for label in (0, 1):
        cumulative = np.cumsum(weights[:, order] * (y_true[order] == label), axis=1)[:, ends]
        shares.append(np.concatenate([np.zeros((len(weights), 1)), cumulative / cumulative[:, -1:]], axis=1))
    return shares[0], shares[1]


def falling_scores(y_score: Array) -> tuple[Array, Array]:
    """Return the images with falling score, and the last place of each different score: equal scores pass together."""
    _check(y_score)
    order = np.argsort(-y_score, kind="stable")
    return order, np.flatnonzero(np.append(np.diff(y_score[order]) != 0, True))


def _check_classes(y_true: Array, *classes: int) -> None:
    """Refuse labels without an image of a class that the metric divides by."""
    if missing := [label for label in classes if not (y_true == label).any()]:
        raise BalancerError(f"the metric needs images of class {missing[0]}; got none among {len(y_true)}")


def _check(values: Array) -> None:
    """Refuse scores (n,) that a metric would sort or sum without a word."""
    if len(values) == 0:
        raise BalancerError("a metric needs at least 1 image; got none")
    if not np.isfinite(values).all():
        raise BalancerError(f"expected finite scores; {int((~np.isfinite(values)).sum())} of {len(values)} are not")
