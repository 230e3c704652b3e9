"""How alike two heat maps of one image are: Spearman's rank correlation, and structural similarity."""

from __future__ import annotations

import numpy as np
import scipy

Array = np.ndarray


def unit_ranks(maps: Array) -> Array:
    """Return the ranks (n, H W) of the pixels of each map (n, H, W), centred and of length 1; 0 of a constant map."""
    ranks = scipy.stats.rankdata(maps.reshape(len(maps), -1), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    unit: Array = np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)
    return unit


def rank_correlation(one: Array, other: Array) -> Array:
    """Return Spearman's correlation (n,) of maps by their :func:`unit_ranks` (n, H W); 0 if a map is constant."""
    correlation: Array = np.einsum("np,np->n", one, other)
    return correlation


def ssim(one: Array, other: Array) -> Array:
    """Return the structural similarity (N,) of maps (N, H, W) in [0, 1] (Wang et al. 2004, IEEE TIP 13).

    With the paper's Gaussian window of SD 1.5 and its constants .01 and .03.
    """

    def blurred(maps: Array) -> Array:
        values: Array = scipy.ndimage.gaussian_filter(maps.astype(np.float64), (0, 1.5, 1.5), truncate=5 / 1.5)
        return values

    means = blurred(one), blurred(other)
    variances = [
        blurred(maps.astype(np.float64) ** 2) - mean**2 for maps, mean in zip((one, other), means, strict=True)
    ]
    covariance = blurred(one.astype(np.float64) * other) - means[0] * means[1]
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * means[0] * means[1] + c1) * (2 * covariance + c2)
    bottom = (means[0] ** 2 + means[1] ** 2 + c1) * (variances[0] + variances[1] + c2)
    similarity: Array = (top / bottom).mean(axis=(1, 2))
    return similarity
