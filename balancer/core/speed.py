"""How fast this machine is, for estimates of work that would take too long to try."""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np

REFERENCE = 0.0105  # seconds of the probe on one core of an AMD EPYC, on which the constants of estimates were measured
REPEATS = 5


@lru_cache(maxsize=1)
def slowness() -> float:
    """Return how many times as long as on the reference machine a computation takes: the best of several tries."""
    matrix = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        for _ in range(4):
            matrix @ matrix
        np.sort(matrix, axis=1)
        seconds.append(time.perf_counter() - begin)
    return min(seconds) / REFERENCE
