"""Whether a distance was still falling when a training ended: the test of Mann and Kendall on its last third.

Kendall's tau between step and distance is compared with its exact distribution under any order (Mann 1945,
doi:10.2307/1907187; Kendall 1938, doi:10.1093/biomet/30.1-2.81). The test knows ranks alone, so a single bad snapshot
sways nothing. Snapshots are taken as independent. Neighbouring ones are alike, so a fall is said too often
(docs/gan.md has the measured rates): the cost is a training that is longer than it need be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import scipy

Direction = Literal["falling", "rising", "level", "too few"]
ALPHA = 0.05  # one-sided
FEWEST = 4  # snapshots: of three, even an unbroken fall has a p-value of 1/6
PART = 2 / 3  # of the steps, after which the last third begins


@dataclass(frozen=True)
class Trend:
    """How a distance moved over the snapshots of the last third of a training.

    Attributes:
        first, last: the distance at the first and at the last of these snapshots.
        p: of the direction, one-sided; None where there are too few snapshots.
        real_baseline: the distance between two sets of real images.
    """

    direction: Direction
    n: int
    first: float
    last: float
    p: float | None
    real_baseline: float


def last_third(steps: Sequence[int], distances: Sequence[float], real_baseline: float) -> Trend | None:
    """Return how a distance moved over the last third of the steps; None without a snapshot.

    Args:
        steps: of the snapshots, rising; the last one ends the training.
        distances: of the snapshots.
        real_baseline: the distance between two sets of real images.
    """
    if not steps:
        return None
    late = [(step, distance) for step, distance in zip(steps, distances, strict=True) if step > PART * steps[-1]]
    at, values = zip(*late, strict=True)
    ends = len(values), values[0], values[-1]
    if len(values) < FEWEST:
        return Trend("too few", *ends, None, real_baseline)
    falling, rising = (_p_value(at, values, side) for side in ("less", "greater"))
    if falling <= ALPHA:
        return Trend("falling", *ends, falling, real_baseline)
    if rising <= ALPHA:
        return Trend("rising", *ends, rising, real_baseline)
    return Trend("level", *ends, min(falling, rising), real_baseline)


def _p_value(steps: Sequence[int], values: Sequence[float], side: str) -> float:
    if len(set(values)) == 1:  # tau is not defined
        return 1.0
    return float(scipy.stats.kendalltau(steps, values, alternative=side).pvalue)
