"""Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020, arXiv:2002.09797).

All four ask, in feature space, which points lie within the balls that reach from each point of a set to its k-th nearest
neighbour in that set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from balancer.errors import BalancerError

Array = np.ndarray
NEIGHBOURS = 5  # k of Naeem et al.


@dataclass(frozen=True)
class Manifold:
    """How two sets of features overlap; each in [0, 1] except ``density``, which can exceed 1.

    ``precision``: share of synthetic images inside some real ball; ``recall``: share of real images inside some synthetic
    ball; ``density``: real balls around a synthetic image, over k; ``coverage``: share of real balls that hold a synthetic image.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_overlap(real: Array, fake: Array, k: int = NEIGHBOURS) -> Manifold:
    """Overlap of features (n, dim) and (m, dim), Euclidean, in float64.

    Raises:
        BalancerError: a set has not more than k images.
    """
    if min(len(real), len(fake)) <= k:
        raise BalancerError(
            f"precision and recall with k = {k} need more than {k} images a side; got {len(real)} real and {len(fake)} synthetic"
        )
    between = cdist(real, fake)  # (n, m)
    real_radius, fake_radius = _radii(real, k), _radii(fake, k)
    in_real_ball = between <= real_radius[:, None]
    return Manifold(
        precision=float(in_real_ball.any(axis=0).mean()),
        recall=float((between <= fake_radius[None, :]).any(axis=1).mean()),
        density=float(in_real_ball.sum(axis=0).mean() / k),
        coverage=float(in_real_ball.any(axis=1).mean()),
    )


def _radii(features: Array, k: int) -> Array:
    """Distance of each point to its k-th nearest other point (n,); column 0 of the sorted distances is the point itself."""
    radii: Array = np.partition(cdist(features, features), k, axis=1)[:, k]
    return radii
