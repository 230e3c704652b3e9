"""What tests plant: smooth random images of set likeness and variety, and a pickle that leaves a trace."""

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

Array = np.ndarray


def fields(n: int, seed: int, size: int = 32, smooth: float = 2.5, grey: float = 120, contrast: float = 40) -> Array:
    """(n, size, size) uint8, each its own; ``smooth`` in pixels sets the spectrum, and with it the "class"."""
    noise = np.random.default_rng(seed).normal(size=(n, size, size))
    smoothed = gaussian_filter(noise, (0, smooth, smooth), mode="wrap")
    values = grey + contrast * smoothed / smoothed.std()
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)
