"""The checks of heat maps: maps that are known to be right, random, inverted, or blind to the weights."""

import dataclasses
from collections.abc import Callable

import nets
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from classifier.explain import HeatMaps, faithfulness
from classifier.explain.heatmaps import shown
from classifier.explain.methods import METHODS
from classifier.explain.similarity import rank_correlation, ssim, unit_ranks

SIDE = 12
PLACE = np.zeros((SIDE, SIDE))
PLACE[2:5, 3:6] = 1.0  # what the network looks at


def heat_of(relevance: np.ndarray, method: str = "occlusion") -> HeatMaps:
    relevance = relevance.astype(np.float32)
    return HeatMaps(shown(relevance), method, None, np.ones(len(relevance), np.int64), relevance, (SIDE, SIDE))


def smooth(n: int, seed: int) -> np.ndarray:
    cells = np.random.default_rng(seed).random((n, 4, 4))
    return nets.enlarged(cells, SIDE)


@pytest.fixture
def images() -> Tensor:
    """Bright at the place, with noise."""
    return nets.noise(14, side=SIDE) * 0.5 + 3 * torch.tensor(PLACE, dtype=torch.float32)


def measured(images: Tensor, relevance: np.ndarray, seed: int = 0) -> faithfulness.PixelTest:
    net = nets.Weighted(PLACE / 4, -3.0)
    return faithfulness.deletion_and_insertion(net, images, heat_of(relevance), seed=seed)


def test_maps_of_the_right_place_are_better(images: Tensor) -> None:
    result = measured(images, np.tile(PLACE, (14, 1, 1)))
    assert result.verdict == "better"
    assert result.deletion.gain.low > 0.05
    assert result.insertion.gain.low > 0.05
    assert result.deletion.maps[0] == pytest.approx(result.insertion.maps[-1])  # the image itself
    assert result.deletion.maps[-1] == pytest.approx(result.insertion.maps[0])  # mean grey
    gain = result.insertion.area.mean - result.insertion.random_area.mean
    assert result.insertion.gain.mean == pytest.approx(gain)
    gain = result.deletion.random_area.mean - result.deletion.area.mean
    assert result.deletion.gain.mean == pytest.approx(gain)
    assert not result.is_specific, "all images have the same map"


def test_maps_of_each_image_do_better_than_those_of_others() -> None:
    rng = np.random.default_rng(0)
    places = np.stack([np.roll(PLACE, rng.integers(0, SIDE, 2), (0, 1)) for _ in range(14)])
    images = nets.noise(14, side=SIDE) * 0.2 + 3 * torch.tensor(places[:, None], dtype=torch.float32)
    brightest = nets.Strongest()  # the brightest pixels decide, wherever they lie
    own = faithfulness.deletion_and_insertion(brightest, images, heat_of(places))
    assert (own.verdict, own.is_specific) == ("better", True)
    swapped = faithfulness.deletion_and_insertion(brightest, images, heat_of(np.roll(places, 3, axis=0)))
    assert not swapped.is_specific


def test_other_maps_are_for_the_same_class() -> None:
    target = np.array([0, 1, 0, 1, 0, 2, 0, 0])
    for step in range(1, faithfulness.OTHER_MAPS + 1):
        other = faithfulness.maps_of_others(np.arange(8.0)[:, None, None], target, step)[:, 0, 0].astype(int)
        assert (target[other] == target).all()
        assert sorted(other) == list(range(8))
        assert np.flatnonzero(other == np.arange(8)).tolist() == [5], "the only one of its class"


def test_maps_of_any_other_place_are_worse_and_few_images_are_too_few(images: Tensor) -> None:
    away = np.zeros_like(PLACE)
    away[8:11, 8:11] = 1.0
    relevance = np.tile(away - PLACE, (14, 1, 1))
    assert measured(images, relevance).verdict in ("worse", "no better")
    assert measured(images, relevance).insertion.is_worse
    assert measured(images[:9], relevance[:9]).verdict == "too few"


def test_random_maps_are_rarely_better(images: Tensor) -> None:
    """Two one-sided tests at 2.5 % that must both hold: of 20 sets of random maps hardly one is better."""
    verdicts = [measured(images, smooth(14, seed), seed).verdict for seed in range(20)]
    assert verdicts.count("better") <= 1
    assert verdicts.count("no better") >= 12


def test_the_curve_of_a_linear_network_by_hand() -> None:
    """The pixels go by rank, a tenth at a time; each lowers the logit by its weight times its contrast."""
    weights, image = np.arange(100).reshape(10, 10) / 100, nets.noise(2, side=10)
    relevance = np.tile(np.random.default_rng(0).permutation(100).reshape(10, 10).astype(float), (2, 1, 1))
    result = faithfulness.deletion_and_insertion(nets.Weighted(weights), image, heat_of(relevance))
    expected = np.zeros((2, 11))
    for i, pixels in enumerate(image[:, 0].double().numpy()):
        order = np.argsort(-relevance[i].ravel())
        for step in range(11):
            left = pixels.ravel().copy()
            left[order[: 10 * step]] = pixels.mean()
            expected[i, step] = 1 / (1 + np.exp(-(left * weights.ravel()).sum()))
    np.testing.assert_allclose(result.deletion.maps, expected.mean(axis=0), atol=1e-5)
    area = np.trapezoid(expected, dx=0.1, axis=1).mean()
    assert result.deletion.area.mean == pytest.approx(area, abs=1e-5)


def test_ranks_break_ties_by_chance_and_moved_maps_hold_the_same_values() -> None:
    rng, relevance = np.random.default_rng(0), np.zeros((200, 2, 2))
    relevance[:, 0, 1] = 1
    ranks = faithfulness.pixel_order(relevance, rng)
    assert (np.sort(ranks.reshape(200, 4), axis=1) == np.arange(4)).all()
    assert (ranks[:, 0, 1] == 0).all()
    assert 30 < (ranks[:, 1, 1] == 1).sum() < 105  # a third of 200
    maps = rng.random((5, 6, 6))
    moved = faithfulness.moved_maps(maps, rng)
    assert (np.sort(moved.reshape(5, -1)) == np.sort(maps.reshape(5, -1))).all()
    assert not np.array_equal(moved, maps)


class Layers(nn.Module):
    """Three layers whose weight is one number each."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1)
        for module in (self.first, self.norm, self.last):
            nn.init.constant_(module.weight, weight)
        self.norm.running_mean[:] = weight

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.norm(self.first(images))).mean(dim=(1, 2, 3))


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def replace(compute: Callable[..., Tensor]) -> None:
        monkeypatch.setitem(METHODS, "occlusion", dataclasses.replace(METHODS["occlusion"], compute=compute, stages=3))

    return replace


def test_layers_lose_what_they_learnt_from_the_output_down(method: Callable[..., None]) -> None:
    seen: list[tuple[float, ...]] = []

    def note(net: Layers, images: Tensor, *_: object) -> Tensor:
        weights = (net.last.weight, net.norm.weight, net.norm.running_mean, net.first.weight)
        seen.append(tuple(round(w.item(), 1) for w in weights))
        return images[:, 0]

    method(note)
    trained, images = Layers(1.0).eval(), nets.noise(4, side=SIDE)
    result = faithfulness.randomise_weights(
        trained, lambda seed: Layers(2.0 + seed).eval(), images, heat_of(images[:, 0].numpy())
    )
    assert [stage.layer for stage in result.stages] == ["last", "norm", "first"]
    assert seen[:3] == [(2, 1, 1, 1), (2, 2, 2, 1), (2, 2, 2, 2)]
    assert seen[3] == (3, 1, 1, 1)  # the next draw begins with the trained network
    assert trained.last.weight.item() == 1  # which stays as it is


def test_maps_blind_to_the_weights_are_named_so(method: Callable[..., None]) -> None:
    method(lambda _net, images, *_: images[:, 0].abs())
    images = nets.noise(12, side=SIDE)
    result = faithfulness.randomise_weights(
        Layers(1.0).eval(), lambda _: Layers(2.0).eval(), images, heat_of(images[:, 0].abs().numpy())
    )
    assert result.verdict == "do not depend"
    assert result.stages[-1].correlation.mean == pytest.approx(1)
    assert result.stages[-1].ssim.mean == pytest.approx(1)


def test_maps_that_are_new_with_every_network_depend_on_the_weights(method: Callable[..., None]) -> None:
    draws = np.random.default_rng(4)
    method(lambda _net, images, *_: torch.tensor(draws.random((len(images), SIDE, SIDE))))
    images = nets.noise(12, side=SIDE)
    trained = heat_of(np.random.default_rng(1).random((12, SIDE, SIDE)))
    result = faithfulness.randomise_weights(Layers(1.0).eval(), lambda _: Layers(2.0).eval(), images, trained)
    assert result.verdict == "depend"
    few = faithfulness.randomise_weights(Layers(1.0), lambda _: Layers(2.0), images[:4], trained.at(range(4)))
    assert few.verdict == "too few"


def test_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(0)
    one, other = np.maximum(rng.normal(size=(2, 6, 7, 7)), 0)  # with ties at 0
    ours = rank_correlation(unit_ranks(one), unit_ranks(other))
    theirs = [stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert rank_correlation(unit_ranks(one), unit_ranks(np.zeros_like(one))).tolist() == [0] * 6


def test_ssim_is_the_papers_formula() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.random((2, 1, 14, 14))
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(window, window) / window.sum() ** 2
    values = []
    padded = [np.pad(maps[0], 5, mode="symmetric") for maps in (one, other)]
    for y in range(14):
        for x in range(14):
            a, b = (p[y : y + 11, x : x + 11] for p in padded)
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cov = (weights * (a - ma) * (b - mb)).sum()
            top = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4)
            values.append(top / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    assert ssim(one, other)[0] == pytest.approx(np.mean(values), abs=1e-9)


def test_an_interval_keeps_images_of_a_patient_together() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=8), 5)
    alone = faithfulness.Interval.of(values)
    together = faithfulness.Interval.of(values, [str(i // 5) for i in range(40)])
    assert together.high - together.low > 1.8 * (alone.high - alone.low)
    single = faithfulness.Interval.of(values[:5], ["a"] * 5, 1.0)
    assert (single.low, single.high) == (-1, 1)
