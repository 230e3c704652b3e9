"""A stand-in for CUDA graphs on the CPU: record the operations of a call, then run them again on the same tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default}  # need a result at once


class Recorder(TorchDispatchMode):
    """Keeps every operation with its arguments and results; as a capture does, refuses those that wait for a result."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITING:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


def capture(call: Callable[[], dict[str, Tensor]]) -> tuple[Callable[[], None], dict[str, Tensor]]:
    """Record a call. What Python computed in it, a number or a branch, stays as it was: so it is with a graph."""
    recorder = Recorder()
    with recorder:
        outputs = call()
    fresh = True

    def replay() -> None:
        nonlocal fresh
        if fresh:  # recording has computed everything once, which a real capture does not
            fresh = False
            return
        with torch.no_grad():
            for func, args, kwargs, result in recorder.calls:
                for old, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, Tensor) and old is not new:
                        old.copy_(new)

    return replay, outputs


def no_capture(call: Callable[[], dict[str, Tensor]]) -> tuple[Callable[[], None], dict[str, Tensor]]:
    """Fail as CUDA does where a step cannot be captured."""
    raise RuntimeError("operation not permitted when stream is capturing")
