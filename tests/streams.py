"""The global random streams of torch and NumPy, which nothing in the package may depend on or move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def disturb_global_streams(seed: int) -> None:
    """Put both global streams elsewhere, as a new process or a library might."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  the legacy stream itself is what is meant


@contextmanager
def global_streams_untouched(seed: int = 0) -> Iterator[None]:
    """Disturb both streams; inside, nothing may draw from them."""
    disturb_global_streams(seed)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  the same
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002  the same
