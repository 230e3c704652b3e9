"""What is measured while a GAN trains: on which images, and against other ways of computing it."""

from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from gan_helpers import CPU, config, dataset, pixel_features
from torch import Tensor, nn

from balancer.data.dataset import Dataset
from balancer.data.split import patient_halves
from balancer.gan import monitor as monitor_module
from balancer.gan.monitor import Monitor, generate, measure, open_monitor
from balancer.metrics.features import FeatureNetwork
from balancer.reporting.grids import to_uint8

pytestmark = pytest.mark.usefixtures("cheap_features")


class Playback(nn.Module):
    """A generator that knows its images: latent i, whose first number is i, gives image i."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__()
        self.images = torch.from_numpy(images)[:, None].float() / 127.5 - 1

    def forward(self, z: Tensor) -> Tensor:
        return self.images[z[:, 0].long()]


def features_of(images: np.ndarray) -> np.ndarray:
    return pixel_features(CPU).module(torch.from_numpy(images)[:, None]).numpy().astype(np.float64)


def numbered(monitor: Monitor, n: int) -> Monitor:
    return replace(monitor, z=torch.arange(n).float()[:, None])


def opened(data: Dataset, **changes: Any) -> Monitor:
    monitor = open_monitor(config(**changes), data, 0, CPU)
    assert monitor is not None
    return monitor


def patients(n: int = 40, seed: int = 0) -> Dataset:
    """``n`` training images of the minority, of which up to four belong to one patient."""
    data = dataset(minority=n)
    groups = [f"{g.rsplit('/', 1)[0]}-{i // (1 + i % 4)}" for i, g in enumerate(data.groups)]
    images = np.random.default_rng(seed).integers(0, 256, data.images.shape, dtype=np.uint8)
    return replace(data, groups=groups, images=images)


def test_the_reference_is_half_the_training_folds_patients() -> None:
    """All of a half that is no larger than the other, in the order of the data."""
    data = patients()
    positions = data.indices("train", 0)
    first, second = patient_halves([data.groups[i] for i in positions])
    assert len(first) <= len(second)
    monitor = opened(data)
    np.testing.assert_allclose(monitor.real, features_of(data.images[positions[first]]))
    assert monitor.z.shape == (len(first), 5)
    assert not {data.groups[positions[i]] for i in first} & {data.groups[positions[i]] for i in second}


def test_validation_and_test_images_do_not_matter() -> None:
    """Nor the other class: no figure that chooses a snapshot has seen them."""
    data = patients()
    before = opened(data)
    data.images[np.setdiff1d(np.arange(len(data.images)), data.indices("train", 0))] = 7
    after = opened(data)
    assert np.array_equal(before.real, after.real)
    assert (before.kid_real_baseline, before.frechet_real_baseline) == (
        after.kid_real_baseline,
        after.frechet_real_baseline,
    )


@pytest.mark.parametrize(("asked", "n"), [(2, 2), (7, 7), (1000, 20)])
def test_counts_are_equal_and_bounded(asked: int, n: int) -> None:
    monitor = opened(dataset(minority=40), snapshot_images=asked)
    assert len(monitor.real) == len(monitor.z) == n


def test_fewer_images_are_drawn_from_the_whole_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names sort by where images come from: the first of them would be a reference of other sources than the fold."""
    seen: list[np.ndarray] = []

    def noting(network: FeatureNetwork, images: np.ndarray, *rest: Any, **more: Any) -> np.ndarray:
        seen.append(images[:, 0, 0])
        return extract(network, images, *rest, **more)

    extract = monitor_module.extract
    data = dataset(minority=200)
    data.images[:200] = np.arange(200)[:, None, None]
    positions = data.indices("train", 0)
    halves = patient_halves([data.groups[i] for i in positions])
    monkeypatch.setattr(monitor_module, "extract", noting)
    for seed in (0, 1):
        opened(data, snapshot_images=40, seed=seed)
    assert [len(shown) for shown in seen] == [40] * 4
    for half, shown, again in zip(halves, seen[:2], seen[2:], strict=True):
        assert set(shown) <= set(positions[half])
        assert len(set(shown)) == 40
        quarters = np.histogram(np.searchsorted(half, shown), bins=4, range=(0, 100))[0]
        assert quarters.min() >= 5, "from all along the names"
        assert np.array_equal(shown, again), "whatever the seed: figures of two seeds are compared"
    assert not np.array_equal(np.searchsorted(halves[0], seen[0]), np.searchsorted(halves[1], seen[1]))


def test_latents_are_the_same_in_every_run_of_a_seed() -> None:
    first, again, other = (opened(dataset(), seed=seed).z for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("minority", [0, 1, 2, 3])
def test_too_few_images(minority: int) -> None:
    """Two halves of two images are the least that has a variance."""
    assert open_monitor(config(), dataset(minority=minority), 0, CPU) is None
    assert open_monitor(config(), dataset(minority=4), 0, CPU) is not None


def test_one_patient_has_no_other_half() -> None:
    data = replace(dataset(), groups=["one"] * len(dataset().groups))
    assert open_monitor(config(), data, 0, CPU) is None


def kid_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """Bińkowski et al. 2018, eq. 4: the unbiased MMD^2 with the kernel (x'y / d + 1)^3, pair by pair."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    n = len(x)
    within = sum(kernel(a[i], a[j]) for a in (x, y) for i in range(n) for j in range(n) if i != j)
    between = sum(kernel(a, b) for a in x for b in y)
    return within / (n * (n - 1)) - 2 * between / n**2


def frechet_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root))


def test_figures_against_their_definitions() -> None:
    data = dataset(minority=60)  # 30 against 16 features: covariances of full rank
    monitor = opened(data)
    n = len(monitor.z)
    fake = np.random.default_rng(1).integers(0, 200, (n, 16, 16), dtype=np.uint8)
    quality = measure(numbered(monitor, n), Playback(fake), CPU)
    x, y = monitor.real, features_of(fake)
    assert quality.kid == pytest.approx(kid_by_hand(x, y), rel=1e-6)
    assert quality.frechet == pytest.approx(frechet_by_hand(x, y), rel=1e-4)
    spread = [np.mean(np.sum((a - a.mean(0)) ** 2, axis=1)) for a in (y, x)]
    assert quality.diversity == pytest.approx(spread[0] / spread[1])
    positions = data.indices("train", 0)
    _, second = patient_halves([data.groups[i] for i in positions])
    assert len(second) == n
    other = features_of(data.images[positions[second]])
    assert quality.kid_real_baseline == pytest.approx(kid_by_hand(x, other), rel=1e-6)
    assert quality.frechet_real_baseline == pytest.approx(frechet_by_hand(x, other), rel=1e-4)
    assert all(type(value) is float for value in astuple(quality)), "as a checkpoint can hold them"


def test_what_the_figures_say_of_copies_and_of_a_collapsed_generator() -> None:
    data = dataset(minority=60)
    monitor = opened(data)
    n, positions = len(monitor.z), data.indices("train", 0)
    first, _ = patient_halves([data.groups[i] for i in positions])
    same = measure(numbered(monitor, n), Playback(data.images[positions[first]]), CPU)
    assert same.frechet == pytest.approx(0, abs=1e-4 * same.frechet_real_baseline)
    assert same.kid < same.kid_real_baseline
    assert same.diversity == pytest.approx(1)
    one = measure(numbered(monitor, n), Playback(np.repeat(data.images[:1], n, 0)), CPU)
    assert one.diversity == pytest.approx(0, abs=1e-9)
    assert one.frechet > 2 * one.frechet_real_baseline
    assert one.kid > 2 * abs(one.kid_real_baseline)


def test_real_images_that_are_all_alike() -> None:
    """Nothing to compare a variance with, and figures all the same, finite ones."""
    data = dataset()
    data.images[:] = 9
    monitor = opened(data)
    n = len(monitor.z)
    images = np.random.default_rng(0).integers(0, 256, (n, 16, 16), dtype=np.uint8)
    figures = measure(numbered(monitor, n), Playback(images), CPU)
    assert np.isfinite(astuple(figures)).all(), figures
    assert figures.diversity == 1
    assert figures.frechet > figures.frechet_real_baseline == pytest.approx(0, abs=1e-6)


def test_images_are_measured_as_they_are_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight-bit grey levels, all of them, in order, in chunks that change nothing."""
    seen: list[np.ndarray] = []

    def noting(network: FeatureNetwork, images: np.ndarray, *rest: Any, **more: Any) -> np.ndarray:
        seen.append(images)
        return extract(network, images, *rest, **more)

    extract = monitor_module.extract
    monitor = opened(dataset(minority=300))
    images = np.random.default_rng(2).integers(0, 256, (len(monitor.z), 16, 16), dtype=np.uint8)
    monkeypatch.setattr(monitor_module, "extract", noting)
    measure(numbered(monitor, len(images)), Playback(images), CPU)
    assert len(images) > 2 * monitor_module.CHUNK
    assert np.array_equal(seen[0], images)


def test_generate() -> None:
    """Evaluation mode, no gradients, float32, within the range."""
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4)), nn.BatchNorm2d(1)).train()
    z = torch.randn(6, 3)
    whole = generate(G, z)
    assert not G.training
    assert not whole.requires_grad
    assert whole.dtype == torch.float32
    assert whole.abs().max() <= 1
    torch.testing.assert_close(torch.cat([generate(G, one) for one in z.split(1)]), whole)
    assert G[2].num_batches_tracked == 0
    assert generate(G, 100 * z).abs().max() == 1, "clamped"
    assert to_uint8(whole).shape == (6, 4, 4)
