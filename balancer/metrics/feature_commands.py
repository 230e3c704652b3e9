"""`balancer features train`: a feature network for a data set, before a report needs it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from balancer.core.device import describe_device, open_device
from balancer.core.errors import BalancerError
from balancer.core.files import JsonObject
from balancer.core.preview import Preview, duration
from balancer.core.settings_base import DataConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.metrics import own_features
from balancer.metrics.feature_choice import is_chest
from balancer.metrics.own_features import OwnNetwork
from balancer.reporting.numbers import fixed


@dataclass(frozen=True)
class TrainedNetwork:
    """A data set's own network and the file of the cache that holds it."""

    own: OwnNetwork
    data: str  # where the images are
    file: Path
    was_there: bool
    is_chest: bool  # whether reports take the shipped network unless the setting says own

    def to_json(self) -> JsonObject:
        """Return the facts."""
        facts = {**asdict(self.own), "usable": self.own.is_usable, "unresponsive": self.own.unresponsive}
        return {**facts, "data": self.data, "file": str(self.file), "was_there": self.was_there}

    def describe(self) -> str:
        """Return the answer first, then how the network was made, then its response."""
        rows = [
            f"  {r.degradation:14} {', '.join(f'{v:g}' for v in r.levels):18} KID {_row(r.kid)}"
            + ("" if r.rises else "  does not rise")
            for r in self.own.response
        ]
        made = "was in the cache" if self.was_there else f"trained in {duration(self.own.seconds)}"
        return "\n".join([f"{self._answer()} ({made})", self.own.describe(), *rows, str(self.file)])

    def _answer(self) -> str:
        name = self.own.name
        if not self.own.is_usable:
            cause = ", ".join(self.own.unresponsive) or "no damage that could be measured with so few patients"
            return f"{name} does not respond to {cause}: reports on these images will use random-conv-128"
        if self.is_chest:
            return f"{name} responds to every damage; these are chest X-rays: --set features=own uses it"
        return f"{name} responds to every damage: reports on these images will use it"


def _row(values: tuple[float, ...]) -> str:
    return ", ".join(fixed(value, 3) for value in values)


def train_features(config: DataConfig, device_name: str, threads: int | None, again: bool) -> TrainedNetwork:
    """Train the network of a data set, measure its response and keep it in the cache.

    Args:
        config: the data.
        device_name: auto, cpu, cuda, cuda:N or mps.
        threads: that compute.
        again: train even where the cache holds the network.

    Raises:
        BalancerError: the data cannot be used, or have too few images.
    """
    device, recipe = open_device(device_name, threads), own_features.RECIPE
    data = _opened(config, decode=True)
    was_there = own_features.is_trained(data, recipe) and not again
    own, _ = own_features.own_network(data, device, recipe, again)
    return TrainedNetwork(own, data.source, own_features.file_of(own.name), was_there, is_chest(data))


def preview(config: DataConfig, device_name: str, threads: int | None, again: bool) -> Preview:
    """Return what :func:`train_features` would do."""
    device, recipe = open_device(device_name, threads), own_features.RECIPE
    data = _opened(config, decode=False)
    name, images = own_features.network_name(data, recipe), own_features.training_images(data)
    there = own_features.is_trained(data, recipe) and not again
    undecoded = data.undecoded.seconds if data.undecoded else 0.0
    return Preview(
        reads=f"{images.count} images of the training fold of {data.source} (split {data.split_hash})",
        writes="nothing: the network is in the cache" if there else str(own_features.file_of(name)),
        estimated_seconds=undecoded if there else undecoded + own_features.seconds_to_train(images, device, recipe),
        settings={"device": describe_device(device), "steps": recipe.steps},
        unchecked=data.undecoded.describe() if data.undecoded else "",
    )


def _opened(config: DataConfig, decode: bool) -> Dataset:
    data = load_dataset(config, decode=decode)
    if reason := own_features.why_not(data):
        raise BalancerError(f"{data.source}: {reason}; give more images, or leave it: reports will use random-conv-128")
    return data
