"""Synthetic images that no generator made."""

import numpy as np

from balancer.data.dataset import Dataset
from classifier.training.synthetic import SyntheticSet


def synthetic_set(data: Dataset, n: int) -> SyntheticSet:
    """``n`` images of noise, as of the minority class."""
    images = np.random.default_rng(9).integers(0, 256, (n, 16, 16), dtype=np.uint8)
    return SyntheticSet(
        None, images, np.full(n, data.minority_class), tuple(f"{i:064x}" for i in range(n)), "generator"
    )
