"""The batch size that would fit a card, against cards whose memory is known by formula."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from balancer.core.card_memory import SAFE, batch_that_fits, card_of, check_room, full_memory_explained
from balancer.core.errors import BalancerError

CARD = torch.device("cuda")
GB = 10**9


@dataclass
class Fake:
    """Steps take ``fixed`` bytes, and ``an_image`` for each image; beyond the room they fail as torch does."""

    free: int
    fixed: int = GB
    an_image: int = GB // 10
    kept: int = 0  # bytes that libraries take in the first step, and keep
    tried: list[int] = field(default_factory=list)

    def room(self) -> int:
        return self.free

    def peak(self, work: Callable[[], object]) -> int:
        first = not self.tried
        work()
        return self.need(self.tried[-1]) + self.kept * first

    def need(self, batch: int) -> int:
        return self.fixed + batch * self.an_image

    def step(self, batch: int) -> None:
        self.tried.append(batch)
        if self.need(batch) > self.free:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")


@pytest.mark.parametrize(("free", "batch"), [(8 * GB, 256), (4 * GB, 64), (3 * GB, 32)])
def test_the_largest_batch_that_fits(free: int, batch: int) -> None:
    card = Fake(free)
    fits = batch_that_fits(card, batch, card.step)
    assert fits is not None
    assert card.need(fits) <= SAFE * free < card.need(fits + 9), "up to the next multiple of eight"
    assert max(card.tried) <= batch // 8, "small batches alone are tried"


def test_what_libraries_keep_is_no_part_of_a_batch() -> None:
    """Else an image would look the smaller, and the batch that is named would not fit."""
    card, plain = Fake(4 * GB, kept=GB // 5), Fake(4 * GB)
    assert batch_that_fits(card, 64, card.step) == batch_that_fits(plain, 64, plain.step) == 24


def test_no_batch_fits() -> None:
    card = Fake(GB // 2)
    assert batch_that_fits(card, 64, card.step) is None


def test_other_errors_stay_what_they_are() -> None:
    def broken(_batch: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        batch_that_fits(Fake(8 * GB), 64, broken)
    with pytest.raises(ValueError, match="mine"), full_memory_explained("a", 8, CARD, broken, "", Fake(GB)):
        raise ValueError("mine")


@pytest.mark.parametrize(("free", "advice"), [(4 * GB, "batch_size=24"), (GB // 2, "smaller images")])
def test_full_memory_is_one_line(free: int, advice: str) -> None:
    card = Fake(free)
    with (
        pytest.raises(BalancerError) as caught,
        full_memory_explained("gan-train", 64, CARD, card.step, "; kept", card),
    ):
        card.step(64)
    message = str(caught.value)
    assert "batch_size 64" in message
    assert advice in message
    assert message.endswith("; kept")
    assert "\n" not in message


def test_other_devices_are_not_measured() -> None:
    card = Fake(4 * GB)
    assert card_of(torch.device("cpu")) is None
    with (
        pytest.raises(BalancerError, match="batch_size 64"),
        full_memory_explained("gan-train", 64, torch.device("cpu"), card.step, ""),
    ):
        card.step(64)
    assert card.tried == [64]
    check_room(1000, torch.device("cpu"), lambda: card.step(8), GB)
    assert card.tried == [64], "nothing was tried"


def test_jobs_that_do_not_fit() -> None:
    """Each needs 2.0 GB for its step, 0.2 for gaps, 1 for images and 0.7 for CUDA: two fit in 10 GB, three do not."""
    card = Fake(10 * GB)
    check_room(2, CARD, lambda: card.step(10), GB, card)
    with pytest.raises(BalancerError, match=r"--jobs 3 .*use --jobs 2"):
        check_room(3, CARD, lambda: card.step(10), GB, card)
