"""Batches as a pure function of the step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.data import sampling
from balancer.data.sampling import batch_indices, evenly


@given(n=st.integers(1, 40), batch_size=st.integers(1, 100), seed=st.integers(0, 5), passes=st.integers(1, 4))
def test_each_pass_holds_each_item_once(n: int, batch_size: int, seed: int, passes: int) -> None:
    steps = -(-passes * n // batch_size)
    batches = [batch_indices(n, batch_size, step, seed) for step in range(steps)]
    assert all(batch.shape == (batch_size,) for batch in batches)
    stream = np.concatenate(batches)[: passes * n].reshape(passes, n)
    for one_pass in stream:
        assert sorted(one_pass) == list(range(n))


@given(
    n=st.integers(1, 30), batch_size=st.integers(1, 70), steps=st.lists(st.integers(0, 10**6), min_size=1, max_size=6)
)
def test_a_batch_depends_on_its_step_alone(n: int, batch_size: int, steps: list[int]) -> None:
    sampling._permutation.cache_clear()
    in_order = {step: batch_indices(n, batch_size, step, 1).tolist() for step in sorted(steps)}
    sampling._permutation.cache_clear()
    for step in steps:
        assert batch_indices(n, batch_size, step, 1).tolist() == in_order[step]


def test_passes_and_seeds_are_shuffled_apart() -> None:
    first, second = batch_indices(50, 50, 0, 0), batch_indices(50, 50, 1, 0)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(50))
    assert not np.array_equal(first, batch_indices(50, 50, 0, 1))


def test_a_batch_is_the_callers_to_change() -> None:
    batch = batch_indices(10, 10, 0, 0)
    kept = batch.copy()
    batch[:] = 0
    assert np.array_equal(batch_indices(10, 10, 0, 0), kept)


@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_numpy_integers_give_the_same_batches(kind: type) -> None:
    sampling._permutation.cache_clear()
    with_numpy = batch_indices(kind(10), kind(4), kind(7), kind(3))
    sampling._permutation.cache_clear()
    assert np.array_equal(with_numpy, batch_indices(10, 4, 7, 3))


@given(n=st.integers(0, 5000), most=st.integers(1, 1000))
def test_a_few_are_evenly_spread(n: int, most: int) -> None:
    """As a sample of an ordered fold they keep the shares of the classes."""
    positions = evenly(n, most)
    assert len(set(positions.tolist())) == len(positions) == min(n, most)
    if len(positions) > 1:
        assert positions[[0, -1]].tolist() == [0, n - 1]
        assert np.ptp(np.diff(positions)) <= 1


def test_where_a_few_lie() -> None:
    assert evenly(9, 3).tolist() == [0, 4, 8]
    assert evenly(5, 24).tolist() == [0, 1, 2, 3, 4]
    assert evenly(1, 3).tolist() == evenly(7, 1).tolist() == [0]
