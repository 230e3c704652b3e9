"""Precision, recall, density and coverage against loops and closed forms."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from balancer.core.errors import BalancerError
from balancer.metrics import manifold
from balancer.metrics.manifold import manifold_overlap


def by_loops(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    def reach(points: np.ndarray) -> np.ndarray:
        return NearestNeighbors(n_neighbors=k + 1).fit(points).kneighbors(points)[0][:, -1]

    real_reach, fake_reach = reach(real), reach(fake)
    inside_real = [[np.linalg.norm(f - r) <= real_reach[i] for i, r in enumerate(real)] for f in fake]
    inside_fake = [[np.linalg.norm(f - r) <= fake_reach[j] for j, f in enumerate(fake)] for r in real]
    return (
        np.mean([any(row) for row in inside_real]),
        np.mean([any(row) for row in inside_fake]),
        np.sum(inside_real) / (k * len(fake)),
        np.mean(np.any(inside_real, axis=0)),
    )


@given(seed=st.integers(0, 10_000), n=st.integers(7, 25), m=st.integers(7, 25), shift=st.floats(0, 3))
def test_against_loops(seed: int, n: int, m: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    real, fake = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) + shift
    result = manifold_overlap(real, fake, k=3)
    expected = by_loops(real, fake, 3)
    assert (result.precision, result.recall, result.density, result.coverage) == pytest.approx(expected)


def test_one_distribution_gives_the_expected_values() -> None:
    """Naeem et al.: for equal distributions density is 1 on average and coverage 1 - (1/2)^k for many images."""
    rng = np.random.default_rng(0)
    result = [manifold_overlap(rng.normal(size=(1500, 8)), rng.normal(size=(1500, 8))) for _ in range(3)]
    assert np.mean([f.density for f in result]) == pytest.approx(1, abs=0.03)
    assert np.mean([f.coverage for f in result]) == pytest.approx(1 - 0.5**5, abs=0.01)


def test_what_each_figure_catches() -> None:
    rng = np.random.default_rng(1)
    real = rng.normal(size=(300, 4))
    assert vars(manifold_overlap(real, real + 100)) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    collapsed = manifold_overlap(real, real[:1] + rng.normal(scale=1e-3, size=(300, 4)))
    assert collapsed.precision == 1
    assert collapsed.recall < 0.02
    assert collapsed.coverage < 0.1
    scattered = manifold_overlap(real, 10 * rng.normal(size=(300, 4)))
    assert scattered.precision < 0.2


@pytest.mark.parametrize("chunk", [1, 7, 20, 33])
def test_chunks_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boundaries within, at the end of and beyond a side."""
    rng = np.random.default_rng(2)
    real, fake = rng.normal(size=(40, 3)), rng.normal(size=(33, 3)) + 0.7
    whole = manifold_overlap(real, fake, k=3)
    assert 0 < whole.precision < 1
    assert 0 < whole.recall < 1
    monkeypatch.setattr(manifold, "CHUNK", chunk)
    assert manifold_overlap(real, fake, k=3) == whole


def test_memory_does_not_grow_with_the_square() -> None:
    n = 3000
    real, fake = np.random.default_rng(0).normal(size=(2, n, 2))
    tracemalloc.start()
    manifold_overlap(real, fake)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * n * n / 4, "a quarter of one matrix of distances"


def test_too_few_images_is_one_line() -> None:
    with pytest.raises(BalancerError, match="more than 5 images a side; got 5 real and 9 synthetic"):
        manifold_overlap(np.zeros((5, 2)), np.zeros((9, 2)))
