"""torchvision backbones: what is replaced, and what is refused. Weights: test_weights.py; stages: test_stages.py."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from balancer.core.errors import UsageError
from balancer.core.settings import ClassifierConfig, DataConfig
from classifier.models import build_model
from classifier.models.backbones import Backbone, backbone_names
from classifier.training import trainer

CPU = torch.device("cpu")


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


LAST = [("resnet18", 512), ("densenet161", 2208), ("convnext_base", 1024), ("vgg16", 4096), ("vit_b_16", 768)]


@pytest.mark.parametrize(("name", "features"), LAST)
def test_one_output_replaces_the_last_layer_alone(name: str, features: int) -> None:
    """On the meta device, where weights take no memory."""
    with torch.device("meta"):
        original, model = models.get_model(name, weights=None), Backbone(name, 224)
        assert model(torch.zeros(2, 1, 224, 224)).shape == (2,)
    assert count(model) == count(original) - 1000 * (features + 1) + features + 1


def test_auxiliary_outputs_are_off() -> None:
    with torch.device("meta"):
        model = Backbone("googlenet", 64).train()
        assert model(torch.zeros(2, 1, 64, 64)).shape == (2,)


@pytest.mark.parametrize(("name", "hint"), [("resnet_18", "resnet18"), ("small_cn", "small_cnn")])
def test_unknown_names_suggest_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"model is '{name}'; did you mean '{hint}'"):
        build_model(ClassifierConfig(model=name))


def test_no_name_is_of_another_task() -> None:
    names = backbone_names()
    assert {"resnet18", "densenet161", "convnext_base", "vgg16", "efficientnet_b0"} <= set(names)
    assert not [n for n in names if "rcnn" in n or "deeplab" in n or "raft" in n]


@pytest.mark.parametrize(
    ("name", "size"), [("inception_v3", 64), ("squeezenet1_1", 16), ("alexnet", 32), ("vit_b_32", 48)]
)
def test_images_too_small_for_a_network_are_refused_at_once(name: str, size: int) -> None:
    with pytest.raises(UsageError, match=f"{name} .*{size}"):
        trainer.check(ClassifierConfig(model=name, data=DataConfig(image_size=size)))


@pytest.mark.parametrize("name", ["regnet_y_400mf", "shufflenet_v2_x0_5", "vit_b_16"])
def test_the_check_passes_what_can_be_trained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "vit_b_16":  # as it is it has 86 million weights
        real = models.VisionTransformer
        monkeypatch.setattr(
            models, "get_model", lambda _n, weights, image_size: real(image_size, 16, 1, 2, 32, 32, num_classes=5)
        )
    trainer.check(ClassifierConfig(model=name, data=DataConfig(image_size=48)))


def test_imagenet_normalisation_feeds_three_channels() -> None:
    model = Backbone("squeezenet1_1", 32).eval()
    config = ClassifierConfig(
        model="squeezenet1_1", normalisation="imagenet", data=DataConfig(image_size=32), precision="float32"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    assert trainer.to_input(pixels, config, CPU).shape == (3, 3, 32, 32)
    assert trainer.predict(model, pixels, config, CPU).shape == (3,)
