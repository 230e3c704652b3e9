"""Stages of training: what the settings say of each, with every value filled in and epochs turned into steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balancer.core.errors import UsageError
from balancer.core.settings import ClassifierConfig, StageConfig, Trainable
from balancer.data.folder import TASKS
from classifier.training.losses import check_class_weights
from classifier.training.schedules import Rates
from classifier.training.training_set import TrainingSet


@dataclass(frozen=True)
class Stage:
    """One stage: what learns, how, for how long."""

    steps: int  # at most
    trainable: Trainable
    optimizer: str
    lr: float
    weight_decay: float
    schedule: str
    rates: Rates
    patience: int  # looks without a better NLL that end it; 0: never
    evaluations: int


def stages(config: ClassifierConfig, train: TrainingSet) -> tuple[Stage, ...]:
    """The stages of a training, one where the settings name none.

    An epoch is as many steps as it takes to draw the real images of the training fold once, whatever a regime adds to them
    or leaves out: every regime makes the same number of steps. With exposure ``real`` all lengths grow by the added
    images, so that real ones come round as often.

    Raises:
        UsageError: settings that do not fit each other, or a batch larger than the fold.
    """
    check_stages(config)
    if config.batch_size > train.n_fold:
        raise UsageError(
            f"batch_size is {config.batch_size}, but the training fold holds {train.n_fold} images; use a smaller batch"
        )
    return tuple(_resolve(config, stage, train) for stage in config.stages or (StageConfig(),))


def _resolve(config: ClassifierConfig, stage: StageConfig, train: TrainingSet) -> Stage:
    def value(name: str) -> Any:
        own = getattr(stage, name)
        return getattr(config, name) if own is None else own

    def steps(epochs: float) -> int:
        return max(1, lengthened(round(epochs * train.n_fold / config.batch_size)))

    def lengthened(n: int) -> int:
        return n if config.exposure == "steps" else round(n * len(train.images) / train.n_real)

    length = lengthened(value("steps")) if stage.epochs is None else steps(stage.epochs)
    rates = Rates(
        value("lr"), length, value("lr_factor"), value("lr_patience"), steps(value("lr_period")), value("lr_low")
    )
    same = ("trainable", "optimizer", "lr", "weight_decay", "schedule", "patience", "evaluations")
    return Stage(steps=length, rates=rates, **{name: value(name) for name in same})


def check_stages(config: ClassifierConfig) -> None:
    """Refuse what cannot work whatever the data.

    Raises:
        UsageError: settings of a stage, of the loss or of the batch that do not fit each other.
    """
    check_class_weights(config.class_weights, len(TASKS[config.data.task]))
    if 0 < config.focal_gamma < 1:
        raise UsageError(
            f"focal_gamma is {config.focal_gamma:g}, where the loss has no finite gradient for sure images; give 0, or 1 or more"
        )
    if config.accumulate > 1 and config.batch_size < 2 * config.accumulate:
        raise UsageError(
            f"accumulate is {config.accumulate} with batch_size {config.batch_size}; BatchNorm needs two images in every part: "
            f"use at most {config.batch_size // 2}"
        )
    for i, stage in enumerate(config.stages or (StageConfig(),), 1):
        which = f"stage {i}: " if config.stages else ""
        if stage.epochs is not None and stage.steps is not None:
            raise UsageError(f"{which}epochs is {stage.epochs:g} and steps is {stage.steps}; give one of the two")
        lr, low = (getattr(config, k) if (v := getattr(stage, k)) is None else v for k in ("lr", "lr_low"))
        if (stage.schedule or config.schedule) == "triangular" and low >= lr:
            raise UsageError(f"{which}lr_low is {low:g}, which is not below lr, {lr:g}, as schedule triangular needs")


def evaluation_steps(steps: int, evaluations: int) -> set[int]:
    """Steps after which validation is looked at: evenly spread, the last one always among them."""
    return {round(steps * (i + 1) / evaluations) for i in range(evaluations)} - {0} | {steps}


def stalled(seen: Sequence[float], patience: int) -> bool:
    """Whether so many looks in a row, at the end, brought no better NLL than the best before; never where it is 0."""
    return bool(patience) and len(seen) - 1 - int(np.argmin(seen)) >= patience
