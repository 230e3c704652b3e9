"""Precision, recall, density and coverage of synthetic images in feature space.

Each point of a set has a ball that reaches to the point's k-th nearest neighbour in the set. The four metrics count
which points of one set lie in the balls of the other. Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991.
Density and coverage: Naeem et al. 2020, arXiv:2002.09797.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy

from balancer.core.errors import BalancerError
from balancer.metrics.chance import FEWER_SHUFFLES, MOST, Chance, chance_of_each, draw_sides
from balancer.metrics.features import check_finite

Array = np.ndarray
NEIGHBOURS = 5  # k of Naeem et al. 2020
CHUNK = 256  # images whose distances to all others are held at a time, which bounds the memory


@dataclass(frozen=True)
class Manifold:
    """How two sets of features overlap; each in [0, 1] except ``density``, which can exceed 1."""

    precision: float  # share of synthetic images inside some real ball
    recall: float  # share of real images inside some synthetic ball
    density: float  # real balls around a synthetic image, over k
    coverage: float  # share of real balls that hold a synthetic image


def manifold_overlap(real: Array, fake: Array, k: int = NEIGHBOURS) -> Manifold:
    """Return how features (n, dim) and (m, dim) overlap, by Euclidean distance in float64.

    The memory needed is that of CHUNK x max(n, m) distances.

    Raises:
        BalancerError: If a set has k images or fewer, or features are not finite.
    """
    _check(real, fake, k)
    real_radius, fake_radius = _radii(real, k), _radii(fake, k)
    balls = np.zeros(len(fake), np.int64)  # real balls around each synthetic image
    covered, recalled = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    for rows in _chunks(len(real)):
        between = scipy.spatial.distance.cdist(real[rows], fake)
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


def recall_chance(real: Array, fake: Array, seed: int, k: int = NEIGHBOURS) -> Chance:
    """Return how often chance alone gives such a recall between two sets of features (n, dim), (m, dim).

    The recall is that of the first MOST images on each side; their order must be random.

    Raises:
        BalancerError: As :func:`manifold_overlap`.
    """
    _check(real, fake, k)
    real, fake = real[:MOST], fake[:MOST]
    features = np.concatenate([real, fake])
    distances = scipy.spatial.distance.cdist(features, features)

    def recall(on_second: Array) -> float:
        second = distances[on_second]
        radii = np.partition(second[:, on_second], k, axis=1)[:, k]  # place 0 is the point itself
        return float((second[:, ~on_second] <= radii[:, None]).any(axis=0).mean())

    return chance_of_each(draw_sides(len(real), len(fake), seed, FEWER_SHUFFLES), recall)


def _check(real: Array, fake: Array, k: int) -> None:
    if min(len(real), len(fake)) <= k:
        raise BalancerError(
            f"precision and recall with k = {k} need more than {k} images a side;"
            f" got {len(real)} real and {len(fake)} synthetic"
        )
    check_finite(real, fake)


def _radii(features: Array, k: int) -> Array:
    """Return the distance (n,) of each point to its k-th nearest other point."""
    radii = np.empty(len(features))
    for rows in _chunks(len(features)):
        distances = scipy.spatial.distance.cdist(features[rows], features)
        distances.partition(k, axis=1)  # in place; place 0 is the point itself
        radii[rows] = distances[:, k]
    return radii


def _chunks(n: int) -> Iterator[slice]:
    return (slice(i, i + CHUNK) for i in range(0, n, CHUNK))
