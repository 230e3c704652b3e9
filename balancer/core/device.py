"""Where tensors live: the only place that asks what hardware there is."""

from __future__ import annotations

import contextlib
import sys

import torch
from threadpoolctl import threadpool_limits

from balancer.core.errors import BalancerError, UsageError
from balancer.core.threads import choose_threads
from balancer.core.torchrun import several


def named_device(name: str) -> torch.device | None:
    """Return the device of a name, whether it is there or not; None for ``auto``.

    Raises:
        UsageError: the name is none of ``auto``, ``cpu``, ``cuda``, ``cuda:N`` and ``mps``.
    """
    if name == "auto":
        return None
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in {"cpu", "cuda", "mps"} or (device.type != "cuda" and device.index):
        raise UsageError(f"--device is {name!r}; expected auto, cpu, cuda, cuda:N or mps")
    return device


def resolve_device(name: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device that is really there.

    ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: the name is none of these.
        BalancerError: the device is named and absent.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    device = named_device(name)
    if device is None:
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if device.type == "cuda" and (not cuda or (device.index or 0) >= torch.cuda.device_count()):
        raise BalancerError(
            f"--device is {name!r} but torch sees {torch.cuda.device_count()} CUDA device(s); use --device auto or cpu"
        )
    if device.type == "mps" and not mps:
        raise BalancerError("--device is 'mps' but torch sees no MPS device; use --device auto or cpu")
    return device


def describe_device(device: torch.device) -> str:
    """Return the device in words, for reports: ``cpu (1 thread)`` or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type} ({threads} thread{'' if threads == 1 else 's'})"


def limit_threads(threads: int | None = None) -> None:
    """Let torch, and the BLAS of numpy and scipy, compute with so many threads.

    Commands tell libraries their number before they are loaded. Called from Python, they are loaded already.

    Args:
        threads: the number; None: :func:`balancer.core.threads.choose_threads`.
    """
    count = threads or choose_threads()
    threadpool_limits(limits=count)
    torch.set_num_threads(count)


def open_device(name: str, threads: int | None = None) -> torch.device:
    """Return the device of that name, after :func:`limit_threads`."""
    limit_threads(threads)
    return resolve_device(name) if several() is None else _device_of_rank(name)


def _device_of_rank(name: str) -> torch.device:
    """Return the device of one of several ranks: a GPU of its own, or the CPU that all share.

    Raises:
        UsageError: the name is no device that ranks can have.
        BalancerError: there are fewer GPUs than ranks on this machine.
    """
    launch, cards = several(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    rank = launch.local_rank if launch else 0
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device is {name!r} under torchrun; expected auto, cpu or cuda: each rank takes a GPU")
    if name == "cpu" or (name == "auto" and not cards):
        return torch.device("cpu")
    if rank >= cards:
        raise BalancerError(
            f"torchrun has started rank {rank} of this machine, counted from 0, and torch sees {cards} CUDA device(s);"
            " give --nproc-per-node the number of GPUs, or --device cpu"
        )
    return torch.device("cuda", rank)


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last on CPU and CUDA, where convolutions are faster in it; contiguous on MPS."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; on CUDA without waiting for the work that is queued there."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def synchronize(device: torch.device) -> None:
    """Wait for queued work, so that a clock read afterwards tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_mb(device: torch.device) -> float | None:
    """Peak memory so far in MB: of the device when it is CUDA, else of this process (resident set).

    None where Python does not say: on Windows the standard library has no module for it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def autocast(device: torch.device, precision: str, on_cpu: bool = False) -> torch.autocast:
    """bfloat16 autocast where :func:`resolve_precision` says so, else one that does nothing."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=resolve_precision(device, precision, on_cpu) == "bfloat16"
    )


def resolve_precision(device: torch.device, precision: str, on_cpu: bool = False) -> str:
    """``float32`` or ``bfloat16``: ``auto`` is bfloat16 on CUDA and, with ``on_cpu``, on CPUs that compute in it."""
    if precision != "auto":
        return precision
    units = device.type == "cuda" or (on_cpu and device.type == "cpu" and has_bfloat16_units())
    return "bfloat16" if units else "float32"


def has_bfloat16_units() -> bool:
    """Whether the CPU multiplies bfloat16 natively, at about twice the rate of float32; emulated, it is slower."""
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name for them yet
    return any(getattr(torch.cpu, ask, lambda: False)() for ask in asks)


def exact_float32(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Convolutions in true float32: on CUDA, cuDNN would otherwise round their inputs to TF32's 10 bits."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
