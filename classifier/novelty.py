"""How unlike its training data an image is, in the features that a classifier decides on.

The features are the input of the last linear layer. The distance is Mahalanobis's (Lee et al. 2018, arXiv:1807.03888)
under probabilistic PCA (Tipping & Bishop 1999): the largest principal directions of the training features have their
own variances, all others share one. Directions in which radiographs hardly differ are thereby the ones that count.
Plain Euclidean neighbours miss what this distance sees: of 26 photographs the nearest ten missed 14, a cat among them;
see docs/serve.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from balancer.core.sealed import DamagedFile

Array = np.ndarray
MOST = 1000  # images of a fold that are looked at, so that the cost of a training hardly grows
WIDEST = 1024  # features; beyond it, neighbouring ones are averaged
DIRECTIONS = 64  # with variances of their own
PERCENTILE = 99.0  # of the validation images' distances: the limit
FLOOR = 1e-6  # of the largest variance: what never varied in training may still vary a little
_KINDS = {
    "mean": torch.float32,
    "directions": torch.float32,
    "variances": torch.float32,
    "points": torch.float16,
    "labels": torch.uint8,
    "positions": torch.int32,
}


@dataclass(frozen=True)
class Novelty:
    """How far an image lies from the training data."""

    distance: float
    limit: float  # 99 of 100 validation images lie nearer
    nearest: tuple[int, ...]  # training images, rows of the reference, nearest first
    distances: tuple[float, ...]  # of these

    @property
    def is_unlike(self) -> bool:
        """Return whether the image lies farther off than 99 of 100 validation images."""
        return self.distance > self.limit


@dataclass(frozen=True)
class Reference:
    """The training data of a classifier, as its features: no pixels and no names."""

    mean: Array  # (F,)
    directions: Array  # (F, K) orthogonal, each divided by the SD of the training features along it
    variances: Array  # (K,) of the training features along each
    rest: float  # the variance along any other direction
    limit: float
    points: Array  # (n, K) training images along the directions
    labels: Array  # (n,) indices into the classes
    positions: Array  # (n,) in the data set

    def distances(self, features: Array) -> tuple[Array, Array]:
        """Return the distances (m,) of features (m, F) from the training data, and the images' points (m, K)."""
        centred = features.astype(np.float64) - self.mean
        points: Array = centred @ self.directions
        along = points**2
        rest = np.maximum((centred**2).sum(axis=1) - along @ self.variances, 0)
        return np.sqrt(along.sum(axis=1) + rest / self.rest), points

    def novelty(self, features: Array, neighbours: int = 5) -> Novelty:
        """Return how far one image lies from the training data, for its features (F,) or (1, F)."""
        distances, points = self.distances(features.reshape(1, -1))
        away = np.sqrt(((self.points - points) ** 2).sum(axis=1))
        nearest = np.argsort(away, kind="stable")[:neighbours]
        return Novelty(float(distances[0]), self.limit, tuple(nearest.tolist()), tuple(away[nearest].tolist()))

    def to_tensors(self) -> dict[str, Any]:
        """Return the reference as tensors and plain values, for a checkpoint."""
        tensors = {key: torch.from_numpy(np.asarray(getattr(self, key))).to(kind) for key, kind in _KINDS.items()}
        return {**tensors, "rest": self.rest, "limit": self.limit}


def from_tensors(values: Mapping[str, Any], classes: int, path: Path, remedy: str) -> Reference:
    """Return the reference that :meth:`Reference.to_tensors` gave.

    Raises:
        DamagedFile: a value is missing, of another type or shape, or not finite; the message names the key.
    """
    arrays = {}
    for key, kind in _KINDS.items():
        tensor = values.get(key)
        if not isinstance(tensor, Tensor) or tensor.dtype != kind or tensor.layout != torch.strided:
            raise DamagedFile(path, f"reference.{key}: expected a plain tensor of {kind}", remedy)
        if not bool(torch.isfinite(tensor).all()):
            raise DamagedFile(path, f"reference.{key}: it holds a number that is not finite", remedy)
        array = tensor.detach().cpu().numpy()
        arrays[key] = array if key in ("labels", "positions") else array.astype(np.float64)
    n, width, kept = (arrays[key].shape[0] if arrays[key].ndim else 0 for key in ("points", "mean", "variances"))
    shapes = {
        "mean": (width,),
        "directions": (width, kept),
        "variances": (kept,),
        "points": (n, kept),
        "labels": (n,),
        "positions": (n,),
    }
    for key, shape in shapes.items():
        if arrays[key].shape != shape or not arrays[key].size:
            raise DamagedFile(path, f"reference.{key}: shape {arrays[key].shape}, expected {shape}", remedy)
    if arrays["labels"].max() >= classes or arrays["positions"].min() < 0:
        raise DamagedFile(path, f"reference: a label is not one of {classes} classes, or a position below 0", remedy)
    for key in ("rest", "limit"):
        number = values.get(key)
        if not isinstance(number, float) or not 0 < number < np.inf:
            raise DamagedFile(path, f"reference.{key}: expected a number above 0", remedy)
    return Reference(**arrays, rest=values["rest"], limit=values["limit"])


@contextmanager
def penultimate(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the features (B, F) of every forward pass while the context lasts: the input of the last linear layer."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    collected: list[Tensor] = []

    def keep(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features = inputs[0].detach().float()
        if features.shape[1] > WIDEST:
            features = nn.functional.adaptive_avg_pool1d(features[:, None], WIDEST)[:, 0]
        collected.append(features.cpu())

    hook = last.register_forward_pre_hook(keep)
    try:
        yield collected
    finally:
        hook.remove()


def fit(train: Array, val: Array, labels: Array, positions: Array) -> Reference:
    """Return the reference of training features (n, F), with the limit that validation features (m, F) give.

    Args:
        train: features of training images.
        val: features of validation images.
        labels: (n,) of the training images.
        positions: (n,) of the training images in the data set.
    """
    train = train.astype(np.float64)
    mean = train.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(train.T, ddof=0).reshape(len(mean), -1))
    kept = min(DIRECTIONS, len(mean), max(len(train) // 2, 1))
    floor = max(FLOOR * variances[-1], FLOOR**2)
    largest = np.maximum(variances[::-1][:kept], floor)
    others = variances[::-1][kept:]
    rest = float(max(others.mean(), floor)) if len(others) else float(largest[-1])
    scaled = directions[:, ::-1][:, :kept] / np.sqrt(largest)
    unlimited = Reference(mean, scaled, largest, rest, 1.0, (train - mean) @ scaled, labels, positions)
    limit = float(np.percentile(unlimited.distances(val)[0], PERCENTILE))
    return replace(unlimited, limit=max(limit, FLOOR))
