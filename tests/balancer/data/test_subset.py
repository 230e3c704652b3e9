"""A subset is indexed as the array that it stands for."""

import numpy as np
import pytest

from balancer.data.subset import Subset

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 4, 5), dtype=np.uint8)
POSITIONS, FURTHER = np.array([8, 2, 2, 5]), IMAGES[:3] // 2


@pytest.mark.parametrize("further", [None, FURTHER])
def test_as_the_array(further: np.ndarray | None) -> None:
    subset = Subset(IMAGES, POSITIONS, further)
    array = np.concatenate([IMAGES[POSITIONS], FURTHER[: 0 if further is None else 3]])
    assert (len(subset), subset.shape, subset.ndim, subset.dtype) == (len(array), array.shape, 3, array.dtype)
    assert np.array_equal(subset, array)
    for index in (slice(1, None), slice(0, 0), [0, len(array) - 1, 1], np.array([], dtype=int), 2, -1):
        assert np.array_equal(subset[index], array[index])
        assert subset[index].dtype == np.uint8
    with pytest.raises(IndexError):
        subset[len(array)]
