"""Classifier networks: small CNNs of our own and torchvision backbones, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from balancer.settings import ClassifierConfig

OWN_MODELS = ("small_cnn", "s2_cnn")


def build_model(config: ClassifierConfig) -> nn.Module:
    """The network that the settings name, with one logit per image.

    Raises:
        UsageError: an unknown name, or settings that do not fit it.
        BalancerError: weights that cannot be had or do not fit.
    """
    from balancer.errors import UsageError
    from classifier.models.backbones import Backbone
    from classifier.models.cnn import S2CNN, SmallCNN

    size = config.data.image_size
    if config.model not in OWN_MODELS:
        return Backbone(config.model, size, config.weights, config.freeze)
    if config.weights != "none" or config.freeze or config.normalisation == "imagenet":
        raise UsageError(
            f"weights, freeze and normalisation imagenet are for torchvision backbones; model is {config.model!r}"
        )
    return SmallCNN(size) if config.model == "small_cnn" else S2CNN(size)
