"""What synthetic images are worth in real ones, and an interval that inverts a test over patients and seeds."""

import numpy as np
import pytest
from scipy.optimize import brentq
from test_comparison import apart, curve_of

from classifier.analysis.statistics import crossed_estimate
from classifier.learning_curve.worth import Worth, equivalent, interval, paired

SIZES = np.array([50, 100, 200, 400])


def test_an_equivalent_number_is_where_the_curve_reaches_the_value() -> None:
    numbers = np.array([20, 50, 200, 900])
    curve = np.array([0.6, 0.7, 0.85, 0.9])

    def on_curve(log_n: float) -> float:
        return float(np.interp(log_n, np.log(numbers), curve))

    for value in (0.61, 0.7, 0.8, 0.899):
        expected = np.exp(brentq(lambda x, v=value: on_curve(x) - v, np.log(20), np.log(900)))
        assert equivalent(numbers, curve, value) == pytest.approx(expected)


def test_ends_flat_stretches_and_a_curve_that_falls() -> None:
    numbers = np.array([20, 50, 200])
    rows = np.array([[0.7, 0.7, 0.7], [0.8, 0.8, 0.65], [0.8, 0.9, 0.75]])
    reached = (0.6, 0.95, 0.7)
    assert [equivalent(numbers, rows[:, i], value) for i, value in enumerate(reached)] == [20, 200, 20]
    assert equivalent(numbers, rows[:, 0], 0.8) == pytest.approx(50)  # the first to reach it
    fallen = equivalent(numbers, rows[:, 2], 0.725)  # held at .70 up to 50 images, .75 at 200
    assert fallen == pytest.approx(np.exp((np.log(50) + np.log(200)) / 2))


def test_a_regime_worth_twice_the_images() -> None:
    """At 100 images the regime separates the classes as the baseline does at 200."""
    sizes = {50: apart(0.8, 0.8), 100: apart(1.2, 1.6), 200: apart(1.6, 2.0), 400: apart(2.4, 2.4)}
    curve = curve_of(sizes, noise=0.05)
    worth = {(w.regime, w.size): w for w in curve.worth}
    assert set(worth) == {(r, str(n)) for r in ("gan", "combined") for n in sizes}
    found = worth["gan", "100"]
    assert found.low <= found.real <= found.high
    assert 150 < found.real < 260
    assert "at least 400" in worth["gan", "400"].describe() or worth["gan", "400"].real < 400


# --- its interval


def metric(
    mean: float, of_seeds: float, of_patients: float = 0.004, k: int = 3, g: int = 1, seed: int = 0
) -> np.ndarray:
    """(1 + 60, K, G): the same scatter over patients in every cell, and seeds that scatter by themselves."""
    rng = np.random.default_rng([seed, k, g])
    patients = np.concatenate([[0.0], of_patients * np.random.default_rng(seed).standard_normal(60)])
    return mean + patients[:, None, None] + of_seeds * rng.standard_normal((k, g))


def curve(of_seeds: float, **more: int) -> list[np.ndarray]:
    return [metric(0.8 + 0.03 * i, of_seeds, seed=i, **more) for i in range(4)]


def test_the_ends_are_where_the_test_of_the_difference_ends() -> None:
    rising, reached = curve(0.002), metric(0.845, 0.002, seed=9)

    def difference(log_n: float) -> np.ndarray:
        at = np.clip(np.searchsorted(np.log(SIZES), log_n) - 1, 0, 2)
        share = (log_n - np.log(SIZES[at])) / np.log(2)
        return reached - (1 - share) * rising[at] - share * rising[at + 1]

    low, high = interval(SIZES, rising, reached, patients=40)
    ends = np.log(50), np.log(400)
    by_hand = [
        np.exp(brentq(lambda x: crossed_estimate(difference(x), 40).low, *ends)),
        np.exp(brentq(lambda x: crossed_estimate(difference(x), 40).high, *ends)),
    ]
    assert [low, high] == pytest.approx(by_hand, rel=0.01)
    assert 50 < low < 141 < high < 400


def test_seeds_that_scatter_widen_it() -> None:
    """Over patients alone both would be as wide: the resamples are the same."""
    calm, wild = (interval(SIZES, curve(sd), metric(0.845, sd, seed=9), patients=40) for sd in (0.0005, 0.004))
    assert wild[0] < calm[0] < 141 < calm[1] < wild[1]
    # sets that scatter count from three on
    few, many = (
        interval(
            SIZES, [np.repeat(c, g, axis=2) for c in curve(0.0005)], metric(0.845, 0.004, g=g, seed=9), patients=40
        )
        for g in (2, 3)
    )
    assert few[1] / few[0] < many[1] / many[0]


def test_ends_that_the_test_cannot_exclude_are_open() -> None:
    assert interval(SIZES, curve(0.0005), metric(0.7, 0.0005, seed=9), patients=40) == pytest.approx((50, 50))
    assert interval(SIZES, curve(0.0005), metric(0.99, 0.0005, seed=9), patients=40) == pytest.approx((400, 400))
    assert interval(SIZES, curve(0.2), metric(0.84, 0.2, seed=9), patients=40) == pytest.approx((50, 400))
    sure = Worth("gan", "100", 100, 900, 400.0, 400.0, 400.0, 50, 400, 3, 2)
    assert "as at least 400 real images" in sure.describe()
    assert "for these synthetic images" in sure.describe()
    assert "GANs" in Worth("gan", "100", 100, 900, 200.0, 90.0, 300.0, 50, 400, 3, 3).describe()


def test_only_seeds_that_every_size_has_are_paired() -> None:
    cell = {"gan": np.ones((5, 2)), "baseline": np.zeros((5, 2))}
    studies = [{0: cell, 1: cell, 2: cell}, {0: cell, 2: cell}]
    assert [of["gan"].shape for of in paired(studies)] == [(5, 2, 2)] * 2
    assert paired([{0: cell}, {1: cell}]) == []
    assert paired([{0: cell}, {}]) == []
    assert paired([{0: cell}, {0: {arm: values[:, :1] for arm, values in cell.items()}}]) == []
