"""Adversarial losses by name. Logits are (B,), positive for real; losses are means over the batch, to be minimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from balancer.core.errors import lookup


@dataclass(frozen=True)
class Loss:
    """The losses of both players, functions of (real_logits, fake_logits)."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    relativistic: bool = False  # the generator's loss uses the real logits; else it ignores them


LOSSES = {
    # Goodfellow et al. 2014, arXiv:1406.2661: the generator maximises log D(G(z))
    "non_saturating": Loss(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda real, fake: F.softplus(-fake).mean(),
    ),
    # Lim & Ye 2017, arXiv:1705.02894
    "hinge": Loss(
        lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(), lambda real, fake: -fake.mean()
    ),
    # Arjovsky et al. 2017, arXiv:1701.07875; needs a Lipschitz discriminator: gradient_penalty_weight or spectral norm
    "wasserstein": Loss(lambda real, fake: fake.mean() - real.mean(), lambda real, fake: -fake.mean()),
    # Relativistic pairing: Jolicoeur-Martineau 2019, arXiv:1807.00734; with R1 and R2 the loss of Huang et al. 2024,
    # arXiv:2501.05441
    "relativistic": Loss(
        lambda real, fake: F.softplus(fake - real).mean(),
        lambda real, fake: F.softplus(real - fake).mean(),
        relativistic=True,
    ),
}


def loss_named(name: str) -> Loss:
    """Return a registered loss.

    Raises:
        UsageError: no such name.
    """
    return lookup(LOSSES, name, "loss")
