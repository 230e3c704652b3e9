"""Quality of the generator during training: distances to training images on the features of a trained network."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from balancer.core.device import exact_float32
from balancer.core.seeding import generator
from balancer.core.settings import GanTrainConfig
from balancer.core.speed import seconds_each
from balancer.data.dataset import Dataset
from balancer.data.split import patient_halves
from balancer.gan.snapshot import SnapshotQuality
from balancer.gan.step import sample_z
from balancer.metrics.feature_choice import choose
from balancer.metrics.features import FeatureNetwork, chest_xray, extract, random_conv, random_subset
from balancer.metrics.frechet import frechet_distance
from balancer.metrics.kernel import kernel_distance
from balancer.reporting.grids import to_uint8

log = logging.getLogger("balancer")
CHUNK = 64  # images per pass through G; fixed, so that rounding does not depend on the number of images


@dataclass(frozen=True)
class Monitor:
    """A fixed set of latents and the real features that their images are compared with.

    The reference is one half of the training fold's patients; the other half gives the real baseline. The report of
    `balancer synthesize` uses the same halves, and its validation row has no part in choosing a snapshot.
    """

    network: FeatureNetwork
    real: np.ndarray  # (n, dim)
    z: Tensor  # (n, z_dim)
    kid_real_baseline: float
    frechet_real_baseline: float


def open_monitor(config: GanTrainConfig, data: Dataset, label: int, device: torch.device) -> Monitor | None:
    """Return the monitor of a class, or None where there are too few images to measure anything."""
    positions = data.indices("train", label)
    first, second = patient_halves([data.groups[i] for i in positions])
    n = min(len(first), len(second), config.snapshot_images)
    if n < 2:
        return None
    network = feature_network(config, data, device)
    real = extract(network, data.images[positions[_subset(first, n, "reference")]], device, "real")
    other = extract(network, data.images[positions[_subset(second, n, "other half")]], device, "real")
    z = sample_z(config, n, generator(config.seed, "snapshot")).to(device)
    return Monitor(network, real, z, _kid(real, other), frechet_distance(real, other))


def feature_network(config: GanTrainConfig, data: Dataset, device: torch.device) -> FeatureNetwork:
    """Return the network that measures snapshots, as the report on the images chooses it; trained now if need be."""
    choice = choose(config.features, data, device)
    for note in choice.notes:
        log.warning(note)
    network = choice.network or random_conv(device, data.channels)
    log.info("snapshots are measured on the features of %s", network.name)
    return network


def _subset(half: np.ndarray, n: int, name: str) -> np.ndarray:
    """Return ``n`` of the positions, the same in every run. Not the first ones: names sort by the images' source."""
    return half[random_subset(len(half), n, 0, "snapshot", name)]


def measure(monitor: Monitor, G: nn.Module, device: torch.device) -> SnapshotQuality:
    """Return the figures of a generator's images of the monitor's latents."""
    images = np.concatenate([to_uint8(generate(G, z)) for z in monitor.z.split(CHUNK)])
    fake = extract(monitor.network, images, device, "synthetic", show=False)
    variance, real_variance = fake.var(axis=0).sum(), monitor.real.var(axis=0).sum()
    return SnapshotQuality(
        kid=_kid(monitor.real, fake),
        kid_real_baseline=monitor.kid_real_baseline,
        frechet=frechet_distance(monitor.real, fake),
        frechet_real_baseline=monitor.frechet_real_baseline,
        diversity=float(variance / real_variance) if real_variance else 1.0,  # real images may all be alike
    )


def seconds_an_image(config: GanTrainConfig, G: nn.Module, device: torch.device, budget: float) -> float:
    """Return the time that an image of a snapshot takes: made, and its features computed."""
    network, z = chest_xray(device), sample_z(config, CHUNK, generator(config.seed, "snapshot")).to(device)

    def work(n: int) -> None:
        extract(network, to_uint8(generate(G, z[:n])), device, "synthetic", show=False)

    return seconds_each(work, CHUNK, budget)


def _kid(real: np.ndarray, fake: np.ndarray) -> float:
    """Return the KID over all images at once: unbiased, and less noisy than a mean over subsets."""
    return kernel_distance(real, fake, subsets=1, subset_size=len(real), seed=0).mean


@torch.no_grad()
def generate(G: nn.Module, z: Tensor) -> Tensor:
    """Return images (n, 1 or 3, H, W) in [-1, 1] of latents (n, z_dim), in evaluation mode and always in float32."""
    G.eval()
    with exact_float32(z.device):
        return G(z).float().clamp(-1, 1)
