"""The kernel distance against double loops and torch-fidelity."""

import numpy as np
import pytest
from streams import disturb_global_streams, global_streams_untouched
from torch_fidelity.metric_kid import kernel_mmd

from balancer.core.errors import BalancerError
from balancer.metrics.kernel import kernel_distance


def sample(n: int, dim: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)) + shift


def cubic(x: np.ndarray, y: np.ndarray) -> float:
    return (float(x @ y) / len(x) + 1) ** 3


def unbiased_mmd2(a: np.ndarray, b: np.ndarray) -> float:
    n = len(a)
    within = sum(cubic(s[i], s[j]) for s in (a, b) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    across = sum(cubic(x, y) for x in a for y in b) / n**2
    return within - 2 * across


def test_one_subset_of_everything_is_the_mmd() -> None:
    """With the whole sets as the subset, the order drawn cannot matter."""
    for shift in (0.0, 0.8):
        a, b = sample(15, 6, 0), sample(15, 6, 1, shift)
        distance = kernel_distance(a, b, subsets=3, subset_size=15, seed=0)
        assert distance.mean == pytest.approx(unbiased_mmd2(a, b), rel=1e-9, abs=1e-12)
        assert distance.sd == pytest.approx(0, abs=1e-9)


def test_agrees_with_torch_fidelity() -> None:
    a, b = sample(20, 5, 0), sample(20, 5, 1, 0.4)
    cubic_kernel = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    theirs = kernel_mmd(a, b, kid_kernel="poly", **cubic_kernel)
    assert kernel_distance(a, b, subsets=1, subset_size=20, seed=0).mean == pytest.approx(theirs, rel=1e-9)


def test_subsets_scatter_around_the_mmd() -> None:
    a, b = sample(60, 4, 0), sample(60, 4, 1, 0.7)
    distance = kernel_distance(a, b, subsets=400, subset_size=30, seed=0)
    assert distance.sd > 0
    assert distance.mean == pytest.approx(unbiased_mmd2(a, b), abs=5 * distance.sd / 400**0.5)


def test_unbiased_around_zero() -> None:
    """Independent draws of one distribution: the mean over many pairs is 0, so some are negative."""
    values = [kernel_distance(sample(12, 3, s), sample(12, 3, 1000 + s), 1, 12, 0).mean for s in range(200)]
    assert min(values) < 0
    assert abs(np.mean(values)) < 4 * np.std(values) / 200**0.5


def test_seed_alone_decides_and_global_streams_are_untouched() -> None:
    a, b = sample(40, 4, 0), sample(40, 4, 1, 0.5)
    with global_streams_untouched(11):
        first = kernel_distance(a, b, 5, 10, seed=3)
    disturb_global_streams(12)
    assert kernel_distance(a, b, 5, 10, seed=3) == first
    assert kernel_distance(a, b, 5, 10, seed=4) != first


@pytest.mark.parametrize("size", [0, 1, 11])
def test_impossible_subset(size: int) -> None:
    with pytest.raises(BalancerError, match=f"KID subset size is {size}; expected 2 to 10 with 10 real and 12 synth"):
        kernel_distance(sample(10, 3, 0), sample(12, 3, 1), 5, size, 0)
