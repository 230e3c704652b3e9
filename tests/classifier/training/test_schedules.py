"""Learning rates against torch's own schedulers, step by step."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from balancer.core.errors import UsageError
from balancer.core.settings import Schedule
from classifier.training.schedules import SCHEDULES, Rates, learning_rate

LR = 0.02


def torchs(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    """The rates that a scheduler of torch, advanced after every step, gives."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler, seen = make(optimizer), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def ours(name: str, rates: Rates) -> list[float]:
    return [learning_rate(name, rates, step) for step in range(rates.steps)]


def test_the_menu_of_the_settings_is_what_there_is() -> None:
    assert set(get_args(Schedule)) == set(SCHEDULES)
    with pytest.raises(UsageError, match="schedule is 'cosin'; did you mean 'cosine'"):
        learning_rate("cosin", Rates(LR, 10), 0)


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_constant_and_cosine(steps: int) -> None:
    assert ours("constant", Rates(LR, steps)) == [LR] * steps
    expected = torchs(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=steps), steps)
    assert ours("cosine", Rates(LR, steps)) == pytest.approx(expected)


@pytest.mark.parametrize(("period", "factor"), [(1, 0.5), (4, 0.1), (100, 0.1)])
def test_step_is_torchs(period: int, factor: float) -> None:
    expected = torchs(lambda o: lr_scheduler.StepLR(o, period, factor), 20)
    assert ours("step", Rates(LR, 20, factor=factor, period=period)) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [2, 5, 10, 37, 200])
def test_one_cycle_is_torchs(steps: int) -> None:
    expected = torchs(lambda o: lr_scheduler.OneCycleLR(o, LR, total_steps=steps), steps)
    assert ours("one_cycle", Rates(LR, steps)) == pytest.approx(expected)


def test_one_cycle_of_a_single_step() -> None:
    assert 0 < ours("one_cycle", Rates(LR, 1))[0] <= LR


@pytest.mark.parametrize("period", [1, 3, 8])
def test_triangular_is_torchs(period: int) -> None:
    expected = torchs(
        lambda o: lr_scheduler.CyclicLR(o, 0.001, LR, step_size_up=period, cycle_momentum=False), 5 * period
    )
    rates = ours("triangular", Rates(LR, 5 * period, period=period, low=0.001))
    assert rates == pytest.approx(expected)
    assert max(rates) == pytest.approx(LR)
    assert rates[0] == 0.001


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), max_size=25), st.integers(0, 4))
def test_plateau_is_torchs(losses: list[float], patience: int) -> None:
    """With torch's threshold at 0: any lower NLL is better."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, threshold=0, eps=0)
    rates = Rates(LR, 100, factor=0.5, patience=patience)
    assert learning_rate("plateau", rates, 0, []) == LR
    for n, loss in enumerate(losses, 1):
        scheduler.step(loss)
        now = optimizer.param_groups[0]["lr"]
        assert learning_rate("plateau", rates, 3 * n, losses[:n]) == pytest.approx(now)
