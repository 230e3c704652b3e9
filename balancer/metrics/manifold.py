"""Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020, arXiv:2002.09797).

All four ask, in feature space, which points lie within the balls that reach from each point of a set to its k-th nearest
neighbour in that set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from balancer.core.errors import BalancerError

Array = np.ndarray
NEIGHBOURS = 5  # k of Naeem et al.
CHUNK = 256  # images whose distances to all others are held at a time, which bounds the memory


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

    Memory is that of CHUNK x max(n, m) distances.

    Raises:
        BalancerError: a set has not more than k images.
    """
    if min(len(real), len(fake)) <= k:
        raise BalancerError(
            f"precision and recall with k = {k} need more than {k} images a side; got {len(real)} real and {len(fake)} synthetic"
        )
    real_radius, fake_radius = _radii(real, k), _radii(fake, k)
    balls = np.zeros(len(fake), np.int64)  # real ones around each synthetic image
    covered, recalled = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    for rows in _chunks(len(real)):
        between = cdist(real[rows], fake)
        in_real_ball = between <= real_radius[rows, None]
        balls += in_real_ball.sum(axis=0)
        covered[rows] = in_real_ball.any(axis=1)
        recalled[rows] = (between <= fake_radius).any(axis=1)
    return Manifold(
        precision=float((balls > 0).mean()),
        recall=float(recalled.mean()),
        density=float(balls.mean() / k),
        coverage=float(covered.mean()),
    )


def _radii(features: Array, k: int) -> Array:
    """Distance of each point to its k-th nearest other point (n,); column 0 of the sorted distances is the point itself."""
    radii = np.empty(len(features))
    for rows in _chunks(len(features)):
        distances = cdist(features[rows], features)
        distances.partition(k, axis=1)  # in place
        radii[rows] = distances[:, k]
    return radii


def _chunks(n: int) -> Iterator[slice]:
    return (slice(i, i + CHUNK) for i in range(0, n, CHUNK))
