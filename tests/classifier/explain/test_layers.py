"""The rule that picks a layer, on every network of the registry and on small ones of torchvision's families."""

import nets
import pytest
import tiny
import torch
from torch import nn
from torchvision import models

from balancer.core.settings import ClassifierConfig, DataConfig
from classifier.explain import explain
from classifier.explain.layers import as_maps, choose_layer
from classifier.models import OWN_MODELS, build_model
from classifier.models.backbones import Backbone, backbone_names
from classifier.models.cnn import ResidualBlock

SIDES = {"maxvit": 224, "inception": 224, "_14": 98}  # of networks that do not take 96 px
OWN = {
    "small_cnn": ("features.23", nn.ReLU),
    "small_resnet": ("features.6", ResidualBlock),
    "s1_cnn": ("features.21", nn.ReLU),
    "s2_cnn": ("layers.5", nn.ReLU),
}
# Small versions of torchvision's families at 32 px, and the layer that the field uses for each.
FAMILIES = {
    "resnet": (lambda: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1]), 64, "layer4", (2, 2)),
    "bottleneck": (lambda: models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1]), 64, "layer4", (2, 2)),
    "densenet": (lambda: models.DenseNet(4, (2, 2), 8), 32, "features", (4, 4)),
    "squeezenet": (lambda: Backbone("squeezenet1_1", 64), 64, "net.features", (3, 3)),
    "shufflenet": (models.shufflenet_v2_x0_5, 64, "conv5", (2, 2)),
    "vgg": (lambda: tiny.vgg(""), 32, "features.4", (16, 16)),
    "vit": (
        lambda: models.VisionTransformer(32, 8, 2, 2, 16, 32),
        32,
        "encoder.layers.encoder_layer_1.ln_1",
        (4, 4),
    ),
    "swin": (lambda: models.SwinTransformer([4, 4], 12, [1, 1], [1, 1], [4, 4]), 32, "permute", (4, 4)),
    "convnext": (
        lambda: models.ConvNeXt([models.convnext.CNBlockConfig(8, 16, 1), models.convnext.CNBlockConfig(16, None, 1)]),
        32,
        "features",
        (4, 4),
    ),
}


def settings(name: str, size: int = 32) -> ClassifierConfig:
    return ClassifierConfig(model=name, data=DataConfig(image_size=size))


@pytest.mark.parametrize("name", OWN_MODELS)
def test_our_networks(name: str) -> None:
    net = build_model(settings(name)).eval()
    layer = choose_layer(net, nets.noise(1, side=32))
    expected, kind = OWN[name]
    assert layer.name == expected
    assert isinstance(layer.module, kind)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_torchvision(name: str) -> None:
    build, side, expected, cells = FAMILIES[name]
    torch.manual_seed(0)
    net, images = build().eval(), nets.noise(2, 3, side)
    for parameter in net.heads.parameters() if name == "vit" else ():
        nn.init.normal_(parameter)  # torchvision begins with 0
    layer = choose_layer(net, images[:1])
    assert (layer.name, layer.cells) == (expected, cells)
    heat = [explain(net, images, "gradcam", target=target) for target in (0, 1)]
    assert heat[0].relevance.any() or heat[1].relevance.any()  # tokens that nothing reads would have no gradient


@pytest.mark.nightly
@pytest.mark.parametrize("name", backbone_names())
def test_every_network_of_torchvision(name: str) -> None:
    side = next((side for part, side in SIDES.items() if part in name), 96)
    net = Backbone(name, side).eval()
    layer = choose_layer(net, nets.noise(1, side=side))
    assert min(layer.cells) > 1
    heat = [explain(net, nets.noise(1, side=side), "gradcam", target=target) for target in (0, 1)]
    assert heat[0].relevance.any() or heat[1].relevance.any()


def test_small_images_take_an_earlier_layer() -> None:
    """At 32 px the last stage of a ResNet has one cell, which says nothing about where."""
    net = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1]).eval()
    assert choose_layer(net, nets.noise(1, 3, 32)).name == "layer3"


def test_a_layer_by_name_and_an_unknown_one() -> None:
    net, image = nets.two_stages(0), nets.noise(1)
    assert choose_layer(net, image, "features.0").module is net.features[0]
    for name in ("features.7", "head.1", ""):
        with pytest.raises(Exception, match="--layer") as error:
            choose_layer(net, image, name)
        assert all(known in str(error.value) for known in ("features.0", "features.3"))


def test_layouts_of_maps() -> None:
    maps = nets.noise(2, 5, 4)
    assert as_maps(maps, (8, 8)) is maps
    assert bool((as_maps(maps.permute(0, 2, 3, 1), (8, 8)) == maps).all())
    tokens = maps.flatten(2).transpose(1, 2)
    assert bool((as_maps(tokens, (8, 8)) == maps).all())
    with_class = torch.cat([torch.zeros(2, 1, 5), tokens], dim=1)
    assert bool((as_maps(with_class, (8, 8)) == maps).all())
    wide = nets.noise(2, 5, 4)[:, :, :2]
    assert bool((as_maps(wide.flatten(2).transpose(1, 2), (8, 16)) == wide).all())
    assert as_maps(nets.noise(2, 5, 1), (8, 8)) is None
    assert as_maps(torch.zeros(2, 7, 5), (8, 8)) is None
