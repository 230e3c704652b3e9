"""Additions to the discriminator's loss: gradient penalties and LeCam. All return scalars."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def zero_centred_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Return the mean squared norm of the gradient of logits (B,) at their images (B, C, H, W).

    Times gamma / 2, it is R1 at real images and R2 at synthetic images (Mescheder et al. 2018, arXiv:1801.04406).
    """
    return _gradient(logits, images).square().sum(dim=(1, 2, 3)).mean()


def one_centred_penalty(D: nn.Module, real_images: Tensor, fake_images: Tensor, share: Tensor) -> Tensor:
    """Return the mean of (||gradient|| - 1)^2 at random points between real and synthetic images (B, C, H, W).

    ``share`` (B, 1, 1, 1) in [0, 1) is the weight of each real image in the mixture. Gulrajani et al. 2017,
    arXiv:1704.00028.
    """
    mixed = torch.lerp(fake_images, real_images, share).detach().requires_grad_(True)
    norm = _gradient(D(mixed), mixed).square().sum(dim=(1, 2, 3)).add(1e-12).sqrt()
    return (norm - 1).square().mean()


def _gradient(logits: Tensor, images: Tensor) -> Tensor:
    """Return the gradient at every image, itself differentiable."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float()


def lecam(real_logits: Tensor, fake_logits: Tensor, mean_real: Tensor, mean_fake: Tensor) -> Tensor:
    """Return LeCam's regularisation (Tseng et al. 2021, arXiv:2104.03310) of logits (B,).

    It draws logits to the *other* kind's moving average, from the confident side only: real logits above the average
    synthetic logit, synthetic logits below the average real logit.
    """
    return F.relu(real_logits - mean_fake).square().mean() + F.relu(mean_real - fake_logits).square().mean()
