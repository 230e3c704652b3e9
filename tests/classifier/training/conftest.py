"""Shared by the tests of training."""

from collections.abc import Callable

import pytest
import tiny
import torch
from torch import nn

from balancer.core.settings import ClassifierConfig
from balancer.data.dataset import Dataset
from classifier.models import build_model
from classifier.training import trainer

Built = list[tuple[nn.Module, dict[str, torch.Tensor]]]


@pytest.fixture
def data(make_data: Callable[..., Dataset]) -> Dataset:
    return make_data((8, 20))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Built:
    """The network of every training and a copy of its first weights."""
    seen: Built = []

    def recorded(config: ClassifierConfig, classes: int = 2, channels: int = 1) -> nn.Module:
        model = build_model(config, classes, channels)
        seen.append((model, tiny.weights(model)))
        return model

    monkeypatch.setattr(trainer, "build_model", recorded)
    return seen


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of every optimiser step that is really made."""
    seen: list[float] = []
    original = trainer.make_optimizer

    def counted(settings: object, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = original(settings, model)
        optimizer.register_step_post_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(trainer, "make_optimizer", counted)
    return seen
