"""Classifier networks: small CNNs of our own and torchvision backbones, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from balancer.core.errors import UsageError
from balancer.core.settings import ClassifierConfig, S2Config
from classifier.models.cnn import S1CNN, S2CNN, SmallCNN
from classifier.models.heads import HeadDesign, number_of_outputs

# name -> (settings, number of outputs) -> network
OWN_MODELS: dict[str, Callable[[ClassifierConfig, int], nn.Module]] = {
    "small_cnn": lambda c, outputs: SmallCNN(c.data.image_size, batch_norm=c.batch_norm, outputs=outputs),
    "s1_cnn": lambda c, outputs: S1CNN(c.data.image_size, batch_norm=c.batch_norm, outputs=outputs),
    "s2_cnn": lambda c, outputs: S2CNN(
        c.data.image_size, c.s2.conv, c.s2.dense, c.s2.dropout, batch_norm=c.batch_norm, outputs=outputs
    ),
}
# Settings of backbones, which a network of our own leaves as they are.
FOR_BACKBONES = {
    "weights": "none",
    "trainable": "all",
    "head": "linear",
    "head_width": 512,
    "head_dropout": 0.0,
    "head_l2": 0.0,
}


def build_model(config: ClassifierConfig) -> nn.Module:
    """The network that the settings name: images (B, 1 or 3, H, W) to logits.

    Logits are (B,), positive for PNEUMONIA, where there are two classes, whether the network has one output or two
    (:func:`~classifier.models.heads.as_logits`); (B, C) where there are more.

    Raises:
        UsageError: an unknown name, or settings that do not fit it.
        BalancerError: weights that cannot be had or do not fit.
    """
    from classifier.models.backbones import Backbone

    if config.s2 != S2Config() and config.model != "s2_cnn":
        raise UsageError(f"s2 holds the sizes of s2_cnn; model is {config.model!r}")
    if config.model in OWN_MODELS:
        _refuse(config, FOR_BACKBONES, "torchvision backbones")
        if config.normalisation == "imagenet":
            raise UsageError(f"normalisation imagenet is for torchvision backbones; model is {config.model!r}")
        return OWN_MODELS[config.model](config, number_of_outputs(config))
    _refuse(config, {"batch_norm": True}, "networks of our own")
    rescaled = config.input_normalisation == "imagenet"
    model = Backbone(config.model, config.data.image_size, config.weights, HeadDesign.of(config), rescaled)
    model.set_trainable(config.trainable)
    return model


def _refuse(config: ClassifierConfig, neutral: dict[str, object], whose: str) -> None:
    for key, value in neutral.items():
        if (given := getattr(config, key)) != value:
            raise UsageError(f"{key} is {given!r}, which is for {whose}; model is {config.model!r}")
