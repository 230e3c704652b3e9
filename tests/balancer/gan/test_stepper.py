"""Captured and compiled steps make what plain steps make; what fails is left out with one warning."""

import contextlib
import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gan_helpers import CPU, RECIPES, assert_same, config
from recorded import capture, no_capture
from torch import Tensor

from balancer.core.device import to_device
from balancer.core.errors import UsageError
from balancer.core.presets import PRESETS
from balancer.core.seeding import generator
from balancer.core.settings import GanTrainConfig
from balancer.core.stepping import PLAIN_RUNS, Graphs, choose_mode, make_capturable
from balancer.gan.step import GanState, build_state, train_step
from balancer.gan.stepper import open_stepper
from balancer.gan.trainer import GanSummary

MOVING: dict[str, Any] = {"lr_schedule": "cosine", "top_k": 0.5, "steps": 10, "diffaugment": ["translation", "cutout"]}
QUICK = {"moving rates, top-k": MOVING, "everything adaptive": RECIPES["everything adaptive"]}
SLOW = {**{p: {"preset": p} for p in PRESETS if p != "s2"}, **{k: v for k, v in RECIPES.items() if k not in QUICK}}
STEPS = 9


def small(**changes: Any) -> GanTrainConfig:
    return config(**{"data": {"path": "phantom", "image_size": 16}, **changes})


def reals(settings: GanTrainConfig, step: int) -> Tensor:
    n = settings.n_dis * settings.batch_size
    return 2 * torch.rand(n, 1, 16, 16, generator=generator(step, "reals")) - 1


def contents(state: GanState) -> dict[str, Any]:
    parts = {name: part.state_dict() for name, part in state.modules().items()}
    return {**parts, "stats": state.running_stats, "step": state.step, "averaged": state.ema.n_averaged}


def assert_as_plain(settings: GanTrainConfig, state: GanState, make_step: Callable[..., dict[str, Tensor]]) -> None:
    plain = build_state(settings, CPU)
    for optimizer in (plain.optimizer_G, plain.optimizer_D):  # rates in float32, as a captured step reads them
        make_capturable(optimizer, CPU, isinstance(state.optimizer_G.param_groups[0]["lr"], Tensor))
    for step in range(STEPS):
        expected, scalars = train_step(settings, plain, reals(settings, step)), make_step(reals(settings, step))
        assert_same(scalars, expected)
    assert_same(contents(state), contents(plain))


def check_captured(recipe: dict[str, Any]) -> None:
    settings = small(**recipe)
    state = build_state(settings, CPU)
    stepper = open_stepper(settings, state, CPU, capture)
    assert stepper is not None
    assert stepper.ran == "graph"
    assert_as_plain(settings, state, stepper)
    assert stepper.ran == "graph", "nothing fell back"


@pytest.mark.parametrize("recipe", list(QUICK))
def test_captured_steps_are_plain_steps(recipe: str) -> None:
    """To the last bit, while random numbers, rates, penalties and top-k's number change from step to step."""
    check_captured(QUICK[recipe])


@pytest.mark.nightly
@pytest.mark.parametrize("recipe", list(SLOW))
def test_every_recipe_can_be_captured(recipe: str) -> None:
    check_captured(SLOW[recipe])


def test_a_scalar_of_a_captured_step_stays_what_it_was() -> None:
    """A replay writes into the tensors of the step before; sums over steps must not change with them."""
    settings = small()
    stepper = open_stepper(settings, build_state(settings, CPU), CPU, capture)
    assert stepper is not None
    losses = [stepper(reals(settings, step))["loss_D"] for step in range(PLAIN_RUNS + 3)]
    assert len({float(loss) for loss in losses}) == len(losses)


def test_what_cannot_be_captured_runs_plainly(caplog: pytest.LogCaptureFixture) -> None:
    settings = small(**MOVING)
    state = build_state(settings, CPU)
    stepper = open_stepper(settings, state, CPU, no_capture)
    assert stepper is not None
    with caplog.at_level(logging.WARNING, "balancer"):
        assert_as_plain(settings, state, stepper)
    assert stepper.ran == "plain"
    assert len(caplog.records) == 1
    assert "CUDA graph" in caplog.text


def test_a_compiler_that_fails_midway_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """D has made its step when the compiler fails in G's: the step is made again, from where it began."""
    calls = []

    def compiled(call: Callable[..., Tensor], **_: Any) -> Callable[..., Tensor]:
        def run(*args: Any) -> Tensor:
            calls.append(call)
            if len(calls) == 4:  # G, D of real images, D of fakes, then D for G
                raise RuntimeError("no compiler\nbut many lines")
            return call(*args)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    settings = small(step_mode="compiled")
    state = build_state(settings, CPU)
    stepper = open_stepper(settings, state, CPU)
    assert stepper is not None
    with caplog.at_level(logging.WARNING, "balancer"):
        assert_as_plain(settings, state, stepper)
    assert len(calls) == 4
    assert stepper.ran == "plain"
    assert [r.message.count("no compiler") for r in caplog.records] == [1]
    assert "many lines" not in caplog.text


@pytest.mark.nightly
def test_compiled_steps(caplog: pytest.LogCaptureFixture) -> None:
    """With a real compiler, the losses of plain steps but for rounding."""
    settings = small(step_mode="compiled")
    states = [build_state(settings, CPU) for _ in range(2)]
    stepper = open_stepper(settings, states[0], CPU)
    assert stepper is not None
    for step in range(5):
        scalars, expected = stepper(reals(settings, step)), train_step(settings, states[1], reals(settings, step))
        for name, value in expected.items():
            assert float(scalars[name]) == pytest.approx(float(value), abs=1e-4), name
    assert stepper.ran == "compiled" or "could not be compiled" in caplog.text, "a machine may have no compiler"


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let graphs be opened without one."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))


@pytest.mark.usefixtures("no_card")
def test_a_capture_is_made_on_its_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [torch.device("cuda:0")]

    @contextlib.contextmanager
    def on(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    def graph(*_: object, **__: object) -> contextlib.AbstractContextManager[None]:
        assert current[-1].index == 1, "torch.cuda.graph waits for the current card"
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=None))
    assert Graphs(torch.device("cuda:1"))._capture_cuda(dict) == (None, {})


@pytest.mark.usefixtures("no_card")
def test_graphs_go_with_the_last_that_uses_them() -> None:
    """Their memory cannot wait for Python's collector, which knows nothing of a card."""
    gc.disable()
    try:
        held = weakref.ref(Graphs(torch.device("cuda")))
        assert held() is None
    finally:
        gc.enable()


def test_plain_is_what_the_cpu_gets() -> None:
    settings = small()
    assert open_stepper(settings, build_state(settings, CPU), CPU) is None
    assert choose_mode("auto", torch.device("mps")) == "plain"
    assert choose_mode("auto", torch.device("cuda")) == choose_mode("graph", torch.device("cuda")) == "graph"
    with pytest.raises(UsageError, match="step_mode"):
        choose_mode("graph", CPU)
    values = torch.rand(3)
    assert to_device(values, CPU) is values


def test_reconstruction_stays_plain() -> None:
    """Its corner is a branch in Python, which a graph would take once and for all."""
    settings = small(reconstruction_weight=1.0, data={"path": "phantom", "image_size": 32})
    assert open_stepper(settings, build_state(settings, CPU), CPU, capture) is None


def test_a_summary_records_how_steps_ran(tmp_path: Path) -> None:
    summary = GanSummary("NORMAL", 11, 8, 1.0, 0.5, 8, None, {"loss_D": 1.0}, step_mode="graph")
    values = summary.to_json()
    assert values["step_mode"] == "graph"
    assert GanSummary.from_json(dict(values), tmp_path) == summary
    del values["step_mode"]
    assert GanSummary.from_json(values, tmp_path).step_mode == "plain", "of an earlier version"
