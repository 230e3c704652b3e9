"""A feature network of a data set's own: trained on its training fold, measured, and kept in the cache.

The name holds a hash of all that the weights depend on: the split, the images, their classes and the recipe. Two
machines may differ in the last bits of a sum, so the facts hold a hash of the weights too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from balancer.core.files import locked, remove
from balancer.core.pixels import COLOUR
from balancer.core.preview import duration
from balancer.core.sealed import DamagedFile, load_tensors, save_tensors
from balancer.core.seeding import derive_seed
from balancer.core.shapes import check_tensors, parse
from balancer.core.system_errors import explained
from balancer.data.cache import cache_dir
from balancer.data.dataset import Dataset
from balancer.data.split import carve_validation
from balancer.metrics.feature_response import Response, measure_response, unresponsive
from balancer.metrics.feature_training import Recipe, TrainingImages, estimate_seconds, train
from balancer.metrics.features import FeatureNetwork
from balancer.metrics.trained_features import TrainedFeatures

log = logging.getLogger("balancer")
Array = np.ndarray
FORMAT = 2  # of the file; raise when what is measured changes
RECIPE = Recipe()
OWN = f"own-{TrainedFeatures.DIM}-"  # names begin so
FEWEST = 100  # training images: with fewer, the 128 features are not determined (docs/features.md)
RARE = 16  # images of a class: with fewer, the class is left out, since little can vary within it
SIDE, FEWEST_OF_SIDE = 512, 16  # images a side, at most and at least, that the response is measured on
HASHED = 256  # training images whose pixels enter the name
WITHOUT = "--set features=random does without, and --set features=chest fits chest X-rays from elsewhere"
RESPONSE_SECONDS = 40.0  # on one core of the reference machine, at most


@dataclass(frozen=True)
class OwnNetwork:
    """What reports say of a network that was trained on the training fold of a data set."""

    name: str
    split_hash: str
    images: dict[str, int]  # of each class that it was trained on
    left_out: dict[str, int]  # of classes with fewer than RARE images
    steps: int
    batch: int
    weights: str  # first digits of their SHA-256
    seconds: float  # that the training took
    side: int  # real images a side, on which the response was measured
    response: list[Response]

    @property
    def unresponsive(self) -> list[str]:
        """Return the damages that the network does not respond to."""
        return list(unresponsive(self.response))

    @property
    def is_usable(self) -> bool:
        """Return whether the network was measured, and responds to every damage."""
        return bool(self.response) and not self.unresponsive

    def describe(self) -> str:
        """Return a sentence on how the network was made."""
        of_class = ", ".join(f"{name} {n:,}" for name, n in self.images.items())
        rare = ", ".join(f"{name} {n:,}" for name, n in self.left_out.items())
        return (
            f"`{self.name}` was trained for these images, on the {sum(self.images.values()):,} of the training fold"
            f" ({of_class}; split `{self.split_hash}`): {self.steps:,} steps of {self.batch} images, without labels or"
            f" images of validation and test. Weights `{self.weights}`."
            + (f" Classes with too few images were left out: {rare}." if rare else "")
        )


def training_images(data: Dataset) -> TrainingImages:
    """Return the images that a network is trained on: the training fold's, without classes of few images."""
    classes = (data.indices("train", label) for label in range(len(data.classes)))
    return TrainingImages(data.images, tuple(positions for positions in classes if len(positions) >= RARE))


def why_not(data: Dataset) -> str | None:
    """Return why the data can have no network of their own, None if they can."""
    n = training_images(data).count
    if n >= FEWEST:
        return None
    return (
        f"the training fold has {n} images in classes of at least {RARE}, and a feature network of its own needs"
        f" {FEWEST}"
    )


def network_name(data: Dataset, recipe: Recipe) -> str:
    """Return the name of the data's own network, from all that its weights depend on."""
    images = training_images(data)
    facts = [FORMAT, asdict(recipe), data.split_hash, list(images.images.shape[1:])]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for positions in images.classes:
        key.update(np.ascontiguousarray(positions).data)
    positions = np.concatenate([*images.classes, np.empty(0, dtype=np.int64)]).astype(np.int64)
    # how images are resized changes their pixels alone
    shown = positions[np.linspace(0, len(positions) - 1, min(HASHED, len(positions))).astype(int)]
    key.update(np.ascontiguousarray(images.images[shown]).data)
    return f"{OWN}{key.hexdigest()[:8]}"


def file_of(name: str) -> Path:
    """Return the file of the cache that holds a network, whether it is there or not."""
    return cache_dir("networks") / f"{name}.pt"


def is_trained(data: Dataset, recipe: Recipe) -> bool:
    """Return whether the cache holds the data's own network."""
    return file_of(network_name(data, recipe)).exists()


def own_network(
    data: Dataset, device: torch.device, recipe: Recipe, again: bool = False
) -> tuple[OwnNetwork, FeatureNetwork]:
    """Return the data's own network, from the cache or trained now; two processes do not train the same one.

    Args:
        data: a data set with enough images; see :func:`why_not`.
        device: where the network learns and lies.
        recipe: how it is trained.
        again: train even where the cache holds the network.

    Raises:
        Interrupted: a signal came while it was trained; the next call goes on from there.
        BalancerError: the training diverged, or the cache cannot be written.
    """
    channels, name = training_images(data).channels, network_name(data, recipe)
    file = file_of(name)
    # What looks damaged may just be replaced by another process: only under the lock the second look counts.
    with contextlib.suppress(DamagedFile, FileNotFoundError):
        if not again:
            return _loaded(*_read(file, channels), device)
    with explained("or set BALANCER_CACHE to a folder of your own", OSError), locked(file.with_suffix(".lock")):
        try:
            if not again:
                return _loaded(*_read(file, channels), device)
        except FileNotFoundError:
            pass
        except DamagedFile as damage:
            log.warning("%s; the network is trained again", damage)
            remove(file)
        facts, network = _make(data, device, recipe, name, file.with_suffix(".unfinished.pt"))
        save_tensors(file, {"format": FORMAT, "network": network.state_dict(), "facts": asdict(facts)})
    return _loaded(facts, network, device)


def _loaded(facts: OwnNetwork, network: TrainedFeatures, device: torch.device) -> tuple[OwnNetwork, FeatureNetwork]:
    return facts, _as_features(facts.name, facts.weights, network, device)


def _as_features(name: str, weights: str, network: TrainedFeatures, device: torch.device) -> FeatureNetwork:
    sees_colour = network.channels == COLOUR
    return FeatureNetwork(name, TrainedFeatures.DIM, weights, network.to(device), 64, sees_colour)


def _read(file: Path, channels: int) -> tuple[OwnNetwork, TrainedFeatures]:
    """Return a network of the cache with its facts.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFile: the file is not what was written.
    """
    content = load_tensors(file, torch.device("cpu"))
    if content.get("format") != FORMAT:
        raise DamagedFile(file, f"format {content.get('format')!r}; expected {FORMAT}")
    with torch.random.fork_rng(devices=[]):
        network = TrainedFeatures(channels)
    network.load_state_dict(check_tensors(file, "network", content.get("network"), network.state_dict()))
    facts = parse(OwnNetwork, content.get("facts"), file)
    if facts.weights != weights_hash(network.state_dict()):
        raise DamagedFile(file, "facts.weights: the weights have another SHA-256")
    return facts, network.eval().requires_grad_(False)


def _make(
    data: Dataset, device: torch.device, recipe: Recipe, name: str, unfinished: Path
) -> tuple[OwnNetwork, TrainedFeatures]:
    """Train the data's own network and measure what it responds to."""
    images = training_images(data)
    log.info(
        "training the feature network %s on %d images of the training fold: about %s, once; %s",
        name,
        images.count,
        duration(seconds_to_train(images, device, recipe)),
        WITHOUT,
    )
    begin = time.perf_counter()
    network = train(images, recipe, device, name, unfinished)
    seconds = time.perf_counter() - begin
    weights = weights_hash(network.state_dict())
    first, second = response_sides(data, images)
    measured = _as_features(name, weights, network, device)
    enough = len(first) >= FEWEST_OF_SIDE
    counts = {cls: len(data.indices("train", label)) for label, cls in enumerate(data.classes)}
    facts = OwnNetwork(
        name=name,
        split_hash=data.split_hash,
        images={cls: n for cls, n in counts.items() if n >= RARE},
        left_out={cls: n for cls, n in counts.items() if n < RARE},
        steps=recipe.steps,
        batch=recipe.batch,
        weights=weights,
        seconds=round(seconds, 1),
        side=len(first),
        response=measure_response(measured, first, second, device) if enough else [],
    )
    return facts, network.cpu()


def response_sides(data: Dataset, images: TrainingImages) -> tuple[Array, Array]:
    """Return two sets of training images with no patient in common, (n, 64, 64) or (n, 64, 64, 3) uint8, at most SIDE.

    Both have the same shares of the classes, as far as patients allow. Else the sides would differ by their classes.

    The images are as large as the network sees them, so that a level means the same for images of any size.
    """
    positions = np.sort(np.concatenate(images.classes))
    first = carve_validation(data.labels[positions].tolist(), [data.groups[i] for i in positions], 0.5, seed=0)
    halves = positions[first], positions[~first]
    n = min(SIDE, *map(len, halves))
    sides = []
    for half, name in zip(halves, ("first", "second"), strict=True):
        # in random order, since dropping modes keeps the first images, and positions are sorted by class
        drawn = np.random.default_rng(derive_seed(0, "response", name)).permutation(half)[:n]
        pixels = images.pixels(drawn)
        levels = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        sides.append(levels[..., 0] if images.channels == 1 else levels)
    return sides[0], sides[1]


def seconds_to_train(images: TrainingImages, device: torch.device, recipe: Recipe) -> float:
    """Return the seconds that a training and the measurement of the response take."""
    return estimate_seconds(recipe, images.channels, device) + RESPONSE_SECONDS


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Return the first 12 digits of the SHA-256 of tensors by name."""
    key = hashlib.sha256()
    for name in sorted(state):
        key.update(name.encode())
        key.update(np.ascontiguousarray(state[name].cpu().numpy()).tobytes())
    return key.hexdigest()[:12]
