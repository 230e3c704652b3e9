"""What chance alone does to a figure that compares two sets: permutation tests (Pitman 1937; Good 2005, chapter 3).

Two sets of one kind stay so if images change sides. So the sides are drawn anew many times from both sets together, and
the figure is computed each time. The share of draws that reach the figure of the sides as they are is its p-value. At
any number of images, two sets of one kind have a p-value of at most ALPHA in at most that share of cases. Images of one
patient change sides one by one; a claim should therefore also exceed the figure of two real sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from balancer.core.seeding import derive_seed

Array = np.ndarray
SHUFFLES = 999
FEWER_SHUFFLES = 199  # for figures that cost more than a mean
MOST = 500  # images a side in a costly figure: more would only sharpen a p-value that is small already
FEWEST = 4  # images a side below which no p-value can be small: three have only 20 ways to change sides
ALPHA = 0.05
ROUNDING = 1e-9  # relative to the figure: draws this near to it are equal to it


@dataclass(frozen=True)
class Chance:
    """How often chance alone gives a figure at least this high, and at least this low: one-sided p-values.

    Either may be of interest, so each counts below ALPHA / 2.
    """

    higher: float
    lower: float

    @property
    def is_high(self) -> bool:
        """Return whether chance hardly gives so high a figure."""
        return self.higher <= ALPHA / 2

    @property
    def is_low(self) -> bool:
        """Return whether chance hardly gives so low a figure."""
        return self.lower <= ALPHA / 2


def draw_sides(n_first: int, n_second: int, seed: int, shuffles: int = SHUFFLES) -> Array:
    """Return which images lie on the second side, (1 + shuffles, n_first + n_second) bool.

    The images are those of the first side, then those of the second. Row 0 has the sides as they are.
    """
    rng = np.random.default_rng(derive_seed(seed, "sides"))
    as_they_are = np.arange(n_first + n_second) >= n_first
    return np.stack([as_they_are, *(rng.permutation(as_they_are) for _ in range(shuffles))])


def side_means(first: Array, second: Array, sides: Array) -> tuple[Array, Array]:
    """Return the means (draws, ...) of a value per image over the first side and over the second, in each draw."""
    values = np.concatenate([first, second])
    on_second = sides.astype(np.float64)
    n_second = len(second)
    total = values.sum(axis=0)
    of_second = np.tensordot(on_second, values, 1)
    return (total - of_second) / len(first), of_second / n_second


def chance_of(figures: Array) -> Chance:
    """Return the p-values of the first of ``figures`` (draws,), which is that of the sides as they are."""
    figure, scale = figures[0], ROUNDING * max(1.0, float(np.abs(figures).max()))
    return Chance(
        higher=float((figures >= figure - scale).mean()),
        lower=float((figures <= figure + scale).mean()),
    )


def chance_of_each(sides: Array, figure: Callable[[Array], float]) -> Chance:
    """Return the p-values of a figure that has to be computed for each draw of sides (draws, n) bool."""
    return chance_of(np.array([figure(side) for side in sides]))
