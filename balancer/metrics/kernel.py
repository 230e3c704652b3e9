"""The kernel (Inception) distance: unbiased MMD^2 with a cubic kernel (Bińkowski et al. 2018, arXiv:1801.01401)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch

from balancer.core.errors import BalancerError
from balancer.core.seeding import derive_seed
from balancer.metrics.chance import FEWER_SHUFFLES, MOST, Chance, chance_of, draw_sides
from balancer.metrics.features import Precomputed, check_finite


@dataclass(frozen=True)
class KernelDistance:
    """The kernel distance over random subsets of the images; the mean is unbiased, so it can fall slightly below 0."""

    mean: float
    sd: float  # over subsets; 0 with one subset


def kernel_distance(real: np.ndarray, fake: np.ndarray, subsets: int, subset_size: int, seed: int) -> KernelDistance:
    """Return the kernel distance between two sets of features, through torchmetrics.

    Args:
        real: features (n, dim) of real images.
        fake: features (m, dim) of synthetic images.
        subsets: number of subsets.
        subset_size: images per subset and side, at most the smaller count.
        seed: seed of the subsets. torchmetrics draws from torch's global stream, so the draw is made inside a fork.

    Raises:
        BalancerError: If a subset is larger than a set or has fewer than 2 images, or features are not finite.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    if not 2 <= subset_size <= min(len(real), len(fake)):
        raise BalancerError(
            f"KID subset size is {subset_size}; expected 2 to {min(len(real), len(fake))}"
            f" with {len(real)} real and {len(fake)} synthetic images"
        )
    check_finite(real, fake)
    with warnings.catch_warnings():  # torchmetrics warns that it keeps all features; here they are few
        warnings.simplefilter("ignore", UserWarning)
        metric = KernelInceptionDistance(
            feature=Precomputed(real.shape[1]), subsets=subsets, subset_size=subset_size, sync_on_compute=False
        )
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "kid"))
        mean, sd = metric.compute()
    return KernelDistance(float(mean), float(sd))


def kernel_chance(real: np.ndarray, fake: np.ndarray, seed: int) -> Chance:
    """Return how often chance alone gives such a kernel distance between two sets of features (n, dim), (m, dim).

    The distance is that of all images at once, of the first MOST on each side; their order must be random.

    Raises:
        BalancerError: If a side has fewer than 2 images, or features are not finite.
    """
    check_finite(real, fake)
    if min(len(real), len(fake)) < 2:
        raise BalancerError(f"a kernel distance needs 2 images on each side; got {len(real)} and {len(fake)}")
    real, fake = real[:MOST], fake[:MOST]
    n, m = len(real), len(fake)
    features = np.concatenate([real, fake])
    kernel = (features @ features.T / features.shape[1] + 1) ** 3
    alone = np.diag(kernel)
    second = draw_sides(n, m, seed, FEWER_SHUFFLES).astype(np.float64)
    first = 1 - second
    rows = second @ kernel  # (draws, n + m): of each image, the sum of its kernel over the second side
    within_second = (rows * second).sum(axis=1) - second @ alone
    across = (rows * first).sum(axis=1)
    within_first = kernel.sum() - 2 * across - (rows * second).sum(axis=1) - first @ alone
    return chance_of(within_first / (n * (n - 1)) + within_second / (m * (m - 1)) - 2 * across / (n * m))
