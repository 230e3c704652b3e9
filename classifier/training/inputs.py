"""Network inputs from images: the data set that a whole network trains on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from balancer.augmentation.classical import Augmenter
from balancer.core.settings import ClassifierConfig
from balancer.data.subset import Subset
from classifier.training.prediction import input_chunks, to_input
from classifier.training.regimes import Regime
from classifier.training.training_set import TrainingSet

Array = np.ndarray


class ImageInputs:
    """Training and validation images as network input (B, C, H, W)."""

    def __init__(
        self,
        config: ClassifierConfig,
        regime: Regime,
        train_set: TrainingSet,
        val_images: Array | Subset,
        seed: int,
        device: torch.device,
    ) -> None:
        """Take images, grey or in colour; put the training images on a GPU, unless the regime augments.

        Augmentation runs on the CPU, image by image. On the CPU each batch is read from the memory map of the data.
        """
        self.config, self.device = config, device
        self.train_images, self.val_images = train_set.images, val_images
        self._augment = Augmenter(config.augmentation, seed, config.data.flips) if regime.augment else None
        on_device = device.type != "cpu" and not regime.augment
        self._pixels = torch.from_numpy(np.asarray(train_set.images)).to(device) if on_device else None

    def network(self, model: nn.Module) -> nn.Module:
        """Return the part of a classifier that takes these inputs: the whole network."""
        return model

    def batch(self, index: Array, step: int) -> Tensor:
        """Return the training inputs at positions ``index`` (B,), augmented as of this step if the regime augments."""
        if self._augment is not None:
            return to_input(self._augment(self.train_images[index], index, step), self.config, self.device)
        if self._pixels is None:
            return self.unaugmented(index)
        return to_input(self._pixels[torch.from_numpy(index).to(self.device)], self.config, self.device)

    def unaugmented(self, index: Array) -> Tensor:
        """Return the training inputs at positions ``index`` (B,), without augmentation."""
        return to_input(self.train_images[index], self.config, self.device)

    def validation(self) -> Iterator[Tensor]:
        """Yield the validation inputs in chunks."""
        return input_chunks(self.val_images, self.config, self.device)
