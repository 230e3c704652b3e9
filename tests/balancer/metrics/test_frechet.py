"""The Fréchet distance against its formula, closed forms, and torch-fidelity."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_statistics_to_metric

from balancer.core.errors import BalancerError
from balancer.metrics.frechet import frechet_distance


def sample(n: int, dim: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, dim)) @ rng.standard_normal((dim, dim)) + shift


def by_formula(a: np.ndarray, b: np.ndarray) -> float:
    c_a, c_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    d = a.mean(axis=0) - b.mean(axis=0)
    return float(d @ d + np.trace(c_a + c_b - 2 * sqrtm(c_a @ c_b).real))


@pytest.mark.parametrize(("n", "m", "dim"), [(200, 200, 8), (60, 90, 3), (300, 40, 16)])
def test_against_sqrtm(n: int, m: int, dim: int) -> None:
    a, b = sample(n, dim, 0), sample(m, dim, 1, shift=0.7)
    assert frechet_distance(a, b) == pytest.approx(by_formula(a, b), rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(by_formula(a, b), rel=1e-8)


def test_one_dimension() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2 for the sample's own mean and SD."""
    rng = np.random.default_rng(0)
    a, b = 3 + 2 * rng.standard_normal((500, 1)), -1 + 5 * rng.standard_normal((400, 1))
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_diagonal_gaussians() -> None:
    """Points on the axes have exactly diagonal covariances."""
    scale_a, scale_b, shift = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.5, 3.0]), np.array([1.0, -2.0, 0.0])
    cross = np.concatenate([np.eye(3), -np.eye(3)])
    variance = 2 / 5  # of (1, -1, 0, 0, 0, 0) with n - 1
    expected = shift @ shift + variance * ((scale_a - scale_b) ** 2).sum()
    assert frechet_distance(cross * scale_a, cross * scale_b + shift) == pytest.approx(expected, rel=1e-9)


def test_equal_sets_are_at_zero_and_never_below() -> None:
    for n, dim in ((100, 10), (10, 64)):  # the second has singular covariances
        a = sample(n, dim, 0)
        scale = np.trace(np.cov(a, rowvar=False))
        assert 0 <= frechet_distance(a, a) < 1e-5 * scale
        assert 0 <= frechet_distance(a, a[::-1].copy()) < 1e-5 * scale


def test_fewer_images_than_features() -> None:
    """Rank-deficient: the trace of the root through the small Gram matrix, which needs no eigenvalue near zero."""
    a, b = sample(12, 64, 0), sample(9, 64, 1, shift=0.3)
    x, y = ((s - s.mean(axis=0)) / (len(s) - 1) ** 0.5 for s in (a, b))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()  # tr (C_a C_b)^(1/2) is the nuclear norm of X Y'
    d = a.mean(axis=0) - b.mean(axis=0)
    expected = d @ d + (x**2).sum() + (y**2).sum() - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)


def test_double_precision_far_from_the_origin() -> None:
    a, b = sample(200, 6, 0), sample(200, 6, 1, shift=1)
    assert frechet_distance(a + 1e4, b + 1e4) == pytest.approx(frechet_distance(a, b), rel=1e-5)


def test_agrees_with_torch_fidelity() -> None:
    a, b = sample(300, 12, 0), sample(250, 12, 1, shift=0.5)
    stats = [{"mu": x.mean(axis=0), "sigma": np.cov(x, rowvar=False)} for x in (a, b)]
    theirs = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-8)


def test_too_few_images() -> None:
    with pytest.raises(BalancerError, match="got 1 real and 9 synthetic"):
        frechet_distance(sample(1, 3, 0), sample(9, 3, 1))
