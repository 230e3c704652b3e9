"""An exponential moving average of a generator's weights (Yazici et al. 2019, arXiv:1806.04498)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """A copy of a network that follows it slowly; ``decay`` 0 follows it exactly.

    The decay warms up as ``min(decay, (1 + step) / (10 + step))``, so that the random start is soon forgotten. Buffers
    (BatchNorm's running statistics) are averaged like the weights: they belong to the averaged weights, not to
    the last ones.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)
        for own, other in zip(self.network.buffers(), network.buffers(), strict=True):
            if torch.is_floating_point(own):
                own.lerp_(other, 1 - decay)
            else:
                own.copy_(other)
