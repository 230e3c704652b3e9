"""Network inputs from images: the data set that a whole network trains on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from balancer.augmentation.classical import Augmenter
from balancer.augmentation.on_device import DeviceAugmenter
from balancer.augmentation.ranges import RANGES
from balancer.core.device import to_device
from balancer.core.settings import ClassifierConfig
from balancer.data.subset import Subset
from classifier.training.prediction import input_chunks, to_input
from classifier.training.regimes import Regime
from classifier.training.training_set import TrainingSet

Array = np.ndarray


def augments_on(config: ClassifierConfig, device: torch.device) -> Literal["cpu", "device"]:
    """Return where images are augmented: image by image on the CPU, or whole batches on their device."""
    if config.augment_on == "auto":
        return "device" if device.type == "cuda" and config.augmentation in RANGES else "cpu"
    return config.augment_on


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
        """Take images, grey or in colour; put the training images on a GPU, unless they are augmented on the CPU.

        On the CPU each batch is read from the memory map of the data.
        """
        self.config, self.device = config, device
        self.train_images, self.val_images = train_set.images, val_images
        self.augmented_on = augments_on(config, device) if regime.augment else None
        preset = config.augmentation, seed, config.data.flips
        self._augment = Augmenter(*preset) if self.augmented_on == "cpu" else None
        self._augment_there = DeviceAugmenter(*preset) if self.augmented_on == "device" else None
        on_device = device.type != "cpu" and self._augment is None
        self._pixels = torch.from_numpy(np.asarray(train_set.images)).to(device) if on_device else None

    def network(self, model: nn.Module) -> nn.Module:
        """Return the part of a classifier that takes these inputs: the whole network."""
        return model

    def batch(self, index: Array, step: int) -> Tensor:
        """Return the training inputs at positions ``index`` (B,), augmented as of this step if the regime augments."""
        if self._augment is not None:
            return to_input(self._augment(self.train_images[index], index, step), self.config, self.device)
        if self._augment_there is not None:
            return to_input(self._augment_there(self._taken(index), index, step), self.config, self.device)
        return self.unaugmented(index)

    def unaugmented(self, index: Array) -> Tensor:
        """Return the training inputs at positions ``index`` (B,), without augmentation."""
        return to_input(self._taken(index), self.config, self.device)

    def _taken(self, index: Array) -> Tensor:
        """Return the pixels at positions ``index`` (B,), on the device."""
        if self._pixels is None:
            return to_device(torch.from_numpy(np.ascontiguousarray(self.train_images[index])), self.device)
        return self._pixels[to_device(torch.from_numpy(index), self.device)]

    def validation(self) -> Iterator[Tensor]:
        """Yield the validation inputs in chunks."""
        return input_chunks(self.val_images, self.config, self.device)
