"""Classical transforms of a whole batch on its device, in plain torch: the changes of albumentations, other draws.

The presets are those of :mod:`balancer.augmentation.ranges`.

A sample follows from (seed, draw, row, index) alone, as in :mod:`balancer.augmentation.classical`, and is the same on
every device but for rounding: each number is a hash of these and of its place. So nothing is drawn on the CPU, and
nothing waits.
Between two changes grey levels are whole numbers, rounded or cut as OpenCV and albumentations do.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from balancer.augmentation.ranges import RANGES, Range, Ranges
from balancer.core.device import to_device
from balancer.core.errors import lookup
from balancer.core.pixels import from_planes, planes
from balancer.core.seeding import derive_seed

# The increment and the multipliers of splitmix64 (Steele et al. 2014, doi:10.1145/2660193.2660195), as signed numbers
INCREMENT, FIRST, SECOND = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
CHOICE, NOISE = 32, 64  # places that no change shares: of a choice between two, and from which on noise is drawn
BITS = 24  # of a uniform number: all that float32 holds
TAIL = 3.5  # sigmas after which a blur's kernel ends
LIGHTNESS = (0.5, 1.0)  # albumentations' default: what sharpening adds of the image itself


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Return x >> bits of unsigned numbers; torch's own copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(x: Tensor) -> Tensor:
    """Return the hash of each int64; products wrap around."""
    x = (x ^ _shifted(x, 30)) * FIRST
    x = (x ^ _shifted(x, 27)) * SECOND
    return x ^ _shifted(x, 31)


class _Draws:
    """Uniform and normal numbers of each image of a batch; every call takes the places that follow."""

    def __init__(self, seed: int, indices: Tensor, shared_numbers: bool) -> None:
        self._shared = shared_numbers
        rows = torch.arange(len(indices), device=indices.device)
        self._keys = _mixed(_mixed(indices + seed) + rows * INCREMENT)
        self._next = 0

    def begin_change(self) -> None:
        """Begin another change of the image, with the first numbers again where changes share them."""
        if self._shared:
            self._next = 0

    def uniform(self, count: int = 1, first: int | None = None) -> Tensor:
        """Return numbers in [0, 1), (B, count) float32; from place ``first`` on, if there is one."""
        start = self._next if first is None else first
        self._next = start + count if first is None else self._next
        places = torch.arange(start + 1, start + count + 1, device=self._keys.device)
        return _shifted(_mixed(self._keys[:, None] + places * INCREMENT), 64 - BITS).float() * 2.0**-BITS

    def within(self, limits: Range) -> Tensor:
        """Return a number between the limits, (B, 1, 1, 1)."""
        low, high = limits
        return (low + (high - low) * self.uniform())[:, :, None, None]

    def happens(self, probability: float, first: int | None = None) -> Tensor:
        """Return whether a change is made, (B, 1, 1, 1) bool."""
        return (self.uniform(first=first) < probability)[:, :, None, None]

    def normal(self, shape: torch.Size) -> Tensor:
        """Return N(0, 1) in the shape of a batch (B, C, H, W), by Box & Muller 1958 (doi:10.1214/aoms/1177706645)."""
        count = math.prod(shape[1:])
        radius = (-2 * torch.log1p(-self.uniform(count, NOISE))).sqrt()
        return (radius * (2 * math.pi * self.uniform(count, NOISE + count)).cos()).view(shape)


def warp(images: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Return images whose points p, seen from the centre, lie at ``matrix @ p + shift``; what comes in is black.

    Args:
        images: (B, C, H, W).
        matrix: (B, 2, 2).
        shift: (B, 2), pixels to the right and down.
    """
    height, width = images.shape[2:]
    half_x, half_y = (width - 1) / 2, (height - 1) / 2  # pixels are points: -1 and 1 are the outer ones' centres
    a, b, c, d = matrix.flatten(1).unbind(1)
    x, y = shift.unbind(1)
    size = a * d - b * c
    to_x = torch.stack([d, -b * (half_y / half_x), (b * y - d * x) / half_x], 1)
    to_y = torch.stack([-c * (half_x / half_y), a, (c * x - a * y) / half_y], 1)
    theta = torch.stack([to_x, to_y], 1) / size[:, None, None]
    grid = F.affine_grid(theta, list(images.shape), align_corners=True)
    return _rounded(F.grid_sample(images, grid, "bilinear", "zeros", align_corners=True))


def pose(angle: Tensor, shear: tuple[Tensor, Tensor], zoom: tuple[Tensor, Tensor]) -> Tensor:
    """Return matrices (B, 2, 2) that zoom, then turn, then shear; all (B,), angles in degrees."""
    cos, sin = angle.deg2rad().cos(), angle.deg2rad().sin()
    tan_x, tan_y = (along.deg2rad().tan() for along in shear)
    (zoom_x, zoom_y), one = zoom, torch.ones_like(cos)
    turned = torch.stack([cos * zoom_x, sin * zoom_y, -sin * zoom_x, cos * zoom_y], 1).view(-1, 2, 2)
    return torch.stack([one, tan_x, tan_y, one], 1).view(-1, 2, 2) @ turned


def gamma(images: Tensor, exponent: Tensor) -> Tensor:
    """Return grey levels raised to an exponent (B, 1, 1, 1), as shares of the range."""
    return _cut(255 * (images / 255) ** exponent)


def expose(images: Tensor, factor: Tensor, added: Tensor) -> Tensor:
    """Return grey levels times a factor, plus a number, (B, 1, 1, 1) each."""
    return _cut(images * factor + added)


def blur(images: Tensor, sigma: Tensor, most: float) -> Tensor:
    """Return images blurred by Gaussians of sigma (B, 1, 1, 1) pixels, at most ``most``; borders are mirrored."""
    reach = int(most * TAIL)
    places = torch.arange(-reach, reach + 1, device=images.device)
    weights = (-0.5 * (places / sigma) ** 2).exp() * (places.abs() <= (sigma * TAIL).floor())
    weights = weights / weights.sum(dim=3, keepdim=True)
    padded = F.pad(images, (reach, reach, reach, reach), "reflect")
    across = (padded.unfold(3, 2 * reach + 1, 1) * weights[:, :, :, None]).sum(dim=4)
    return _rounded((across.unfold(2, 2 * reach + 1, 1) * weights[:, :, :, None]).sum(dim=4))


def sharpen(images: Tensor, strength: Tensor, lightness: Tensor) -> Tensor:
    """Return images with a share ``strength`` of their difference from their neighbours, (B, 1, 1, 1) each."""
    around = 9 * F.avg_pool2d(F.pad(images, (1, 1, 1, 1), "reflect"), 3, stride=1)
    return _rounded((1 - strength) * images + strength * ((9 + lightness) * images - around))


def add_noise(images: Tensor, noise: Tensor) -> Tensor:
    """Return images plus noise, whose fraction albumentations drops: noise of a grey level is mostly none."""
    return (images + noise.trunc()).clamp(0, 255)


def _rounded(images: Tensor) -> Tensor:
    """Return whole grey levels, as OpenCV rounds."""
    return images.round().clamp(0, 255)


def _cut(images: Tensor) -> Tensor:
    """Return whole grey levels, as albumentations cuts them."""
    return images.clamp(0, 255).floor()


class DeviceAugmenter:
    """Applies a preset to batches; raises UsageError if the preset has no version on the device."""

    def __init__(self, preset: str, seed: int, flips: bool = False) -> None:
        self._ranges = lookup(RANGES, preset, "augmentation with augment_on device")
        self._seed, self._flips = seed, flips

    def __call__(self, pixels: Tensor, indices: np.ndarray, draw: int) -> Tensor:
        """Return changed images, (B, H, W) or (B, H, W, 3) uint8 as ``pixels`` on their device.

        ``indices`` (B,) name the images, ``draw`` the visit.
        """
        if not len(pixels):
            return pixels
        names = to_device(torch.from_numpy(np.ascontiguousarray(indices, np.int64)), pixels.device)
        draws = _Draws(derive_seed(self._seed, "augment on device", draw), names, self._ranges.shared_numbers)
        return from_planes(_changed(planes(pixels).float(), self._ranges, draws, self._flips).byte())


def _changed(images: Tensor, ranges: Ranges, draws: _Draws, flips: bool) -> Tensor:
    """Return images (B, C, H, W) after the changes of a preset, grey levels in [0, 255].

    Changes, and the numbers that each draws, come in albumentations' order.
    """
    height, width = images.shape[2:]
    right, down, shear_x, shear_y, zoom_x, zoom_y, angle = (
        draws.within(limits).flatten()
        for limits in (*[ranges.shift] * 2, *[ranges.shear] * 2, *[ranges.zoom] * 2, ranges.angle)
    )
    shift = torch.stack([right * width, down * height], 1).trunc()
    images = warp(images, pose(angle, (-shear_x, -shear_y), (zoom_x, zoom_y)), shift)

    draws.begin_change()
    is_made = draws.happens(ranges.p_gamma)
    images = torch.where(is_made, gamma(images, draws.within(ranges.gamma) / 100), images)
    if ranges.p_exposure:
        draws.begin_change()
        is_made, limit, by = draws.happens(ranges.p_exposure), ranges.contrast, ranges.brightness
        exposed = expose(images, 1 + draws.within((-limit, limit)), 255 * draws.within((-by, by)))
        images = torch.where(is_made, exposed, images)

    draws.begin_change()
    is_made = draws.happens(ranges.p_sharpness)
    if ranges.sharpen:
        draws.begin_change()  # either is a change of its own
        blurred = blur(images, draws.within(ranges.blur), ranges.blur[1])
        draws.begin_change()
        sharper = sharpen(images, draws.within(ranges.sharpen), draws.within(LIGHTNESS))
        images = torch.where(is_made, torch.where(draws.happens(0.5, CHOICE), sharper, blurred), images)
    else:
        images = torch.where(is_made, blur(images, draws.within(ranges.blur), ranges.blur[1]), images)

    draws.begin_change()
    is_made = draws.happens(ranges.p_noise)
    noise = 255 * draws.within(ranges.noise) * draws.normal(images.shape)
    images = torch.where(is_made, add_noise(images, noise), images)
    draws.begin_change()
    return torch.where(draws.happens(0.5), images.flip(-1), images) if flips else images
