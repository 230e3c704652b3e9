"""TensorBoard events, an extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from balancer.core.errors import BalancerError
from balancer.core.extras import install


class Events:
    """Writes what a run logs as TensorBoard events too; does nothing where it is off.

    That TensorBoard is installed has been seen to before the run began, by :func:`check_installed`.
    """

    def __init__(self, folder: Path, on: bool, step: int) -> None:
        self._writer: Any = None
        if on:
            from torch.utils.tensorboard import SummaryWriter

            # also at step 0: a run killed before its first snapshot starts over, and what it wrote then is to go
            self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def scalars(self, row: Mapping[str, float]) -> None:
        """Write the values of a log row at its ``step``."""
        for name, value in row.items() if self._writer else ():
            if name != "step":
                self._writer.add_scalar(name, value, row["step"])

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Write a grey image (H, W) uint8."""
        if self._writer:
            self._writer.add_image(name, pixels[None], step)

    def close(self) -> None:
        """Write what is buffered."""
        if self._writer:
            self._writer.close()


def check_installed(on: bool) -> None:
    """Refuse a run that would fail later for want of a package."""
    from importlib.util import find_spec

    if on and find_spec("tensorboard") is None:
        raise BalancerError(
            f"tensorboard is not installed; {install('tensorboard')}, or leave --set tensorboard=true out"
        )
