"""Hashes of images: of what an image looks like, which copies keep (Zauner 2010), and of its pixels."""

from __future__ import annotations

import hashlib

import numpy as np
import scipy
from PIL import Image

Array = np.ndarray


def perceptual_hash(images: Array, side: int = 8) -> Array:
    """Return Zauner's DCT hash of grey images (n, H, W): (n, side^2) bool.

    An image is averaged down to 32 x 32 pixels. The hash says which of the ``side`` x ``side`` lowest frequencies of
    its DCT lie above their median, without the row and the column of frequency zero. So brightness and contrast cancel.
    """
    low = scipy.fft.dctn(shrink(images, 32), axes=(1, 2))[:, 1 : side + 1, 1 : side + 1].reshape(len(images), -1)
    bits: Array = low > np.median(low, axis=1, keepdims=True)
    return bits


def shrink(images: Array, side: int) -> Array:
    """Return images (n, H, W) as (n, side, side) float32, each pixel the mean of the area that it covers."""
    box = Image.Resampling.BOX
    return np.stack([np.asarray(Image.fromarray(i.astype(np.float32)).resize((side, side), box)) for i in images])


def pixel_hashes(images: Array) -> list[bytes]:
    """Return the SHA-256 of the pixels of each image."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images]
