"""Learning-rate schedules over a stage, as torch schedulers that advance after every optimiser step.

Published figures depend on every rate to the last digit. Most schedules here are therefore closed forms in a ``LambdaLR``:
torch's own ``CosineAnnealingLR``, ``StepLR``, ``CyclicLR`` and ``ReduceLROnPlateau`` multiply from step to step and round
differently. The tests compare every schedule with torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from balancer.core.errors import lookup
from classifier.training.stages import Stage

Factor = Callable[[int], float]  # step of the stage, from 0, to the rate's factor


def constant(_stage: Stage, _val_nlls: Sequence[float]) -> Factor:
    """Return the factor 1 for every step."""
    return lambda step: 1.0


def cosine(stage: Stage, _val_nlls: Sequence[float]) -> Factor:
    """Return half a cosine from 1 towards 0 (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * (step / stage.steps)))


def step_decay(stage: Stage, _val_nlls: Sequence[float]) -> Factor:
    """Return a factor that is multiplied by ``lr_factor`` after every ``lr_period`` steps."""
    return lambda step: stage.lr_factor ** (step // stage.lr_period)


def plateau(stage: Stage, val_nlls: Sequence[float]) -> Factor:
    """Return a factor that is multiplied by ``lr_factor`` after more than ``lr_patience`` validations without a better NLL."""

    def factor(_step: int) -> float:
        lowest, waited, falls = math.inf, 0, 0
        for nll in val_nlls:
            waited = 0 if nll < lowest else waited + 1
            lowest = min(lowest, nll)
            if waited > stage.lr_patience:
                waited, falls = 0, falls + 1
        return stage.lr_factor**falls

    return factor


class TriangularLR(LRScheduler):
    """Up and down between ``lr_low`` and ``lr``, ``lr_period`` steps each way (Smith 2017, arXiv:1506.01186)."""

    def __init__(self, optimizer: Optimizer, stage: Stage) -> None:
        self.stage = stage
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of the current step for every parameter group."""
        stage = self.stage
        height = 1 - abs(self.last_epoch / stage.lr_period % 2 - 1)
        return [stage.lr_low + (stage.lr - stage.lr_low) * height for _ in self.optimizer.param_groups]


def one_cycle(optimizer: Optimizer, stage: Stage, _val_nlls: Sequence[float]) -> LRScheduler:
    """Return torch's one-cycle schedule (Smith & Topin 2019, arXiv:1708.07120); momentum is not cycled."""
    return OneCycleLR(optimizer, stage.lr, total_steps=stage.steps, cycle_momentum=False)


def _scaled(
    factor: Callable[[Stage, Sequence[float]], Factor],
) -> Callable[[Optimizer, Stage, Sequence[float]], LRScheduler]:
    return lambda optimizer, stage, val_nlls: LambdaLR(optimizer, factor(stage, val_nlls))


SCHEDULES: dict[str, Callable[[Optimizer, Stage, Sequence[float]], LRScheduler]] = {
    "constant": _scaled(constant),
    "cosine": _scaled(cosine),
    "step": _scaled(step_decay),
    "plateau": _scaled(plateau),
    "one_cycle": one_cycle,
    "triangular": lambda optimizer, stage, _val_nlls: TriangularLR(optimizer, stage),
}


def make_scheduler(stage: Stage, optimizer: Optimizer, val_nlls: Sequence[float]) -> LRScheduler:
    """Return the scheduler of a stage; call its ``step`` after every optimiser step.

    Args:
        stage: the stage's settings.
        optimizer: a new optimiser with learning rate ``stage.lr``.
        val_nlls: the stage's validation NLLs so far; the caller appends to this list, and ``plateau`` reads it.

    Raises:
        UsageError: if there is no such schedule.
    """
    return lookup(SCHEDULES, stage.schedule, "schedule")(optimizer, stage, val_nlls)
