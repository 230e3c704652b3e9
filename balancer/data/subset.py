"""Some images of a large set, read from its memory map when they are asked for: a copy would grow with the set."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray


class Subset:
    """Images of a set by position, then further images; indexed and measured as an array (n, ...) would be."""

    def __init__(self, images: Array, positions: Array, further: Array | None = None) -> None:
        """Take a set, the positions (m,) in it, and images (k, ...) that follow these."""
        self._images, self._positions = images, positions
        self._further = images[:0] if further is None else further

    def __len__(self) -> int:
        return len(self._positions) + len(self._further)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape that the array would have."""
        return (len(self), *self._images.shape[1:])

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        return self._images.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of the pixels."""
        return self._images.dtype

    def __getitem__(self, index: Any) -> Array:
        """Return the images of a slice, of positions (b,), or the image of a number."""
        chosen = np.arange(len(self))[index]
        if chosen.ndim == 0:
            return self[chosen[None]][0]
        first = chosen < len(self._positions)
        if first.all():
            return np.asarray(self._images[self._positions[chosen]])
        pixels = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        pixels[first] = self._images[self._positions[chosen[first]]]
        pixels[~first] = self._further[chosen[~first] - len(self._positions)]
        return pixels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self[:] if dtype is None else self[:].astype(dtype)
