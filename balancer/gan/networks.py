"""DCGAN generators and discriminators for grey or colour images of side ``base * 2**k``."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from balancer.core.errors import UsageError, lookup
from balancer.core.settings import GanTrainConfig
from balancer.gan.layers import (
    MAX_MULTIPLE,
    DownBlock,
    MinibatchStddev,
    SkipExcitation,
    UpBlock,
    convolution,
    init_glorot,
    init_he,
    init_normal,
    pyramid,
)


class DCGANGenerator(nn.Module):
    """Generator of Radford et al. 2016 (arXiv:1511.06434): transposed convolutions, BatchNorm, ReLU, tanh.

    The first layer is a transposed convolution onto ``base x base``, which on a 1 x 1 input is the paper's projection.
    Kernels are 4 x 4, which overlap evenly at stride 2 and so avoid the checkerboards of 5 x 5 (Odena et al. 2016,
    doi:10.23915/distill.00003). The widest layer is ``width * 2**(k-1)``, capped at 16 widths: at 64 px a width of 128
    gives the paper's 1024, 512, 256, 128.

    ``upsampled`` is the number of last doublings (None: all) that upsample by nearest neighbour and convolve 3 x 3 in
    place of a transposed convolution. The same kernel then makes every output pixel, so no checkerboard is built in, at
    2.25 times the arithmetic. A pattern of earlier layers is coarse enough for later layers to correct.

    Raises:
        UsageError: the size cannot be halved twice.
    """

    def __init__(
        self, image_size: int, z_dim: int, width: int, image_channels: int = 1, upsampled: int | None = 0
    ) -> None:
        super().__init__()
        base, doublings = pyramid(image_size)
        transposed = 0 if upsampled is None else doublings - upsampled
        channels = [width * min(2**i, MAX_MULTIPLE) for i in reversed(range(doublings))]
        layers: list[nn.Module] = [nn.ConvTranspose2d(z_dim, channels[0], base, bias=False)]
        for i, (c_in, c_out) in enumerate(zip(channels, [*channels[1:], image_channels], strict=True)):
            layers += [nn.BatchNorm2d(c_in), nn.ReLU(inplace=True)]
            if i < transposed:
                layers.append(nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False))
            else:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.Tanh())
        self.apply(init_normal)

    def forward(self, z: Tensor) -> Tensor:
        """Return images (B, 1 or 3, H, W) in [-1, 1] of latents (B, z_dim)."""
        return self.layers(z[:, :, None, None])


class ExcitedGenerator(DCGANGenerator):
    """DCGAN's generator with FastGAN's skip-layer excitation (Liu et al. 2021, arXiv:2101.04775).

    From the third feature map on, channels are scaled by what the map of a quarter of the side says. FastGAN spans a
    factor of 16, on images of up to 1,024 px. At 16 px a factor of 4 already leaves no map to scale.
    """

    def __init__(self, image_size: int, z_dim: int, width: int, image_channels: int = 1) -> None:
        super().__init__(image_size, z_dim, width, image_channels)
        base, _ = pyramid(image_size)
        maps = [layer.num_features for layer in self.layers if isinstance(layer, nn.BatchNorm2d)]
        self.gates = nn.ModuleList(
            SkipExcitation(coarse, fine, base, 2**i)
            for i, (coarse, fine) in enumerate(zip(maps, maps[2:], strict=False))
        )
        self.gates.apply(init_normal)

    def forward(self, z: Tensor) -> Tensor:
        """Return images (B, 1 or 3, H, W) in [-1, 1] of latents (B, z_dim)."""
        x, maps = z[:, :, None, None], list[Tensor]()
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU):  # a feature map is whole
                if len(maps) >= 2:
                    x = self.gates[len(maps) - 2](maps[-2], x)
                maps.append(x)
        return x


class ResidualGenerator(nn.Module):
    """Residual generator after Miyato et al. 2018 (arXiv:1802.05957)."""

    def __init__(self, image_size: int, z_dim: int, width: int, image_channels: int = 1) -> None:
        super().__init__()
        base, doublings = pyramid(image_size)
        channels = [width * min(2**i, MAX_MULTIPLE // 2) for i in reversed(range(doublings))]
        self.base = base
        self.project = nn.Linear(z_dim, channels[0] * base**2)
        blocks = [UpBlock(c_in, c_out) for c_in, c_out in zip(channels, [*channels[1:], channels[-1]], strict=True)]
        self.layers = nn.Sequential(
            *blocks,
            nn.BatchNorm2d(channels[-1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels[-1], image_channels, 3, padding=1),
            nn.Tanh(),
        )
        self.apply(init_he)

    def forward(self, z: Tensor) -> Tensor:
        """Return images (B, 1 or 3, H, W) in [-1, 1] of latents (B, z_dim)."""
        return self.layers(self.project(z).unflatten(1, (-1, self.base, self.base)))


class Discriminator(nn.Module):
    """Images (B, 1 or 3, H, W) in [-1, 1] to logits (B,) through ``layers``."""

    layers: nn.Sequential

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.layers(images)
        return logits.flatten()

    def with_maps(self, images: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the logits, and the last features (B, C, s, s) of each side s on the way to them."""
        x, maps = images, dict[int, Tensor]()
        for layer in self.layers:
            x = layer(x)
            if x.dim() == 4:
                maps[x.shape[2]] = x
        return x.flatten(), maps

    def first_layers(self, n: int) -> list[nn.Module]:
        """Return the first ``n`` layers with weights; blocks count as one, and a BatchNorm belongs to its convolution.

        Raises:
            UsageError: the network has no layer beyond these.
        """
        weighted = [m for m in self.layers if next(m.parameters(), None) is not None]
        starts = [i for i, m in enumerate(weighted) if not isinstance(m, nn.BatchNorm2d)]
        if n >= len(starts):
            raise UsageError(
                f"freeze_discriminator is {n}, and D has {len(starts)} layers; expected at most {len(starts) - 1}"
            )
        return weighted[: starts[n]]


class DCGANDiscriminator(Discriminator):
    """Discriminator of Radford et al. 2016: strided 4 x 4 convolutions, LeakyReLU(0.2), BatchNorm.

    ``norm`` may be ``batch`` (but in the first layer), ``spectral`` (every layer; Miyato et al. 2018, arXiv:1802.05957)
    or ``none``. Without BatchNorm, weights start at He et al.'s scale unless they are spectrally normalised.
    """

    def __init__(
        self,
        image_size: int,
        width: int,
        norm: str = "batch",
        minibatch_stddev: bool = False,
        image_channels: int = 1,
    ) -> None:
        super().__init__()
        base, doublings = pyramid(image_size)
        channels = [image_channels, *(width * min(2**i, MAX_MULTIPLE) for i in range(doublings))]
        init = init_he if norm == "none" else init_normal
        layers: list[nn.Module] = []
        for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
            layers += [*convolution(c_in, c_out, 4, 2, 1, norm, i == 0, init), nn.LeakyReLU(0.2, inplace=True)]
        layers += [MinibatchStddev()] * minibatch_stddev
        self.layers = nn.Sequential(
            *layers, *convolution(channels[-1] + minibatch_stddev, 1, base, 1, 0, norm, True, init)
        )


class ResidualDiscriminator(Discriminator):
    """Residual discriminator after Miyato et al. 2018."""

    def __init__(
        self,
        image_size: int,
        width: int,
        norm: str = "none",
        minibatch_stddev: bool = False,
        image_channels: int = 1,
    ) -> None:
        super().__init__()
        base, doublings = pyramid(image_size)
        channels = [width * min(2**i, MAX_MULTIPLE // 2) for i in range(doublings)]
        self.layers = nn.Sequential(
            # a strided convolution does the first halving: at full resolution a block costs more than all others
            # together
            *convolution(image_channels, channels[0], 4, 2, 1, norm, True, init_he),
            *(DownBlock(c_in, c_out, norm) for c_in, c_out in itertools.pairwise(channels)),
            *[MinibatchStddev()] * minibatch_stddev,
            nn.LeakyReLU(0.2),
            *convolution(channels[-1] + minibatch_stddev, 1, base, 1, 0, norm, True, init_he),
        )


class S2Generator(nn.Module):
    """Generator of the published 148 px CNN + DCGAN system (Keras), 18,366,465 values with running statistics.

    A dense layer gives a quarter of the side with 128 channels; 5 x 5 transposed convolutions 128 (stride 2), 64
    (stride 2), 32, 1 follow. The published net ends in a sigmoid over [0, 1]; here the same sigmoid is stretched to
    [-1, 1], the range of every generator of this package.
    """

    def __init__(self, image_size: int, z_dim: int, width: int, image_channels: int = 1) -> None:
        super().__init__()
        if image_size % 4:
            raise UsageError(f"architecture s2 needs an image size divisible by 4; got {image_size}")
        self.base = image_size // 4
        c = [4 * width, 4 * width, 2 * width, width]
        self.project = nn.Linear(z_dim, c[0] * self.base**2)
        # Keras: epsilon 1e-3 and momentum .99 (torch counts the other way round)
        norms = [nn.BatchNorm2d(n, eps=1e-3, momentum=0.01) for n in c]
        self.layers = nn.Sequential(
            norms[0],
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(c[0], c[1], 5, stride=2, padding=2, output_padding=1),
            norms[1],
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(c[1], c[2], 5, stride=2, padding=2, output_padding=1),
            norms[2],
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(c[2], c[3], 5, padding=2),
            norms[3],
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(c[3], image_channels, 5, padding=2),
            nn.Sigmoid(),
        )
        self.apply(init_glorot)

    def forward(self, z: Tensor) -> Tensor:
        """Return images (B, 1 or 3, H, W) in [-1, 1] of latents (B, z_dim)."""
        images: Tensor = self.layers(self.project(z).unflatten(1, (-1, self.base, self.base)))
        return 2 * images - 1


class S2Discriminator(Discriminator):
    """Discriminator of the same system: convolutions 32, 64, 128, 256 with LeakyReLU, flatten, dense 1.

    Kernels and strides are not published; 5 x 5 at stride 2, the last at stride 1, are our assumption.
    """

    def __init__(
        self,
        image_size: int,
        width: int,
        norm: str = "none",
        minibatch_stddev: bool = False,
        image_channels: int = 1,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side, c_in = image_size, image_channels
        for i, (multiple, stride) in enumerate(((1, 2), (2, 2), (4, 2), (8, 1))):
            layers += convolution(c_in, multiple * width, 5, stride, 2, norm, i == 0, init_glorot)
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            side, c_in = -(-side // stride), multiple * width
        head = nn.Linear((c_in + minibatch_stddev) * side**2, 1)
        init_glorot(head)
        layers += [MinibatchStddev()] * minibatch_stddev
        self.layers = nn.Sequential(*layers, nn.Flatten(), spectral_norm(head) if norm == "spectral" else head)


@dataclass(frozen=True)
class Architecture:
    """A pair of networks."""

    generator: Callable[[int, int, int, int], nn.Module]  # of (image_size, z_dim, width, image_channels)
    # of (image_size, width, norm, minibatch_stddev, image_channels)
    discriminator: Callable[[int, int, str, bool, int], Discriminator]


ARCHITECTURES = {
    "dcgan": Architecture(DCGANGenerator, DCGANDiscriminator),
    "excited": Architecture(ExcitedGenerator, DCGANDiscriminator),
    "upsample": Architecture(partial(DCGANGenerator, upsampled=None), DCGANDiscriminator),
    "upsample_last": Architecture(partial(DCGANGenerator, upsampled=1), DCGANDiscriminator),
    "residual": Architecture(ResidualGenerator, ResidualDiscriminator),
    "s2": Architecture(S2Generator, S2Discriminator),
}


def architecture(name: str) -> Architecture:
    """Return a registered pair of networks.

    Raises:
        UsageError: no such name.
    """
    return lookup(ARCHITECTURES, name, "architecture")


def make_generator(config: GanTrainConfig, channels: int = 1) -> nn.Module:
    """Return the generator of the settings for images of so many channels, with random weights.

    Raises:
        UsageError: no such architecture, or it has no networks of this size.
    """
    size, width = config.data.image_size, config.generator_width
    return architecture(config.architecture).generator(size, config.z_dim, width, channels)


def count_values(module: nn.Module) -> int:
    """Return the number of parameters and of values in floating-point buffers, as Keras counts."""
    buffers = sum(b.numel() for b in module.buffers() if torch.is_floating_point(b))
    return sum(p.numel() for p in module.parameters()) + buffers
