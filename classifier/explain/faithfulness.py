"""Whether heat maps mean something: do they rank pixels better than chance, and do they depend on the weights?

Two checks, each with a verdict by a stated test:

- Deletion and insertion (Petsiuk et al. 2018, arXiv:1806.07421). Pixels give way to the image's mean grey, the
  brightest of the map first; or they appear on mean grey in the same order. The probability of the explained class
  should fall fast, or rise fast. The reference is the same map laid elsewhere: mirrored, and shifted at random around
  the edges. Such a random map is as smooth and as concentrated, so that only the place can make the difference. The
  second reference is the maps of other images: radiographs are alike, so a map may do better than random on any.
- Randomised weights (Adebayo et al. 2018, arXiv:1810.03292). From the output down, layers get the weights of an
  untrained network. A map that stays as it was shows the image, not the network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from balancer.core.progress import bar
from balancer.core.seeding import derive_seed
from balancer.metrics.resampling import RESAMPLES, Groups, resample_groups
from balancer.reporting.numbers import bounds, short, signed
from classifier.analysis.statistics import crossed_estimate
from classifier.explain.heatmaps import HeatMaps, relevance_of, shown
from classifier.explain.methods import METHODS, PIXELS, mean_image
from classifier.explain.similarity import rank_correlation, ssim, unit_ranks

Array = np.ndarray
CHECKED = 32  # images of deletion and insertion
STEPS = 10  # points of a curve after the first
RANDOM_MAPS = 3  # for each image
OTHER_MAPS = 2  # of other images, for each image
FEWEST_IMAGES = 10  # fewer give curves, but no verdict
DRAWS = 5  # untrained networks
ALIKE = 0.5  # rank correlation: maps that agree more show the image rather than the weights


@dataclass(frozen=True)
class Interval:
    """A mean over images with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def bounds(self) -> str:
        """Return the interval in brackets."""
        return bounds(self.low, self.high)

    @property
    def text(self) -> str:
        """Return ``.42 [.31, .53]``."""
        return f"{short(self.mean)} {self.bounds}"

    @property
    def signed_text(self) -> str:
        """Return ``+.042 [.031, .053]``, of a difference."""
        return f"{signed(self.mean)} {self.bounds}"

    @classmethod
    def of(cls, values: Array, groups: Groups | None = None, limit: float | None = None) -> Interval:
        """Return the mean of values (n,), or (n, K) of K draws, with an interval over images and over draws.

        Resamples of images give the images' part of the variance; see
        :func:`~classifier.analysis.statistics.crossed_estimate`.

        Args:
            values: one figure for each image and draw.
            groups: patient (n,) of each image, whose images stay together; None: every image by itself.
            limit: the largest absolute value that is possible.
        """
        values = values.reshape(len(values), -1)
        units = np.arange(len(values)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        if len(np.unique(units)) < 2:
            mean = float(values.mean())
            return cls(mean, -np.inf if limit is None else -limit, np.inf if limit is None else limit)
        weights = resample_groups(units, RESAMPLES, np.random.default_rng(derive_seed(0, "explain")))
        means = np.concatenate([np.ones((1, len(values))), weights / weights.sum(axis=1, keepdims=True) * len(values)])
        estimate = crossed_estimate((means @ values / len(values))[:, :, None], len(np.unique(units)), limit=limit)
        return cls(estimate.value, estimate.low, estimate.high)


@dataclass(frozen=True)
class Curve:
    """The probability of the explained class while pixels go or come, and the area below it."""

    maps: Array  # (STEPS + 1,), mean over images, pixels in the order of the maps
    random: Array  # the same, pixels in the order of random maps
    others: Array  # the same, pixels in the order of the maps of other images
    area: Interval
    random_area: Interval
    gain: Interval  # of the area, over random maps; positive is better: for deletion the area below them
    gain_over_others: Interval  # the same over the maps of other images

    @property
    def is_better(self) -> bool:
        """Return whether the maps do better than random ones: the interval of the gain lies above 0."""
        return self.gain.low > 0

    @property
    def is_worse(self) -> bool:
        """Return whether the maps do worse than random ones: the interval of the gain lies below 0."""
        return self.gain.high < 0


@dataclass(frozen=True)
class PixelTest:
    """Deletion and insertion."""

    n: int
    shares: Array  # (STEPS + 1,) of the pixels
    deletion: Curve
    insertion: Curve

    @property
    def verdict(self) -> str:
        """Return ``too few``, ``better``, ``partly``, ``worse`` or ``no better``.

        The maps are better if they are better in deletion and in insertion. Each has its own 95 % interval. Since both
        must hold, the two tests need no correction.
        """
        curves = (self.deletion, self.insertion)
        if self.n < FEWEST_IMAGES:
            return "too few"
        if all(curve.is_better for curve in curves):
            return "better"
        if any(curve.is_better for curve in curves):
            return "partly"
        return "worse" if all(curve.is_worse for curve in curves) else "no better"

    @property
    def is_specific(self) -> bool:
        """Return whether the maps do better than those of other images, in deletion and in insertion."""
        return all(curve.gain_over_others.low > 0 for curve in (self.deletion, self.insertion))


@dataclass(frozen=True)
class Stage:
    """A stage of the cascade: everything from ``layer`` to the output has the weights of an untrained network."""

    layer: str
    randomised: int  # layers
    correlation: Interval  # Spearman's, with the trained network's maps
    ssim: Interval
    empty: float  # share of the maps without any evidence


@dataclass(frozen=True)
class WeightTest:
    """The cascade of randomised weights, from the output down."""

    n: int  # images whose maps show any evidence
    draws: int
    layers: int
    stages: tuple[Stage, ...]

    @property
    def verdict(self) -> str:
        """Return ``too few``, ``depend``, ``do not depend`` or ``not settled``, by the last stage: no trained weight.

        The maps depend on the weights if their rank correlation with maps of untrained networks lies below
        :data:`ALIKE`, interval and all. They do not if it lies above.
        """
        last = self.stages[-1].correlation
        if self.n < FEWEST_IMAGES:
            return "too few"
        return "depend" if last.high < ALIKE else "do not depend" if last.low > ALIKE else "not settled"


def pixel_order(relevance: Array, rng: np.random.Generator) -> Array:
    """Return the rank (N, H, W) of each pixel in its map, 0 for the most relevant; ties are broken by chance."""
    flat = relevance.reshape(len(relevance), -1)
    chance = rng.random(flat.shape)
    order = np.lexsort((chance, -flat), axis=1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(flat.shape[1]), flat.shape), axis=1)
    return ranks.reshape(relevance.shape)


def moved_maps(relevance: Array, rng: np.random.Generator) -> Array:
    """Return maps (N, H, W) as random ones: each mirrored or not, and shifted at random around the edges."""
    moved = []
    for single in relevance:
        turned = single[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
        moved.append(np.roll(turned, (rng.integers(single.shape[0]), rng.integers(single.shape[1])), axis=(0, 1)))
    return np.stack(moved)


def maps_of_others(relevance: Array, target: Array, step: int) -> Array:
    """Return for each image the map of another one, for the same class; its own where no other image has this class.

    Args:
        relevance: maps (N, H, W).
        target: the class (N,) that each map speaks for.
        step: from 1 to OTHER_MAPS. Images far apart are taken, since neighbours in a folder may be of one patient.
    """
    other = np.arange(len(target))
    for label in np.unique(target):
        alike = np.flatnonzero(target == label)
        other[alike] = np.roll(alike, max(1, step * len(alike) // (OTHER_MAPS + 1)))
    swapped: Array = relevance[other]
    return swapped


def deletion_and_insertion(
    model: nn.Module, images: Tensor, heat: HeatMaps, groups: Groups | None = None, seed: int = 0
) -> PixelTest:
    """Measure deletion and insertion against random maps, and against maps of other images.

    Args:
        model: the network, in evaluation mode.
        images: network inputs (N, C, H, W) on the network's device.
        heat: their maps.
        groups: patient (N,) of each image; None: every image by itself.
        seed: of the random maps.
    """
    rng = np.random.default_rng(derive_seed(seed, "random maps"))
    orders = [heat.relevance, *(moved_maps(heat.relevance, rng) for _ in range(RANDOM_MAPS))]
    orders += [maps_of_others(heat.relevance, heat.target, step) for step in range(1, OTHER_MAPS + 1)]
    curves = np.empty((2, len(orders), len(images), STEPS + 1))  # deletion and insertion
    target = torch.from_numpy(heat.target).to(images.device)
    nothing = torch.zeros_like(images[:, 0], dtype=torch.bool)
    shown_all, hidden_all = (_probabilities(model, images, covered, target) for covered in (nothing, ~nothing))
    curves[0, :, :, 0] = curves[1, :, :, STEPS] = shown_all
    curves[1, :, :, 0] = curves[0, :, :, STEPS] = hidden_all
    with bar(len(orders), "deletion and insertion", "curve") as progress:
        for k, relevance in enumerate(orders):
            ranks = torch.from_numpy(pixel_order(relevance, rng)).to(images.device)
            for step in range(1, STEPS):
                first = ranks < round(step * relevance[0].size / STEPS)
                curves[0, k, :, step] = _probabilities(model, images, first, target)
                curves[1, k, :, step] = _probabilities(model, images, ~first, target)
            progress.update()
    deletion, insertion = (_curve(of_kind, sign, groups) for of_kind, sign in zip(curves, (-1, 1), strict=True))
    return PixelTest(len(images), np.linspace(0, 1, STEPS + 1), deletion, insertion)


def _curve(curves: Array, sign: int, groups: Groups | None) -> Curve:
    """Compare curves (K, N, STEPS + 1): those of the maps, of RANDOM_MAPS random maps, and of others' maps."""
    areas = (curves[:, :, 1:] + curves[:, :, :-1]).mean(axis=2) / 2
    random, others = slice(1, 1 + RANDOM_MAPS), slice(1 + RANDOM_MAPS, None)
    own, by_chance, of_others = areas[0], areas[random].mean(axis=0), areas[others].mean(axis=0)
    mean = curves.mean(axis=1)
    compared = (own, by_chance, sign * (own - by_chance), sign * (own - of_others))
    intervals = (Interval.of(values, groups, 1.0) for values in compared)
    return Curve(mean[0], mean[random].mean(axis=0), mean[others].mean(axis=0), *intervals)


@torch.no_grad()
def _probabilities(model: nn.Module, images: Tensor, covered: Tensor, target: Tensor) -> Array:
    """Return the probability (N,) of each image's class once covered pixels (N, H, W) are mean grey."""
    size = max(1, PIXELS // images[0, 0].numel())
    parts = []
    for i in range(0, len(images), size):
        chunk, classes = images[i : i + size], target[i : i + size].cpu()
        logits = model(torch.where(covered[i : i + size, None], mean_image(chunk), chunk)).cpu().double()
        if logits.ndim == 1:
            parts.append(torch.where(classes == 1, logits, -logits).sigmoid())
        else:
            parts.append(logits.softmax(dim=1).gather(1, classes[:, None])[:, 0])
    together: Array = torch.cat(parts).numpy()
    return together


def randomise_weights(
    model: nn.Module,
    untrained: Callable[[int], nn.Module],
    images: Tensor,
    heat: HeatMaps,
    groups: Groups | None = None,
) -> WeightTest:
    """Measure how alike the maps stay while layers, from the output down, lose what they have learnt.

    Args:
        model: the trained network.
        untrained: returns a network of the same build with the initial weights of a seed.
        images: network inputs (N, C, H, W) on the network's device.
        heat: the trained network's maps.
        groups: patient (N,) of each image; None: every image by itself.
    """
    names = [name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None]
    names.reverse()
    method = METHODS[heat.method]
    counts = sorted({round(c) for c in np.linspace(1, len(names), method.stages)})
    target = torch.from_numpy(heat.target).to(images.device)
    trained_ranks = unit_ranks(heat.maps)
    correlations, ssims, empty = np.empty((3, len(counts), len(images), DRAWS))
    with bar(len(counts) * DRAWS, "randomised weights", "network") as progress:
        for draw in range(DRAWS):
            network, source = copy.deepcopy(model), dict(untrained(draw).named_modules())
            for step, count in enumerate(counts):
                for name in names[:count]:
                    _take_own_state(network.get_submodule(name), source[name])
                place = network.get_submodule(heat.layer) if heat.layer else network
                relevance = np.nan_to_num(relevance_of(method, network, images, target, place))  # it may overflow
                maps = shown(relevance, method.white)
                correlations[step, :, draw] = rank_correlation(trained_ranks, unit_ranks(maps))
                ssims[step, :, draw] = ssim(heat.maps, maps)
                empty[step, :, draw] = maps.max(axis=(1, 2)) == 0
                progress.update()
    stages = tuple(
        Stage(
            names[count - 1],
            count,
            Interval.of(correlations[step], groups, 1.0),
            Interval.of(ssims[step], groups, 1.0),
            float(empty[step].mean()),
        )
        for step, count in enumerate(counts)
    )
    return WeightTest(int((~heat.empty).sum()), DRAWS, len(names), stages)


def _take_own_state(module: nn.Module, source: nn.Module) -> None:
    """Copy the parameters and statistics that a module holds itself, not those of the modules inside it."""
    with torch.no_grad():
        fresh = {**dict(source.named_parameters(recurse=False)), **dict(source.named_buffers(recurse=False))}
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            tensor.copy_(fresh[name])
