"""Which images are taken: a batch as a pure function of the step, so that no sampler has a state; a few of many."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from balancer.core.seeding import derive_seed


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(n)


def batch_indices(n: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Return positions (batch_size,) of batch ``step`` in an endless stream of shuffled passes over ``n`` items.

    Every pass has each item once. A batch may span two passes, or more if ``batch_size`` exceeds ``n``: so no item is
    dropped and every batch is full.
    """
    parts: list[np.ndarray] = []
    position, end = step * batch_size, (step + 1) * batch_size
    while position < end:
        epoch, offset = divmod(position, n)
        parts.append(_permutation(n, seed, epoch)[offset : offset + end - position])
        position += len(parts[-1])
    return np.concatenate(parts)


def evenly(n: int, most: int) -> np.ndarray:
    """Return at most so many of n positions, evenly spread, so that no chosen part of a folder is looked at."""
    positions: np.ndarray = np.linspace(0, n - 1, min(n, most)).round().astype(int)
    return positions
