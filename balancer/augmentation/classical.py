"""Classical transforms of the classifier's training images, as named presets. The only albumentations import.

Albumentations draws from one stream per pipeline, which repeats in every worker; here the pipeline is reseeded for
every image from (seed, draw, row, index): a sample depends neither on earlier draws nor on the rest of its batch. The
row is the place in the batch, so that an image that occurs twice in a batch is changed in two ways.
"""

from __future__ import annotations

import os

# Before the import, which would ask the network for a newer version
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from collections.abc import Callable, Sequence
from functools import partial

import albumentations as A
import cv2
import numpy as np

from balancer.augmentation.ranges import RANGES, Ranges
from balancer.core.errors import lookup
from balancer.core.seeding import derive_seed

Array = np.ndarray


def _s2() -> list[A.BasicTransform]:
    """Return the CNN + DCGAN system's: Keras's rotation 35, shifts .1 and .08, shear .2, zoom .2, edges repeated."""
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


def _within(ranges: Ranges) -> list[A.BasicTransform | A.BaseCompose]:
    """Return changes of pose, exposure, sharpness and grain. Each class of a data set may differ in any of them."""
    changes: list[A.BasicTransform | A.BaseCompose] = [
        A.Affine(
            rotate=ranges.angle,
            translate_percent=ranges.shift,
            scale=ranges.zoom,
            shear=ranges.shear,
            border_mode=cv2.BORDER_CONSTANT,
            p=1,
        ),
        A.RandomGamma(gamma_limit=ranges.gamma, p=ranges.p_gamma),
    ]
    if ranges.p_exposure:
        exposure = {"brightness_limit": ranges.brightness, "contrast_limit": ranges.contrast}
        changes.append(A.RandomBrightnessContrast(**exposure, p=ranges.p_exposure))
    blur = A.GaussianBlur(sigma_limit=ranges.blur, blur_limit=0, p=1 if ranges.sharpen else ranges.p_sharpness)
    if ranges.sharpen:
        changes.append(A.OneOf([blur, A.Sharpen(alpha=ranges.sharpen, p=1)], p=ranges.p_sharpness))
    else:
        changes.append(blur)
    return [*changes, A.GaussNoise(std_range=ranges.noise, p=ranges.p_noise)]


# The presets below reproduce published systems (docs/systems.md). A flip mirrors the heart to the right side of the
# chest, which is an anomaly of its own: do not use such presets for other work.


def _s0() -> list[A.BasicTransform]:
    """Return the DenseNet-161 system's: flip (mirrors the heart), rotation 10, shifts .05, black borders.

    The system's random greyscale is left out: on grey images it does nothing.
    """
    pose = A.Affine(rotate=(-10, 10), translate_percent=(-0.05, 0.05), border_mode=cv2.BORDER_CONSTANT, p=1)
    return [A.HorizontalFlip(p=0.5), pose]


def _s1() -> list[A.BasicTransform]:
    """Return the PneumoniaMNIST system's: flip (mirrors the heart) and rotation 10, black borders as torchvision's."""
    return [A.HorizontalFlip(p=0.5), A.Affine(rotate=(-10, 10), border_mode=cv2.BORDER_CONSTANT, p=1)]


def _s3() -> list[A.BasicTransform]:
    """Return the ResNet-50 system's: rotation 90, zoom .25, shifts .2, brightness .2, contrast .3.

    The numbers have the meaning of Keras's layers. Both axes are zoomed alike, by 1 / (1 - .25) to 1 / (1 + .25);
    borders are mirrored; brightness adds up to .2 of the range; contrast changes the distance from the image's mean.
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
    """Return the five-backbone system's: flip (mirrors the heart), rotation 20, shifts .2, edges repeated."""
    pose = A.Affine(
        rotate=(-20, 20), translate_percent={"x": (-0.2, 0.2), "y": (-0.2, 0.2)}, border_mode=cv2.BORDER_REPLICATE, p=1
    )
    return [A.HorizontalFlip(p=0.5), pose]


CLASSICAL: dict[str, Callable[[], Sequence[A.BasicTransform | A.BaseCompose]]] = {
    # small changes of pose and exposure, and of sharpness and grain, which differ between the classes; strong: wider
    # ones, and sharpening, for sources that differ in pose, exposure and processing
    **{name: partial(_within, ranges) for name, ranges in RANGES.items()},
    "s0": _s0,
    "s1": _s1,
    "s2": _s2,
    "s3": _s3,
    "s4": _s4,
}


class Augmenter:
    """Applies a preset to images; raises UsageError if there is no such preset. No preset changes the hue.

    The presets of :mod:`balancer.augmentation.ranges` flip only where ``flips`` says that a mirrored image is as good:
    the heart is on the left.
    """

    def __init__(self, preset: str, seed: int, flips: bool = False) -> None:
        transforms = list(lookup(CLASSICAL, preset, "augmentation")())
        if flips and not any(isinstance(transform, A.HorizontalFlip) for transform in transforms):
            transforms.append(A.HorizontalFlip(p=0.5))  # last, so that the others draw what they draw without it
        cv2.setNumThreads(1)  # images are small, and torch owns the cores
        self._pipeline = A.Compose(transforms, strict=True)
        self._seed = seed
        self._independent = preset in RANGES and not RANGES[preset].shared_numbers

    def __call__(self, images: Array, indices: Array, draw: int) -> Array:
        """Return changed images, grey or in colour uint8; ``indices`` (n,) name the images, ``draw`` the visit."""
        changed = np.empty_like(images)
        for row, (image, index) in enumerate(zip(images, indices.tolist(), strict=True)):
            self._pipeline.set_random_seed(derive_seed(self._seed, "augment", draw, row, index) % 2**32)
            if self._independent:  # one stream for all changes, in place of a copy of it for each
                self._pipeline.set_random_state(self._pipeline.random_generator, self._pipeline.py_random)
            changed[row] = self._pipeline(image=image)["image"]
        return changed
