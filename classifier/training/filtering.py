"""Discriminator rejection sampling (Azadi et al. 2018, arXiv:1810.06758): the images of a set that look most real.

A discriminator learns to tell synthetic from real training images of the class. Every image gets its score from a
discriminator that saw neither the image nor its patient. The score estimates the density ratio of synthetic to real
images, by which images are accepted. Validation and test images are never read.

The discriminator is logistic regression on the features of the network that reports take. A small CNN on pixels would
be no filter: it tells every image, so all of its ratios are alike (docs/ablation.md has the measurement).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import scipy
import torch

from balancer.core.device import limit_threads
from balancer.core.errors import BalancerError
from balancer.core.files import JsonObject
from balancer.core.seeding import derive_seed
from balancer.core.speed import slowness
from balancer.data.dataset import Dataset
from balancer.data.records import sampling_unit
from balancer.metrics import feature_choice
from balancer.metrics.classification import ordered_pairs
from balancer.metrics.features import FeatureNetwork, extract, random_conv
from balancer.metrics.resampling import even_folds, group_numbers
from balancer.metrics.two_sample import TwoSample, fold_auroc
from balancer.reporting.numbers import bounds, percent, plural
from classifier.training.synthetic import SyntheticSet

Array = np.ndarray
CPU = torch.device("cpu")
FEATURES = "auto"  # the network that reports take by default
CLASSIFIER = "logistic regression"
FOLDS, FEWEST_FOLDS = 5, 2
LEAST = 2  # patients, and synthetic images, of a fold
EPSILON = 1e-8  # of Azadi et al., against log 0 for the image that looks most real
SECONDS_AN_IMAGE, SECONDS = 0.0015, 2.0  # of an estimate, on one core of the reference machine
NO_BETTER = " It told them no better than chance, so its choice means little."


@dataclass(frozen=True)
class FilteredClass:
    """What a filter chose of the images of one class."""

    name: str  # of the class
    kept: tuple[int, ...]  # positions among the set's images of the class, rising
    features: str  # name of the feature network
    separation: TwoSample  # of all images of the class from held-out real ones
    kept_auroc: float  # by the same scores, of the images that are kept
    scores_hash: str  # the first 16 hex digits of the SHA-256 of the scores

    def describe(self) -> str:
        """Return a sentence on how many images the filter saw and left out, and how well it told them."""
        s = self.separation
        scatter = f" {bounds(s.low, s.high, 2)}" if s.low < s.high else ""
        return (
            f"The filter (`gan_filtered`) saw {s.n_fake:,} synthetic {self.name} images, kept {len(self.kept):,} and"
            f" left out {s.n_fake - len(self.kept):,}. Its discriminator ({s.classifier} on `{self.features}`,"
            f" {s.folds} folds of {s.n_real:,} real training images) told synthetic from held-out real images in"
            f" {percent(s.auroc)}"
            f" of pairs{scatter}; for the images kept it is {percent(self.kept_auroc)}."
            f"{NO_BETTER if s.low <= 0.5 else ''}"
        )


@dataclass(frozen=True)
class Selection:
    """What a filter chose of a synthetic set, and what the choice depends on."""

    synthetic_digest: str
    data_fingerprint: str
    split_hash: str
    seed: int
    classes: tuple[FilteredClass, ...]

    def fits(self, data: Dataset, synthetic: SyntheticSet, counts: Sequence[int], seed: int) -> bool:
        """Return whether the choice is of this set, for these data and counts."""
        expected = {data.classes[k]: n for k, n in enumerate(counts) if n and k in synthetic.held}
        return (
            (self.synthetic_digest, self.data_fingerprint, self.split_hash, self.seed)
            == (synthetic.digest, data.fingerprint, data.split_hash, seed)
        ) and {of.name: len(of.kept) for of in self.classes} == expected

    def of(self, synthetic: SyntheticSet, classes: Sequence[str]) -> SyntheticSet:
        """Return the images of the set that are kept."""
        places = [np.flatnonzero(synthetic.labels == classes.index(of.name))[list(of.kept)] for of in self.classes]
        return synthetic.at(np.sort(np.concatenate(places)))

    def to_json(self) -> JsonObject:
        """Return the content of the record beside an ablation."""
        return asdict(self)


def select(data: Dataset, synthetic: SyntheticSet, counts: Sequence[int], seed: int) -> Selection:
    """Choose images of each class of a set, as many as ``counts`` says by label.

    Everything is computed on the CPU with one thread, so the choice depends on neither device nor threads. The random
    numbers depend on the seed, the set and the class.

    Raises:
        BalancerError: as :func:`folds_of`.
    """
    chosen = feature_choice.choose(FEATURES, data, CPU).network
    network = chosen or random_conv(CPU, data.channels)
    with _one_thread():
        classes = tuple(
            _of_class(data, synthetic, label, counts[label], network, derive_seed(seed, "filter", synthetic.digest))
            for label in synthetic.held
            if counts[label]
        )
    return Selection(synthetic.digest, data.fingerprint, data.split_hash, seed, classes)


def folds_of(data: Dataset, label: int, n_fake: int) -> int:
    """Return in how many folds the images of a class are parted, beside so many synthetic ones.

    Raises:
        BalancerError: if the class has too few patients in the training fold, or synthetic images are too few.
    """
    groups = [data.groups[i] for i in data.indices("train", label)]
    patients = len(set(groups))
    folds = min(FOLDS, min(patients, n_fake) // LEAST)
    if folds < FEWEST_FOLDS:
        raise BalancerError(
            f"{data.classes[label]} has {plural(patients, sampling_unit(groups))} in the training fold and"
            f" {plural(n_fake, 'synthetic image')}, and a filter needs {FEWEST_FOLDS * LEAST} of each; leave the regime"
            " gan_filtered out"
        )
    return folds


def estimate_seconds(data: Dataset, images: Sequence[int]) -> float:
    """Return a rough time of :func:`select`, once the cache holds the feature network.

    Args:
        data: the real images.
        images: number of synthetic images of each class of which some are to be kept.
    """
    seen = [len(data.indices("train", label)) + n for label, n in enumerate(images) if n]
    return sum(SECONDS + SECONDS_AN_IMAGE * n for n in seen) * slowness()


def accepted(log_ratio: Array, n: int, seed: int) -> Array:
    """Return the positions (n,), rising, of the images that rejection sampling accepts.

    An image is accepted with probability sigmoid(F - log(1 - exp(F - epsilon)) - gamma), where F is its log ratio less
    the largest one. Azadi et al. set gamma to a percentile of F. Here gamma is the value at which n images are
    accepted. Equal ratios give a random choice: unlike a ranking, nothing is made of a discriminator that cannot tell.

    Args:
        log_ratio: (m,), logarithm of the density of real images over that of synthetic ones, up to a constant.
        n: number of images, at most m.
        seed: of the uniform draws.
    """
    f = log_ratio - log_ratio.max()
    log_odds = f - np.log(-np.expm1(f - EPSILON))
    luck = scipy.special.logit(np.random.default_rng(seed).random(len(f)))
    margin = log_odds - luck  # accepted where this exceeds gamma
    positions: Array = np.sort(np.argsort(-margin, kind="stable")[:n])
    return positions


def _of_class(
    data: Dataset, synthetic: SyntheticSet, label: int, n: int, network: FeatureNetwork, seed: int
) -> FilteredClass:
    index, name = data.indices("train", label), data.classes[label]
    groups, fakes = np.array([data.groups[i] for i in index]), synthetic.of_class(label).images
    folds = folds_of(data, label, len(fakes))
    real, fake = (
        extract(network, images, CPU, what)
        for images, what in ((data.images[index], f"real {name}"), (fakes, f"synthetic {name}"))
    )
    seed = derive_seed(seed, label)
    dealt = np.random.default_rng(derive_seed(seed, "synthetic folds")).permutation(np.arange(len(fake)) % folds)
    fold = np.concatenate([even_folds(groups, folds, derive_seed(seed, "folds")), dealt])
    labels, units = np.repeat([0, 1], [len(real), len(fake)]), np.concatenate([group_numbers(groups), range(len(fake))])
    scores = _out_of_fold(np.concatenate([real, fake]), labels, fold)
    kept = accepted(-_calibrated(scores, labels)[labels == 1], n, derive_seed(seed, "draws"))
    auroc, low, high = fold_auroc(scores, labels, fold, units, derive_seed(seed, "bootstrap"))
    stays = np.concatenate([np.arange(len(real)), len(real) + kept])
    return FilteredClass(
        name,
        tuple(kept.tolist()),
        network.name,
        TwoSample(CLASSIFIER, auroc, low, high, len(real), len(fake), folds),
        _auroc(scores[stays], labels[stays], fold[stays]),
        hashlib.sha256(np.ascontiguousarray(scores).tobytes()).hexdigest()[:16],
    )


def _out_of_fold(features: Array, labels: Array, fold: Array) -> Array:
    """Return the log-odds (n,) of being synthetic, each by a classifier of the other folds; both sides weigh alike."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = np.empty(len(labels))
    for k in np.unique(fold):
        train = fold != k
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000, class_weight="balanced"))
        scores[~train] = model.fit(features[train], labels[train]).decision_function(features[~train])
    return scores


def _calibrated(scores: Array, labels: Array) -> Array:
    """Return log-odds (n,) on the scale that fits the labels: few images make a classifier overconfident (Platt 1999).

    Where the scores would have to be turned round they tell nothing, and all log-odds are equal.
    """
    from sklearn.linear_model import LogisticRegression

    column = scores[:, None]
    slope = float(LogisticRegression(class_weight="balanced").fit(column, labels).coef_[0, 0])
    return max(slope, 0.0) * scores


def _auroc(scores: Array, labels: Array, fold: Array) -> float:
    """Return the share of pairs within folds in the right order, as :func:`~.two_sample.fold_auroc`."""
    both = [k for k in np.unique(fold) if len(np.unique(labels[fold == k])) == 2]
    of_each = [ordered_pairs(labels[fold == k], scores[fold == k], np.ones((1, int((fold == k).sum())))) for k in both]
    return float(sum(ordered[0] for ordered, _ in of_each) / sum(pairs[0] for _, pairs in of_each))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: other numbers give other last digits."""
    before = torch.get_num_threads()
    limit_threads(1)
    try:
        yield
    finally:
        limit_threads(before)
