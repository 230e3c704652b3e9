"""Means of weights, and statistics of all sites together, against numpy."""

import numpy as np
import pytest

from classifier.federation.averaging import pooled_moments, weighted_mean

RNG = np.random.default_rng(4)
VECTORS = [RNG.normal(size=50).astype(np.float32) for _ in range(4)]
WEIGHTS = [3, 117, 40, 1]


def test_the_mean_is_numpys_by_weight() -> None:
    expected = np.average(np.stack(VECTORS).astype(np.float64), axis=0, weights=WEIGHTS)
    np.testing.assert_allclose(weighted_mean(VECTORS, WEIGHTS), expected, rtol=1e-6)


def test_the_order_of_the_sites_leaves_no_trace() -> None:
    reverse = weighted_mean(VECTORS[::-1], WEIGHTS[::-1])
    assert weighted_mean(VECTORS, WEIGHTS).tobytes() == reverse.tobytes()


@pytest.mark.parametrize("weight", [1, 7])
def test_the_mean_of_one_site_is_the_site(weight: int) -> None:
    assert weighted_mean(VECTORS[:1], [weight]).tobytes() == VECTORS[0].tobytes()


def test_moments_are_those_of_all_images_together() -> None:
    """Sites of 30, 10 and 60 images, and what one site with all of them would have counted."""
    images = [RNG.normal(loc, 1 + loc, size=(n, 5)) for n, loc in ((30, 0), (10, 2), (60, 0.5))]
    sizes = [len(of_site) for of_site in images]
    mean, variance = pooled_moments(
        [i.mean(axis=0).astype(np.float32) for i in images], [i.var(axis=0).astype(np.float32) for i in images], sizes
    )
    together = np.concatenate(images)
    np.testing.assert_allclose(mean, together.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(variance, together.var(axis=0), rtol=1e-6)


def test_moments_of_one_site_are_the_sites() -> None:
    mean, variance = pooled_moments([VECTORS[0]], [np.abs(VECTORS[1])], [12])
    assert mean.tobytes() == VECTORS[0].tobytes()
    assert variance.tobytes() == np.abs(VECTORS[1]).tobytes()
