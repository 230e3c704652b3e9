"""What stands on a network's features: the designs of its head, and how outputs become logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from balancer.core.errors import UsageError
from balancer.core.settings import ClassifierConfig
from balancer.data.folder import TASKS


@dataclass(frozen=True)
class HeadDesign:
    """A head as the settings describe it."""

    kind: str = "linear"  # a key of HEADS
    outputs: int = 1
    width: int = 512  # of the dense layer
    dropout: float = 0.0

    @classmethod
    def of(cls, config: ClassifierConfig) -> HeadDesign:
        """The design that the settings name.

        Raises:
            UsageError: outputs that do not fit the task, or a penalty on a layer that there is not.
        """
        if config.head_l2 and config.head != "dense":
            raise UsageError(
                f"head_l2 is {config.head_l2:g}, but a {config.head} head has no dense layer; use head dense"
            )
        if config.head_width != cls.width and config.head != "dense":
            raise UsageError(
                f"head_width is {config.head_width}, but a {config.head} head has no dense layer; use head dense"
            )
        return cls(config.head, number_of_outputs(config), config.head_width, config.head_dropout)


def number_of_outputs(config: ClassifierConfig) -> int:
    """One output, or one per class.

    Raises:
        UsageError: one output for more than two classes.
    """
    classes = TASKS[config.data.task]
    if config.outputs == "softmax" or (config.outputs is None and len(classes) > 2):
        return len(classes)
    if len(classes) > 2:
        raise UsageError(
            f"outputs is 'sigmoid', which tells two classes apart; {', '.join(classes)} are {len(classes)}: use outputs softmax"
        )
    return 1


def _linear(features: int, design: HeadDesign) -> nn.Sequential:
    """Dropout, where there is any, and the output."""
    dropout = [nn.Dropout(design.dropout)] if design.dropout else []
    return nn.Sequential(*dropout, nn.Linear(features, design.outputs))


def _dense(features: int, design: HeadDesign) -> nn.Sequential:
    """A dense layer with ReLU, dropout, the output: what systems in Keras put on pooled features."""
    dropout = [nn.Dropout(design.dropout)] if design.dropout else []
    return nn.Sequential(
        nn.Linear(features, design.width), nn.ReLU(), *dropout, nn.Linear(design.width, design.outputs)
    )


HEADS: dict[str, Callable[[int, HeadDesign], nn.Sequential]] = {"linear": _linear, "dense": _dense}


def make_head(features: int, design: HeadDesign) -> nn.Sequential:
    """A new head: features (B, F) to outputs (B, ``design.outputs``)."""
    return HEADS[design.kind](features, design)


def as_logits(outputs: Tensor) -> Tensor:
    """Outputs (B, 1), (B, 2) or (B, C) to logits (B,), (B,) or (B, C).

    Of two outputs it gives the difference l1 - l0. Since softmax(l0, l1)[1] = 1 / (1 + exp(-(l1 - l0))), the sigmoid of
    that is the probability of class 1, and binary cross-entropy on it is the cross-entropy of the two, gradients
    and all: whatever works on one logit works on two outputs too.
    """
    if outputs.shape[1] == 1:
        return torch.flatten(outputs)
    return outputs[:, 1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs
