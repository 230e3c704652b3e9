"""What a regime trains on: the training fold, what is added to it, and which images make up a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from balancer.augmentation.classical import Augmenter
from balancer.core.errors import BalancerError, UsageError
from balancer.core.seeding import derive_seed
from balancer.core.settings import ClassifierConfig
from balancer.data.dataset import Dataset
from balancer.data.sampling import batch_indices
from classifier.training.regimes import Regime
from classifier.training.synthetic import SyntheticSet

Array = np.ndarray


@dataclass(frozen=True)
class TrainingSet:
    """Images (n, H, W) uint8 and labels (n,); the first ``n_real`` are real images of the training fold, each once."""

    images: Array
    labels: Array
    n_real: int
    added: int  # synthetic images or duplicates
    synthetic_digest: str | None
    n_classes: int = 2
    of_fold: int | None = None  # real images of the whole training fold; None: n_real

    @property
    def n_fold(self) -> int:
        """Real images of the training fold, those too that a regime leaves out: what an epoch is counted in."""
        return self.n_real if self.of_fold is None else self.of_fold

    @property
    def counts(self) -> list[int]:
        """Images per class."""
        return np.bincount(self.labels, minlength=self.n_classes).tolist()


def training_set(
    data: Dataset, regime: Regime, synthetic: SyntheticSet | None, seed: int, copies: int | Sequence[int]
) -> TrainingSet:
    """The training fold, with what the regime adds to its smaller classes or does to its labels.

    Args:
        synthetic: the images to add; none of them counts too (a dose of 0 has no set).
        seed: the trial seed, for the choice of duplicates and of labels to change.
        copies: how many duplicates the control adds: a number, of the minority class, or one for each class.

    Raises:
        BalancerError: the regime wants synthetic images and there are none, no duplicates are asked for, or no
            real image is left.
    """
    real, n_classes = data.indices("train"), len(data.classes)
    of_fold = len(real)
    extra, extra_labels = _added(data, regime, synthetic, seed, copies)
    if regime.replace:
        real = real[~np.isin(data.labels[real], extra_labels)]
        if not len(real):
            raise BalancerError(
                f"regime {regime.name} puts synthetic images in place of the real ones, here of every class; leave one class real"
            )
    images = np.concatenate([data.images[real], extra])
    labels = np.concatenate([data.labels[real], extra_labels])
    digest = synthetic.digest if regime.synthetic and synthetic is not None else None
    return TrainingSet(
        images, _changed_labels(labels, n_classes, regime, seed), len(real), len(extra), digest, n_classes, of_fold
    )


def _added(
    data: Dataset, regime: Regime, synthetic: SyntheticSet | None, seed: int, copies: int | Sequence[int]
) -> tuple[Array, Array]:
    """The images (m, H, W) that the regime adds, and their labels (m,)."""
    if regime.synthetic:
        if synthetic is None:
            raise BalancerError(
                f"regime {regime.name} needs synthetic images; run `balancer synthesize`, or give --synthetic DIR"
            )
        return synthetic.images, synthetic.labels
    copied = np.empty(0, np.int64)
    if regime.duplicate:
        asked = {data.minority_class: copies} if isinstance(copies, int) else dict(enumerate(copies))
        if (total := sum(asked.values())) < 1:
            raise BalancerError(
                f"regime {regime.name} would add {total} duplicates (the deficit here is {data.deficit}); give --synthetic-count N"
            )
        copied = np.concatenate([_duplicates(data, label, n, seed) for label, n in asked.items()])
    return data.images[copied], data.labels[copied]


def _duplicates(data: Dataset, label: int, count: int, seed: int) -> Array:
    """Positions (count,) of training images of a class, each as often as any other."""
    members = data.indices("train", label)
    return members[batch_indices(len(members), count, 0, derive_seed(seed, "duplicates"))] if count else members[:0]


def _changed_labels(labels: Array, n_classes: int, regime: Regime, seed: int) -> Array:
    """Labels spoilt on purpose, in the regimes that check the study itself."""
    rng = np.random.default_rng(derive_seed(seed, "labels"))
    if regime.permuted:
        return np.asarray(rng.permutation(labels))
    if regime.flipped:
        labels = labels.copy()
        chosen = rng.choice(len(labels), round(regime.flipped * len(labels)), replace=False)
        labels[chosen] = (labels[chosen] + rng.integers(1, n_classes, len(chosen))) % n_classes  # of two, the other
    return labels


class Batches:
    """The batches of one training, each a pure function of the step."""

    def __init__(
        self, config: ClassifierConfig, regime: Regime, train: TrainingSet, seed: int, device: torch.device
    ) -> None:
        self._train, self._seed, self._size, self._device = train, seed, config.batch_size, device
        self._members = (
            [np.flatnonzero(train.labels == k) for k in range(train.n_classes)] if regime.oversample else None
        )
        if self._members is not None and config.batch_size < len(self._members):
            raise UsageError(
                f"batch_size is {config.batch_size}, but {regime.name} wants all {len(self._members)} classes in every batch"
            )
        # Without augmentation the whole set lies on the device; with it, the CPU transforms image by image.
        self._augment = Augmenter(config.augmentation, seed) if regime.augment else None
        self._resident = torch.from_numpy(train.images).to(device if self._augment is None else "cpu")
        self._labels = torch.from_numpy(train.labels).to(device)

    def draw(self, step: int) -> tuple[Tensor | Array, Tensor, int]:
        """Images (B, H, W) uint8, labels (B,) int64 on the device, and how many of the images are real."""
        index = self.indices(step)
        where = torch.from_numpy(index).to(self._device)
        if self._augment is None:
            pixels: Tensor | Array = self._resident[where]
        else:
            pixels = self._augment(self._train.images[index], index, step)
        return pixels, self._labels[where], int((index < self._train.n_real).sum())

    def clean(self, count: int) -> Iterator[Array]:
        """The images of the first batches, about ``count`` in all, without augmentation: (B, H, W) uint8 each."""
        return (self._train.images[self.indices(step)] for step in range(-(-count // self._size)))

    def indices(self, step: int) -> Array:
        """Positions (B,) of batch ``step``: shuffled passes over all images, or over each class for itself.

        Oversampling takes the same share of every batch from each class (of two, the odd one from PNEUMONIA), so that
        minority images come round as often as their lack in number asks for, and none is skipped.
        """
        if self._members is None:
            return batch_indices(len(self._train.images), self._size, step, self._seed)
        ends = [self._size * k // len(self._members) for k in range(len(self._members) + 1)]
        return np.concatenate(
            [
                members[batch_indices(len(members), n, step, derive_seed(self._seed, "oversample", label))]
                for label, (members, n) in enumerate(zip(self._members, np.diff(ends).tolist(), strict=True))
            ]
        )
