"""The kernel (Inception) distance: an unbiased MMD^2 with a cubic kernel (Bińkowski et al. 2018, arXiv:1801.01401)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch

from balancer.core.errors import BalancerError
from balancer.core.seeding import derive_seed
from balancer.metrics.features import Precomputed


@dataclass(frozen=True)
class KernelDistance:
    """The kernel distance over random subsets of the images; the mean is unbiased, so it can fall slightly below 0."""

    mean: float
    sd: float  # over subsets; 0 with one subset


def kernel_distance(real: np.ndarray, fake: np.ndarray, subsets: int, subset_size: int, seed: int) -> KernelDistance:
    """Return the kernel distance between two sets of features, through torchmetrics.

    Args:
        real, fake: features (n, dim).
        subsets: how many subsets to draw.
        subset_size: images per subset and side, at most the smaller count.
        seed: torchmetrics draws from torch's global stream; it is seeded from this inside a fork and left untouched.

    Raises:
        BalancerError: a subset larger than a set, or of fewer than 2 images.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    if not 2 <= subset_size <= min(len(real), len(fake)):
        raise BalancerError(
            f"KID subset size is {subset_size}; expected 2 to {min(len(real), len(fake))}"
            f" with {len(real)} real and {len(fake)} synthetic images"
        )
    with warnings.catch_warnings():  # it warns that it keeps all features, which here are few
        warnings.simplefilter("ignore", UserWarning)
        metric = KernelInceptionDistance(feature=Precomputed(real.shape[1]), subsets=subsets, subset_size=subset_size)
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "kid"))
        mean, sd = metric.compute()
    return KernelDistance(float(mean), float(sd))
