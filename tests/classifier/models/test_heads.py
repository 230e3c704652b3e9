"""Heads: what each is made of on every kind of backbone, the published counts, and what outputs mean."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

from balancer.core.settings import ClassifierConfig, DataConfig
from classifier.models import OWN_MODELS, build_model
from classifier.models.backbones import Backbone
from classifier.models.heads import HEADS, HeadDesign, as_logits

DENSE = HeadDesign("dense", outputs=2, width=12, dropout=0.5)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_menu_of_the_settings_is_what_there_is() -> None:
    field = ClassifierConfig.model_fields["head"].annotation
    assert set(field.__args__) == set(HEADS)


def test_published_counts_with_two_outputs() -> None:
    """ResNet-18 of S1: 11,177,538. DenseNet-161 of S0: Linear 2208 to 2 learns, all below it does not."""
    with torch.device("meta"):
        resnet, densenet = (Backbone(name, 224, head=HeadDesign(outputs=2)) for name in ("resnet18", "densenet161"))
    assert count(resnet) == 11_177_538
    densenet.set_trainable("head")
    assert [tuple(p.shape) for p in densenet.parameters() if p.requires_grad] == [(2, 2208), (2,)]


@pytest.mark.parametrize("design", [HeadDesign(), HeadDesign(dropout=0.3), HeadDesign("dense", 1, 7), DENSE])
def test_what_heads_are_made_of(design: HeadDesign) -> None:
    head = HEADS[design.kind](20, design)
    kinds = [type(m) for m in head]
    dropout = [nn.Dropout] * bool(design.dropout)
    dense = [nn.Linear, nn.ReLU, *dropout, nn.Linear]
    assert kinds == (dense if design.kind == "dense" else [*dropout, nn.Linear])
    assert [m.p for m in head if isinstance(m, nn.Dropout)] == [design.dropout] * len(dropout)
    assert head(torch.zeros(3, 20)).shape == (3, design.outputs)
    assert head[-1].in_features == (design.width if design.kind == "dense" else 20)


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("vgg16", 512),
        ("alexnet", 256),
        ("mobilenet_v3_small", 576),
        ("squeezenet1_1", 512),
        ("convnext_tiny", 768),
        ("densenet121", 1024),
        ("efficientnet_b0", 1280),
        ("vit_b_16", 768),
        ("swin_t", 768),
        ("regnet_y_400mf", 440),
    ],
)
def test_a_dense_head_stands_on_pooled_features(name: str, features: int) -> None:
    """Numbers of features as published with each architecture (of VGG and AlexNet the last convolution's)."""
    if name.startswith("regnet"):
        model = Backbone(name, 64, head=DENSE)  # not on the meta device
    else:
        with torch.device("meta"):
            model = Backbone(name, 64, head=DENSE)
    assert (model.head[0].in_features, model.head[0].out_features, model.head[-1].out_features) == (features, 12, 2)
    assert model(torch.zeros(2, 1, 64, 64, device=model.head[0].weight.device)).shape == (2,)


def test_pooled_features_are_the_mean_of_the_last_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "get_model", tiny.vgg)
    model = Backbone("vgg16", 32, head=DENSE).eval()
    images = torch.randn(2, 1, 32, 32)
    maps = model.net.features(images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(model.features(images), maps.mean((2, 3)))
    assert maps.shape == (2, 8, 8, 8)


def test_convnext_keeps_its_norm() -> None:
    with torch.device("meta"):
        model = Backbone("convnext_tiny", 32, head=DENSE)
    assert type(model.net.classifier[0]).__name__ == "LayerNorm2d"


def test_squeezenets_pooled_output_is_the_output_of_pooled_features() -> None:
    """What torchvision computes, less its last ReLU: a 1 x 1 convolution, then the pooling."""
    torch.manual_seed(0)
    original, model = models.squeezenet1_1(num_classes=1).eval(), Backbone("squeezenet1_1", 64).eval()
    model.net.load_state_dict({k: v for k, v in original.state_dict().items() if not k.startswith("classifier")})
    last = original.classifier[1]
    model.head[0].weight.data, model.head[0].bias.data = last.weight.data.flatten(1), last.bias.data
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), last(original.features(images)).mean((1, 2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("outputs", "shape"), [(1, (5,)), (2, (5,)), (3, (5, 3))])
def test_logits(outputs: int, shape: tuple[int, ...]) -> None:
    raw = torch.randn(5, outputs)
    logits = as_logits(raw)
    assert logits.shape == shape
    if outputs == 2:
        torch.testing.assert_close(logits.sigmoid(), F.softmax(raw, 1)[:, 1])
    else:
        assert torch.equal(logits.flatten(), raw.flatten())


@pytest.mark.parametrize("model", [*OWN_MODELS, "mobilenet_v3_small"])
@pytest.mark.parametrize("outputs", [None, "softmax"])
def test_three_classes_have_three_logits(model: str, outputs: str | None) -> None:
    built = build_model(ClassifierConfig(model=model, data=DataConfig(image_size=32), outputs=outputs), 3)
    assert built.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
