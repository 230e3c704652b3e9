"""Resamples and folds of patients, and intervals that come from resamples: images of one patient stay together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from balancer.core.errors import BalancerError
from balancer.core.seeding import derive_seed
from balancer.data.records import sampling_unit
from balancer.metrics.classification import ordered_pairs, parts_of, weighted_auroc

Array = np.ndarray
Groups = Sequence[str] | Array  # the patient of each image

# Published figures rest on these numbers: another number draws other resamples.
RESAMPLES = 2000  # for an interval
FEWER_RESAMPLES = 1000  # for the intervals of an audit and of a cross-validation
CURVE_RESAMPLES = 200  # for the standard error at each point of a curve
CONFIDENCE = 0.95
STRETCH = 2**0.5  # of the scatter of :func:`fold_aurocs`: folds teach and test one another


@dataclass(frozen=True)
class AurocInterval:
    """An AUROC with its 95 % interval; ``low`` and ``high`` are None where a class has fewer than two patients."""

    auroc: float
    low: float | None
    high: float | None


def group_numbers(groups: Groups) -> Array:
    """Return the patient (n,) of each image as a number from 0, in the order of the sorted names."""
    numbers: Array = np.unique(np.asarray(groups), return_inverse=True)[1]
    return numbers


def patients_per_class(y_true: Array, groups: Groups, classes: int = 2) -> tuple[int, ...]:
    """Return how many patients have an image of class 0, of class 1, and so on."""
    patient = group_numbers(groups)
    return tuple(len(np.unique(patient[y_true == label])) for label in range(classes))


def resample_groups(groups: Groups, resamples: int, rng: np.random.Generator, one_fewer: bool = True) -> Array:
    """Return how often each image counts in each resample of whole patients, (resamples, n) float64.

    Args:
        groups: patient (n,) of each image; the m patients are drawn with replacement.
        resamples: number of resamples.
        rng: source of the draws.
        one_fewer: draw m - 1 patients and not m, which removes the bias of the variance where m is small
            (Rao & Wu 1988, JASA 83).
    """
    patient = group_numbers(groups)
    m = int(patient.max()) + 1
    counts: Array = rng.multinomial(m - one_fewer, np.full(m, 1 / m), size=resamples)[:, patient].astype(np.float64)
    return counts


def patient_weights(y_true: Array, groups: Groups, resamples: int, seed: int, classes: int = 2) -> Array:
    """Return how often each test image counts in each resample of patients, the same for every regime and trial seed.

    Patients are drawn with replacement within their class pattern, which is the set of classes that a patient has
    images of. Of the m patients of a pattern, m - 1 are drawn and weighted by m / (m - 1) (:func:`resample_groups`). A
    pattern of one patient stays as it is.

    Args:
        y_true: (n,) in 0 to ``classes`` - 1.
        groups: patient (n,) of each image.
        resamples: number of resamples.
        seed: seed of the resamples.
        classes: number of classes.

    Returns:
        (1 + resamples, n) float64. The first row is all ones: the sample itself. Each column has mean 1.

    Raises:
        BalancerError: If a class has fewer than two patients.
    """
    counts = patients_per_class(y_true, groups, classes)
    if min(counts) < 2:
        first, *others = (f"{n} of class {label}" for label, n in enumerate(counts))
        first = first.replace(" of", f" {sampling_unit(map(str, groups))}(s) of", 1)
        raise BalancerError(
            f"the test set has {', '.join([first, *others[:-1]])} and {others[-1]}; an interval needs two or more of"
            " each"
        )
    patient = group_numbers(groups)
    has = np.stack([np.bincount(patient[y_true == label], minlength=patient.max() + 1) > 0 for label in range(classes)])
    # Patients of one class come first, class by class: the order decides which draws a pattern gets.
    patterns = sorted(set(map(tuple, has.T.tolist())), key=lambda p: (sum(p), [not held for held in p]))
    rng = np.random.default_rng(derive_seed(seed, "patients"))
    drawn = np.ones((1 + resamples, has.shape[1]))
    for pattern in patterns:
        members = (has == np.array(pattern)[:, None]).all(axis=0)
        m = int(members.sum())
        if m > 1:
            drawn[1:, members] = resample_groups(np.arange(m), resamples, rng) * (m / (m - 1))
    return drawn[:, patient]


def auroc_interval(y_true: Array, y_score: Array, groups: Groups, resamples: int, seed: int) -> AurocInterval | None:
    """Return the AUROC with a percentile interval over resamples of whole patients; None if a class is missing.

    Args:
        y_true: (n,) bool.
        y_score: (n,).
        groups: patient (n,) of each image.
        resamples: number of resamples; one that lacks a class is left out.
        seed: seed of the resamples.
    """
    if y_true.all() or not y_true.any():
        return None
    auroc = float(weighted_auroc(y_true, y_score, np.ones((1, len(y_true))))[0])
    if min(patients_per_class(y_true, groups)) < 2:
        return AurocInterval(auroc, None, None)
    return _with_percentiles(auroc, lambda weights: weighted_auroc(y_true, y_score, weights), groups, resamples, seed)


def macro_auroc_interval(
    labels: Array, scores: Array, groups: Groups, resamples: int, seed: int
) -> AurocInterval | None:
    """Return the mean of the AUROCs of each class against the rest, with an interval as in :func:`auroc_interval`.

    Args:
        labels: (n,) in 0 to C - 1.
        scores: (n, C), larger where the class is likelier.
        groups: patient (n,) of each image.
        resamples: number of resamples; a class that one lacks is left out of its mean.
        seed: seed of the resamples.
    """
    present = [k for k in range(scores.shape[1]) if (labels == k).any()]
    if len(present) < 2:
        return None
    sample = np.ones((1, len(labels)))
    auroc = float(np.mean([weighted_auroc(labels == k, scores[:, k], sample)[0] for k in present]))
    if min(patients_per_class(labels, groups, scores.shape[1])[k] for k in present) < 2:
        return AurocInterval(auroc, None, None)

    def macro(weights: Array) -> Array:
        mean: Array = np.nanmean([weighted_auroc(labels == k, scores[:, k], weights) for k in present], axis=0)
        return mean

    return _with_percentiles(auroc, macro, groups, resamples, seed)


def _with_percentiles(
    auroc: float, statistic: Callable[[Array], Array], groups: Groups, resamples: int, seed: int
) -> AurocInterval:
    """Return an AUROC with the percentiles of a statistic over resamples of patients.

    The weights of half a million images under a thousand resamples would take 4 GB. So they are drawn part by part,
    which gives the same draws.
    """
    patient, rng = group_numbers(groups), np.random.default_rng(seed)
    values = [
        statistic(resample_groups(patient, part.stop - part.start, rng, one_fewer=False))
        for part in parts_of(resamples, len(patient))
    ]
    low, high = np.nanquantile(np.concatenate(values), ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return AurocInterval(auroc, float(low), float(high))


def stratified_folds(y_true: Array, groups: Groups, folds: int, seed: int) -> Array:
    """Return the fold (n,) of each image; patients stay together, and folds hold each class equally where possible.

    Every class needs at least ``folds`` patients (:func:`patients_per_class`).
    """
    from sklearn.model_selection import StratifiedGroupKFold

    fold = np.empty(len(y_true), dtype=np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    for k, (_, chosen) in enumerate(splitter.split(y_true, y_true, np.asarray(groups))):
        fold[chosen] = k
    return fold


def even_folds(groups: Groups, folds: int, seed: int) -> Array:
    """Return the fold (n,) of each image of one class; patients stay together, and folds are as even as possible.

    Patients are dealt in rounds, those with most images first. In each round the fold with the fewest images gets the
    largest patient. So folds differ by at most one patient, and by at most the images of one patient.
    """
    patient = group_numbers(groups)
    sizes = np.bincount(patient)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of_patient, filled = np.zeros(len(sizes), dtype=np.int64), np.zeros(folds, dtype=np.int64)
    for start in range(0, len(order), folds):
        dealt = order[start : start + folds]
        neediest = np.argsort(filled, kind="stable")[: len(dealt)]
        fold_of_patient[dealt] = neediest
        filled[neediest] += sizes[dealt]
    return fold_of_patient[patient]


def fold_aurocs(scores: Array, labels: Array, fold: Array, units: Array, seed: int, resamples: int) -> Array:
    """Return the AUROC of out-of-fold scores, (1 + resamples,): of the sample, then of resamples within each fold.

    :func:`balancer.metrics.two_sample.fold_auroc` says why pairs are within folds, and why intervals stretch by
    :data:`STRETCH`.

    Args:
        scores: (n,), comparable within a fold only.
        labels: (n,) 0 or 1.
        fold: fold (n,) of each image.
        units: (n,), what is resampled as one.
        seed: seed of the resamples.
        resamples: number of resamples.

    Raises:
        BalancerError: If a score is not finite, or no fold holds images of both labels.
    """
    rng = np.random.default_rng(seed)
    if not any(len(np.unique(labels[fold == k])) == 2 for k in np.unique(fold)):
        raise BalancerError(f"expected real and synthetic images in one fold; got none among {len(fold)} images")
    ordered, pairs = np.zeros(1 + resamples), np.zeros(1 + resamples)
    for k in np.unique(fold):
        inside = np.flatnonzero(fold == k)
        weights = np.ones((1 + resamples, len(inside)))
        for label in (0, 1):
            of_class = labels[inside] == label
            weights[1:, of_class] = resample_groups(units[inside][of_class], resamples, rng)
        of_fold = ordered_pairs(labels[inside], scores[inside], weights)
        ordered, pairs = ordered + of_fold[0], pairs + of_fold[1]
    aurocs: Array = ordered / pairs
    return aurocs
