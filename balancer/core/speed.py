"""How fast this machine is: tried on a part of the work, or compared with the machine on which constants were measured.

A dry run has seconds. So what is tried grows until its share of the time is used up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

REFERENCE = 0.0105  # seconds of the probe on one core of an AMD EPYC, on which the constants of estimates were measured
REPEATS = 5
FIRST, GROWTH = 2, 4  # items of the first try, and how many times as many each later try takes


@lru_cache(maxsize=1)
def slowness() -> float:
    """Return how many times as long as on the reference machine a computation takes: the best of several tries."""
    import numpy as np  # not above: every command line imports this module

    matrix = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        for _ in range(4):
            matrix @ matrix
        np.sort(matrix, axis=1)
        seconds.append(time.perf_counter() - begin)
    return min(seconds) / REFERENCE


def seconds_each(work: Callable[[int], object], most: int, budget: float) -> float:
    """Return the seconds that an item takes, from ``work`` on 2, 8, 32, ... items, at most ``most``.

    The first try also sets up what every try needs, so it counts only if no other fits into ``budget`` seconds.
    """
    items, each, used = min(FIRST, most), 0.0, 0.0
    while True:
        begin = time.perf_counter()
        work(items)
        seconds = time.perf_counter() - begin
        each, used = seconds / items, used + seconds
        if items == most or used + GROWTH * seconds > budget:
            return each
        items = min(items * GROWTH, most)
