"""Heads on a backbone's features, and the logits of their outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from balancer.core.errors import UsageError
from balancer.core.settings import ClassifierConfig


@dataclass(frozen=True)
class HeadDesign:
    """The design of a head."""

    kind: str = "linear"  # a key of HEADS
    outputs: int = 1
    width: int = 512  # of the dense layer
    dropout: float = 0.0

    @classmethod
    def of(cls, config: ClassifierConfig, classes: int) -> HeadDesign:
        """Return the design that the settings name, for a number of classes.

        Raises:
            UsageError: if outputs do not fit the classes, or a setting is of a dense layer that the head lacks.
        """
        for name, neutral in (("head_l2", 0.0), ("head_width", cls.width)):
            if (value := getattr(config, name)) != neutral and config.head != "dense":
                raise UsageError(f"{name} is {value:g}, but a {config.head} head has no dense layer; use head dense")
        return cls(config.head, number_of_outputs(config, classes), config.head_width, config.head_dropout)


def number_of_outputs(config: ClassifierConfig, classes: int) -> int:
    """Return 1, or the number of classes.

    Raises:
        UsageError: if outputs is sigmoid and there are more than two classes.
    """
    if config.outputs == "softmax" or (config.outputs is None and classes > 2):
        return classes
    if classes > 2:
        raise UsageError(f"outputs is 'sigmoid', which is for two classes, and the data have {classes}; use softmax")
    return 1


def _linear(features: int, design: HeadDesign) -> nn.Sequential:
    """Return dropout, if its rate is not 0, and the output layer."""
    dropout = [nn.Dropout(design.dropout)] if design.dropout else []
    return nn.Sequential(*dropout, nn.Linear(features, design.outputs))


def _dense(features: int, design: HeadDesign) -> nn.Sequential:
    """Return a dense layer with ReLU, then a linear head: the usual head on pooled features in Keras."""
    return nn.Sequential(nn.Linear(features, design.width), nn.ReLU(), *_linear(design.width, design))


# Number of features F and design to a head: features (B, F) to outputs (B, design.outputs).
HEADS: dict[str, Callable[[int, HeadDesign], nn.Sequential]] = {"linear": _linear, "dense": _dense}


def as_logits(outputs: Tensor) -> Tensor:
    """Return the logits (B,), (B,) or (B, C) of outputs (B, 1), (B, 2) or (B, C).

    The logit of two outputs is l1 - l0. Since softmax(l0, l1)[1] = sigmoid(l1 - l0), its binary cross-entropy is the
    cross-entropy of both outputs, gradients included: code for one output serves two as well.
    """
    if outputs.shape[1] == 1:
        return torch.flatten(outputs)
    return outputs[:, 1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs
