"""Networks of a few weights, and an enlargement of maps that uses neither torch nor our code."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


class TwoStages(nn.Module):
    """Two convolutions, then dense layers with a ReLU between: the logits are no linear function of the maps."""

    def __init__(self, channels: int = 1, outputs: int = 1, maps: int = 2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 3, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(3, maps, 3, 1, 1), nn.ReLU(inplace=True)
        )
        self.pool = nn.AvgPool2d(1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(maps * 16, 6), nn.ReLU(), nn.Linear(6, outputs))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = self.head(self.pool(self.features(images)))
        return outputs.flatten() if outputs.shape[1] == 1 else outputs


class Weighted(nn.Module):
    """The logit is a weighted sum of the pixels of a one-channel image."""

    def __init__(self, weights: np.ndarray, bias: float = 0.0) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images[:, 0] * self.weights).sum(dim=(1, 2)) + self.bias


class Strongest(nn.Module):
    """The logit is the mean of the brightest pixels, less a constant."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).topk(9).values.mean(dim=1) * 2 - 3


def two_stages(seed: int, **sizes: int) -> TwoStages:
    torch.manual_seed(seed)
    net = TwoStages(**sizes).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 3  # torch's initial weights hardly look at the image
    return net


def noise(n: int, channels: int = 1, side: int = 8, seed: int = 5) -> torch.Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def enlarged(maps: np.ndarray, side: int) -> np.ndarray:
    """Bilinear, pixel centres at half-integers, edges held: (n, h, w) to (n, side, side)."""

    def along(values: Sequence[float]) -> np.ndarray:
        centres = (np.arange(side) + 0.5) * len(values) / side - 0.5
        return np.interp(centres, np.arange(len(values)), values)

    return np.apply_along_axis(along, 1, np.apply_along_axis(along, 2, maps))
