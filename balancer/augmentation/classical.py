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

from balancer.core.errors import lookup
from balancer.core.seeding import derive_seed

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


# The presets below are those of published systems (docs/systems.md), kept to reproduce these. Those with a flip mirror the
# heart to the right side of the chest, which is an anomaly of its own: do not take them for work of your own.


def _s0() -> list[A.BasicTransform]:
    """The DenseNet-161 system: flip (mirrors the heart), rotation 10, shifts .05, black borders as torchvision's.

    Its random greyscale is left out: on grey images it does nothing.
    """
    pose = A.Affine(rotate=(-10, 10), translate_percent=(-0.05, 0.05), border_mode=cv2.BORDER_CONSTANT, p=1)
    return [A.HorizontalFlip(p=0.5), pose]


def _s1() -> list[A.BasicTransform]:
    """The PneumoniaMNIST system: flip (mirrors the heart) and rotation 10, black borders as torchvision's."""
    return [A.HorizontalFlip(p=0.5), A.Affine(rotate=(-10, 10), border_mode=cv2.BORDER_CONSTANT, p=1)]


def _s3() -> list[A.BasicTransform]:
    """The ResNet-50 system: rotation of a quarter turn either way, zoom .25, shifts .2, brightness .2, contrast .3.

    In the meaning of Keras's layers: both axes are zoomed alike, by 1 / (1 - .25) to 1 / (1 + .25); what lies beyond the
    edge is mirrored in; brightness adds up to .2 of the range; contrast changes the distance from the image's mean.
    """
    return [
        A.Affine(
            rotate=(-90, 90),
            translate_percent={"x": (-0.2, 0.2), "y": (-0.2, 0.2)},
            scale=(1 / 1.25, 1 / 0.75),
            keep_ratio=True,
            border_mode=cv2.BORDER_REFLECT,
            p=1,
        ),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.0, p=1),
        A.ColorJitter(brightness=(1, 1), contrast=(0.7, 1.3), saturation=(1, 1), hue=(0, 0), p=1),
    ]


def _s4() -> list[A.BasicTransform]:
    """The five-backbone system: flip (mirrors the heart), rotation 20, shifts .2, edges repeated as Keras's generator does."""
    pose = A.Affine(
        rotate=(-20, 20),
        translate_percent={"x": (-0.2, 0.2), "y": (-0.2, 0.2)},
        border_mode=cv2.BORDER_REPLICATE,
        p=1,
    )
    return [A.HorizontalFlip(p=0.5), pose]


CLASSICAL: dict[str, Callable[[], list[A.BasicTransform]]] = {
    "mild": _mild,
    "strong": _strong,
    "s0": _s0,
    "s1": _s1,
    "s2": _s2,
    "s3": _s3,
    "s4": _s4,
}


class Augmenter:
    """A preset, ready to be applied to grey images. Our own never flip: the heart is on the left."""

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
