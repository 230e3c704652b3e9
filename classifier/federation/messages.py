"""What the server and a site say to each other. Nothing but weights and counts leaves a site.

:data:`ARRAYS` and :data:`COUNTS` list all that a site may send. :func:`checked` refuses an answer with anything else
before the answer is sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from balancer.core.errors import BalancerError

Array = np.ndarray
Kind = Literal["join", "train", "statistics", "finish", "end"]
# Vectors of float32; their lengths are those of the network, whatever the images are.
ARRAYS = {
    "parameters": "the weights after the site's steps; without those of BatchNorm where sites keep them",
    "average": "the running average of these weights, in the last round",
    "bn_mean": "of each BatchNorm channel the mean over training images, at the end",
    "bn_variance": "of each BatchNorm channel the variance over training images, at the end",
}
# Whole numbers; <class> is the number of a class, never its name.
COUNTS = {
    "patients": "patients of the training fold, the weight of the site; images where no patient is known",
    "images_of_class_<class>": "training images",
    "val_images_of_class_<class>": "validation images",
    "val_right_of_class_<class>": "validation images that the final classifier calls right, at the site's threshold",
    "steps": "optimiser steps that the site made in the round",
}
# Why a site refuses an order: the number alone is sent, and the site's own log says more.
REFUSALS = {
    1: "its class names are not those of the server",
    2: "its settings of the training (recipe) are not those of the server",
    3: "its version of the code is not that of the server",
    4: "its images have other channels than those of the server",
    5: "its loss is not finite",
}
_COUNT = re.compile("|".join(name.replace("<class>", r"\d+") for name in COUNTS))


@dataclass(frozen=True)
class Agreement:
    """What the server and every site must have in common."""

    classes: tuple[str, ...]  # in the order of the labels
    recipe: str  # hash of the settings of the training
    version: str  # of the code
    channels: int


@dataclass(frozen=True)
class Order:
    """What the server asks of a site."""

    kind: Kind
    agreement: Agreement
    trial: str = ""  # name of the training, such as fedavg-0
    seed: int = 0  # trial seed
    first: int = 0  # the first step of a round, from 0
    last: int = 0  # the step after its last
    steps: int = 0  # of the whole training
    mu: float = 0.0  # weight of the proximal term
    site_norm: bool = False  # whether BatchNorm layers stay at the site
    arrays: dict[str, Array] = field(default_factory=dict)  # those of ARRAYS, now of all sites together


@dataclass(frozen=True)
class Answer:
    """What a site sends back: weights and counts, or the number of a refusal."""

    arrays: dict[str, Array] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    refusal: int = 0


def checked(answer: Answer) -> Answer:
    """Return an answer that may leave the site.

    Raises:
        BalancerError: it holds something that is not listed; nothing is sent then.
    """
    for name, array in answer.arrays.items():
        if name not in ARRAYS or array.dtype != np.float32 or array.ndim != 1:
            raise BalancerError(f"{name} ({array.dtype}, {array.ndim} dimensions) is no vector that may leave a site")
    for name, count in answer.counts.items():
        if not _COUNT.fullmatch(name) or type(count) is not int or count < 0:
            raise BalancerError(f"{name} = {count!r} is no count that may leave a site")
    if answer.refusal not in (0, *REFUSALS):
        raise BalancerError(f"{answer.refusal!r} is no number of a refusal that may leave a site")
    return answer
