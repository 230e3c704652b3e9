"""Stages over features: the same training as through the whole network, with the backbone computed once."""

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torchvision import models

from balancer.core.errors import Interrupted
from balancer.core.settings import ClassifierConfig, StageConfig
from balancer.data.dataset import Dataset
from classifier.models.backbones import Backbone
from classifier.training import frozen_features as features
from classifier.training import trainer


@pytest.fixture
def images_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through the backbone, call by call."""
    monkeypatch.setattr(models, "get_model", tiny.resnet)
    monkeypatch.setattr(trainer, "BN_IMAGES", 8)
    seen: list[int] = []
    original = Backbone.features

    def counted(self: Backbone, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        found = original(self, images)
        assert not found.requires_grad, "frozen layers are recorded for the gradient"
        return found

    monkeypatch.setattr(Backbone, "features", counted)
    return seen


def config(**more: Any) -> ClassifierConfig:
    head = {"head": "dense", "head_width": 8, "head_dropout": 0.5, "outputs": "softmax", "trainable": "head"}
    return tiny.settings(**{**head, "steps": 12, "evaluations": 3, "ema_decay": 0.8, "lr": 0.01, **more})


def whole(
    monkeypatch: pytest.MonkeyPatch, data: Dataset, settings: ClassifierConfig, **more: Any
) -> trainer.TrainResult:
    """The same training through the whole network."""
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "can_cache_features", lambda *_: False)
        return tiny.train(data, settings, **more)


@pytest.mark.parametrize(
    "more", [{}, {"ema_decay": 0.0}, {"bn_statistics": "reestimated", "head_l2": 0.1, "accumulate": 2}]
)
def test_the_same_weights_as_through_the_whole_network(
    more: dict[str, Any], data: Dataset, images_seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = tiny.train(data, config(**more), "weighted")
    assert images_seen == [28, 12], "every image of both folds once"
    slow = whole(monkeypatch, data, config(**more), regime="weighted")
    assert sum(images_seen) > 28 + 12 + 12 * 4
    for key, value in slow.model.state_dict().items():
        torch.testing.assert_close(fast.model.state_dict()[key], value, rtol=1e-4, atol=1e-6)
    assert fast.val_score == pytest.approx(slow.val_score, abs=1e-5)
    assert [h.train_loss for h in fast.history] == pytest.approx([h.train_loss for h in slow.history], rel=1e-4)
    assert fast.passes_over_real == slow.passes_over_real


def test_the_scores_are_those_of_the_model_returned(data: Dataset, images_seen: list[int]) -> None:
    fitted, val = tiny.train(data, config(selection="best_val_nll")), data.indices("val")
    again = trainer.predict(fitted.model, data.images[val], config(), torch.device("cpu"))
    assert np.array_equal(again, fitted.val_score)


def test_a_stage_over_features_and_one_through_everything(
    data: Dataset, images_seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "features", lambda self, images: self.net(images.expand(-1, 3, -1, -1)))
    stages = (StageConfig(), StageConfig(trainable="all", steps=3, lr=1e-3))
    fast = tiny.train(data, config(stages=stages))
    slow = whole(monkeypatch, data, config(stages=stages))
    assert [h.step for h in fast.history] == [4, 8, 12, 13, 14, 15]
    assert fast.val_score == pytest.approx(slow.val_score, abs=1e-3)


@pytest.mark.parametrize(
    ("regime", "more"),
    [
        ("augment", {}),  # an image is another one every time
        ("baseline", {"steps": 7}),  # 28 images are drawn: none twice
        ("baseline", {"trainable": 1}),
    ],
)
def test_otherwise_every_batch_goes_through_the_network(
    regime: str, more: dict[str, Any], data: Dataset, images_seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "trainable" in more:  # its last layer learns: the gradient is needed

        def counted(self: Backbone, images: torch.Tensor) -> torch.Tensor:
            images_seen.append(len(images))
            return self.net(images.expand(-1, 3, -1, -1))

        monkeypatch.setattr(Backbone, "features", counted)
    tiny.train(data, config(**more), regime)
    assert images_seen.count(4) == more.get("steps", 12)


def test_too_many_features_are_not_kept(data: Dataset, images_seen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """512 features of 28 + 12 images, 4 bytes each."""
    monkeypatch.setattr(features, "MOST_BYTES", 4 * 512 * 40)
    tiny.train(data, config())
    assert images_seen == [28, 12]
    images_seen.clear()
    monkeypatch.setattr(features, "MOST_BYTES", 4 * 512 * 40 - 1)
    tiny.train(data, config())
    assert images_seen.count(4) == 12


def test_a_signal_ends_the_computation_too(data: Dataset, images_seen: list[int]) -> None:
    with pytest.raises(Interrupted, match="SIGINT: stopped in baseline, seed 0"):
        tiny.train(data, config(), interrupt=lambda: 2)
    assert images_seen == [28]
