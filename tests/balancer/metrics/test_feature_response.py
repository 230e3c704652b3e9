"""Features respond to everything that can be wrong with a set of images, the more the worse it is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import feature_response
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from torch.nn import functional

from balancer.core.seeding import derive_seed
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.split import patient_halves
from balancer.metrics import own_features
from balancer.metrics.feature_response import (
    DEGRADATIONS,
    HALVINGS,
    Degradation,
    Response,
    _chance,
    measure_response,
    unresponsive,
)
from balancer.metrics.features import FeatureNetwork, chest_xray

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def real(real_data: Path) -> Dataset:
    return load_dataset(DataConfig(path=str(real_data)))


@pytest.mark.realdata
@pytest.mark.nightly
def test_distances_rise_with_every_step_of_every_degradation(real: Dataset) -> None:
    for response in feature_response.responses(chest_xray(CPU), real):
        assert response.rises, response
        assert response.frechet_rises, response
        assert response.frechet[-1] > 3 * response.frechet[0], response


@pytest.mark.realdata
@pytest.mark.nightly
def test_the_shipped_network_passes_the_rule_for_networks_of_data_sets(real: Dataset) -> None:
    first, second = own_features.response_sides(real, own_features.training_images(real))
    responses = measure_response(chest_xray(CPU), first, second, CPU)
    assert [r.degradation for r in responses] == [*DEGRADATIONS]
    assert not list(unresponsive(responses)), responses


@pytest.mark.realdata
@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_the_recipe_gives_a_network_that_orders_degraded_sets_as_the_shipped_one_does(
    real: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of the steps of the recipe, on the chest set: five minutes on one core."""
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path))
    own, network = own_features.own_network(real, CPU, replace(own_features.RECIPE, steps=400))
    assert own.is_usable, own.response
    shipped = feature_response.responses(chest_xray(CPU), real, 300)
    for mine, theirs in zip(feature_response.responses(network, real, 300), shipped, strict=True):
        assert spearmanr(mine.frechet, theirs.frechet).statistic > 0.9, (mine, theirs)
        assert mine.frechet[-1] > 2 * mine.frechet[0], mine


@pytest.mark.realdata
def test_features_keep_the_class_and_the_variation_within_it(real: Dataset) -> None:
    facts = feature_response.facts(chest_xray(CPU), real)
    probe, dimensions, _, seen_unseen, seen_seen = facts.values()
    assert probe > 0.98
    assert dimensions > 25  # class supervision alone leaves a handful
    assert 0.8 < seen_unseen / seen_seen < 1.25  # images of its own training are measured like others


def test_fewer_images_are_drawn_from_both_whole_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first by name, which come from other sources than the rest; all of a half where it is not cut."""
    groups = [str(i) for i in range(200)]
    data: Any = SimpleNamespace(
        indices=lambda _fold, label: np.arange(200) + 200 * label,
        groups=groups * 2,
        images=np.broadcast_to((np.arange(400) % 200)[:, None, None], (400, 2, 2)).astype(np.uint8),
    )
    seen: list[np.ndarray] = []

    def noting(_network: object, images: np.ndarray, *_: object) -> np.ndarray:
        seen.append(images[:, 0, 0])
        return images[:, 0].astype(float)

    monkeypatch.setattr(feature_response, "extract", noting)
    nothing = Degradation("", (0,), lambda images, _: images)
    monkeypatch.setattr(feature_response, "degradations", lambda _: {"none": nothing})
    halves = patient_halves(groups)
    for limit in (40, None):
        seen.clear()
        feature_response.responses(chest_xray(CPU), data, limit)
        for half, shown in zip(halves, seen, strict=True):
            assert len(set(shown)) == (limit or 100)
            assert set(shown) <= set(half)
            assert np.histogram(np.searchsorted(half, shown), bins=4, range=(0, 100))[0].min() >= 5


@pytest.mark.parametrize("shape", [(6, 32, 32), (6, 32, 32, 3)])
def test_degradations_leave_images_alone_at_level_0_and_change_them_above(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).uniform(0, 255, shape)
    for name, degradation in {**DEGRADATIONS, **feature_response.degradations(images[::-1])}.items():
        levels, degrade = degradation.levels, degradation.degrade
        assert levels[0] == 0
        np.testing.assert_allclose(degrade(images, 0), images, atol=1e-9, err_msg=name)
        worse = degrade(images, levels[-1])
        assert worse.shape == shape
        assert not np.allclose(worse, images), name


def test_colour_is_damaged_as_three_grey_images_are() -> None:
    images = np.random.default_rng(0).uniform(0, 255, (5, 24, 24, 3))
    for name in ("blur", "checkerboard", "elastic", "mode dropping"):
        degrade, level = DEGRADATIONS[name].degrade, DEGRADATIONS[name].levels[-1]
        channels = [degrade(images[..., c], level) for c in range(3)]
        np.testing.assert_allclose(degrade(images, level), np.stack(channels, -1), atol=1e-9, err_msg=name)


def test_mode_dropping_keeps_the_count_and_drops_distinct_images() -> None:
    images = np.arange(40.0)[:, None, None] * np.ones((40, 4, 4))
    kept = DEGRADATIONS["mode dropping"].degrade(images, 0.75)
    assert len(kept) == 40
    assert len(np.unique(kept[:, 0, 0])) == 10


# --- which networks respond


def smooth(n: int, seed: int) -> np.ndarray:
    """Images (n, 64, 64) uint8 of blobs, no two alike."""
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.normal(size=(n, 64, 64)), (0, 3, 3))
    contrast = rng.uniform(30, 60, (n, 1, 1))
    return np.clip(128 + contrast * fields / fields.std(), 0, 255).astype(np.uint8)


def network(module: Callable[[torch.Tensor], torch.Tensor], dim: int) -> FeatureNetwork:
    return FeatureNetwork("n", dim, "1", module, 64)


def means(batch: torch.Tensor) -> torch.Tensor:
    """Mean levels of the quarters of an image: blind to all that keeps them."""
    return functional.avg_pool2d(batch.float(), 32).flatten(1)


def test_a_network_that_sees_mean_levels_alone_does_not_respond() -> None:
    responses = measure_response(network(means, 4), smooth(40, 0), smooth(40, 1), CPU)
    assert {"blur", "noise", "checkerboard"} <= set(unresponsive(responses))


def test_a_network_that_sees_nothing_does_not_respond() -> None:
    blind = network(lambda batch: torch.zeros(len(batch), 3), 3)
    assert list(unresponsive(measure_response(blind, smooth(40, 0), smooth(40, 1), CPU))) == [*DEGRADATIONS]


def test_a_mild_damage_of_the_stronger_set_counts_as_damage() -> None:
    """The first set has 30 % more contrast, so a little less of it would bring the two sets together."""
    first, second = smooth(60, 0), smooth(60, 1)
    stronger = np.clip(128 + 1.3 * (first.astype(float) - 128), 0, 255).astype(np.uint8)

    def contrast(batch: torch.Tensor) -> torch.Tensor:
        return torch.stack([batch.float().std(dim=(1, 2, 3)), batch.float().mean(dim=(1, 2, 3))], 1)

    seen = {r.degradation: r for r in measure_response(network(contrast, 2), stronger, second, CPU)}
    assert (np.diff(seen["contrast"].frechet) > 0).all()


@pytest.mark.parametrize(
    ("kid", "rises"),
    [
        ((0, 0.1, 0.2), True),
        ((-0.1, 0, 0.1), True),
        ((0, 0.2, 0.2), False),  # one step does not rise
        ((0.3, 0.2, 0.6), False),  # one step falls
        ((0.5, 0.55, 0.6), False),  # rises by as much as chance alone gives
    ],
)
def test_the_rule(kid: tuple[float, ...], rises: bool) -> None:
    """The Fréchet distance, which falls here, decides nothing."""
    response = Response("blur", (0, 1, 2), (3, 2, 1), kid, chance=0.11)
    assert (response.rises, response.frechet_rises) == (rises, False)
    assert list(unresponsive([response])) == ([] if rises else ["blur"])


def test_chance_is_the_largest_of_random_halvings() -> None:
    """Held against the unbiased MMD^2 of the definition; and damages that do nothing stay below chance."""
    features = np.random.default_rng(0).normal(size=(60, 5))

    def of_definition(x: np.ndarray, y: np.ndarray) -> float:
        kernel = [[((a @ b) / 5 + 1) ** 3 for b in np.concatenate([x, y])] for a in np.concatenate([x, y])]
        k, n = np.array(kernel), len(x)
        within = (k[:n, :n].sum() - np.trace(k[:n, :n]) + k[n:, n:].sum() - np.trace(k[n:, n:])) / (n * (n - 1))
        return float(within - 2 * k[:n, n:].mean())

    rng = np.random.default_rng(derive_seed(0, "halvings"))
    orders = [rng.permutation(60) for _ in range(HALVINGS)]
    expected = max(of_definition(features[order[:30]], features[order[30:]]) for order in orders)
    assert _chance(features) == pytest.approx(expected)
