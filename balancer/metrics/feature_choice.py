"""Which trained feature network measures the images of a data set, and what a report says of it.

Chest X-rays are measured on ``chest-xray-128``. Other data are measured on a network of their own, if they have images
enough and the network responds to damage. Without a trained network, ``random-conv-128`` is left.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from balancer.data.chest import CLASSES
from balancer.data.dataset import Dataset
from balancer.metrics import own_features
from balancer.metrics.chest import NAME
from balancer.metrics.features import UNTRAINED, FeatureNetwork, chest_xray
from balancer.metrics.own_features import OwnNetwork

log = logging.getLogger("balancer")
USUAL_TIME = "about 12 minutes on one idle core"  # docs/features.md
LEFT = f"distances are on `{UNTRAINED}`, whose weights are random"
ON_REQUEST = f"features is random: {LEFT}."
OF_FOLDERS = (
    f"Two folders tell no training fold, so no feature network knows these images: {LEFT}. For chest X-rays, give "
    "--set features=chest."
)
NOT_CHEST = f"features is chest: distances are on `{NAME}`, which has seen no images but chest X-rays."


@dataclass(frozen=True)
class Choice:
    """The trained network that measures images.

    Attributes:
        network: None if there is none that can be used.
        own: facts on the data's own network, also where that one is not used.
        notes: sentences that a report must state.
    """

    network: FeatureNetwork | None
    own: OwnNetwork | None = None
    notes: tuple[str, ...] = ()


def is_chest(data: Dataset) -> bool:
    """Return whether the data are known to be chest X-rays: the layout of the chest set, or PneumoniaMNIST."""
    return data.reader == "chest" or (data.reader == "medmnist" and set(data.classes) == set(CLASSES))


def resolve(setting: str, data: Dataset) -> str:
    """Return ``chest``, ``own`` or ``random`` for the setting ``features``, which may be ``auto``."""
    if setting == "auto":
        return "chest" if is_chest(data) else "own"
    return setting


def choose(setting: str, data: Dataset, device: torch.device) -> Choice:
    """Return the network for a data set; one of its own is trained if the cache does not hold it.

    Raises:
        Interrupted: a signal came while it was trained.
        BalancerError: the training diverged, or the weights that ship with the package are missing.
    """
    chosen = resolve(setting, data)
    if chosen == "random":
        return Choice(None, notes=(ON_REQUEST,))
    if chosen == "chest":
        return Choice(chest_xray(device), notes=() if is_chest(data) else (NOT_CHEST,))
    if reason := own_features.why_not(data):
        return Choice(None, notes=(f"No feature network was trained: {reason}. So {LEFT}.",))
    own, network = own_features.own_network(data, device, own_features.RECIPE)
    if own.is_usable:
        return Choice(network, own)
    return Choice(None, own, (f"`{own.name}` is not used: {_complaint(own)}. So {LEFT}.",))


def _complaint(own: OwnNetwork) -> str:
    if not own.response:
        return f"its response to damage could not be measured, with {own.side} images of other patients a side"
    return f"its kernel distance does not rise with each step of {', '.join(own.unresponsive)}"


def choose_for_folders(setting: str, is_chest: bool, device: torch.device) -> Choice:
    """Return the network for two folders of images, which tell no training fold.

    Args:
        setting: ``auto``, ``chest`` or ``random``.
        is_chest: whether the files have the names of chest X-rays.
        device: where the network lies.
    """
    if setting == "random":
        return Choice(None, notes=(ON_REQUEST,))
    if setting == "auto" and not is_chest:
        return Choice(None, notes=(OF_FOLDERS,))
    return Choice(chest_xray(device), notes=() if is_chest else (NOT_CHEST,))


def cost_of_training(data: Dataset) -> str:
    """Return a sentence on the network that the first GAN of a data set waits for; empty if there is none to train."""
    if resolve("auto", data) != "own" or own_features.why_not(data):
        return ""
    if own_features.is_trained(data, own_features.RECIPE):
        return "the feature network of these images is trained already."
    when = f"a feature network for these images is trained once, before the first GAN: {USUAL_TIME}"
    return f"{when}; {own_features.WITHOUT}."


def seconds_to_train(setting: str, data: Dataset, device: torch.device) -> float:
    """Return the seconds that :func:`choose` will spend on training a network; 0 if there is nothing to train."""
    recipe = own_features.RECIPE
    if resolve(setting, data) != "own" or own_features.why_not(data) or own_features.is_trained(data, recipe):
        return 0.0
    return own_features.seconds_to_train(own_features.training_images(data), device, recipe)
