"""The network behind every trained set of features: the shipped one for chest X-rays, and those of other data sets."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn


class TrainedFeatures(nn.Module):
    """Map uint8 images (B, C, H, W) to features (B, 128): four convolutions at stride 2 and a linear map.

    Images are brought to 64 px first, antialiased. The last map (4 x 4) is not pooled, so that the features keep where
    in the image something lies. C is 1 for grey images and 3 for colour.
    """

    DIM, SIZE, WIDTHS = 128, 64, (32, 64, 96, 128)

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels, layers = channels, list[nn.Module]()
        for i, (c_in, c_out) in enumerate(itertools.pairwise((channels, *self.WIDTHS))):
            kernel = 5 if i == 0 else 3
            conv = nn.Conv2d(c_in, c_out, kernel, stride=2, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(c_out), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * self.WIDTHS[-1], self.DIM))

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, 128) of images (B, C, H, W), 0 to 255."""
        features: Tensor = self.layers(self.prepare(images))
        return features

    @classmethod
    def prepare(cls, images: Tensor) -> Tensor:
        """Return images (B, C, H, W), 0 to 255, as float (B, C, 64, 64) in [-1, 1]."""
        return as_input(images, cls.SIZE)


def as_input(images: Tensor, side: int) -> Tensor:
    """Return images (B, C, H, W), 0 to 255, as float (B, C, side, side) in [-1, 1], resized with antialiasing."""
    x = images.float()
    if x.shape[-2:] != (side, side):
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return x / 127.5 - 1
