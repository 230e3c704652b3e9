"""Classical transforms of the classifier's training images, as named presets. The only albumentations import.

Albumentations draws from one stream per pipeline, which repeats in every worker; here the pipeline is reseeded for
every image from (seed, draw, row, index): a sample depends on nothing drawn before, nor on the rest of its batch. The
row is its place in the batch, so that an image that occurs twice in one is changed in two ways.
"""

from __future__ import annotations

import os

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # before the import: it would ask the network for a newer version

from collections.abc import Callable

import albumentations as A
import cv2
import numpy as np

from balancer.errors import lookup
from balancer.seeding import derive_seed

Array = np.ndarray


def _s2() -> list[A.BasicTransform]:
    """The published CNN + DCGAN system: Keras's rotation 35, shifts .1 and .08, shear .2 degrees, zoom .2 per axis, edges repeated."""
    return [
        A.Affine(
            rotate=(-35, 35),
            translate_percent={"x": (-0.1, 0.1), "y": (-0.08, 0.08)},
            shear={"x": (-0.2, 0.2), "y": (0, 0)},
            scale={"x": (0.8, 1.2), "y": (0.8, 1.2)},
            border_mode=cv2.BORDER_REPLICATE,
            p=1,
        )
    ]


def _mild() -> list[A.BasicTransform]:
    """Small changes of pose and exposure, and of sharpness and grain, which differ between the classes of this data set."""
    return [
        A.Affine(
            rotate=(-10, 10),
            translate_percent=(-0.06, 0.06),
            scale=(0.9, 1.1),
            shear=(-5, 5),
            border_mode=cv2.BORDER_CONSTANT,
            p=1,
        ),
        A.RandomGamma(gamma_limit=(80, 125), p=0.5),
        A.GaussianBlur(sigma_limit=(0.1, 1.0), blur_limit=0, p=0.3),
        A.GaussNoise(std_range=(0.005, 0.03), p=0.3),
    ]


def _strong() -> list[A.BasicTransform]:
    """``mild`` with wider ranges, and sharpening: for data whose sources differ in pose, exposure and processing."""
    return [
        A.Affine(
            rotate=(-15, 15),
            translate_percent=(-0.1, 0.1),
            scale=(0.85, 1.15),
            shear=(-8, 8),
            border_mode=cv2.BORDER_CONSTANT,
            p=1,
        ),
        A.RandomGamma(gamma_limit=(60, 165), p=0.7),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.3, p=0.5),
        A.OneOf([A.GaussianBlur(sigma_limit=(0.1, 1.5), blur_limit=0, p=1), A.Sharpen(alpha=(0.1, 0.4), p=1)], p=0.6),
        A.GaussNoise(std_range=(0.01, 0.05), p=0.4),
    ]


CLASSICAL: dict[str, Callable[[], list[A.BasicTransform]]] = {"mild": _mild, "strong": _strong, "s2": _s2}


class Augmenter:
    """A preset, ready to be applied to grey images. Never flips: the heart is on the left."""

    def __init__(self, preset: str, seed: int) -> None:
        """
        Raises:
            UsageError: no such preset.
        """
        transforms = lookup(CLASSICAL, preset, "augmentation")()
        cv2.setNumThreads(1)  # images are small, and torch owns the cores
        self._pipeline = A.Compose(transforms, strict=True)
        self._seed = seed

    def __call__(self, images: Array, indices: Array, draw: int) -> Array:
        """Change images (n, H, W) uint8; ``indices`` (n,) name them, ``draw`` tells apart repeated visits."""
        changed = np.empty_like(images)
        for row, (image, index) in enumerate(zip(images, indices.tolist(), strict=True)):
            self._pipeline.set_random_seed(derive_seed(self._seed, "augment", draw, row, index) % 2**32)
            changed[row] = self._pipeline(image=image)["image"]
        return changed
