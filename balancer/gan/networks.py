"""DCGAN generators and discriminators for one-channel images of side ``base * 2**k``."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from balancer.errors import UsageError, lookup

MAX_MULTIPLE = 16  # widest layer, in multiples of the width


def pyramid(image_size: int) -> tuple[int, int]:
    """(base, doublings) with ``image_size == base * 2**doublings`` and the smallest base of at least 4.

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


class DCGANGenerator(nn.Module):
    """Generator of Radford et al. 2016 (arXiv:1511.06434): transposed convolutions, BatchNorm, ReLU, tanh.

    ``z`` (B, z_dim) to images (B, 1, H, W) in [-1, 1]. The first layer is a transposed convolution onto
    ``base x base``, which on a 1 x 1 input is the paper's projection. Kernels are 4 x 4, which overlap evenly at
    stride 2 and so avoid the checkerboards of 5 x 5 (Odena et al. 2016, doi:10.23915/distill.00003). The widest layer is
    ``width * 2**(k-1)``, capped at 16 widths: at 64 px a width of 128 gives the paper's 1024, 512, 256, 128.
    """

    def __init__(self, image_size: int, z_dim: int, width: int) -> None:
        super().__init__()
        base, doublings = pyramid(image_size)
        channels = [width * min(2**i, MAX_MULTIPLE) for i in reversed(range(doublings))]
        layers: list[nn.Module] = [nn.ConvTranspose2d(z_dim, channels[0], base, bias=False)]
        for c_in, c_out in zip(channels, [*channels[1:], 0], strict=True):
            layers += [nn.BatchNorm2d(c_in), nn.ReLU(inplace=True)]
            if c_out:
                layers.append(nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False))
        layers += [nn.ConvTranspose2d(channels[-1], 1, 4, stride=2, padding=1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(init_normal)

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.layers(z[:, :, None, None])
        return images


class DCGANDiscriminator(nn.Module):
    """Discriminator of Radford et al. 2016: strided 4 x 4 convolutions, LeakyReLU(0.2), BatchNorm but in the first layer.

    Images (B, 1, H, W) in [-1, 1] to logits (B,). With ``spectral`` every layer is spectrally normalised and
    BatchNorm is left out (Miyato et al. 2018, arXiv:1802.05957).
    """

    def __init__(self, image_size: int, width: int, spectral: bool = False) -> None:
        super().__init__()
        base, doublings = pyramid(image_size)
        channels = [1, *(width * min(2**i, MAX_MULTIPLE) for i in range(doublings))]
        wrap: Callable[[nn.Module], nn.Module] = spectral_norm if spectral else lambda layer: layer
        layers: list[nn.Module] = []
        for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
            conv = nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=spectral)
            init_normal(conv)
            layers.append(wrap(conv))
            if i and not spectral:
                layers.append(nn.BatchNorm2d(c_out))
                init_normal(layers[-1])
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        head = nn.Conv2d(channels[-1], 1, base, bias=spectral)
        init_normal(head)
        self.layers = nn.Sequential(*layers, wrap(head))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits.flatten()


class S2Generator(nn.Module):
    """Generator of the published 148 px CNN + DCGAN system (Keras), 18,366,465 values with running statistics.

    ``z`` (B, z_dim) to images (B, 1, H, W) in [-1, 1]: dense to a quarter of the side with 128 channels, then 5 x 5
    transposed convolutions 128 (stride 2), 64 (stride 2), 32, 1. The published net ends in a sigmoid over
    [0, 1]; here the same sigmoid is stretched to [-1, 1], the range of every generator of this package.
    """

    def __init__(self, image_size: int, z_dim: int, width: int) -> None:
        super().__init__()
        if image_size % 4:
            raise UsageError(f"architecture s2 needs an image size divisible by 4; got {image_size}")
        self.base = image_size // 4
        c = [4 * width, 4 * width, 2 * width, width]
        self.project = nn.Linear(z_dim, c[0] * self.base**2)
        # Keras: epsilon 1e-3 and momentum .99 (torch counts the other way round)
        norms = [nn.BatchNorm2d(n, eps=1e-3, momentum=0.01) for n in c]
        self.layers = nn.Sequential(
            norms[0], nn.LeakyReLU(0.2), nn.ConvTranspose2d(c[0], c[1], 5, stride=2, padding=2, output_padding=1),
            norms[1], nn.LeakyReLU(0.2), nn.ConvTranspose2d(c[1], c[2], 5, stride=2, padding=2, output_padding=1),
            norms[2], nn.LeakyReLU(0.2), nn.ConvTranspose2d(c[2], c[3], 5, padding=2),
            norms[3], nn.LeakyReLU(0.2), nn.ConvTranspose2d(c[3], 1, 5, padding=2), nn.Sigmoid(),
        )  # fmt: skip
        self.apply(init_glorot)

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.layers(self.project(z).unflatten(1, (-1, self.base, self.base)))
        return 2 * images - 1


class S2Discriminator(nn.Module):
    """Discriminator of the same system: convolutions 32, 64, 128, 256 with LeakyReLU, flatten, dense 1.

    Images (B, 1, H, W) in [-1, 1] to logits (B,). Its kernels and strides are not published; 5 x 5 at stride 2, the last
    at stride 1, are our assumption.
    """

    def __init__(self, image_size: int, width: int, spectral: bool = False) -> None:
        super().__init__()
        wrap: Callable[[nn.Module], nn.Module] = spectral_norm if spectral else lambda layer: layer
        layers: list[nn.Module] = []
        side, c_in = image_size, 1
        for multiple, stride in ((1, 2), (2, 2), (4, 2), (8, 1)):
            conv = nn.Conv2d(c_in, multiple * width, 5, stride=stride, padding=2)
            init_glorot(conv)
            layers += [wrap(conv), nn.LeakyReLU(0.2, inplace=True)]
            side, c_in = -(-side // stride), multiple * width
        head = nn.Linear(c_in * side**2, 1)
        init_glorot(head)
        self.layers = nn.Sequential(*layers, nn.Flatten(), wrap(head))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits.flatten()


def init_normal(module: nn.Module) -> None:
    """The paper's weights, N(0, 0.02); BatchNorm scale N(1, 0.02) as in its authors' code; biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def init_glorot(module: nn.Module) -> None:
    """Keras's default weights: Glorot uniform, biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class Architecture:
    """A generator built from (image_size, z_dim, width) and a discriminator from (image_size, width, spectral)."""

    generator: Callable[[int, int, int], nn.Module]
    discriminator: Callable[[int, int, bool], nn.Module]


ARCHITECTURES = {
    "dcgan": Architecture(DCGANGenerator, DCGANDiscriminator),
    "s2": Architecture(S2Generator, S2Discriminator),
}


def architecture(name: str) -> Architecture:
    """The registered pair of nets.

    Raises:
        UsageError: no such name.
    """
    return lookup(ARCHITECTURES, name, "architecture")


def count_values(module: nn.Module) -> int:
    """Parameters and floating-point buffers, which is what Keras counts."""
    buffers = sum(b.numel() for b in module.buffers() if torch.is_floating_point(b))
    return sum(p.numel() for p in module.parameters()) + buffers
