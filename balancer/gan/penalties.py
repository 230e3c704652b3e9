"""What can be added to the discriminator's loss: gradient penalties and LeCam. All return scalars."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def zero_centred_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared norm of the gradient of logits (B,) at the images (B, 1, H, W) that they were computed from.

    At real images, times gamma / 2, it is R1, at synthetic ones R2 (Mescheder et al. 2018, arXiv:1801.04406).
    """
    return _gradient(logits, images).square().sum(dim=(1, 2, 3)).mean()


def one_centred_penalty(D: nn.Module, real_images: Tensor, fake_images: Tensor, share: Tensor) -> Tensor:
    """(||gradient|| - 1)^2 at random points between real and synthetic images (Gulrajani et al. 2017, arXiv:1704.00028).

    Args:
        share: (B, 1, 1, 1) in [0, 1), how much of each real image is in the mixture.
    """
    mixed = torch.lerp(fake_images, real_images, share).detach().requires_grad_(True)
    norm = _gradient(D(mixed), mixed).square().sum(dim=(1, 2, 3)).add(1e-12).sqrt()
    return (norm - 1).square().mean()


def _gradient(logits: Tensor, images: Tensor) -> Tensor:
    """The gradient at every image, itself differentiable."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float()


def lecam(real_logits: Tensor, fake_logits: Tensor, mean_real: Tensor, mean_fake: Tensor) -> Tensor:
    """LeCam regularisation (Tseng et al. 2021, arXiv:2104.03310): logits are drawn to the *other* kind's moving average.

    Only from the confident side: real logits above the average synthetic one, synthetic ones below the average real one.
    """
    return F.relu(real_logits - mean_fake).square().mean() + F.relu(mean_real - fake_logits).square().mean()
