"""A discriminator that reconstructs (FastGAN, Liu et al. 2021, arXiv:2101.04775): its features must hold the image.

Two small decoders draw real images again. One sees the features of the whole image, at an eighth of the side. The other
sees a quarter of the features at a fourth of the side. Both draw at half the side. The loss is the mean absolute error;
theirs is LPIPS, which needs a network trained on photographs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balancer.core.errors import UsageError
from balancer.core.settings import GanTrainConfig
from balancer.gan.layers import init_he
from balancer.gan.networks import Discriminator

WHOLE, PART = 8, 4  # the image's side over that of the features which each decoder sees


def _decoder(c_in: int, width: int, image_channels: int) -> nn.Sequential:
    """Return a network from features (B, c_in, s, s) to images (B, image_channels, 4s, 4s) in [-1, 1]."""
    layers: list[nn.Module] = []
    for c_out in (max(1, width // 2), max(1, width // 4)):
        layers += [
            nn.Upsample(scale_factor=2),
            nn.Conv2d(c_in, 2 * c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * c_out),
            nn.GLU(dim=1),
        ]
        c_in = c_out
    return nn.Sequential(*layers, nn.Conv2d(c_in, image_channels, 3, padding=1), nn.Tanh())


class Reconstruction(nn.Module):
    """Both decoders. Their weights belong to the discriminator's optimiser.

    Raises:
        UsageError: the discriminator has no features of an eighth and a quarter of the image's side.
    """

    def __init__(self, config: GanTrainConfig, D: Discriminator, image_channels: int) -> None:
        super().__init__()
        self.side = config.data.image_size
        channels = feature_channels(config, D, image_channels)
        self.whole = _decoder(channels[WHOLE], config.discriminator_width, image_channels)
        self.part = _decoder(channels[PART], config.discriminator_width, image_channels)
        self.apply(init_he)

    def forward(self, images: Tensor, maps: dict[int, Tensor], corner: int) -> Tensor:
        """Return the loss of real images (B, 1 or 3, H, W) and D's features of the same images, by their sides.

        Args:
            images: as D saw them.
            maps: from :meth:`balancer.gan.networks.Discriminator.with_maps`.
            corner: the quarter that the second decoder draws, 0 to 3, row by row.
        """
        whole = self.whole(maps[self.side // WHOLE]).float()
        part = self.part(quarter(maps[self.side // PART], corner)).float()
        return F.l1_loss(whole, F.avg_pool2d(images, 2)) + F.l1_loss(part, quarter(images, corner))


def quarter(images: Tensor, corner: int) -> Tensor:
    """Return a quarter of images or features (B, C, H, W): 0 and 1 are the upper ones, 0 and 2 the left ones."""
    row, column = divmod(corner, 2)
    return images.chunk(2, 2)[row].chunk(2, 3)[column]


@torch.no_grad()
def feature_channels(config: GanTrainConfig, D: Discriminator, image_channels: int) -> dict[int, int]:
    """Return the channels of the features that the decoders see, by WHOLE and PART. Nothing of D changes."""
    side, weight = config.data.image_size, next(D.parameters())
    D.eval()  # else BatchNorm and spectral norm would learn from this image
    _, maps = D.with_maps(torch.zeros(1, image_channels, side, side, device=weight.device))
    D.train()
    sides = {share: side // share for share in (WHOLE, PART)}
    if side % WHOLE or any(s not in maps for s in sides.values()):
        there = ", ".join(map(str, sorted(maps, reverse=True)))
        raise UsageError(
            f"reconstruction_weight is {config.reconstruction_weight:g}, and D of architecture {config.architecture}"
            f" has features of side {there} at {side} px; expected an eighth and a quarter of the side, as in dcgan at"
            " 32 px or more"
        )
    return {share: maps[s].shape[1] for share, s in sides.items()}
