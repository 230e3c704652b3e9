"""The images that a regime trains on: the training fold and what is added to it; and the images of every batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from balancer.core.errors import BalancerError, UsageError
from balancer.core.seeding import derive_seed
from balancer.core.settings import ClassifierConfig
from balancer.data.dataset import Dataset
from balancer.data.sampling import batch_indices
from balancer.data.subset import Subset
from classifier.training.regimes import Regime
from classifier.training.synthetic import ADVISED, SyntheticSet

Array = np.ndarray


@dataclass(frozen=True)
class TrainingSet:
    """Images, grey or colour, and labels (n,); the first ``n_real`` are real images of the training fold, each once."""

    images: Array | Subset
    labels: Array
    n_real: int
    added: int  # number of synthetic images or duplicates
    synthetic_digest: str | None
    n_classes: int
    n_fold: int  # real images in the training fold, those that a regime leaves out included: one epoch

    @property
    def counts(self) -> list[int]:
        """Return the number of images per class."""
        return np.bincount(self.labels, minlength=self.n_classes).tolist()


def training_set(
    data: Dataset, regime: Regime, synthetic: SyntheticSet | None, seed: int, duplicates: int | Sequence[int]
) -> TrainingSet:
    """Return the training fold, with what the regime adds to its smaller classes or does to its labels.

    ``synthetic`` may hold no image (a dose of 0). ``duplicates`` is the number of real images that a control regime
    duplicates, of the minority class or per class. The trial seed chooses them, and the labels to change.

    Raises:
        BalancerError: if the regime needs synthetic images or duplicates and there are none, or no real image is left.
    """
    n_fold, n_classes = len(data.indices("train")), len(data.classes)
    real = _kept(data, regime, seed)
    added, added_labels = _added(data, regime, synthetic, seed, duplicates, real)
    if regime.replace:
        real = real[~np.isin(data.labels[real], added_labels)]
        if not len(real):
            raise BalancerError(
                f"regime {regime.name} replaces the real images of every class by synthetic ones; leave one class real"
            )
    images = Subset(data.images, real, added)
    labels = _changed_labels(np.concatenate([data.labels[real], added_labels]), n_classes, regime, seed)
    digest = synthetic.digest if regime.synthetic and synthetic is not None else None
    return TrainingSet(images, labels, len(real), len(added), digest, n_classes, n_fold)


def added_counts(regime: Regime, counts: Sequence[int]) -> tuple[int, ...]:
    """Return how many images a regime adds to each class of a training fold with these counts.

    Without ``others``, the smaller classes are filled up. Else the share of added images is the same in every class:
    one less the size of the smallest class over that of the largest.

    >>> added_counts(Regime("gan"), [100, 300]), added_counts(Regime("gan_both", others="replaced"), [100, 300])
    ((200, 0), (200, 200))
    >>> added_counts(Regime("gan_both_added", others="added"), [100, 300])
    (200, 600)
    """
    most, fewest = max(counts), min(counts)
    if regime.others == "reduced":
        return (0,) * len(counts)
    if regime.others == "replaced":
        return (most - fewest,) * len(counts)
    if regime.others == "added":
        return tuple(round(n * (most - fewest) / fewest) for n in counts)
    return tuple(most - n for n in counts)


def needed_counts(regimes: Sequence[Regime], counts: Sequence[int]) -> tuple[int, ...]:
    """Return how many synthetic images of each class a study of these regimes needs, those of a surplus included.

    >>> needed_counts([Regime("gan"), Regime("gan_both", synthetic=True, others="replaced")], [100, 300])
    (200, 200)
    >>> needed_counts([Regime("gan_filtered", synthetic=True, filtered=True)], [100, 300])
    (400, 0)
    """
    per_regime = [
        [n * (ADVISED if regime.filtered else 1) for n in added_counts(regime, counts)]
        for regime in regimes
        if regime.synthetic
    ]
    return tuple(max(of_class) for of_class in zip(*per_regime, strict=True)) or (0,) * len(counts)


def _kept(data: Dataset, regime: Regime, seed: int) -> Array:
    """Return the positions of the real images that the regime keeps, of each class at random, in their order."""
    real = data.indices("train")
    if regime.others not in ("replaced", "reduced"):
        return real
    fewest = min(data.counts("train"))
    chosen = []
    for label in range(len(data.classes)):
        members = data.indices("train", label)
        drawn = np.random.default_rng(derive_seed(seed, "kept", label)).choice(len(members), fewest, replace=False)
        chosen.append(members[drawn])
    return np.sort(np.concatenate(chosen))


def _added(
    data: Dataset,
    regime: Regime,
    synthetic: SyntheticSet | None,
    seed: int,
    duplicates: int | Sequence[int],
    real: Array,
) -> tuple[Array, Array]:
    """Return the images (m, H, W) or (m, H, W, 3) that the regime adds, and their labels (m,).

    ``real`` are the positions of the real images that the regime keeps, of which duplicates and partners are.
    """
    if regime.synthetic:
        if synthetic is None:
            raise BalancerError(
                f"regime {regime.name} needs synthetic images; run `balancer synthesize`, or give --synthetic DIR"
            )
        images = _blended(data, synthetic, seed, real) if regime.mixup else synthetic.images
        return images, synthetic.labels
    copied = np.empty(0, np.int64)
    if regime.duplicate:
        counts = {data.minority_class: duplicates} if isinstance(duplicates, int) else dict(enumerate(duplicates))
        if (total := sum(counts.values())) < 1:
            raise BalancerError(
                f"regime {regime.name} would add {total} duplicates (the deficit here is {data.deficit});"
                " give --synthetic-count N"
            )
        copied = np.concatenate([_duplicates(data, label, n, seed, real) for label, n in counts.items()])
    return data.images[copied], data.labels[copied]


def _blended(data: Dataset, synthetic: SyntheticSet, seed: int, real: Array) -> Array:
    """Return each synthetic image blended with a real image of its class, by a weight that is uniform in [0, 1].

    Within a class the label stays what it is. So this is mixup (Zhang et al. 2018, arXiv:1710.09412) with alpha = 1.
    """
    rng = np.random.default_rng(derive_seed(seed, "mixup"))
    partners = np.empty(len(synthetic.labels), np.int64)
    for label in synthetic.held:
        members, places = real[data.labels[real] == label], np.flatnonzero(synthetic.labels == label)
        partners[places] = rng.choice(members, len(places))
    weights = rng.random(len(partners)).reshape(-1, *[1] * (synthetic.images.ndim - 1))
    blended = weights * synthetic.images + (1 - weights) * data.images[partners]
    return np.rint(blended).astype(np.uint8)


def _duplicates(data: Dataset, label: int, count: int, seed: int, real: Array) -> Array:
    """Return positions (count,) of real images of a class, each drawn as often as any other."""
    members = real[data.labels[real] == label]
    return members[batch_indices(len(members), count, 0, derive_seed(seed, "duplicates"))] if count else members[:0]


def _changed_labels(labels: Array, n_classes: int, regime: Regime, seed: int) -> Array:
    """Return the labels (n,), made wrong on purpose in the regimes that check the study itself."""
    rng = np.random.default_rng(derive_seed(seed, "labels"))
    if regime.permuted:
        return np.asarray(rng.permutation(labels))
    if regime.flipped:
        labels = labels.copy()
        chosen = rng.choice(len(labels), round(regime.flipped * len(labels)), replace=False)
        labels[chosen] = (labels[chosen] + rng.integers(1, n_classes, len(chosen))) % n_classes  # of two, the other
    return labels


class BatchSampler:
    """The positions of every batch's images in the training set, as a pure function of the step."""

    def __init__(
        self, config: ClassifierConfig, regime: Regime, train_set: TrainingSet, seed: int, steps: int = 0
    ) -> None:
        """Prepare the sampler; ``steps`` are those of the training, half of which are the pretraining of a regime.

        Raises:
            UsageError: if the regime oversamples, and a batch is smaller than the number of classes.
        """
        self._n, self._size, self._seed = len(train_set.images), config.batch_size, seed
        self._real, self._turn = train_set.n_real, math.ceil(steps / 2) if regime.pretrain else math.inf
        classes = range(train_set.n_classes) if regime.oversample else ()
        self._members = [np.flatnonzero(train_set.labels == label) for label in classes]
        if config.batch_size < len(self._members):
            raise UsageError(
                f"batch_size is {config.batch_size}, but {regime.name} needs {len(self._members)} classes in a batch"
            )

    def first_like(self, step: int) -> int:
        """Return the first step whose images are drawn from those of ``step``: 0, or where synthetic images end."""
        return int(self._turn) if step >= self._turn else 0

    def indices(self, step: int) -> Array:
        """Return the positions (B,) of batch ``step``: shuffled passes over all images, or over each class on its own.

        A regime that pretrains draws the second half of its steps from the real images alone.

        Oversampling takes the same share of every batch from each class; of two classes the positive one gets the odd
        image. Minority images are then drawn more often, each as often as any other of its class.
        """
        if step >= self._turn:
            return batch_indices(self._real, self._size, step - int(self._turn), derive_seed(self._seed, "real"))
        if not self._members:
            return batch_indices(self._n, self._size, step, self._seed)
        ends = [self._size * k // len(self._members) for k in range(len(self._members) + 1)]
        return np.concatenate(
            [
                members[batch_indices(len(members), n, step, derive_seed(self._seed, "oversample", label))]
                for label, (members, n) in enumerate(zip(self._members, np.diff(ends).tolist(), strict=True))
            ]
        )
