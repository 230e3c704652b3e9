"""How a training step runs: plainly, with compiled networks, or as a CUDA graph that replays its kernels.

The step of a small network is some hundreds of short kernels, which Python launches more slowly than a card runs them.
A CUDA graph launches them all at once. Its kernels read fixed addresses, so whatever changes from step to step lies in
buffers: batches, random numbers (:class:`Tape`) and moving learning rates. What cannot be compiled or captured is left
out with one warning: training goes on.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from balancer.core.device import to_device
from balancer.core.errors import UsageError
from balancer.core.setting_types import StepMode
from balancer.core.system_errors import is_out_of_memory

log = logging.getLogger("balancer")
Make: TypeAlias = Callable[[torch.Generator], Tensor]  # draws on the CPU
Outputs: TypeAlias = dict[str, Tensor]
# Computes a step's scalars from its random numbers and its batch. Changes tensors in place, and no Python number.
Work: TypeAlias = "Callable[[Source, Sequence[Tensor]], Outputs]"
# Records the kernels of a call; returns what launches them, and the tensors that the call returned.
Capture: TypeAlias = Callable[[Callable[[], Outputs]], tuple[Callable[[], object], Outputs]]

# By kind of device, else plain; benchmarks/gpu_tier.py compares the modes
AUTO: dict[str, StepMode] = {"cuda": "graph"}
PLAIN_RUNS = 3  # of each kind of step before it is captured: libraries choose kernels, optimisers make their state
MOST_KINDS = 64  # graphs that are held; the oldest goes first


def choose_mode(setting: str, device: torch.device) -> StepMode:
    """Return how steps run on a device; ``auto`` is what is fastest there without compiling.

    Raises:
        UsageError: a graph is asked for where there is no CUDA.
    """
    if setting == "graph" and device.type != "cuda":
        raise UsageError(f"step_mode is graph, which needs CUDA, and the device is {device.type}; give step_mode=auto")
    modes: dict[str, StepMode] = {"plain": "plain", "compiled": "compiled", "graph": "graph"}
    return modes.get(setting) or AUTO.get(device.type, "plain")


class Tape:
    """The random numbers of a step in buffers. The first run draws and keeps them; later runs read what is filled in.

    The draws of a step must be the same in number and shape each time, and in the same order.
    """

    def __init__(self, source: torch.Generator, device: torch.device) -> None:
        self._source: torch.Generator | None = source  # None once the draws are known
        self._device = device
        self._entries = list[tuple[Make, Tensor]]()
        self._next = 0

    def draw(self, make: Make) -> Tensor:
        """Return the next numbers."""
        if self._source is not None:
            self._entries.append((make, to_device(make(self._source), self._device)))
            return self._entries[-1][1]
        _, buffer = self._entries[self._next]
        self._next += 1
        return buffer

    def fill(self, source: torch.Generator) -> None:
        """Draw all numbers again, without waiting for the device; from now on, runs read them."""
        self._source, self._next = None, 0
        for make, buffer in self._entries:
            buffer.copy_(to_device(make(source), self._device))


Source: TypeAlias = torch.Generator | Tape


def drawn(source: Source, make: Make, device: torch.device) -> Tensor:
    """Return random numbers on a device. They are drawn on the CPU, so that every device gets the same."""
    return source.draw(make) if isinstance(source, Tape) else to_device(make(source), device)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate; in place where a captured step reads it."""
    group = optimizer.param_groups[0]
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device, moving_rate: bool) -> None:
    """Let a captured step advance an optimiser: step counts, and learning rates that move, lie on the device."""
    for group in optimizer.param_groups:
        if "capturable" in group and device.type == "cuda":
            group["capturable"] = True
        if moving_rate:
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
    for values in optimizer.state.values():
        if isinstance(values.get("step"), Tensor):
            values["step"] = values["step"].to(device)


class CaptureError(Exception):
    """A step could not be captured; nothing of it was computed."""


@dataclass
class _Kind:
    """Steps that run the same kernels."""

    runs: int = 0
    tape: Tape | None = None
    inputs: list[Tensor] = field(default_factory=list)
    outputs: Outputs = field(default_factory=dict)
    replay: Callable[[], object] | None = None


class Graphs:
    """Runs the first steps of each kind plainly, then captures one, and replays it from then on."""

    def __init__(self, device: torch.device, capture: Capture | None = None) -> None:
        """Hold no graph yet. ``capture`` stands in for CUDA's in tests."""
        self._device, self._kinds = device, dict[Hashable, _Kind]()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._capture = capture  # no method of its own: that cycle would hold the card's memory until Python collects

    def run(
        self, kind: Hashable, work: Work, source: Callable[[], torch.Generator], inputs: Sequence[Tensor]
    ) -> Outputs:
        """Make a step; ``source`` returns its generator, fresh at each call.

        Raises:
            CaptureError: the kernels could not be recorded.
        """
        if kind not in self._kinds and len(self._kinds) >= MOST_KINDS:
            del self._kinds[next(iter(self._kinds))]
        held = self._kinds.setdefault(kind, _Kind())
        held.runs += 1
        if held.runs < PLAIN_RUNS:
            with self._aside():
                return work(source(), inputs)
        if held.tape is None:
            held.tape, held.inputs = Tape(source(), self._device), [values.clone() for values in inputs]
            with self._aside():
                return work(held.tape, held.inputs)
        held.tape.fill(source())
        for buffer, values in zip(held.inputs, inputs, strict=True):
            buffer.copy_(values)
        if held.replay is None:
            held.replay, held.outputs = self._captured(work, held.tape, held.inputs)
        held.replay()
        return {name: value.clone() for name, value in held.outputs.items()}

    def _captured(self, work: Work, tape: Tape, inputs: list[Tensor]) -> tuple[Callable[[], object], Outputs]:
        try:
            return (self._capture or self._capture_cuda)(lambda: work(tape, inputs))
        except (RuntimeError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            raise CaptureError(str(error)) from error

    def _capture_cuda(self, call: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
        graph = torch.cuda.CUDAGraph()
        # One pool: graphs are replayed one after the other, and each makes all its tensors anew. torch waits for the
        # current card before a capture: of another one than this it would take memory for nothing.
        with torch.cuda.device(self._device), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            outputs = call()
        return graph.replay, outputs

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Run on the stream of the capture, as CUDA graphs need of what comes before them."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


class FastStep:
    """Makes steps with compiled networks, as CUDA graphs, or both; :attr:`ran` says what became of it."""

    def __init__(
        self,
        mode: StepMode,
        device: torch.device,
        networks: Sequence[nn.Module],
        optimizers: Sequence[torch.optim.Optimizer],
        others: Sequence[Tensor] = (),
        moving_rate: bool = False,
        capture: Capture | None = None,
    ) -> None:
        """Take what a step changes: networks, optimisers and other tensors.

        Args:
            mode: not plain. ``compiled`` compiles, and captures too on CUDA; ``graph`` captures alone.
            device: where the step runs.
            networks: the networks that are called.
            optimizers: their optimisers.
            others: tensors that a step changes besides.
            moving_rate: whether learning rates change from step to step.
            capture: stands in for CUDA's in tests.
        """
        self._networks, self._optimizers, self._others = list(networks), list(optimizers), list(others)
        self._calls: list[Any] | None = self._compile() if mode == "compiled" else None
        self._is_tried = self._calls is None
        captures = device.type == "cuda" or capture is not None
        self._graphs = Graphs(device, capture) if captures else None
        if captures:
            for optimizer in optimizers:
                make_capturable(optimizer, device, moving_rate)

    @property
    def ran(self) -> str:
        """Return how steps run now: plain, graph, compiled, or compiled+graph."""
        ways = ["compiled"] * (self._calls is not None) + ["graph"] * (self._graphs is not None)
        return "+".join(ways) or "plain"

    def __call__(
        self, kind: Hashable, work: Work, source: Callable[[], torch.Generator], inputs: Sequence[Tensor]
    ) -> Outputs:
        """Make a step, as :meth:`Graphs.run`."""
        if not self._is_tried:
            return self._try_compiled(work, source, inputs)
        with self._compiled():
            if self._graphs is None:
                return work(source(), inputs)
            try:
                return self._graphs.run(kind, work, source, inputs)
            except CaptureError as error:
                self._graphs = None
                log.warning("no CUDA graph could be made (%s); steps are %s from now on", _first_line(error), self.ran)
                return work(source(), inputs)

    def _compile(self) -> list[Any] | None:
        """Return the compiled calls of the networks, which are compiled at their first call."""
        try:
            return [torch.compile(network._call_impl) for network in self._networks]
        except Exception as error:  # whatever a compiler raises: torch has dozens of kinds
            self._warn_not_compiled(error)
            return None

    def _try_compiled(self, work: Work, source: Callable[[], torch.Generator], inputs: Sequence[Tensor]) -> Outputs:
        """Make the first compiled step; if it fails midway, put everything back and make the step plainly."""
        self._is_tried = True
        parts: list[nn.Module | torch.optim.Optimizer] = [*self._networks, *self._optimizers]
        before = copy.deepcopy(([part.state_dict() for part in parts], [values.clone() for values in self._others]))
        try:
            with self._compiled():
                return work(source(), inputs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._calls = None
            self._warn_not_compiled(error)
        for part, state in zip(parts, before[0], strict=True):
            part.load_state_dict(state)
        for values, old in zip(self._others, before[1], strict=True):
            values.copy_(old)
        return work(source(), inputs)

    def _warn_not_compiled(self, error: Exception) -> None:
        log.warning("the networks could not be compiled (%s); they run as they are", _first_line(error))

    @contextlib.contextmanager
    def _compiled(self) -> Iterator[None]:
        """Let the networks run compiled; validation, of other shapes, has them as they are."""
        for network, call in zip(self._networks, self._calls or (), strict=False):
            network._compiled_call_impl = call
        try:
            yield
        finally:
            for network in self._networks:
                network._compiled_call_impl = None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
