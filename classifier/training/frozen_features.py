"""A frozen backbone looks at every image once, and the head learns from what it saw."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from balancer.core.device import autocast, exact_float32
from balancer.core.settings import ClassifierConfig
from classifier.models.backbones import Backbone, FromFeatures
from classifier.training.prediction import CHUNK, probabilities, to_input
from classifier.training.regimes import Regime
from classifier.training.stages import Stage
from classifier.training.training_set import Batches, TrainingSet

log = logging.getLogger("balancer")
Array = np.ndarray
MOST = 2 * 1024**3  # bytes of features that are kept


def worthwhile(
    config: ClassifierConfig, stage: Stage, regime: Regime, model: Backbone, train: TrainingSet, n_val: int
) -> bool:
    """Whether a stage can learn from features computed once, and saves time by it."""
    if stage.trainable != "head" or regime.augment:
        return False
    if stage.steps * config.batch_size <= len(train.images):
        return False  # no image is seen twice
    size = 4 * model.first_weight.shape[1] * (len(train.images) + n_val)
    if size > MOST:
        log.info("features would take %.1f GB: the frozen layers are computed at every step instead", size / 1e9)
    return size <= MOST


@torch.no_grad()
def compute(
    model: Backbone,
    pixels: Array,
    config: ClassifierConfig,
    device: torch.device,
    precision: str,
    heed: Callable[[], None] = lambda: None,
) -> Tensor:
    """Features (n, F) of images (n, H, W) uint8, in evaluation mode, on the device; ``heed`` may end it between chunks."""
    model.eval()
    parts = []
    for i in range(0, len(pixels), CHUNK):
        with autocast(device, precision, on_cpu=True):
            parts.append(model.features(to_input(pixels[i : i + CHUNK], config, device)))
        heed()
    return torch.cat(parts)


class HeadStage:
    """A stage over features; the same batches, dropout and averaging as through the whole network."""

    def __init__(
        self,
        config: ClassifierConfig,
        model: Backbone,
        averaged: AveragedModel | None,
        batches: Batches,
        val_images: Array,
        device: torch.device,
        train: TrainingSet,
        heed: Callable[[], None],
    ) -> None:
        log.info("computing the features of %d images once: only the head learns", len(train.images) + len(val_images))
        self.learner = FromFeatures(model)
        self.averaged = None if averaged is None else _of_head(averaged)
        self._batches, self._n_real = batches, train.n_real
        self._features = compute(model, train.images, config, device, config.precision, heed)
        with exact_float32(device):  # as :func:`~classifier.training.prediction.predict`
            self._val = compute(model, val_images, config, device, "float32", heed)
        self._labels = torch.from_numpy(train.labels).to(device)

    def draw(self, step: int) -> tuple[Tensor, Tensor, int]:
        """Features (B, F) and labels (B,) of a batch, and how many of its images are real."""
        index = self._batches.indices(step)
        where = torch.from_numpy(index).to(self._labels.device)
        return self._features[where], self._labels[where], int((index < self._n_real).sum())

    @torch.no_grad()
    def score(self) -> Array:
        """Probabilities of the validation images, (n,) or (n, C), as the averaged head gives them if there is one."""
        shown = self.learner if self.averaged is None else self.averaged.module
        shown.eval()
        scores: Array = torch.cat([probabilities(shown(part)) for part in self._val.split(CHUNK)]).numpy()
        return scores


def _of_head(averaged: AveragedModel) -> AveragedModel:
    """The same average, seen as one of the head alone: the frozen rest need not be averaged at every step."""
    assert isinstance(averaged.module, Backbone)
    view = AveragedModel(FromFeatures(averaged.module), multi_avg_fn=averaged.multi_avg_fn, use_buffers=True)
    view.module, view.n_averaged = FromFeatures(averaged.module), averaged.n_averaged
    return view
