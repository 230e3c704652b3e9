"""Arrays that arrive in parts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def gather(parts: Iterable[np.ndarray], n: int) -> np.ndarray:
    """Return parts (b, ...) one after the other as one array (n, ...), without keeping the parts.

    The array is made with the first part. A list of small parts would keep memory from being given back: each part lies
    between the large buffers of two passes through a network, so the heap falls into pieces. Predicting 150,000 images
    of 64 px took 600 MB that way.

    Raises:
        ValueError: if the parts do not have ``n`` rows together, or differ in shape.
    """
    whole, filled = np.empty((0,)), 0
    for part in parts:
        if not filled:
            whole = np.empty((n, *part.shape[1:]), part.dtype)
        whole[filled : filled + len(part)] = part
        filled += len(part)
    if filled != n:
        raise ValueError(f"the parts have {filled} rows; expected {n}")
    return whole
