"""Which batch size fits a graphics card, and how many trainings: measured on small batches, drawn on as a line."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from balancer.core.device import synchronize
from balancer.core.errors import BalancerError
from balancer.core.system_errors import is_out_of_memory

SAFE = 0.9  # share of the memory that is counted on: blocks do not fit together without gaps
CONTEXT = 700_000_000  # bytes that CUDA and its libraries take in each process, beside tensors


class Card(Protocol):
    """A device whose memory can be measured."""

    def room(self) -> int:
        """Return the bytes that one more training could have here: what is free, and what this process holds."""
        ...

    def peak(self, work: Callable[[], object]) -> int:
        """Return the most bytes that tensors take while ``work`` runs, beside those that are there before."""
        ...


@dataclass(frozen=True)
class CudaCard:
    """A card of this machine."""

    device: torch.device

    def room(self) -> int:
        """Return the free bytes, and those of this process."""
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + torch.cuda.memory_reserved(self.device)

    def peak(self, work: Callable[[], object]) -> int:
        """Return the most bytes that ``work`` adds."""
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before


def card_of(device: torch.device) -> Card | None:
    """Return the card, or None of a device whose memory cannot be measured."""
    return CudaCard(device) if device.type == "cuda" else None


def batch_that_fits(card: Card, batch: int, try_batch: Callable[[int], object]) -> int | None:
    """Return the largest batch size below ``batch`` that should fit, or None if not even two images do.

    ``try_batch`` makes a training step of so many images with networks that are thrown away. A step's memory is that of
    the weights, and a part that grows with the batch; two small batches tell both. A try before them does not count: in
    it libraries take memory that they keep, such as cuBLAS 32 MB on a Hopper card.
    """
    small = max(2, batch // 16)
    sizes = small, small, 2 * small
    try:
        _, low, high = (card.peak(lambda n=n: try_batch(n)) for n in sizes)  # type: ignore[misc]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    an_image = max(1.0, (high - low) / small)
    fits = min(int((SAFE * card.room() - low) / an_image) + small, batch - 1)
    fits -= fits % 8 if fits > 8 else 0
    return fits if fits >= 2 else None


@contextlib.contextmanager
def full_memory_explained(
    what: str,
    batch: int,
    device: torch.device,
    try_batch: Callable[[int], object] | None,
    remedy: str,
    card: Card | None = None,
) -> Iterator[None]:
    """Turn an error about full memory into one line that names, on a card, the batch size that would fit.

    Args:
        what: what was running, for the message.
        batch: its batch size.
        device: where it ran.
        try_batch: as for :func:`batch_that_fits`; None: nothing is tried.
        remedy: what to do besides a smaller batch, or what is kept.
        card: stands in for the device's in tests.

    Raises:
        BalancerError: in place of an error about full memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # else the failed step's tensors would stay
        advice = "use a smaller batch_size"
        if try_batch and (measured := card or card_of(device)):
            fits = batch_that_fits(measured, batch, try_batch)
            advice = f"batch_size={fits} should fit" if fits else "no batch_size fits: use smaller images or networks"
        raise BalancerError(
            f"{what}: the memory of {device} is full at batch_size {batch}; {advice}{remedy}"
        ) from error


def check_room(
    jobs: int, device: torch.device, work: Callable[[], object], images: int, card: Card | None = None
) -> None:
    """Refuse more trainings at once than a card has memory for; on other devices, do nothing.

    Args:
        jobs: how many.
        device: what they share.
        work: makes a step of such a training with networks that are thrown away.
        images: bytes of the images that each keeps on the card.
        card: stands in for the device's in tests.

    Raises:
        BalancerError: naming the number that fits.
    """
    if not (measured := card or card_of(device)):
        return
    each = measured.peak(work) / SAFE + images + CONTEXT
    room = measured.room()
    if jobs * each > room:
        raise BalancerError(
            f"--jobs {jobs} needs about {jobs * each / 1e9:.1f} GB of {device}, where {room / 1e9:.1f} GB are free;"
            f" use --jobs {max(1, int(room / each))}"
        )
