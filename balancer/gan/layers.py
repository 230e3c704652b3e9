"""Parts of GAN networks: blocks, normalised convolutions, initial weights, and how often an image can be halved."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from balancer.core.errors import UsageError

MAX_MULTIPLE = 16  # widest layer, in multiples of the width


def pyramid(image_size: int) -> tuple[int, int]:
    """Return (base, doublings) with ``image_size == base * 2**doublings`` and the smallest base of at least 4.

    >>> pyramid(64), pyramid(148)
    ((4, 4), (37, 2))

    Raises:
        UsageError: the size cannot be halved at least twice.
    """
    base, doublings = image_size, 0
    while base % 2 == 0 and base >= 8:
        base, doublings = base // 2, doublings + 1
    if doublings < 2:
        raise UsageError(f"image size {image_size} cannot be halved twice; choose one such as 32, 64, 128, 148 or 256")
    return base, doublings


class UpBlock(nn.Module):
    """Residual block that doubles the side (Miyato et al. 2018): two 3 x 3 convolutions, the first after upsampling."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(c_in),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_out, c_out, 3, padding=1),
        )
        # convolving before upsampling gives the same as after it, at a quarter of the cost
        self.skip = nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.Upsample(scale_factor=2))

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, c_out, 2H, 2W) of features (B, c_in, H, W)."""
        return self.skip(x) + self.branch(x)


class DownBlock(nn.Module):
    """Residual block that halves the side: activation, 3 x 3, activation, 3 x 3, average pooling."""

    def __init__(self, c_in: int, c_out: int, norm: str) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.LeakyReLU(0.2),
            *convolution(c_in, c_in, 3, 1, 1, norm, init=init_he),
            nn.LeakyReLU(0.2),
            *convolution(c_in, c_out, 3, 1, 1, norm, init=init_he),
            nn.AvgPool2d(2),
        )
        self.skip = nn.Sequential(nn.AvgPool2d(2), *convolution(c_in, c_out, 1, 1, 0, norm, init=init_he))

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, c_out, H/2, W/2) of features (B, c_in, H, W)."""
        return (self.skip(x) + self.branch(x)) * 0.5**0.5  # keeps the variance, whatever the depth


class SkipExcitation(nn.Module):
    """Gate of FastGAN's equation 1: pool to ``base x base``, convolve to one value a channel, then a sigmoid.

    Departure: the pooled side and the kernel are ``base``, the side of the generator's first feature map (theirs 4).
    So pooling has whole windows at every size.
    """

    def __init__(self, coarse_channels: int, fine_channels: int, base: int, pool: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AvgPool2d(pool),
            nn.Conv2d(coarse_channels, fine_channels, base, bias=False),
            nn.LeakyReLU(0.1),
            nn.Conv2d(fine_channels, fine_channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return ``fine`` (B, C', H', W'), each channel scaled by a number in (0, 1) that ``coarse`` gives."""
        gated: Tensor = fine * self.layers(coarse)
        return gated


class MinibatchStddev(nn.Module):
    """Append a channel with the features' mean SD over the batch (Karras et al. 2018, arXiv:1710.10196, section 3).

    With this channel a discriminator sees when a batch varies too little, which pushes the generator to cover more of
    the data.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, C + 1, H, W) of features (B, C, H, W)."""
        spread = (x.var(0, correction=0) + 1e-8).sqrt().mean()
        return torch.cat([x, spread.expand(len(x), 1, *x.shape[2:])], 1)


def convolution(
    c_in: int,
    c_out: int,
    kernel: int,
    stride: int,
    padding: int,
    norm: str,
    first: bool = False,
    init: Callable[[nn.Module], None] | None = None,
) -> list[nn.Module]:
    """Return a discriminator's convolution with its normalisation; the first layer has no BatchNorm."""
    batch = norm == "batch"
    conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=padding, bias=not batch)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(c_out)] if batch and not first else [conv]
    for layer in layers:
        (init or init_normal)(layer)
    return [spectral_norm(conv)] if norm == "spectral" else layers


def init_normal(module: nn.Module) -> None:
    """Initialise as the DCGAN paper: weights N(0, .02), BatchNorm scale N(1, .02) as in its code, biases 0."""
    _init_weights(module, partial(nn.init.normal_, mean=0.0, std=0.02))
    if isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)  # its bias is 0 already


def _init_weights(module: nn.Module, weights: Callable[[Tensor], Tensor]) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        weights(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_glorot(module: nn.Module) -> None:
    """Initialise as Keras by default: Glorot uniform, biases 0."""
    _init_weights(module, nn.init.xavier_uniform_)


def init_he(module: nn.Module) -> None:
    """Initialise as He et al. 2015 for LeakyReLU(0.2): normal weights by fan-in, biases 0."""
    _init_weights(module, partial(nn.init.kaiming_normal_, a=0.2))
