"""What a feature network responds to: distances between real images and ever worse copies of other real images.

A network that measures the quality of images has to see what can be wrong with them. So images are damaged step by
step, and the kernel distance to undamaged images of other patients has to rise with every step. The Fréchet distance
is measured too, and decides nothing: its bias, of features that a few hundred images hardly determine, can hide a
damage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import torch

from balancer.core.seeding import derive_seed
from balancer.metrics.features import FeatureNetwork, extract
from balancer.metrics.frechet import frechet_distance
from balancer.metrics.kernel import kernel_distance

Array = np.ndarray
Damage = Callable[[Array, float], Array]  # images (n, H, W) or (n, H, W, C) float, level -> the same
HALVINGS = 40  # random halvings of the real images, whose kernel distances are chance alone


def blur(images: Array, sigma: float) -> Array:
    """Blur each image by a Gaussian of ``sigma`` pixels."""
    return scipy.ndimage.gaussian_filter(images, (0, sigma, sigma, 0)[: images.ndim])


def noise(images: Array, sd: float) -> Array:
    """Add white noise of ``sd`` grey levels."""
    return images + np.random.default_rng(1).normal(0, sd, images.shape)


def contrast_loss(images: Array, loss: float) -> Array:
    """Take a share of each image's contrast away."""
    mean = images.mean(axis=tuple(range(1, images.ndim)), keepdims=True)
    return mean + (1 - loss) * (images - mean)


def checkerboard(images: Array, amplitude: float) -> Array:
    """Add a checkerboard with squares of one pixel, of ``amplitude`` grey levels, as transposed convolutions leave."""
    rows, columns = np.ogrid[: images.shape[1], : images.shape[2]]
    board = amplitude * (1.0 - 2.0 * ((rows + columns) % 2))
    return images + (board if images.ndim == 3 else board[..., None])


def mode_drop(images: Array, dropped: float) -> Array:
    """Drop a share of the distinct images and repeat the rest, so that the count stays."""
    kept = max(2, round((1 - dropped) * len(images)))
    return images[np.arange(len(images)) % kept]


def elastic(images: Array, amplitude: float) -> Array:
    """Displace pixels smoothly at random; SD in pixels at 64 px, correlation length a twelfth of the side."""
    rng, (n, height, width) = np.random.default_rng(2), images.shape[:3]
    rows, columns = np.mgrid[:height, :width].astype(float)
    out = np.empty(images.shape)
    for i in range(n):
        fields = scipy.ndimage.gaussian_filter(rng.normal(size=(2, height, width)), (0, height / 12, height / 12))
        fields *= amplitude * height / 64 / fields.std()
        places = [rows + fields[0], columns + fields[1]]
        for channel in np.ndindex(images.shape[3:]):
            one = (i, slice(None), slice(None), *channel)
            out[one] = scipy.ndimage.map_coordinates(images[one], places, order=1, mode="nearest")
    return out


@dataclass(frozen=True)
class Degradation:
    """One way to make images worse, level by level; the first level changes nothing."""

    label: str  # what the levels are
    levels: tuple[float, ...]
    degrade: Damage


DEGRADATIONS = {
    "blur": Degradation("Gaussian blur, SD in pixels", (0, 0.75, 1.5, 2), blur),
    "noise": Degradation("white noise, SD in grey levels", (0, 8, 16, 32), noise),
    "contrast": Degradation("contrast loss, share", (0, 0.1, 0.3, 0.5), contrast_loss),
    "checkerboard": Degradation("checkerboard, grey levels", (0, 4, 8, 16), checkerboard),
    "elastic": Degradation("elastic distortion, SD in pixels at 64 px", (0, 1, 2, 3), elastic),
    "mode dropping": Degradation("distinct images dropped, share", (0, 0.5, 0.75, 0.94), mode_drop),
}


@dataclass(frozen=True)
class Response:
    """Distances at each level of a degradation; the first is real against real."""

    degradation: str  # its name in DEGRADATIONS
    levels: tuple[float, ...]
    frechet: tuple[float, ...]
    kid: tuple[float, ...]
    chance: float = 0.0  # the largest kernel distance between random halves of the real images

    @property
    def rises(self) -> bool:
        """Return whether the kernel distance rises with every step, in all by more than chance alone gives."""
        return bool((np.diff(self.kid) > 0).all()) and self.kid[-1] - self.kid[0] > self.chance

    @property
    def frechet_rises(self) -> bool:
        """Return whether the Fréchet distance rises with every step."""
        return bool((np.diff(self.frechet) > 0).all())


def measure_response(network: FeatureNetwork, first: Array, second: Array, device: torch.device) -> list[Response]:
    """Return the response of a network to every degradation.

    Each distance is the mean of two: of the first set to the damaged second one, and the other way round. Otherwise a
    mild damage could bring two sets nearer to each other, such as a loss of contrast in the set that has more of it.

    Args:
        network: feature network.
        first: real images (n, H, W) or (n, H, W, 3) uint8.
        second: as many real images of other patients.
        device: where the network lies.

    Raises:
        BalancerError: there are fewer than 2 images a side, or features are not finite.
    """
    real = [extract(network, images, device, "real", show=False) for images in (first, second)]
    untouched, chance = _distances(real, real[::-1]), _chance(np.concatenate(real))
    responses = []
    for name, degradation in DEGRADATIONS.items():
        measured = [untouched]
        for level in degradation.levels[1:]:
            worse = [
                extract(network, damaged(degradation, images, level), device, f"{name} {level:g}", show=False)
                for images in (first, second)
            ]
            measured.append(_distances(real, worse[::-1]))
        frechet, kid = zip(*measured, strict=True)
        responses.append(Response(name, degradation.levels, frechet, kid, chance))
    return responses


def damaged(degradation: Degradation, images: Array, level: float) -> Array:
    """Return uint8 images after a degradation."""
    return np.clip(np.rint(degradation.degrade(images.astype(float), level)), 0, 255).astype(np.uint8)


def _distances(real: Sequence[Array], worse: Sequence[Array]) -> tuple[float, float]:
    """Return the mean Fréchet and kernel distances of pairs of sets of features (n, dim)."""
    pairs = list(zip(real, worse, strict=True))
    frechet = [frechet_distance(a, b) for a, b in pairs]
    return float(np.mean(frechet)), float(np.mean([_kernel_distance(a, b) for a, b in pairs]))


def _kernel_distance(first: Array, second: Array) -> float:
    n = min(len(first), len(second))
    return kernel_distance(first, second, subsets=1, subset_size=n, seed=0).mean


def _chance(features: Array) -> float:
    """Return the largest kernel distance between random halves of real images' features (n, dim)."""
    rng = np.random.default_rng(derive_seed(0, "halvings"))
    halvings = (rng.permutation(len(features)) for _ in range(HALVINGS))
    half = len(features) // 2
    return max(_kernel_distance(features[order[:half]], features[order[half:]]) for order in halvings)


def unresponsive(responses: Sequence[Response]) -> Iterator[str]:
    """Yield the degradations that a network does not respond to; if there is none, the network may be used."""
    yield from (response.degradation for response in responses if not response.rises)
