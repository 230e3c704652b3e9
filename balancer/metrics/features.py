"""Feature networks, each under its own name: a distance means nothing without the name of its network.

``chest-xray-128`` ships with the package (:mod:`balancer.metrics.chest`). ``own-128-...`` was trained on the training
fold of a data set (:mod:`balancer.metrics.own_features`). ``inception-2048`` is the network of the FID (Heusel et al.
2017, arXiv:1706.08500), taken from torch-fidelity. ``random-conv-128`` is a fixed convolutional network with seeded
random weights, a kind of embedding that Naeem et al. 2020 (arXiv:2002.09797) discuss for images unlike ImageNet's. For
images in colour, ``random-conv-128-colour`` has three channels. Only distances on ``inception-2048`` are FIDs, and no
other is called so.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balancer.core import progress
from balancer.core.device import exact_float32
from balancer.core.download import download
from balancer.core.errors import BalancerError
from balancer.core.pixels import GREY, is_uint8_images, luminance, planes
from balancer.core.sealed import DamagedFile, warn_of_no_seal
from balancer.core.seeding import derive_seed
from balancer.core.shapes import check_arrays
from balancer.data.cache import cache_dir, cached_arrays
from balancer.metrics import chest
from balancer.metrics.trained_features import TrainedFeatures, as_input

log = logging.getLogger("balancer")
Array = np.ndarray

UNTRAINED, UNTRAINED_COLOUR = "random-conv-128", "random-conv-128-colour"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity names it in the torch hub cache
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that turns uint8 images (B, C, H, W) into features (B, dim) float32."""

    name: str  # stands beside every figure
    dim: int  # number of features
    version: str  # changes whenever a feature would
    module: Callable[[Tensor], Tensor]
    batch_size: int
    sees_colour: bool = False  # else C is 1, and an image in colour is made grey first


class RandomConv(nn.Module):
    """Map uint8 images (B, C, H, W) to features (B, 128) by three random convolutions and a random projection.

    Images are brought to 64 px first, antialiased. Weights come from NumPy's PCG64 stream with the scale of He et al.
    2015, so that they are the same wherever the package runs.
    """

    DIM, SIZE, SEED = 128, 64, 20160112

    def __init__(self, image_channels: int = 1) -> None:
        super().__init__()
        draw = np.random.Generator(np.random.PCG64(self.SEED)).standard_normal
        channels = (image_channels, 32, 64, 128)
        for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
            weight = draw((c_out, c_in, 3, 3)) * (2 / (9 * c_in)) ** 0.5
            self.register_buffer(f"conv{i}", torch.from_numpy(weight.astype(np.float32)))
        projection = draw((16 * channels[-1], self.DIM)) / (16 * channels[-1]) ** 0.5
        self.register_buffer("projection", torch.from_numpy(projection.astype(np.float32)))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, 128)."""
        x = as_input(images, self.SIZE)
        for i in range(3):
            x = F.avg_pool2d(F.relu(F.conv2d(x, self.get_buffer(f"conv{i}"), padding=1)), 2)
        return 3 * F.avg_pool2d(x, 2).flatten(1) @ self.get_buffer("projection")


def random_conv(device: torch.device, channels: int = GREY) -> FeatureNetwork:
    """Return the network with random weights (:class:`RandomConv`), for grey images or those in colour."""
    name, network = (UNTRAINED, RandomConv()) if channels == GREY else (UNTRAINED_COLOUR, RandomConv(channels))
    return FeatureNetwork(name, RandomConv.DIM, "2", network.to(device).eval(), 64, sees_colour=channels != GREY)


def is_untrained(name: str) -> bool:
    """Return whether a network has random weights: nothing is judged by such a one where a trained one can be had."""
    return name in (UNTRAINED, UNTRAINED_COLOUR)


def chest_xray(device: torch.device) -> FeatureNetwork:
    """Return the trained chest X-ray network that ships with the package (:mod:`balancer.metrics.chest`).

    Raises:
        BalancerError: If its weights are missing or not the frozen ones.
    """
    return FeatureNetwork(chest.NAME, TrainedFeatures.DIM, chest.SHA256[:12], chest.load().to(device), batch_size=64)


def inception_weights(source: str) -> Path | None:
    """Return the file of Inception weights; None if it is switched off or cannot be downloaded.

    Args:
        source: a path; ``auto`` for the torch hub cache, or a download into the cache; ``off``.

    Raises:
        BalancerError: If the file is missing or is not the published one (by SHA-256).
    """
    if source == "off":
        return None
    path = Path(source) if source != "auto" else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.exists() and source == "auto" and not _downloaded(path):
        return None
    missing = f"--inception-weights {path} does not exist; give {INCEPTION_FILE}, auto or off"
    chest.read_weights(path, INCEPTION_SHA256, missing)
    return path


def _downloaded(path: Path) -> bool:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    log.info("fetching the Inception weights (91 MB) for FID")
    try:
        download(URL_INCEPTION_V3, path, INCEPTION_SHA256)
    except BalancerError as error:
        log.info("FID is left out: %s", error)
        return False
    return True


def inception(weights: Path, device: torch.device) -> FeatureNetwork:
    """Return torch-fidelity's Inception-v3 (2048 features), from a file that :func:`inception_weights` has checked."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights))
    net = net.to(device).eval()

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        values: Tensor = net(images.expand(-1, 3, -1, -1).contiguous())[0]
        return values

    return FeatureNetwork("inception-2048", 2048, INCEPTION_SHA256[:12], features, batch_size=32, sees_colour=True)


def extract(
    network: FeatureNetwork, images: Array, device: torch.device, what: str, keep: bool = False, show: bool = True
) -> Array:
    """Return the features (n, dim) float64 of images (n, H, W) or (n, H, W, 3) uint8.

    Args:
        network: feature network.
        images: grey images, or images in colour, which a network of grey ones sees as luminance.
        device: where the network lies.
        what: name of the images beside the progress bar.
        keep: store the features on disk, under the network and the content of the images, and read them the next time.
            On a CPU, Inception needs tens of minutes for a few thousand images.
        show: show the progress bar.

    Raises:
        BalancerError: If the images are not uint8 images.
    """
    if not is_uint8_images(images):
        raise BalancerError(f"expected uint8 images (n, H, W) or (n, H, W, 3); got {images.shape} {images.dtype}")
    images = np.ascontiguousarray(images if network.sees_colour else luminance(images))
    if keep:
        path, layout = _cache_path(network, images), {"features": ("float32", (len(images), network.dim))}
        earlier = path.with_suffix(".npy")
        if not path.exists() and earlier.exists():
            return _of_earlier_version(earlier, layout).astype(np.float64)
        made = cached_arrays(path, layout, lambda: {"features": _extract(network, images, device, what, show)})
        return made["features"].astype(np.float64)
    return _extract(network, images, device, what, show).astype(np.float64)


def _extract(network: FeatureNetwork, images: Array, device: torch.device, what: str, show: bool) -> Array:
    """Return the features (n, dim) float32 of images that are contiguous."""
    features = np.empty((len(images), network.dim), np.float32)
    with progress.bar(len(images), f"{network.name}: {what}", "image", show=show) as bar:
        for i in range(0, len(images), network.batch_size):
            batch = planes(torch.from_numpy(images[i : i + network.batch_size])).to(device)
            with exact_float32(device):
                features[i : i + len(batch)] = network.module(batch).float().cpu().numpy()
            bar.update(len(batch))
    return features


def _of_earlier_version(path: Path, layout: Mapping[str, tuple[str, tuple[int, ...]]]) -> Array:
    """Return features that a version without seals stored: on a CPU, Inception needs tens of minutes to make them.

    Raises:
        DamagedFile: they are of another shape, or not finite.
    """
    remedy = "remove the file, and the features are computed again"
    try:
        features: Array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, IsADirectoryError) as error:
        raise DamagedFile(path, "it is no array", remedy) from error
    check_arrays(path, {"features": features}, layout, remedy)
    warn_of_no_seal(path)
    return features


def _cache_path(network: FeatureNetwork, images: Array) -> Path:
    """Return the cache file for features of images, contiguous; make the cache folder."""
    key = hashlib.sha256(f"{network.name} {network.version} {images.shape}".encode())
    key.update(images.data)
    return cache_dir("features") / f"{network.name}-{key.hexdigest()[:24]}.npz"


class Precomputed(nn.Module):
    """Pass features through, so that torchmetrics computes distances on features of any network."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, features: Tensor) -> Tensor:
        """Return the features."""
        return features


def check_finite(*sets: Array) -> None:
    """Check that sets of features are (n, dim) of one dim, without NaN or infinity: no other figure means anything.

    Raises:
        BalancerError: If they are not.
    """
    shapes = [features.shape for features in sets]
    if any(len(shape) != 2 for shape in shapes) or len({shape[1] for shape in shapes}) > 1 or 0 in shapes[0][1:]:
        raise BalancerError(
            f"expected features (n, dim) of one dim on both sides; got {' and '.join(map(str, shapes))}"
        )
    if not all(np.isfinite(features).all() for features in sets):
        raise BalancerError("expected finite features; got NaN or infinity")


def random_subset(n: int, size: int, seed: int, *names: str) -> Array:
    """Draw ``size`` distinct positions out of ``n`` from the random stream ``names``; return them sorted."""
    chosen: Array = np.random.default_rng(derive_seed(seed, "subset", *names)).permutation(n)[:size]
    return np.sort(chosen)
