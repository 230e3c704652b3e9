"""p-values against all ways to change sides, written out; how often two real sets are called different."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from planted import fields
from scipy.ndimage import gaussian_filter

from balancer.metrics.chance import ALPHA, FEWEST, Chance, chance_of, chance_of_each, draw_sides, side_means
from balancer.metrics.kernel import kernel_chance
from balancer.metrics.manifold import manifold_overlap, recall_chance
from balancer.metrics.spectrum import compare_spectra, grid_peaks, interpretation


def kernel_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD^2 with the cubic kernel of KID, pair by pair."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    within = [np.mean([k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (x, y)]
    return float(sum(within) - 2 * np.mean([k(a, b) for a in x for b in y]))


def exact(pool: np.ndarray, n: int, figure: Callable[[np.ndarray, np.ndarray], float]) -> Chance:
    """Both p-values over all ways to choose the second side."""
    second = [list(c) for c in combinations(range(len(pool)), len(pool) - n)]
    values = np.array([figure(np.delete(pool, c, axis=0), pool[c]) for c in second])
    own = values[second.index(list(range(n, len(pool))))]
    return Chance(float((values >= own - 1e-9).mean()), float((values <= own + 1e-9).mean()))


def test_the_kernel_distance_against_all_ways_to_change_sides() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(4, 3)), rng.normal(0.7, 1, size=(5, 3))
    drawn, all_ways = kernel_chance(real, fake, 0), exact(np.concatenate([real, fake]), 4, kernel_by_hand)
    assert drawn.higher == pytest.approx(all_ways.higher, abs=0.1)
    assert drawn.lower == pytest.approx(all_ways.lower, abs=0.1)
    assert drawn.higher + drawn.lower >= 1


def test_the_recall_against_all_ways_to_change_sides() -> None:
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(5, 2)), rng.normal(0, 0.2, size=(5, 2))
    by_hand = exact(np.concatenate([real, fake]), 5, lambda a, b: manifold_overlap(a, b, 2).recall)
    drawn = recall_chance(real, fake, 0, 2)
    assert drawn.lower == pytest.approx(by_hand.lower, abs=0.1)
    assert drawn.higher == pytest.approx(by_hand.higher, abs=0.1)


def test_means_of_sides() -> None:
    first, second = np.arange(6.0).reshape(3, 2), np.array([[10.0, 20.0]])
    sides = draw_sides(3, 1, 0)
    assert sides[0].tolist() == [False, False, False, True]
    assert (sides.sum(axis=1) == 1).all()
    means = side_means(first, second, sides)
    pool = np.concatenate([first, second])
    for k in range(5):
        assert means[0][k] == pytest.approx(pool[~sides[k]].mean(0))
        assert means[1][k] == pytest.approx(pool[sides[k]].mean(0))


def test_equal_figures_are_chance() -> None:
    assert chance_of(np.full(9, 0.3)) == Chance(1.0, 1.0)
    first_moved = chance_of_each(draw_sides(2, 2, 0), lambda side: float(side[0]))
    assert first_moved.higher == 1
    assert first_moved.lower == pytest.approx(1 / 2, abs=0.05)


@pytest.mark.parametrize("n", [2, 3, FEWEST, 8, 16])
def test_two_sets_of_one_kind_are_seldom_called_different(n: int) -> None:
    """At any number of images, by each figure."""
    claims = np.zeros(3)
    for draw in range(80):
        x = np.random.default_rng(draw).normal(size=(2 * n, 6))
        images = fields(2 * n, draw, 16)
        spectrum = compare_spectra(images[:n], images[n:], images[:n])
        chances = [kernel_chance(x[:n], x[n:], draw), spectrum.high_chance, spectrum.checkerboard_chance]
        claims += [c is not None and (c.is_high or c.is_low) for c in chances]
    assert (claims / 80 <= ALPHA + 0.06).all(), claims
    if n < FEWEST:
        assert not claims.any()


def pictures(n: int, rng: np.random.Generator) -> np.ndarray:
    """Grey noise at three scales: no up-convolution drew it."""
    noise = [np.kron(rng.normal(0, 20, (n, k, k)), np.ones((1, 32 // k, 32 // k))) for k in (4, 8)]
    return np.clip(128 + sum(noise) + rng.normal(0, 6, (n, 32, 32)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_no_checkerboard_where_none_was_drawn(n: int) -> None:
    rng = np.random.default_rng(n)
    texts = [interpretation(compare_spectra(*(pictures(n, rng) for _ in range(3)))) for _ in range(40)]
    assert np.mean(["checkerboard" in text for text in texts]) <= 0.1


def test_a_checkerboard_is_still_seen_in_eight_images() -> None:
    rng = np.random.default_rng(0)
    board = 6 * (np.indices((32, 32)).sum(axis=0) % 2 * 2 - 1)
    real, other = pictures(8, rng), pictures(8, rng)
    fake = np.clip(pictures(8, rng).astype(int) + board, 0, 255).astype(np.uint8)
    assert "a checkerboard peak of" in interpretation(compare_spectra(real, fake, other))
    assert grid_peaks(fake).max() > grid_peaks(real).max() + 3


def test_smeared_images_under_a_checkerboard_are_not_called_sharp() -> None:
    rng = np.random.default_rng(0)
    real, other = fields(40, 0, 64, smooth=0.5), fields(40, 1, 64, smooth=0.5)
    smooth = gaussian_filter(fields(40, 2, 64, smooth=0.5).astype(float), (0, 1.5, 1.5))
    rows = np.arange(64)
    for height in (4, 8, 16, 32, 64):
        board = height * (rows % 2 * 2 - 1)[None, :] * np.ones((64, 1))
        fake = np.clip(np.rint(smooth + board + rng.normal(0, 0.5, smooth.shape)), 0, 255).astype(np.uint8)
        text = interpretation(compare_spectra(real, fake, other))
        assert "as sharp as" not in text, (height, text)
        assert "checkerboard" in text
