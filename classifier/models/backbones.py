"""torchvision classification networks by name, for grey and colour, with a head of :mod:`classifier.models.heads`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from balancer.core.errors import UsageError, nearest
from balancer.core.setting_types import Trainable
from classifier.models.heads import HEADS, HeadDesign, as_logits
from classifier.models.weights import load_weights

RESCALING = ("inception_v3", "googlenet")  # trained on [-1, 1]; can convert ImageNet's normalisation to it


def backbone_names() -> list[str]:
    """Return the names that torchvision knows: resnet18, densenet161, convnext_base, vit_b_16, ..."""
    from torchvision import models

    return list(models.list_models(module=models))


class Backbone(nn.Module):
    """A torchvision network ``net``, which gives features (B, F), and a ``head`` on them.

    A grey image is repeated over the three channels of the first layer, so that pretrained filters see their usual
    input; a colour image goes in as it is. A linear head replaces the last layer only. A dense head stands on pooled
    features and replaces a whole classifier on flattened maps (VGG, AlexNet). Layers between pooling and the last layer
    stay: ConvNeXt's LayerNorm, EfficientNet's dropout.
    """

    def __init__(
        self,
        name: str,
        image_size: int,
        weights: str = "none",
        head: HeadDesign | None = None,
        imagenet_input: bool = False,
    ) -> None:
        """Build the network for square images of ``image_size`` px, with ImageNet's normalisation or another.

        Raises:
            UsageError: if the name is unknown, or the network cannot be built for this image size.
            BalancerError: if weights are missing or do not fit.
        """
        super().__init__()
        design = head or HeadDesign()
        self.name, self._frozen = name, list[nn.Module]()
        self.net = _build(name, image_size, imagenet_input)
        removed = _replaced_part(self.net, design)
        if weights != "none":
            load_weights(self.net, name, weights, (removed,))
        self.head = HEADS[design.kind](_remove(self.net, removed), design)

    @property
    def first_weight(self) -> Tensor:
        """Return the weights (width, F) of the head's first layer: of the dense layer, if there is one."""
        return next(module.weight for module in self.head if isinstance(module, nn.Linear))

    def set_trainable(self, trainable: Trainable) -> None:
        """Freeze all but ``all``, ``head``, or N: the head and the last N layers with weights (BatchNorm is one).

        Frozen layers stay in evaluation mode: BatchNorm's statistics are part of the pretrained function, and dropout
        in front of layers that cannot adapt is only noise.

        Raises:
            UsageError: if the network has fewer than N layers with weights.
        """
        body = list(self.net.modules())
        layers = [i for i, module in enumerate(body) if next(module.parameters(recurse=False), None) is not None]
        if isinstance(trainable, int) and trainable > len(layers):
            raise UsageError(
                f"trainable is {trainable}, but {self.name} has {len(layers)} layers with weights below its head;"
                " use all, head or fewer"
            )
        first = {"all": 0, "head": len(body)}[trainable] if isinstance(trainable, str) else layers[-trainable]
        for i, module in enumerate(body):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(i >= first)
        self._frozen = body[:first]

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode, except for frozen layers."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B,) or (B, C) of images (B, 1 or 3, H, W)."""
        return as_logits(self.head(self.features(images)))

    def features(self, images: Tensor) -> Tensor:
        """Return the features (B, F) of images (B, 1 or 3, H, W), the head's input."""
        features: Tensor = self.net(images.expand(-1, 3, -1, -1))
        return features


class FromFeatures(nn.Module):
    """A backbone's head as a network: features (B, F) to logits. The head is the backbone's own, not a copy."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.head = backbone.get_submodule("head")

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (B,) or (B, C) of features (B, F)."""
        return as_logits(self.head(features))


def _build(name: str, image_size: int, imagenet_input: bool) -> nn.Module:
    from torchvision import models

    from classifier.models import OWN_MODELS

    known = backbone_names()
    if name not in known:
        raise UsageError(f"model is {name!r}; {nearest(name, [*OWN_MODELS, *known])}")
    if name == "inception_v3" and image_size < 75:
        raise UsageError(f"inception_v3 needs images of at least 75 px; got {image_size}")
    more: dict[str, Any] = {"image_size": image_size} if name.startswith("vit_") else {}
    if name in RESCALING:
        more = {"init_weights": True, "transform_input": imagenet_input}
    try:
        net: nn.Module = models.get_model(name, weights=None, **more)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise UsageError(f"{name} cannot be built at {image_size} px: {str(error).splitlines()[0]}") from error
    for attribute in ("AuxLogits", "aux1", "aux2"):  # they would turn the output in training into a tuple
        if hasattr(net, attribute):
            setattr(net, attribute, None)
    if hasattr(net, "aux_logits"):
        net.aux_logits = False  # type: ignore[assignment]
    return net


def _replaced_part(net: nn.Module, design: HeadDesign) -> str:
    """Return the name of the part that the head replaces: the last layer, or a classifier of several layers."""
    classifier = getattr(net, "classifier", None)
    several = isinstance(classifier, nn.Sequential) and sum(isinstance(part, nn.Linear) for part in classifier) > 1
    if design.kind == "dense" and several and hasattr(net, "avgpool"):
        return "classifier"
    kinds = (nn.Linear, nn.Conv2d)  # SqueezeNet has no Linear: it ends in a 1 x 1 convolution
    layers = [[name for name, module in net.named_modules() if isinstance(module, kind)] for kind in kinds]
    return (layers[0] or layers[1])[-1]


def _remove(net: nn.Module, name: str) -> int:
    """Replace a part by the identity; return the number of features F that the network then gives."""
    part, (parent_name, _, child) = net.get_submodule(name), name.rpartition(".")
    parent = net.get_submodule(parent_name)
    setattr(parent, child, nn.Identity())
    if isinstance(part, nn.Linear):
        return part.in_features
    if isinstance(part, nn.Conv2d):
        # A ReLU and the pooling follow. The ReLU goes, because no logit behind it could be negative (NORMAL). A linear
        # layer on pooled features equals the 1 x 1 convolution, pooled.
        setattr(parent, str(int(child) + 1), nn.Identity())
        return part.in_channels
    net.avgpool = nn.AdaptiveAvgPool2d(1)
    maps = net.get_submodule("features")
    return [module for module in maps.modules() if isinstance(module, nn.Conv2d)][-1].out_channels
