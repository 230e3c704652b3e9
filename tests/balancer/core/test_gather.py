"""Arrays in parts: the same as one concatenation, without a part that outlives the next one."""

import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from balancer.core.gather import gather


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_the_parts_in_their_order(shape: tuple[int, ...]) -> None:
    parts = [np.random.default_rng(i).normal(size=(n, *shape)) for i, n in enumerate((4, 4, 1))]
    whole = gather(iter(parts), 9)
    assert whole.dtype == parts[0].dtype
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_no_part_is_kept() -> None:
    gone: list[weakref.ref[np.ndarray]] = []

    def parts() -> Iterator[np.ndarray]:
        for i in range(5):
            assert all(part() is None for part in gone[:-1]), "the last part alone may still be copied"
            part = np.full(2, i)
            gone.append(weakref.ref(part))
            yield part
            del part

    np.testing.assert_array_equal(gather(parts(), 10), np.repeat(np.arange(5), 2))


@pytest.mark.parametrize("n", [3, 5])
def test_another_number_of_rows_is_an_error(n: int) -> None:
    with pytest.raises(ValueError, match=r"broadcast|expected"):
        gather([np.zeros(2), np.zeros(2)], n)


def test_no_part_at_all() -> None:
    assert gather([], 0).shape == (0,)
