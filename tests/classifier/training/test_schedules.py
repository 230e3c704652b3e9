"""Learning rates against torch's own schedulers, step by step."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from balancer.core.setting_types import Schedule
from classifier.training.schedules import SCHEDULES
from classifier.training.stages import Stage

LR, LOW = 0.02, 0.001


def stage(schedule: str, steps: int, factor: float = 0.1, patience: int = 0, period: int = 1) -> Stage:
    return Stage(steps, "all", "sgd", LR, 0.0, schedule, factor, patience, period, LOW, 0, 1)


def rates(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    """The learning rate of every step under a scheduler that advances after each."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler, seen = make(optimizer), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def ours(schedule: str, steps: int, val_nlls: Sequence[float] = (), **more: Any) -> list[float]:
    return rates(lambda o: SCHEDULES[schedule](o, stage(schedule, steps, **more), val_nlls), steps)


def test_the_menu_of_the_settings_is_what_there_is() -> None:
    assert set(get_args(Schedule)) == set(SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_every_schedule_gives_every_step_a_rate_up_to_the_largest(schedule: str, steps: int) -> None:
    assert all(0 < rate <= LR for rate in ours(schedule, steps, period=3)[schedule == "triangular" :])


TORCHS: dict[str, Callable[..., Any]] = {
    "constant": lambda o, steps, period: lr_scheduler.ConstantLR(o, 1.0),
    "cosine": lambda o, steps, period: lr_scheduler.CosineAnnealingLR(o, T_max=steps),
    "step": lambda o, steps, period: lr_scheduler.StepLR(o, period, 0.1),
    "one_cycle": lambda o, steps, period: lr_scheduler.OneCycleLR(o, LR, total_steps=steps),
    "triangular": lambda o, steps, period: lr_scheduler.CyclicLR(o, LOW, LR, step_size_up=period, cycle_momentum=False),
}


@pytest.mark.parametrize("schedule", TORCHS)
@pytest.mark.parametrize(("steps", "period"), [(1, 1), (7, 3), (40, 1), (40, 8), (200, 100)])
def test_rates_are_torchs(schedule: str, steps: int, period: int) -> None:
    expected = rates(lambda o: TORCHS[schedule](o, steps, period), steps)
    assert ours(schedule, steps, period=period) == pytest.approx(expected)


def test_no_rounding_error_builds_up() -> None:
    """Published figures depend on every digit of the closed form."""
    assert ours("step", 40, period=4) == [LR * 0.1 ** (step // 4) for step in range(40)]
    assert ours("triangular", 60, period=30)[30] == LR


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), max_size=25), st.integers(0, 4))
def test_plateau_is_torchs(losses: list[float], patience: int) -> None:
    """A validation after every step. torch's threshold is 0: any lower NLL is better."""
    optimizers = [torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR) for _ in range(2)]
    reference = lr_scheduler.ReduceLROnPlateau(optimizers[0], factor=0.5, patience=patience, threshold=0, eps=0)
    val_nlls: list[float] = []
    scheduler = SCHEDULES["plateau"](optimizers[1], stage("plateau", 100, factor=0.5, patience=patience), val_nlls)
    for loss in losses:
        optimizers[1].step()
        val_nlls.append(loss)
        scheduler.step()
        reference.step(loss)
        assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"]
