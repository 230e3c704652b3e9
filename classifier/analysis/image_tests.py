"""Tests of two classifiers on the same images, which are taken as independent: they know neither patients nor seeds.

They stand beside the contrasts of :mod:`classifier.analysis.statistics`, for readers who know them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy

from classifier.analysis.statistics import t_test

Array = np.ndarray


class DeLong(NamedTuple):
    """DeLong's test of two AUROCs on the same images, which are taken as independent."""

    estimate: float  # the difference
    se: float
    p: float  # two-sided


class McNemar(NamedTuple):
    """McNemar's exact test of two sets of decisions on the same images, which are taken as independent."""

    n10: int  # images that only the first decides rightly
    n01: int  # images that only the second decides rightly
    p: float  # two-sided


def delong(y_true: Array, left: Array, right: Array) -> DeLong:
    """Return DeLong's test of the difference of two AUROCs; of more than two classes, of two macro AUROCs.

    DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44; by midranks as in Sun & Xu 2014, IEEE Sig. Proc. Lett. 21. The
    macro AUROC is a mean of U-statistics of C samples. As DeLong's, its variance is that of the images' parts.

    Args:
        y_true: (n,) in {0, 1}, or in 0 to C - 1, two or more of each.
        left: scores (n,) of class 1, or (n, C).
        right: scores in the same shape.
    """
    if left.ndim == 2:
        return _macro_delong(y_true, left, right)
    positive = y_true == 1
    (above, below), (above_right, below_right) = (placements(positive, score) for score in (left, right))
    above, below = above - above_right, below - below_right
    value, se = float(above.mean()), float((above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)) ** 0.5)
    return DeLong(value, se, t_test(value, se, np.inf))


def placements(positive: Array, score: Array) -> tuple[Array, Array]:
    """Return for each positive (m,) and each negative image (n,) the share of the others in the right order with it."""
    m, n = int(positive.sum()), int((~positive).sum())
    ranks = scipy.stats.rankdata(score)
    above = (ranks[positive] - scipy.stats.rankdata(score[positive])) / n
    below = 1 - (ranks[~positive] - scipy.stats.rankdata(score[~positive])) / m
    return above, below


def macro_parts(y_true: Array, y_score: Array) -> Array:
    """Return the part (n,) of each image in the AUROCs of scores (n, C), each class against the rest.

    An image is a positive of its own class and a negative of every other class. The means of the parts over the images
    of a class add up to twice the sum of the AUROCs: each AUROC is there by its positives and by its negatives.
    """
    counts = np.bincount(y_true, minlength=y_score.shape[1])
    parts = np.zeros(len(y_true))
    for k in range(y_score.shape[1]):
        positive = y_true == k
        above, below = placements(positive, y_score[:, k])
        parts[positive] += above
        parts[~positive] += below * (counts[y_true[~positive]] / (len(y_true) - counts[k]))
    return parts


def _macro_delong(y_true: Array, left: Array, right: Array) -> DeLong:
    classes = range(left.shape[1])
    difference = (macro_parts(y_true, left) - macro_parts(y_true, right)) / len(classes)
    of_class = [difference[y_true == k] for k in classes]
    value = float(sum(parts.mean() for parts in of_class)) / 2
    se = float(sum(parts.var(ddof=1) / len(parts) for parts in of_class) ** 0.5)
    return DeLong(value, se, t_test(value, se, np.inf))


def mcnemar(left: Array, right: Array) -> McNemar:
    """Return McNemar's exact test of two sets of decisions (McNemar 1947, Psychometrika 12).

    Args:
        left: (n,) bool, whether each image was decided rightly.
        right: (n,) bool.
    """
    only_left, only_right = int((left & ~right).sum()), int((right & ~left).sum())
    n = only_left + only_right
    return McNemar(only_left, only_right, float(scipy.stats.binomtest(only_left, n).pvalue) if n else 1.0)
