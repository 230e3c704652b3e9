"""Classifier two-sample test (Lopez-Paz & Oquab 2017, arXiv:1610.06545): can a classifier separate synthetic from real?

The metric is the cross-validated AUROC. It is the share of (real, synthetic) pairs in which a classifier that has seen
neither image gives the synthetic one the higher score. One half is the best that a generator can reach. What a small
classifier finds, a classifier trained on the balanced set can find too, and can take for the class.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass

import numpy as np
import torch

from balancer.core import progress
from balancer.core.errors import BalancerError
from balancer.core.pixels import COLOUR
from balancer.core.seeding import derive_seed
from balancer.data.records import sampling_unit
from balancer.metrics.features import check_finite
from balancer.metrics.pixel_classifier import FULL_BATCH_SIDE, score_images, train_on_pixels
from balancer.metrics.resampling import RESAMPLES, STRETCH, Groups, even_folds, fold_aurocs, group_numbers
from balancer.reporting.numbers import bounds, percent

Array = np.ndarray
Scorer = Callable[[Array, int], Array]  # mask of the images to train on, and the fold -> scores of the other images

SMALLEST_SIDE = 8  # pixels
BANDS = (
    (0.6, "close to real, but not the same"),
    (0.75, "a moderate difference"),
    (0.9, "expect a shortcut"),
    (float("inf"), "the synthetic images give themselves away, expect a shortcut"),
)


@dataclass(frozen=True)
class TwoSample:
    """How well a classifier separates synthetic from held-out real images.

    The interval belongs to this classifier at this number of images. A better classifier, or more images, can reach
    more. The spread from the classifier's own training (initial weights, order of batches) is not in the interval. An
    AUROC of 1 has the interval [1, 1]: no resample holds an error that no image made.
    """

    classifier: str
    auroc: float
    low: float  # of the 95 % interval
    high: float
    n_real: int
    n_fake: int
    folds: int


@dataclass(frozen=True)
class OutOfFold:
    """Scores of images by classifiers that saw no image of their patients; real images, or those held out, first."""

    scores: Array  # (n,); comparable within a fold only
    labels: Array  # (n,) 0 or 1: the side
    fold: Array  # (n,)
    units: Array  # (n,) what is resampled as one


def logistic_scores(
    real: Array,
    fake: Array,
    groups: Groups,
    seed: int,
    folds: int = 5,
    other_groups: Groups | None = None,
) -> OutOfFold:
    """Return the scores that :func:`logistic_two_sample` summarises; arguments and errors as there."""
    return _out_of_fold("logistic regression", *_logistic(real, fake), groups, other_groups, seed, folds)


def logistic_two_sample(
    real: Array,
    fake: Array,
    groups: Groups,
    seed: int,
    folds: int = 5,
    other_groups: Groups | None = None,
) -> TwoSample:
    """Run the test with logistic regression on features, each standardised by the training part.

    The penalty is fixed at C = 1: C from .1 to 10 hardly matters, and C = .01 hides the directions in which generators
    err most (docs/features.md). Inner folds of so few patients would choose C badly.

    Args:
        real: features (n, dim) of real images.
        fake: features (n, dim) of as many synthetic images.
        groups: patient (n,) of each real image.
        seed: seed of the folds and the resamples.
        folds: number of folds.
        other_groups: for a control, the patient (n,) of each image in ``fake``, which are real images then.

    Raises:
        BalancerError: If counts or dimensions differ, values are not finite, or there are too few images or patients.
    """
    return _cross_validate("logistic regression", *_logistic(real, fake), groups, other_groups, seed, folds)


def _logistic(real: Array, fake: Array) -> tuple[Scorer, Array]:
    """Return what fits and scores by logistic regression, and the side (n,) of each image."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    check_finite(real, fake)
    features, labels = np.concatenate([real, fake]), _labels(real, fake)

    def score(train: Array, fold: int) -> Array:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
        scores: Array = model.fit(features[train], labels[train]).decision_function(features[~train])
        return scores

    return score, labels


def pixel_two_sample(
    real: Array,
    fake: Array,
    groups: Groups,
    device: torch.device,
    seed: int,
    folds: int = 5,
    steps: int = 200,
    other_groups: Groups | None = None,
    stop: threading.Event | None = None,
) -> TwoSample:
    """Run the test with a small convolutional network, trained from scratch in each fold.

    The network is :class:`~balancer.metrics.pixel_classifier.PixelNet`. The number of steps is fixed, so the cost
    depends on the image size alone; docs/features.md has times and sensitivities. Nothing is augmented: shifts and
    flips would hide artefacts that keep to one place or direction.

    Args:
        real: images (n, H, W) or (n, H, W, 3) uint8.
        fake: as many synthetic images of the same size and channels.
        groups: patient (n,) of each real image.
        device: where to train. On the CPU the same seed and number of threads give the same bits.
        seed: seed of folds, initial weights, batches and resamples; torch's global stream is neither read nor moved.
        folds: number of folds.
        steps: optimiser steps in each fold.
        other_groups: for a control, the patient (n,) of each image in ``fake``, which are real images then.
        stop: ends the test at its next step, for a caller that runs it in a thread.

    Raises:
        BalancerError: If counts or sizes differ, images are not uint8 or under 8 pixels, or images or patients are too
            few.
        CancelledError: If ``stop`` was set.
    """
    shaped = real.ndim in (3, 4) and real.shape[1:] == fake.shape[1:] and real.shape[3:] in ((), (COLOUR,))
    if not shaped or min(real.shape[1:3]) < SMALLEST_SIDE:
        raise BalancerError(
            f"expected images (n, H, W) or (n, H, W, 3) of one size, {SMALLEST_SIDE} px or more; got {real.shape} and"
            f" {fake.shape}"
        )
    if real.dtype != np.uint8 or fake.dtype != np.uint8:
        raise BalancerError(f"expected uint8 images; got {real.dtype} and {fake.dtype}")

    images, labels = np.concatenate([real, fake]), _labels(real, fake)

    with progress.bar(folds * steps, "two-sample test on pixels", "step") as bar:

        def advance() -> None:
            if stop is not None and stop.is_set():
                raise CancelledError
            bar.update()

        def score(train: Array, fold: int) -> Array:
            stream = derive_seed(seed, "two-sample", "fold", fold)
            net = train_on_pixels(images[train], labels[train], device, stream, steps, advance)
            return score_images(net, images[~train], device)

        return _cross_validate("small CNN", score, labels, groups, other_groups, seed, folds)


def estimate_pixel_seconds(side: int) -> float:
    """Return a rough time of :func:`pixel_two_sample` on one core; above 128 px, batches shrink as images grow."""
    return 22 * (min(side, FULL_BATCH_SIDE) / 64) ** 2


def interpretation(result: TwoSample, control: TwoSample | None = None) -> str:
    """Return the result in words; what the control reaches on real images alone is chance as well.

    An interval that lies wholly under .5 is no difference either. Copies do that: their twin in another fold bears the
    other label. Without a single error, or with equal scores, resamples do not scatter and there is no interval.
    """
    sizes = f"{result.n_real} real, {result.n_fake} synthetic"
    scatter = bounds(result.low, result.high, 2) if result.low < result.high else f"({sizes}; no scatter, no interval)"
    share = f"{percent(result.auroc)} of pairs {scatter}"
    if result.low <= chance_level(control):
        beside = ""
        if result.high < 0.5:
            beside = ", less than a coin, as where images of one side are copies of the other's"
        if control and result.low > 0.5:
            scatter = f" {bounds(control.low, control.high, 2)}" if control.low < control.high else ""
            beside = f", and in {percent(control.auroc)}{scatter} with two real sets"
            if control.low > 0.5:
                return (
                    f"a classifier ({result.classifier}) tells the images from real ones in {share}{beside}: what parts"
                    f" real sets may part these sides ({sizes})"
                )
        return (
            f"a classifier ({result.classifier}) is not shown to tell them apart at this n ({sizes}): {share}{beside}"
        )
    verdict = next(words for bound, words in BANDS if result.auroc < bound)
    return f"a classifier ({result.classifier}) tells them apart in {share}: {verdict}"


def chance_level(control: TwoSample | None) -> float:
    """Return the AUROC that an interval must exceed: that of two real sets at most, and of a coin at least."""
    return max(control.high, 0.5) if control else 0.5


def _cross_validate(
    classifier: str, score: Scorer, labels: Array, groups: Groups, other_groups: Groups | None, seed: int, folds: int
) -> TwoSample:
    """Return the result of the test for scores of :func:`_out_of_fold`."""
    of = _out_of_fold(classifier, score, labels, groups, other_groups, seed, folds)
    bootstrap = derive_seed(seed, "two-sample", "bootstrap")
    auroc, low, high = fold_auroc(of.scores, of.labels, of.fold, of.units, bootstrap)
    return TwoSample(classifier, auroc, low, high, int((labels == 0).sum()), int((labels == 1).sum()), folds)


def _out_of_fold(
    classifier: str, score: Scorer, labels: Array, groups: Groups, other_groups: Groups | None, seed: int, folds: int
) -> OutOfFold:
    """Score every image by a classifier that saw no image of its patient; real images (label 0) come first."""
    n_real, n_fake = int((labels == 0).sum()), int((labels == 1).sum())
    if n_real != n_fake:
        raise BalancerError(f"expected as many synthetic as real images; got {n_real} real and {n_fake} synthetic")
    sides = {"real": groups} if other_groups is None else {"real": groups, "other": other_groups}
    for name, of_side in sides.items():
        if len(of_side) != n_real:
            raise BalancerError(f"expected one group for each of {n_real} {name} images; got {len(of_side)}")
    patients = min(len(set(of_side)) for of_side in sides.values())
    if folds < 2 or patients < 2 * folds:
        unit = sampling_unit(str(key) for of_side in sides.values() for key in of_side)
        needed = 2 * max(folds, 2)
        raise BalancerError(
            f"the two-sample test got {folds} folds and {patients} {unit}s; it needs 2 or more folds and"
            f" {needed} or more {unit}s on each side, 2 a fold; give more images"
        )
    fold_real = even_folds(groups, folds, derive_seed(seed, "two-sample", "folds"))
    if other_groups is None:  # as many synthetic as real images in each fold, and so in each training part
        fold_fake = np.random.default_rng(derive_seed(seed, "two-sample", "synthetic folds")).permutation(fold_real)
    else:
        other_seed = derive_seed(seed, "two-sample", "other")
        fold_fake = even_folds(other_groups, folds, derive_seed(other_seed, "two-sample", "folds"))
    fold = np.concatenate([fold_real, fold_fake])
    scores = np.empty(len(labels))
    for k in range(folds):
        scores[fold == k] = score(fold != k, k)
    if not np.isfinite(scores).all():
        raise BalancerError(f"the {classifier} diverged: {int((~np.isfinite(scores)).sum())} scores are not finite")
    of_fake = np.arange(n_fake) if other_groups is None else group_numbers(other_groups)
    return OutOfFold(scores, labels, fold, np.concatenate([group_numbers(groups), of_fake]))


def fold_auroc(scores: Array, labels: Array, fold: Array, units: Array, seed: int) -> tuple[float, float, float]:
    """Return the AUROC of out-of-fold scores with the ends of its 95 % interval: (auroc, low, high).

    The AUROC is the share of pairs *within folds* in the right order. Pairs across folds compare two classifiers, each
    with its own scale and offset. What a fold has too much of, its training part has too little of. This pushes the
    pooled AUROC below .5 where the sets do not differ (Forman & Scholz 2010, SIGKDD Explorations 12(1)). Within a fold,
    either order of a pair is then equally likely, so the expectation is exactly .5.

    The interval is a percentile bootstrap within each fold, of patients for real images and of images for synthetic
    ones. It has two corrections. Of the m units of a fold m - 1 are drawn
    (:func:`balancer.metrics.resampling.resample_groups`). And the distances from the AUROC are stretched by sqrt 2,
    because folds are not independent: any two meet twice, each testing what the other has taught. For a linear
    classifier and no difference, the AUROC is to first order a sum over pairs of folds in which each term counts twice,
    with twice the variance of independent folds. Far from .5 the folds depend less on one another, and the interval is
    too wide.

    Args:
        scores: (n,); higher means likelier to be synthetic; comparable within a fold only.
        labels: (n,), 0 real, 1 synthetic.
        fold: fold (n,) of each image.
        units: (n,), what is resampled as one: the patient of a real image, the number of a synthetic image.
        seed: seed of the resamples.

    Raises:
        BalancerError: If a score is not finite, or no fold holds images of both sides.
    """
    auroc, *resampled = fold_aurocs(scores, labels, fold, units, seed, RESAMPLES)
    low, high = auroc + STRETCH * (np.percentile(resampled, [2.5, 97.5]) - auroc)
    return float(auroc), float(max(low, 0)), float(min(high, 1))


def _labels(real: Array, fake: Array) -> Array:
    """Return 0 for real and 1 for synthetic images, real images first."""
    return np.repeat([0, 1], [len(real), len(fake)])
