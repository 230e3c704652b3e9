"""Networks of torchvision's architectures small enough to train in a test, and a training on noise."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchvision import models

from balancer.core.settings import ClassifierConfig, DataConfig
from balancer.data.dataset import Dataset
from classifier.training import trainer
from classifier.training.regimes import REGIMES
from classifier.training.trainer import TrainResult
from classifier.training.training_set import training_set


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
    """A backbone at 32 px, without what would blur a comparison: averaging, restated statistics, bfloat16."""
    plain = {"ema_decay": 0.0, "bn_statistics": "running", "precision": "float32", "evaluations": 1}
    size = {"data": DataConfig(image_size=32), "model": "resnet18", "steps": 3, "batch_size": 4}
    return ClassifierConfig(**{**plain, **size, **more})


def train(data: Dataset, config: ClassifierConfig, regime: str = "baseline", seed: int = 0, **more: Any) -> TrainResult:
    chosen, val = REGIMES[regime], data.indices("val")
    of = training_set(data, chosen, None, seed, data.deficit)
    return trainer.train(config, chosen, seed, of, (data.images[val], data.labels[val]), torch.device("cpu"), **more)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a network's state."""
    return {k: v.clone() for k, v in model.state_dict().items()}


def recorded(
    build: Callable[[ClassifierConfig], nn.Module],
    starts: list[dict[str, torch.Tensor]],
    made: list[nn.Module] | None = None,
) -> Any:
    """``build_model`` that keeps the weights with which every training begins, and the networks."""

    def wrapper(config: ClassifierConfig) -> nn.Module:
        model = build(config)
        starts.append(weights(model))
        if made is not None:
            made.append(model)
        return model

    return wrapper
