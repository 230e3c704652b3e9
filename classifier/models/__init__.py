"""Classifier networks by name: built-in small CNNs and torchvision backbones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from balancer.core.errors import UsageError
from balancer.core.settings import ClassifierConfig, S2Config
from classifier.models.cnn import S1CNN, S2CNN, SmallCNN, SmallResNet
from classifier.models.heads import HeadDesign, number_of_outputs

# name -> (settings, number of outputs, channels of the images) -> network
OWN_MODELS: dict[str, Callable[[ClassifierConfig, int, int], nn.Module]] = {
    "small_cnn": lambda c, outputs, channels: SmallCNN(
        c.data.image_size, batch_norm=c.batch_norm, outputs=outputs, channels=channels
    ),
    "small_resnet": lambda c, outputs, channels: SmallResNet(
        c.data.image_size, batch_norm=c.batch_norm, outputs=outputs, channels=channels
    ),
    "s1_cnn": lambda c, outputs, channels: S1CNN(
        c.data.image_size, batch_norm=c.batch_norm, outputs=outputs, channels=channels
    ),
    "s2_cnn": lambda c, outputs, channels: S2CNN(
        c.data.image_size,
        c.s2.conv,
        c.s2.dense,
        c.s2.dropout,
        batch_norm=c.batch_norm,
        outputs=outputs,
        channels=channels,
    ),
}
FOR_BACKBONES = ("weights", "trainable", "head", "head_width", "head_dropout", "head_l2")


def build_model(config: ClassifierConfig, classes: int = 2, channels: int = 1) -> nn.Module:
    """Return the network that the settings name, for a number of classes: images (B, 1 or 3, H, W) to logits.

    Logits are (B,), positive for class 1, if there are two classes, with one output or two
    (:func:`~classifier.models.heads.as_logits`); else (B, C). A backbone takes grey and colour images alike.

    Raises:
        UsageError: if the name is unknown, or settings do not fit it.
        BalancerError: if weights are missing or do not fit.
    """
    from classifier.models.backbones import Backbone

    if config.s2 != S2Config() and config.model != "s2_cnn":
        raise UsageError(f"s2 holds the sizes of s2_cnn; model is {config.model!r}")
    if config.model in OWN_MODELS:
        _refuse(config, FOR_BACKBONES, "torchvision backbones")
        if config.normalisation == "imagenet":
            raise UsageError(f"normalisation imagenet is for torchvision backbones; model is {config.model!r}")
        return OWN_MODELS[config.model](config, number_of_outputs(config, classes), channels)
    _refuse(config, ("batch_norm",), "built-in networks")
    rescaled = config.input_normalisation == "imagenet"
    model = Backbone(config.model, config.data.image_size, config.weights, HeadDesign.of(config, classes), rescaled)
    model.set_trainable(config.trainable)
    return model


def features_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the features (B, F) of images (B, 1 or 3, H, W) that the head of a network takes."""
    return cast(Callable[[Tensor], Tensor], model.features)(images)


def _refuse(config: ClassifierConfig, settings: Sequence[str], whose: str) -> None:
    """Raise a UsageError if a setting of other networks is not at its default."""
    for key in settings:
        if (value := getattr(config, key)) != ClassifierConfig.model_fields[key].default:
            raise UsageError(f"{key} is {value!r}, which is for {whose}; model is {config.model!r}")
