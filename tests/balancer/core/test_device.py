"""Devices: what is named and absent is an error that says what to do."""

import sys

import pytest
import torch
from scipy.linalg import norm
from threadpoolctl import threadpool_info, threadpool_limits

from balancer.core.device import autocast, describe_device, limit_threads, memory_format, peak_memory_mb, resolve_device
from balancer.core.errors import BalancerError, UsageError


def pretend(monkeypatch: pytest.MonkeyPatch, cuda: int = 0, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"), [(0, False, "cpu"), (0, True, "mps"), (1, False, "cuda"), (2, True, "cuda")]
)
def test_auto_takes_cuda_then_mps_then_cpu(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, chosen: str) -> None:
    pretend(monkeypatch, cuda, mps)
    assert resolve_device() == resolve_device("auto") == torch.device(chosen)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1", "mps"])
def test_a_device_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch, 2, True)
    assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize(
    "name", ["gpu", "", "CPU", "cuda:x", "cuda:-1", "xpu", "meta", "cuda 0", "cpu:7", "cpu:-1", "mps:1"]
)
def test_an_unknown_name_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch, 1, True)
    with pytest.raises(UsageError, match="expected auto, cpu, cuda, cuda:N or mps") as caught:
        resolve_device(name)
    assert repr(name) in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "cuda", "says"),
    [("cuda", 0, "0 CUDA"), ("cuda:0", 0, "0 CUDA"), ("cuda:2", 2, "2 CUDA"), ("mps", 1, "no MPS")],
)
def test_an_absent_device_is_an_error_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, name: str, cuda: int, says: str
) -> None:
    pretend(monkeypatch, cuda)
    with pytest.raises(BalancerError, match=says) as caught:
        resolve_device(name)
    assert "--device auto or cpu" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_the_algebra_of_numpy_and_scipy_has_the_threads_of_torch() -> None:
    """Counted by threadpoolctl, which asks the libraries themselves."""
    assert norm([3.0, 4.0]) == 5, "scipy has loaded its library, which is another than numpy's"
    with threadpool_limits():  # undoes what follows
        for threads in (2, 1):
            limit_threads(threads)
            assert {library["num_threads"] for library in threadpool_info()} == {threads}


def test_torch_computes_with_the_threads_that_were_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_threads(2)
    assert (torch.get_num_threads(), describe_device(torch.device("cpu"))) == (2, "cpu (2 threads)")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    limit_threads()
    assert (torch.get_num_threads(), describe_device(torch.device("cpu"))) == (1, "cpu (1 thread)")


def test_layout_autocast_and_memory() -> None:
    cpu = torch.device("cpu")
    assert memory_format(cpu) == torch.channels_last
    assert memory_format(torch.device("mps")) == torch.contiguous_format
    for precision, dtype in {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}.items():
        with autocast(cpu, precision):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype, precision
    assert 10 < peak_memory_mb(cpu) < 100_000


def test_where_the_system_does_not_say_there_is_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory_mb(torch.device("cpu")) is None
