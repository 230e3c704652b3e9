"""Images as arrays and as tensors: grey ones are (n, H, W), colour ones (n, H, W, 3), networks take (n, C, H, W).

The module needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

ArrayT = TypeVar("ArrayT", np.ndarray, "Tensor")
GREY, COLOUR = 1, 3  # channels
WORDS = {GREY: "grey", COLOUR: "colour"}
LEVELS = {GREY: "grey levels", COLOUR: "levels of red, green and blue"}
# By which Pillow weighs red, green and blue (ITU-R BT.601), times 2**16
_LUMA = (19595, 38470, 7471)
_CHUNK = 1 << 22  # pixels weighed at a time, which bounds the memory


class Dimensioned(Protocol):
    """What knows the number of its dimensions, as arrays and tensors do."""

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        ...


def channels_of(images: Dimensioned) -> int:
    """Return 1 for grey images (n, H, W), 3 for colour images (n, H, W, 3).

    >>> channels_of(np.zeros((2, 8, 8))), channels_of(np.zeros((2, 8, 8, 3)))
    (1, 3)
    """
    return COLOUR if images.ndim == 4 else GREY


def is_uint8_images(images: np.ndarray) -> bool:
    """Return whether an array is (n, H, W) or (n, H, W, 3) uint8, with at least one pixel an image."""
    shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == COLOUR)
    return shaped and images.dtype == np.uint8 and 0 not in images.shape[1:]


def planes(images: ArrayT) -> ArrayT:
    """Return images (n, H, W) or (n, H, W, 3) as (n, 1, H, W) or (n, 3, H, W), a view."""
    if channels_of(images) == GREY:
        return images[:, None]
    return images.transpose(0, 3, 1, 2) if isinstance(images, np.ndarray) else images.permute(0, 3, 1, 2)


def from_planes(images: ArrayT) -> ArrayT:
    """Return images (n, 1, H, W) or (n, 3, H, W) as (n, H, W) or (n, H, W, 3), a view."""
    if images.shape[1] == GREY:
        return images[:, 0]
    return images.transpose(0, 2, 3, 1) if isinstance(images, np.ndarray) else images.permute(0, 2, 3, 1)


def shape_of(side: int, channels: int) -> tuple[int, ...]:
    """Return the shape of one square image: (side, side), or (side, side, 3)."""
    return (side, side) if channels == GREY else (side, side, COLOUR)


def luminance(images: np.ndarray) -> np.ndarray:
    """Return the grey levels (n, H, W) uint8 of images, as Pillow converts RGB to L; grey images as they are."""
    if channels_of(images) == GREY:
        return images
    grey = np.empty(images.shape[:3], np.uint8)
    step = max(1, _CHUNK // max(1, grey[:1].size))
    for i in range(0, len(images), step):
        part = images[i : i + step].astype(np.int32)
        grey[i : i + step] = (part @ np.array(_LUMA, np.int32) + (1 << 15)) >> 16
    return grey


def same_channels(sets: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return sets of images with the same channels: grey ones get three equal channels beside colour ones."""
    if len({channels_of(images) for images in sets}) < 2:
        return list(sets)
    return [images if channels_of(images) == COLOUR else in_colour(images) for images in sets]


def in_colour(images: np.ndarray) -> np.ndarray:
    """Return grey images (n, H, W) with three equal channels (n, H, W, 3); colour images as they are."""
    return images if channels_of(images) == COLOUR else np.repeat(images[..., None], COLOUR, axis=-1)
