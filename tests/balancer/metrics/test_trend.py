"""A fall at the end of training is said where there is one, and hardly ever where there is noise alone."""

from itertools import permutations

import numpy as np
import pytest

from balancer.metrics.trend import ALPHA, last_third

STEPS = [1000 * (i + 1) for i in range(16)]  # as many snapshots as the default training takes


def trend_of(late: list[float]) -> str:
    """Return the direction where the last third holds these distances, after a long fall that must not count."""
    early = list(np.linspace(100, 50, len(STEPS) - 6))
    trend = last_third(STEPS, [*early, *late], 0.1)
    assert trend is not None
    assert (trend.n, trend.first, trend.last, trend.real_baseline) == (6, late[0], late[-1], 0.1)
    return trend.direction


@pytest.mark.parametrize(
    ("late", "direction"),
    [
        ([6, 5, 4, 3, 2, 1], "falling"),
        ([6, 5, 3, 4, 2, 1], "falling"),  # one step back
        ([1, 2, 3, 4, 5, 6], "rising"),
        ([3, 5, 2, 6, 1, 4], "level"),
        ([5, 5, 5, 5, 5, 5], "level"),
        ([4, 900, 3, 5, 2, 6], "level"),  # a single bad snapshot sways nothing
    ],
)
def test_direction(late: list[float], direction: str) -> None:
    assert trend_of([float(v) for v in late]) == direction


def test_the_p_value_is_the_share_of_orders_with_as_many_falls() -> None:
    """Independent: all 720 orders of six distances, counted one by one."""

    def falls(values: tuple[float, ...]) -> int:
        return sum(values[j] < values[i] for i in range(len(values)) for j in range(i + 1, len(values)))

    late = (6.0, 4.0, 5.0, 3.0, 1.0, 2.0)
    orders = [falls(order) >= falls(late) for order in permutations(late)]
    trend = last_third(STEPS, [*[9.0] * 10, *late], 0.0)
    assert trend is not None
    assert trend.p == pytest.approx(np.mean(orders))


def test_too_few_snapshots_say_nothing() -> None:
    for n, direction in ((9, "too few"), (12, "falling")):  # 3 and 4 in the last third
        trend = last_third(STEPS[:n], [float(n - i) for i in range(n)], 0.0)
        assert trend is not None
        assert trend.direction == direction
        assert (trend.p is None) == (direction == "too few")
    assert last_third([], [], 0.0) is None


def test_noise_alone_is_hardly_ever_called_a_fall() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(800, len(STEPS)))
    falling = [t.direction == "falling" for row in draws if (t := last_third(STEPS, row.tolist(), 0.0))]
    assert np.mean(falling) < ALPHA
