"""Every public figure given nothing, one image, constant images, NaN or infinity: a clear error, or a finite value."""

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch

from balancer.core.errors import BalancerError
from balancer.metrics import classification, resampling, spectrum, two_sample
from balancer.metrics.features import extract, random_conv
from balancer.metrics.frechet import frechet_distance
from balancer.metrics.kernel import kernel_chance, kernel_distance
from balancer.metrics.manifold import manifold_overlap, recall_chance
from balancer.metrics.memorization import memorization

Array = np.ndarray
CPU = torch.device("cpu")
NETWORK = random_conv(CPU)
ON_FEATURES: dict[str, Callable[[Array], Any]] = {
    "frechet_distance": lambda x: frechet_distance(SOUND, x),
    "kernel_distance": lambda x: kernel_distance(SOUND, x, 2, 2, 0),
    "kernel_chance": lambda x: kernel_chance(SOUND, x, 0),
    "manifold_overlap": lambda x: manifold_overlap(SOUND, x),
    "recall_chance": lambda x: recall_chance(SOUND, x, 0),
    "logistic_two_sample": lambda x: two_sample.logistic_two_sample(SOUND, x, np.arange(len(SOUND)), 0),
}
ON_IMAGES: dict[str, Callable[[Array], Any]] = {
    "memorization": lambda x: memorization(IMAGES, x),
    "compare_spectra": lambda x: spectrum.compare_spectra(IMAGES, x, IMAGES),
    "grid_peaks": spectrum.grid_peaks,
    "radial_spectrum": spectrum.radial_spectrum,
    "extract": lambda x: extract(NETWORK, x, CPU, "images", show=False),
    "pixel_two_sample": lambda x: two_sample.pixel_two_sample(IMAGES, x, np.arange(len(IMAGES)), CPU, 0, steps=1),
}
LABELS = np.arange(20) % 2
ONCE = np.ones((1, 20))
ON_SCORES: dict[str, Callable[[Array], Any]] = {
    "weighted_auroc": lambda s: classification.weighted_auroc(LABELS[: len(s)], s, ONCE[:, : len(s)]),
    "weighted_average_precision": lambda s: classification.weighted_average_precision(
        LABELS[: len(s)], s, ONCE[:, : len(s)]
    ),
    "weighted_calibration": lambda s: classification.weighted_calibration(LABELS[: len(s)], s, ONCE[:, : len(s)]),
    "threshold_sweep": lambda s: classification.threshold_sweep(
        LABELS[: len(s)], s, np.array([0.5]), ONCE[:, : len(s)]
    ),
    "weighted_decisions": lambda s: classification.weighted_decisions(
        LABELS[: len(s)], s >= 0.5 if np.isfinite(s).all() else s, ONCE[:, : len(s)]
    ),
    "fold_auroc": lambda s: two_sample.fold_auroc(
        s, LABELS[: len(s)], np.arange(len(s)) // 2 % 2, np.arange(len(s)), 0
    ),
    "roc_at": lambda s: classification.roc_at(np.array([0.5]), LABELS[: len(s)], s, ONCE[:, : len(s)]),
    "precision_at": lambda s: classification.precision_at(np.array([0.5]), LABELS[: len(s)], s, ONCE[:, : len(s)]),
    "falling_scores": classification.falling_scores,
    "auroc_interval": lambda s: resampling.auroc_interval(
        LABELS[: len(s)] == 1, s, [str(i) for i in range(len(s))], 50, 0
    ),
}
SOUND = np.random.default_rng(0).normal(size=(20, 4))
IMAGES = np.random.default_rng(1).integers(0, 256, (20, 16, 16)).astype(np.uint8)


def spoilt(value: float) -> Array:
    features = SOUND[::-1].copy()
    features[3, 1] = value
    return features


def numbers_in(result: Any) -> list[float]:
    if is_dataclass(result) and not isinstance(result, type):
        result = asdict(result)
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple):
        return [n for part in result for n in numbers_in(part)]
    if isinstance(result, str) or result is None:
        return []
    return [float(n) for n in np.asarray(result, dtype=float).ravel()]


def clear_or_finite(figure: Callable[[Array], Any], value: Array, must_refuse: bool) -> None:
    result = None
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        if must_refuse:
            with pytest.raises(BalancerError, match=r"^[^\n]+$"):
                figure(value)
            return
        with contextlib.suppress(BalancerError):
            result = figure(value)
    assert np.isfinite(numbers_in(result)).all(), result


@pytest.mark.parametrize("name", sorted(ON_FEATURES))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite(name: str, value: float) -> None:
    clear_or_finite(ON_FEATURES[name], spoilt(value), must_refuse=True)


@pytest.mark.parametrize("name", sorted(ON_FEATURES))
@pytest.mark.parametrize("n", [0, 1])
def test_no_features_and_those_of_one_image(name: str, n: int) -> None:
    clear_or_finite(ON_FEATURES[name], SOUND[:n], must_refuse=True)


@pytest.mark.parametrize("name", sorted(ON_FEATURES))
def test_constant_features(name: str) -> None:
    clear_or_finite(ON_FEATURES[name], np.ones_like(SOUND), must_refuse=False)


@pytest.mark.parametrize("name", sorted(ON_IMAGES))
def test_images(name: str) -> None:
    figure = ON_IMAGES[name]
    clear_or_finite(figure, IMAGES[:0], must_refuse=name != "extract")  # a report may need no features of a side
    clear_or_finite(figure, np.full(IMAGES.shape, np.nan), must_refuse=True)
    clear_or_finite(figure, IMAGES[0], must_refuse=True)
    clear_or_finite(figure, IMAGES[:1], must_refuse=False)
    clear_or_finite(figure, np.zeros_like(IMAGES), must_refuse=False)


@pytest.mark.parametrize("name", sorted(ON_SCORES))
def test_scores(name: str) -> None:
    figure, scores = ON_SCORES[name], np.linspace(0, 1, 20)
    clear_or_finite(figure, scores, must_refuse=False)
    clear_or_finite(figure, np.full(20, 0.5), must_refuse=False)
    for value in (np.nan, np.inf):
        clear_or_finite(figure, np.append(scores[1:], value), must_refuse=True)
    clear_or_finite(figure, scores[:0], must_refuse=name != "auroc_interval")  # None there, as without a class


@pytest.mark.parametrize(
    ("figure", "missing"),
    [
        (lambda y, s, w: classification.weighted_average_precision(y, s, w), 1),
        (lambda y, s, w: classification.threshold_sweep(y, s, np.array([0.5]), w), 0),
        (lambda y, s, w: classification.roc_at(np.array([0.5]), y, s, w), 1),
        (lambda y, s, w: classification.precision_at(np.array([0.5]), y, s, w), 0),
        (lambda y, s, w: two_sample.fold_auroc(s, y, np.zeros(20, int), np.arange(20), 0), 0),
    ],
)
def test_a_class_that_is_missing(figure: Callable[[Array, Array, Array], Any], missing: int) -> None:
    labels = np.full(20, 1 - missing)
    clear_or_finite(lambda s: figure(labels, s, ONCE), np.linspace(0, 1, 20), must_refuse=True)
