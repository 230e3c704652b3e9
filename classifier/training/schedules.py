"""Learning rates over a stage of training, each a pure function of the step and of what validation has shown so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from balancer.core.errors import lookup


@dataclass(frozen=True)
class Rates:
    """What schedules are made of; each uses its own part."""

    lr: float  # the largest
    steps: int  # of the stage
    factor: float = 0.1  # step, plateau: what the rate is multiplied by
    patience: int = 3  # plateau: looks without a better NLL that are borne before that
    period: int = 1  # step: steps between falls; triangular: steps from the lower end to the upper
    low: float = 0.0  # triangular: the lower end


Schedule = Callable[[Rates, int, Sequence[float]], float]
# One-cycle: share of the steps that the rate rises, what it starts below the largest by, what it ends below its start by.
RISE, START, END = 0.3, 25, 1e4


def constant(rates: Rates, _step: int, _seen: Sequence[float]) -> float:
    """The same all along."""
    return rates.lr


def cosine(rates: Rates, step: int, _seen: Sequence[float]) -> float:
    """Half a cosine from the rate towards 0 (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    return rates.lr * (0.5 * (1 + math.cos(math.pi * (step / rates.steps))))


def falling(rates: Rates, step: int, _seen: Sequence[float]) -> float:
    """Multiplied by the factor after every period."""
    return rates.lr * rates.factor ** (step // rates.period)


def plateau(rates: Rates, _step: int, seen: Sequence[float]) -> float:
    """Multiplied by the factor whenever more looks than the patience in a row brought no better NLL."""
    lowest, waited, falls = math.inf, 0, 0
    for nll in seen:
        waited = 0 if nll < lowest else waited + 1
        lowest = min(lowest, nll)
        if waited > rates.patience:
            waited, falls = 0, falls + 1
    return rates.lr * rates.factor**falls


def one_cycle(rates: Rates, step: int, _seen: Sequence[float]) -> float:
    """Up to the rate and far below where it began, in two half cosines (Smith & Topin 2019, arXiv:1708.07120).

    The learning rate alone: momentum is not cycled against it.
    """
    top, end = RISE * rates.steps - 1, rates.steps - 1
    start = rates.lr / START
    if step <= top:
        return _half_cosine(start, rates.lr, step / top)
    return _half_cosine(rates.lr, start / END, (step - top) / (end - top))


def triangular(rates: Rates, step: int, _seen: Sequence[float]) -> float:
    """Up and down between two ends, a period each way (Smith 2017, arXiv:1506.01186)."""
    return rates.low + (rates.lr - rates.low) * (1 - abs(step / rates.period % 2 - 1))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "cosine": cosine,
    "step": falling,
    "plateau": plateau,
    "one_cycle": one_cycle,
    "triangular": triangular,
}


def learning_rate(name: str, rates: Rates, step: int, seen: Sequence[float] = ()) -> float:
    """The learning rate of a step.

    Args:
        name: a key of SCHEDULES.
        step: in the stage, from 0.
        seen: validation NLLs of the stage's looks so far.

    Raises:
        UsageError: no such schedule.
    """
    return lookup(SCHEDULES, name, "schedule")(rates, step, seen)
