"""The images that a regime trains on: the training fold and what is added to it; and the images of every batch."""

from __future__ import annotations

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
from classifier.training.synthetic import SyntheticSet

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
    real, n_classes = data.indices("train"), len(data.classes)
    n_fold = len(real)
    added, added_labels = _added(data, regime, synthetic, seed, duplicates)
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


def _added(
    data: Dataset, regime: Regime, synthetic: SyntheticSet | None, seed: int, duplicates: int | Sequence[int]
) -> tuple[Array, Array]:
    """Return the images (m, H, W) that the regime adds, and their labels (m,)."""
    if regime.synthetic:
        if synthetic is None:
            raise BalancerError(
                f"regime {regime.name} needs synthetic images; run `balancer synthesize`, or give --synthetic DIR"
            )
        return synthetic.images, synthetic.labels
    copied = np.empty(0, np.int64)
    if regime.duplicate:
        counts = {data.minority_class: duplicates} if isinstance(duplicates, int) else dict(enumerate(duplicates))
        if (total := sum(counts.values())) < 1:
            raise BalancerError(
                f"regime {regime.name} would add {total} duplicates (the deficit here is {data.deficit});"
                " give --synthetic-count N"
            )
        copied = np.concatenate([_duplicates(data, label, n, seed) for label, n in counts.items()])
    return data.images[copied], data.labels[copied]


def _duplicates(data: Dataset, label: int, count: int, seed: int) -> Array:
    """Return positions (count,) of training images of a class, each drawn as often as any other."""
    members = data.indices("train", label)
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

    def __init__(self, config: ClassifierConfig, regime: Regime, train_set: TrainingSet, seed: int) -> None:
        """Prepare the sampler.

        Raises:
            UsageError: if the regime oversamples, and a batch is smaller than the number of classes.
        """
        self._n, self._size, self._seed = len(train_set.images), config.batch_size, seed
        classes = range(train_set.n_classes) if regime.oversample else ()
        self._members = [np.flatnonzero(train_set.labels == label) for label in classes]
        if config.batch_size < len(self._members):
            raise UsageError(
                f"batch_size is {config.batch_size}, but {regime.name} needs {len(self._members)} classes in a batch"
            )

    def indices(self, step: int) -> Array:
        """Return the positions (B,) of batch ``step``: shuffled passes over all images, or over each class on its own.

        Oversampling takes the same share of every batch from each class; of two classes the positive one gets the odd
        image. Minority images are then drawn more often, each as often as any other of its class.
        """
        if not self._members:
            return batch_indices(self._n, self._size, step, self._seed)
        ends = [self._size * k // len(self._members) for k in range(len(self._members) + 1)]
        return np.concatenate(
            [
                members[batch_indices(len(members), n, step, derive_seed(self._seed, "oversample", label))]
                for label, (members, n) in enumerate(zip(self._members, np.diff(ends).tolist(), strict=True))
            ]
        )
