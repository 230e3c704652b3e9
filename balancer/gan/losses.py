"""Adversarial losses, by name. Logits are (B,), positive for real; every loss is a mean over the batch, to be minimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from balancer.core.errors import lookup


@dataclass(frozen=True)
class Loss:
    """``discriminator(real_logits, fake_logits)`` and ``generator(real_logits, fake_logits)``.

    ``relativistic``: the generator's loss looks at the real logits too; otherwise it may be handed anything for them.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    relativistic: bool = False


LOSSES = {
    # Goodfellow et al. 2014, arXiv:1406.2661: the generator maximises log D(G(z))
    "non_saturating": Loss(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda real, fake: F.softplus(-fake).mean(),
    ),
    # Lim & Ye 2017, arXiv:1705.02894
    "hinge": Loss(
        lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        lambda real, fake: -fake.mean(),
    ),
    # Arjovsky et al. 2017, arXiv:1701.07875; needs a Lipschitz discriminator: gradient_penalty_weight or spectral norm
    "wasserstein": Loss(
        lambda real, fake: fake.mean() - real.mean(),
        lambda real, fake: -fake.mean(),
    ),
    # Relativistic pairing: Jolicoeur-Martineau 2019, arXiv:1807.00734; with R1 and R2 it is the loss of Huang et al. 2024, arXiv:2501.05441
    "relativistic": Loss(
        lambda real, fake: F.softplus(fake - real).mean(),
        lambda real, fake: F.softplus(real - fake).mean(),
        relativistic=True,
    ),
}


def loss_named(name: str) -> Loss:
    """The registered loss.

    Raises:
        UsageError: no such name.
    """
    return lookup(LOSSES, name, "loss")
