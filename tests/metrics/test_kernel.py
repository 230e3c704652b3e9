"""The kernel distance against double loops and torch-fidelity."""

import numpy as np
import pytest
import torch

from balancer.errors import BalancerError
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
        mean, sd = kernel_distance(a, b, subsets=3, subset_size=15, seed=0)
        assert mean == pytest.approx(unbiased_mmd2(a, b), rel=1e-9, abs=1e-12)
        assert sd == pytest.approx(0, abs=1e-9)


def test_agrees_with_torch_fidelity() -> None:
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    a, b = sample(20, 5, 0), sample(20, 5, 1, 0.4)
    theirs = metric_kid.kernel_mmd(a, b, kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None,
