"""The traces that a generator leaves in its images, put on other images: does a classifier read them?

A trace is fitted to two sets of images, with and without it, and then put on any image of the same size. Fitted to two
halves of one real set, it is what chance puts on an image. A trace of your own is one more entry of :data:`TRACES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy

from balancer.core.errors import BalancerError
from balancer.core.pixels import is_uint8_images
from balancer.metrics.spectrum import ROUNDING_POWER

Array = np.ndarray
Filter = Callable[[Array], Array]  # images (n, H, W) or (n, H, W, 3) uint8 -> as many, with the trace

CHUNK = 128  # images transformed at once


@dataclass(frozen=True)
class Trace:
    """A trace: what it is called, and how it is fitted to images (n, H, W) or (n, H, W, 3) uint8."""

    words: str  # of what is put on an image, after "the"
    fit: Callable[[Array, Array], Filter]  # images with the trace, images without it


def spectrum(marked: Array, plain: Array) -> Filter:
    """Return what gives images the amplitudes of ``marked`` in place of those of ``plain``, by ratio.

    At each frequency f of the discrete Fourier transform F of an image, and in each channel, the amplitude is
    multiplied by the ratio of mean amplitudes, and the phase is kept:

        F'(f) = F(f) * mean |F_marked(f)| / mean |F_plain(f)|

    The result is rounded to 0 ... 255. Both means are at least what rounding to whole levels leaves at every frequency:
    where images hold nothing else, a ratio means nothing. Upsampling leaves its mark in the spectrum (Frank et al.
    2020, arXiv:2003.08685; Durall et al. 2020, arXiv:2003.01826).

    Raises:
        BalancerError: if a set is empty, is not uint8, or sizes differ.
    """
    _check(marked, plain)
    height, width = plain.shape[1:3]
    least = np.sqrt(height * width * ROUNDING_POWER)
    of_marked, of_plain = (np.maximum(mean_amplitude(images), least) for images in (marked, plain))
    ratio = of_marked / of_plain

    def put(images: Array) -> Array:
        parts = [scipy.fft.irfft2(ratio * f, s=(height, width), axes=(1, 2)) for f in _transforms(images)]
        return _to_pixels(np.concatenate(parts))

    return put


def residual(marked: Array, plain: Array) -> Filter:
    """Return what adds the mean residual of ``marked`` to images, less that of ``plain``.

    The residual of an image is the image less its mean over 3 x 3 pixels. Averaged over many images, what each shows
    cancels, and what a generator adds to all of them stays: its fingerprint (Marra et al. 2019, arXiv:1812.11842).

    Raises:
        BalancerError: as :func:`spectrum` does.
    """
    _check(marked, plain)
    fingerprint = mean_residual(marked) - mean_residual(plain)

    def put(images: Array) -> Array:
        return _to_pixels(images + fingerprint)

    return put


def mean_residual(images: Array) -> Array:
    """Return the mean over images of the image less its mean over 3 x 3 pixels: (H, W), or (H, W, 3) in colour."""
    mean = images.mean(axis=0, dtype=np.float64)  # the residual is linear, so that of the mean is the mean of them
    return np.asarray(mean - scipy.ndimage.uniform_filter(mean, size=(3, 3, 1)[: mean.ndim], mode="nearest"))


def mean_amplitude(images: Array) -> Array:
    """Return the mean amplitude of images at each frequency: (H, W // 2 + 1), or (H, W // 2 + 1, 3) in colour."""
    total = sum(np.abs(f).sum(axis=0) for f in _transforms(images))
    return np.asarray(total / len(images))


def _transforms(images: Array) -> Iterator[Array]:
    """Yield the Fourier transforms of chunks of images; a real image needs half of its frequencies."""
    for start in range(0, len(images), CHUNK):
        yield scipy.fft.rfft2(images[start : start + CHUNK].astype(np.float64), axes=(1, 2))


def _to_pixels(images: Array) -> Array:
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def _check(marked: Array, plain: Array) -> None:
    """Refuse sets that no trace can be fitted to."""
    sound = all(is_uint8_images(images) and len(images) for images in (marked, plain))
    if not sound or marked.shape[1:] != plain.shape[1:]:
        raise BalancerError(
            f"a trace is fitted to two sets of uint8 images of one size; got {marked.dtype} {marked.shape} and"
            f" {plain.dtype} {plain.shape}"
        )


TRACES = {"spectrum": Trace("spectrum", spectrum), "residual": Trace("mean residual", residual)}
