"""Trainings on noise that take a second: settings, small versions of torchvision's networks, synthetic images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision import models

from balancer.core.settings import ClassifierConfig, DataConfig
from balancer.data.dataset import Dataset
from classifier.training import trainer
from classifier.training.regimes import REGIMES
from classifier.training.synthetic import SyntheticSet
from classifier.training.training_set import training_set

CPU = torch.device("cpu")
# Without what would blur a comparison: averaging, re-estimated statistics, bfloat16.
PLAIN = {"ema_decay": 0.0, "bn_statistics": "running", "precision": "float32", "evaluations": 1}


def resnet(_name: str, weights: None = None) -> nn.Module:
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)


def densenet(_name: str, weights: None = None) -> nn.Module:
    return models.DenseNet(4, (2, 2), 8, num_classes=10)


class _VGG(nn.Module):
    """As torchvision's, whose classifier cannot be made narrow: convolutions of 8 channels, then 392-16-16-10."""

    def __init__(self) -> None:
        super().__init__()
        self.features = models.vgg.make_layers([4, "M", 8, "M"])
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        hidden = [part for width in (392, 16) for part in (nn.Linear(width, 16), nn.ReLU(), nn.Dropout())]
        self.classifier = nn.Sequential(*hidden, nn.Linear(16, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


def vgg(_name: str, weights: None = None) -> nn.Module:
    return _VGG()


def settings(**more: Any) -> ClassifierConfig:
    """A backbone at 32 px."""
    size = {"data": DataConfig(image_size=32), "model": "resnet18", "steps": 3, "batch_size": 4}
    return ClassifierConfig(**{**PLAIN, **size, **more})


def small_cnn(**more: Any) -> ClassifierConfig:
    """The default network at 16 px; three validations, of which the best is kept."""
    size = {"data": DataConfig(image_size=16), "steps": 6, "batch_size": 8}
    return ClassifierConfig(**{**PLAIN, **size, "evaluations": 3, "selection": "best_val_nll", **more})


def synthetic_set(data: Dataset, n: int) -> SyntheticSet:
    """``n`` images of noise, as of the minority class."""
    images = np.random.default_rng(9).integers(0, 256, (n, 16, 16), dtype=np.uint8)
    hashes = tuple(f"{i:064x}" for i in range(n))
    return SyntheticSet(Path("memory"), images, np.full(n, data.minority_class), hashes, "generator")


def train(
    data: Dataset, config: ClassifierConfig, regime: str = "baseline", seed: int = 0, **more: Any
) -> trainer.TrainResult:
    chosen, val = REGIMES[regime], data.indices("val")
    synthetic = synthetic_set(data, data.deficit) if chosen.synthetic else None
    train_set = training_set(data, chosen, synthetic, seed, data.deficit)
    return trainer.train(config, chosen, seed, train_set, (data.images[val], data.labels[val]), CPU, **more)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a network's state."""
    return {k: v.clone() for k, v in model.state_dict().items()}
