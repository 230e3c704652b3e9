"""Made pictures in colour: stained cells on a pale ground, as of blood; the classes differ by colour and size."""

from pathlib import Path

import numpy as np
from PIL import Image

GROUND, STAINS = (228, 200, 205), {"eosinophil": (205, 70, 90), "lymphocyte": (90, 60, 150)}
RADII = {"eosinophil": 0.28, "lymphocyte": 0.2}
CLASSES = tuple(STAINS)


def cell(name: str, rng: np.random.Generator, side: int) -> np.ndarray:
    """One cell of a class, (side, side, 3) uint8."""
    y, x = np.mgrid[:side, :side] / side - 0.5 - rng.uniform(-0.1, 0.1, (2, 1, 1))
    inside = np.hypot(x, y) < RADII[name] * rng.uniform(0.8, 1.2)
    levels = np.where(inside[..., None], STAINS[name], GROUND) + rng.normal(0, 8, (side, side, 3))
    return (levels * rng.uniform(0.85, 1.05)).clip(0, 255).astype(np.uint8)


def cells(n: int, seed: int = 0, side: int = 16, name: str = CLASSES[0]) -> np.ndarray:
    """Cells of one class, (n, side, side, 3) uint8."""
    rng = np.random.default_rng(seed)
    return np.stack([cell(name, rng, side) for _ in range(n)])


def write_cells(root: Path, counts: tuple[int, int] = (30, 18), side: int = 24, suffix: str = ".png") -> Path:
    """A folder of each class."""
    for label, (name, n) in enumerate(zip(CLASSES, counts, strict=True)):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i, pixels in enumerate(cells(n, label, side, name)):
            Image.fromarray(pixels).save(root / name / f"{i:03d}{suffix}")
    return root
