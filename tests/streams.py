"""The global random streams of torch and NumPy, which nothing in the package may depend on or move."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def disturb_global_streams(seed: int) -> None:
    """Put both global streams elsewhere, as a new process or a library might."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  a Generator is another stream; albumentations and others draw from this one


def _states() -> tuple[bytes, bytes]:
    legacy = np.random.get_state()  # noqa: NPY002  no other call tells whether the global stream has moved
    return torch.get_rng_state().numpy().tobytes(), pickle.dumps(legacy)


@contextmanager
def global_streams_untouched(seed: int = 0) -> Iterator[None]:
    """Disturb both streams; inside, nothing may draw from them."""
    disturb_global_streams(seed)
    before = _states()
    yield
    assert _states() == before
