"""Heat maps of a classifier's images, by any method of the registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from balancer.core.device import exact_float32
from balancer.core.errors import BalancerError, UsageError, lookup
from balancer.core.pixels import channels_of
from balancer.core.progress import bar
from classifier.evaluation.thresholds import labels_of
from classifier.explain.layers import MapLayer, choose_layer
from classifier.explain.methods import METHODS, PIXELS, Method
from classifier.training.checkpoint import SavedClassifier
from classifier.training.prediction import predict_inputs, to_input

Array = np.ndarray
MOST_IMAGES = 32  # in one pass of a method


@dataclass(frozen=True)
class HeatMaps:
    """Heat maps of N images."""

    maps: Array  # (N, H, W) float32 in [0, 1]: evidence for the class, from none to the image's strongest
    method: str
    layer: str | None  # None: the method uses no layer
    target: Array  # (N,) int64, the class that each map speaks for
    relevance: Array  # (N, H, W) float32, as the method gives them: of any size, and of either sign for some methods
    cells: tuple[int, int]  # rows and columns that the method can tell apart

    @property
    def empty(self) -> Array:
        """Return whether a map shows no evidence at all, (N,) bool."""
        blank: Array = self.maps.max(axis=(1, 2)) == 0
        return blank

    def at(self, positions: Sequence[int] | Array) -> HeatMaps:
        """Return the maps of some images."""
        index = np.asarray(positions)
        maps, target, relevance = self.maps[index], self.target[index], self.relevance[index]
        return replace(self, maps=maps, target=target, relevance=relevance)


def explain(
    model: SavedClassifier | nn.Module,
    images: Array | Tensor,
    method: str = "gradcam",
    target: int | Sequence[int] | Array | None = None,
    layer: str | None = None,
    show_progress: bool = False,
) -> HeatMaps:
    """Return where a classifier sees evidence for a class.

    The network is hooked while this runs, so no two threads may explain with one network at the same time.

    Args:
        model: a classifier read from disk, or any network that gives logits (N,) or (N, C).
        images: pixels (N, H, W) or (N, H, W, 3) uint8 for a classifier read from disk; or network inputs (N, C, H, W)
            float.
        method: a name of :data:`~classifier.explain.methods.METHODS`.
        target: the class to explain, one for all images or one for each; None for the class that the classifier calls.
        layer: the layer whose maps are weighed, such as ``net.layer4``; None for the rule of
            :mod:`~classifier.explain.layers`.
        show_progress: draw a bar on a terminal.

    Raises:
        UsageError: if method, layer or class is unknown, or the method uses no layer.
        BalancerError: if a map is not finite.
    """
    chosen = lookup(METHODS, method, "--method")
    net = model.model if isinstance(model, SavedClassifier) else model
    inputs = _network_inputs(model, images)
    net.eval()
    with exact_float32(inputs.device):
        classes = _targets(model, inputs, target)
        place = _layer(net, inputs, chosen, layer)
        relevance = relevance_of(chosen, net, inputs, classes, place.module if place else net, show_progress)
    if not np.isfinite(relevance).all():
        raise BalancerError(
            f"{chosen.title} gives a value that is not finite: the classifier's weights are damaged or far too large;"
            " train again, or give another model.pt"
        )
    cells = place.cells if place else (inputs.shape[2], inputs.shape[3])
    name = place.name if place else None
    return HeatMaps(shown(relevance, chosen.white), method, name, classes.cpu().numpy(), relevance, cells)


def relevance_of(
    method: Method, net: nn.Module, inputs: Tensor, classes: Tensor, layer: nn.Module, show_progress: bool = False
) -> Array:
    """Return what a method gives of network inputs (N, C, H, W), as (N, H, W) float32, a few images at a time."""
    size = max(1, min(MOST_IMAGES, PIXELS // inputs[0, 0].numel()))
    parts = []
    with bar(len(inputs), method.title, "image", show=show_progress) as progress:
        for i in range(0, len(inputs), size):
            parts.append(method.compute(net, inputs[i : i + size], classes[i : i + size], layer))
            progress.update(len(parts[-1]))
    relevance: Array = torch.cat(parts).float().cpu().numpy()
    return relevance


def shown(relevance: Array, white: float = 1.0) -> Array:
    """Return relevance (N, H, W) as evidence in [0, 1]: what speaks against the class is 0, the strongest is 1.

    ``white`` is the share of an image's pixels that lies below 1. A share under 1 keeps a few extreme pixels from
    making all others dark.
    """
    evidence = np.maximum(relevance, 0)
    highest = np.quantile(evidence, white, axis=(1, 2), keepdims=True)
    highest = np.where(highest > 0, highest, evidence.max(axis=(1, 2), keepdims=True))
    maps: Array = np.divide(evidence, highest, out=np.zeros_like(evidence), where=highest > 0)
    return np.minimum(maps, 1).astype(np.float32)


def _network_inputs(model: SavedClassifier | nn.Module, images: Array | Tensor) -> Tensor:
    net = model.model if isinstance(model, SavedClassifier) else model
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    if len(images) == 0:
        raise BalancerError("no image to explain; give one or more")
    if isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point():
        return images.to(device)
    if isinstance(model, SavedClassifier) and channels_of(images) == model.channels and images.ndim in (3, 4):
        return to_input(images, model.config, device)
    raise UsageError(
        f"images are {images.dtype} of shape {tuple(images.shape)}; expected network inputs (N, C, H, W) in floating"
        " point, or for a classifier read from disk pixels uint8, (N, H, W) in grey and (N, H, W, 3) in colour"
    )


def _called(model: SavedClassifier | nn.Module, inputs: Tensor) -> Tensor:
    """Return the class (N,) int64 that the classifier calls; a bare network of two classes has the threshold .5."""
    net = model.model if isinstance(model, SavedClassifier) else model
    threshold = model.uncalibrated_threshold if isinstance(model, SavedClassifier) else 0.5
    chunks = inputs.split(max(1, PIXELS // inputs[0, 0].numel()))
    scores = predict_inputs(net, chunks, len(inputs), inputs.device)
    return torch.from_numpy(labels_of(scores, threshold)).to(inputs.device)


def _targets(model: SavedClassifier | nn.Module, inputs: Tensor, target: int | Sequence[int] | Array | None) -> Tensor:
    if target is None:
        return _called(model, inputs)
    net = model.model if isinstance(model, SavedClassifier) else model
    with torch.no_grad():
        logits = net(inputs[:1])
    last, wanted = (2 if logits.ndim == 1 else logits.shape[1]) - 1, np.asarray(target)
    if wanted.dtype.kind not in "iu" or wanted.min() < 0 or wanted.max() > last or wanted.size not in (1, len(inputs)):
        raise UsageError(f"the class to explain is {target}; expected a number from 0 to {last}, or one for each image")
    return torch.from_numpy(np.broadcast_to(wanted, (len(inputs),)).astype(np.int64)).to(inputs.device)


def _layer(net: nn.Module, inputs: Tensor, method: Method, name: str | None) -> MapLayer | None:
    if method.uses_layer:
        return choose_layer(net, inputs[:1], name)
    if name is not None:
        raise UsageError(f"--layer is {name!r}, but {method.name} uses no layer; leave out --layer")
    return None
