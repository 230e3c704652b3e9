"""Learning-rate schedules over a stage, as torch schedulers that advance after every optimiser step.

All but one-cycle are closed forms in a ``LambdaLR``. torch's own ``CosineAnnealingLR``, ``StepLR``, ``CyclicLR`` and
``ReduceLROnPlateau`` multiply from step to step and round differently; published figures depend on every digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from classifier.training.stages import Stage


def constant(stage: Stage, _step: int, _val_nlls: Sequence[float]) -> float:
    """Return the stage's learning rate."""
    return stage.lr


def cosine(stage: Stage, step: int, _val_nlls: Sequence[float]) -> float:
    """Return half a cosine from ``lr`` towards 0 (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    return stage.lr * (0.5 * (1 + math.cos(math.pi * (step / stage.steps))))


def step_decay(stage: Stage, step: int, _val_nlls: Sequence[float]) -> float:
    """Return ``lr``, multiplied by ``lr_factor`` after every ``lr_period`` steps."""
    return stage.lr * stage.lr_factor ** (step // stage.lr_period)


def plateau(stage: Stage, _step: int, val_nlls: Sequence[float]) -> float:
    """Return ``lr``, times ``lr_factor`` whenever more than ``lr_patience`` validations bring no lower NLL."""
    lowest, waited, falls = math.inf, 0, 0
    for nll in val_nlls:
        waited = 0 if nll < lowest else waited + 1
        lowest = min(lowest, nll)
        if waited > stage.lr_patience:
            waited, falls = 0, falls + 1
    return stage.lr * stage.lr_factor**falls


def triangular(stage: Stage, step: int, _val_nlls: Sequence[float]) -> float:
    """Go from ``lr_low`` to ``lr`` and back, ``lr_period`` steps each way (Smith 2017, arXiv:1506.01186)."""
    return stage.lr_low + (stage.lr - stage.lr_low) * (1 - abs(step / stage.lr_period % 2 - 1))


def closed_form(
    rate: Callable[[Stage, int, Sequence[float]], float],
) -> Callable[[Optimizer, Stage, Sequence[float]], LRScheduler]:
    """Return the maker of a scheduler whose rate is a function of stage, step and validation NLLs so far."""

    def make(optimizer: Optimizer, stage: Stage, val_nlls: Sequence[float]) -> LRScheduler:
        for group in optimizer.param_groups:
            group["initial_lr"] = 1.0  # LambdaLR multiplies by it, so that the rates keep every digit
        return LambdaLR(optimizer, lambda step: rate(stage, step, val_nlls))

    return make


def one_cycle(optimizer: Optimizer, stage: Stage, _val_nlls: Sequence[float]) -> LRScheduler:
    """Return torch's one-cycle schedule (Smith & Topin 2019, arXiv:1708.07120), which leaves momentum as it is."""
    return OneCycleLR(optimizer, stage.lr, total_steps=stage.steps, cycle_momentum=False)


# Each takes a new optimiser, the stage, and the list of the stage's validation NLLs, which grows during training.
SCHEDULES: dict[str, Callable[[Optimizer, Stage, Sequence[float]], LRScheduler]] = {
    "constant": closed_form(constant),
    "cosine": closed_form(cosine),
    "step": closed_form(step_decay),
    "plateau": closed_form(plateau),
    "one_cycle": one_cycle,
    "triangular": closed_form(triangular),
}
