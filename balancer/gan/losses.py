"""Adversarial losses, by name. Logits are (B,), positive for real; every loss is a mean over the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from balancer.errors import lookup


@dataclass(frozen=True)
class Loss:
    """``discriminator(real_logits, fake_logits)`` and ``generator(fake_logits)``, both to be minimised."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


LOSSES = {
    # Goodfellow et al. 2014, arXiv:1406.2661: the generator maximises log D(G(z))
    "non_saturating": Loss(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda fake: F.softplus(-fake).mean(),
    ),
    # Lim & Ye 2017, arXiv:1705.02894
    "hinge": Loss(
        lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        lambda fake: -fake.mean(),
    ),
}


def loss_named(name: str) -> Loss:
    """The registered loss.

    Raises:
        UsageError: no such name.
    """
    return lookup(LOSSES, name, "loss")
