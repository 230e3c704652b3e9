"""What the server computes: means of weights over sites, and BatchNorm statistics of all sites together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def weighted_mean(vectors: Sequence[Array], weights: Sequence[float]) -> Array:
    """Return the mean of vectors (P,) float32, each with its weight: federated averaging (McMahan et al. 2017).

    The sum is in float64, so the order of the sites leaves no trace in the result. The mean of one vector is the
    vector, to the last bit.

    >>> weighted_mean([np.float32([1, 5]), np.float32([3, 5])], [3, 1]).tolist()
    [1.5, 5.0]
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64)
    total = np.zeros(len(vectors[0]), np.float64)
    for vector, share in zip(vectors, shares, strict=True):
        total += share * vector.astype(np.float64)
    return total.astype(np.float32)


def pooled_moments(means: Sequence[Array], variances: Sequence[Array], weights: Sequence[float]) -> tuple[Array, Array]:
    """Return mean and variance (C,) float32 of all sites' activations, from those of each site.

    By the law of total variance, the variance is the mean of the variances plus the variance of the means. A mean of
    the variances alone would leave out how the sites differ.
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64)
    mean = sum(share * m.astype(np.float64) for share, m in zip(shares, means, strict=True))
    within = sum(share * v.astype(np.float64) for share, v in zip(shares, variances, strict=True))
    between = sum(share * (m.astype(np.float64) - mean) ** 2 for share, m in zip(shares, means, strict=True))
    return np.asarray(mean, np.float32), np.asarray(within + between, np.float32)
