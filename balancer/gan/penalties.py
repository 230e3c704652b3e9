"""Additions to the discriminator's loss: gradient penalties, LeCam and consistency. All return scalars."""

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


def inconsistency(logits: Tensor, changed_logits: Tensor) -> Tensor:
    """Return the mean square of what a change of the images does to their logits (B,).

    Zhang et al. 2020, arXiv:1910.12027; on real and on synthetic images it is bCR (Zhao et al. 2021, arXiv:2002.04724).
    """
    return (logits - changed_logits).square().mean()
