"""BatchNorm over the images of all ranks (:mod:`balancer.core.ranks`).

With statistics of its own share, a rank of 8 would normalise a batch of 32 by four images, and the training would
depend on the number of ranks. BigGAN (Brock et al. 2019, arXiv:1809.11096) computes the statistics of its generator
over all devices, as do detectors that have few images on each (Peng et al. 2018, arXiv:1711.07240). On CUDA torch's
SyncBatchNorm does so. On the CPU that module refuses to work, and the few lines here take its place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from balancer.core import ranks


class SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm of features (B, C, H, W) whose batch is spread over the ranks, in equal shares."""

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised features; in training by the statistics of the whole batch, which are tracked too."""
        if not self.training:
            return super().forward(x)
        features, shape = x.float(), (1, -1, 1, 1)
        mean = ranks.averaged(features.mean((0, 2, 3)))
        centred = features - mean.view(shape)
        variance = ranks.averaged(centred.square().mean((0, 2, 3)))
        self._track(mean.detach(), variance.detach(), ranks.count() * features.numel() // features.shape[1])
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, n: int) -> None:
        """Move the running statistics towards those of a batch, its variance unbiased, as torch does."""
        for running, now in ((self.running_mean, mean), (self.running_var, variance * n / max(n - 1, 1))):
            if running is not None and self.momentum is not None:
                running.lerp_(now, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def share_batch_norm(network: nn.Module) -> None:
    """Let every BatchNorm of a network see the images of all ranks. One rank is left as it is.

    Weights, statistics and their names stay: an optimiser and a checkpoint notice nothing.
    """
    if ranks.count() == 1:
        return
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, _shared(child))


def _shared(norm: nn.BatchNorm2d) -> nn.Module:
    if norm.weight.device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
        return converted
    shared = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum)
    shared.weight, shared.bias = norm.weight, norm.bias
    shared.running_mean, shared.running_var = norm.running_mean, norm.running_var
    shared.num_batches_tracked = norm.num_batches_tracked
    return shared.train(norm.training)
