"""Stages of training: the settings of each with every value filled in, and epochs turned into optimiser steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balancer.core.errors import UsageError
from balancer.core.setting_types import Trainable
from balancer.core.settings import ClassifierConfig, StageConfig
from classifier.training.training_set import TrainingSet


@dataclass(frozen=True)
class Stage:
    """The settings of one stage."""

    steps: int  # optimiser steps, at most
    trainable: Trainable
    optimizer: str
    lr: float  # the largest learning rate
    weight_decay: float
    schedule: str  # a key of SCHEDULES
    lr_factor: float  # schedules step and plateau: the rate is multiplied by this factor
    lr_patience: int  # schedule plateau: validations without a better NLL before the rate falls
    lr_period: int  # schedule step: steps between falls; schedule triangular: steps of a rise
    lr_low: float  # schedule triangular: the lowest rate
    patience: int  # validations without a better NLL that end the stage; 0: never
    evaluations: int  # number of validations


def stages(config: ClassifierConfig, train_set: TrainingSet) -> tuple[Stage, ...]:
    """Return the stages of a training; there is one stage if the settings name none.

    An epoch has as many steps as it takes to draw every real image of the training fold once. Images that a regime
    adds or leaves out do not count, so every regime makes the same number of steps. With ``exposure`` real, all
    lengths grow or shrink as the number of images does, so that every regime draws each of its real images equally
    often. A regime that pretrains draws them more often, since the second half of its steps has no others.

    Raises:
        UsageError: if settings do not fit each other, or a batch is larger than the training fold.
    """
    if config.batch_size > train_set.n_fold:
        raise UsageError(
            f"batch_size is {config.batch_size}, but the training fold has {train_set.n_fold} images; use smaller ones"
        )
    return tuple(_resolve(config, stage, train_set) for stage in config.stages or (StageConfig(),))


def _resolve(config: ClassifierConfig, stage: StageConfig, train_set: TrainingSet) -> Stage:
    """Fill in from ``config`` what the stage leaves open, and turn epochs into steps."""

    def value(name: str) -> Any:
        of_stage = getattr(stage, name)
        return getattr(config, name) if of_stage is None else of_stage

    def lengthened(steps: int) -> int:
        return steps if config.exposure == "steps" else round(steps * len(train_set.images) / train_set.n_fold)

    def in_steps(epochs: float) -> int:
        return max(1, lengthened(round(epochs * train_set.n_fold / config.batch_size)))

    values = {name: value(name) for name in Stage.__dataclass_fields__}
    values["steps"] = lengthened(values["steps"]) if stage.epochs is None else in_steps(stage.epochs)
    values["lr_period"] = in_steps(values["lr_period"])
    return Stage(**values)


def validation_steps(steps: int, evaluations: int) -> set[int]:
    """Return the steps of a stage, from 1, that end in a validation: evenly spread, the last step among them."""
    return {round(steps * (i + 1) / evaluations) for i in range(evaluations)} - {0} | {steps}


def should_stop(val_nlls: Sequence[float], patience: int) -> bool:
    """Return whether the last ``patience`` validations brought no NLL below the best one before; never if it is 0."""
    return bool(patience) and len(val_nlls) - 1 - int(np.argmin(val_nlls)) >= patience
