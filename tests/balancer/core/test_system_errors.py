"""Errors of the machine become one line; faults of this program stay what they are."""

import errno
import os
from pathlib import Path

import pytest
import torch

from balancer.core.errors import BalancerError
from balancer.core.system_errors import REMEDIES, explain, explained, is_out_of_memory, naming


@pytest.mark.parametrize("number", sorted(REMEDIES))
def test_an_error_of_the_disk_says_where_what_and_what_to_do(number: int) -> None:
    line = explain(OSError(number, os.strerror(number), "/some/file"))
    assert line == f"/some/file: {os.strerror(number)}; {REMEDIES[number]}"


def test_an_unknown_number_has_a_remedy_too() -> None:
    assert explain(OSError(errno.EXDEV, "Invalid cross-device link", b"/a\xff\n")) == (
        "/a\\udcff : Invalid cross-device link; check the disk or the network drive"
    )


def test_memory_in_all_disguises() -> None:
    """Really asked for: 4 petabytes of torch."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore."),
        caught.value,
    ):
        line = explain(error)
        assert line is not None
        assert "batch_size" in line
        assert "\n" not in line


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        RuntimeError("size mismatch"),
        ZeroDivisionError(),
        KeyError("x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
    ],
)
def test_a_fault_of_this_program_stays_one(error: Exception) -> None:
    assert explain(error) is None
    with pytest.raises(type(error)), explained():
        raise error


def test_names_that_no_file_can_have() -> None:
    for text, words in (("a\0b", "null character"), ("a\udcffb", "UTF-8")):
        with pytest.raises(BalancerError, match=words), explained():
            Path(text).touch() if "\0" in text else text.encode()


def test_a_library_that_says_itself_what_it_met() -> None:
    assert explain(OSError("broken data stream\nwhen reading")) == "OSError: broken data stream"


def test_a_write_through_an_open_file_names_the_file() -> None:
    full = Path("/dev/full")
    with pytest.raises(OSError, match="dev/full"), naming(full), full.open("wb", buffering=0) as handle:
        handle.write(b"x")
