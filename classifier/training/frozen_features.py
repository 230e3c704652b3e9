"""Cached features of a frozen backbone: the data set that a head trains on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from balancer.core.device import autocast, exact_float32, to_device
from balancer.core.settings import ClassifierConfig
from classifier.models.backbones import Backbone, FromFeatures
from classifier.training.inputs import ImageInputs
from classifier.training.prediction import CHUNK, input_chunks
from classifier.training.regimes import Regime
from classifier.training.stages import Stage

log = logging.getLogger("balancer")
Array = np.ndarray
MOST_BYTES = 2 * 1024**3  # of features; beyond it they are computed at every step


def learns_from_features(config: ClassifierConfig, stage: Stage, regime: Regime, n_train: int) -> bool:
    """Return whether a stage of so many training images can learn from features computed once, if they fit."""
    return stage.trainable == "head" and not regime.augment and stage.steps * config.batch_size > n_train


def can_cache_features(
    config: ClassifierConfig, stage: Stage, regime: Regime, model: Backbone, images: ImageInputs
) -> bool:
    """Return whether a stage can train on cached features and saves time by it.

    Only the head may learn, images must be the same at every step, and some image must be drawn twice.
    """
    n_train = len(images.train_images)
    if not learns_from_features(config, stage, regime, n_train):
        return False
    size = 4 * model.first_weight.shape[1] * (n_train + len(images.val_images))
    if size > MOST_BYTES:
        log.info("features would take %.1f GB: the frozen layers are computed at every step instead", size / 1e9)
    return size <= MOST_BYTES


class FeatureInputs:
    """Features of the training images (n, F) and of the validation images, computed once; interface of ImageInputs."""

    def __init__(
        self, config: ClassifierConfig, model: Backbone, images: ImageInputs, check_interrupt: Callable[[], None]
    ) -> None:
        """Compute the features in evaluation mode; ``check_interrupt`` may raise between chunks."""
        train, val, self.device = images.train_images, images.val_images, images.device
        log.info("computing the features of %d images once: only the head learns", len(train) + len(val))
        self._train = _compute(model, input_chunks(train, config, self.device), config.precision, check_interrupt)
        with exact_float32(self.device):  # as in prediction
            self._val = _compute(model, input_chunks(val, config, self.device), "float32", check_interrupt)

    def network(self, model: nn.Module) -> nn.Module:
        """Return the part of a classifier that takes features: the head of the model itself, not a copy."""
        return FromFeatures(model)

    def batch(self, index: Array, _step: int) -> Tensor:
        """Return the features (B, F) at positions ``index`` (B,)."""
        return self._train[to_device(torch.from_numpy(index), self.device)]

    def unaugmented(self, index: Array) -> Tensor:
        """Return the features (B, F) at positions ``index`` (B,): no image is augmented here."""
        return self.batch(index, 0)

    def validation(self) -> Iterator[Tensor]:
        """Yield the features of the validation images in chunks."""
        yield from self._val.split(CHUNK)


@torch.no_grad()
def _compute(model: Backbone, chunks: Iterable[Tensor], precision: str, check_interrupt: Callable[[], None]) -> Tensor:
    """Return the features (n, F) of chunks of network input, on their device."""
    model.eval()
    parts = []
    for images in chunks:
        with autocast(images.device, precision, on_cpu=True):
            parts.append(model.features(images))
        check_interrupt()
    return torch.cat(parts)
