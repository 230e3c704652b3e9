"""Stages of training: the settings of each with every value filled in, and epochs turned into optimiser steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balancer.core.errors import UsageError
from balancer.core.settings import ClassifierConfig, StageConfig, Trainable
from balancer.data.folder import TASKS
from classifier.models import OWN_MODELS
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
    lengths grow by the share of added images, so that every regime draws each real image equally often.

    Raises:
        UsageError: if settings do not fit each other, or a batch is larger than the training fold.
    """
    check_stages(config)
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
        return steps if config.exposure == "steps" else round(steps * len(train_set.images) / train_set.n_real)

    def in_steps(epochs: float) -> int:
        return max(1, lengthened(round(epochs * train_set.n_fold / config.batch_size)))

    values = {name: value(name) for name in Stage.__dataclass_fields__}
    values["steps"] = lengthened(values["steps"]) if stage.epochs is None else in_steps(stage.epochs)
    values["lr_period"] = in_steps(values["lr_period"])
    return Stage(**values)


def check_stages(config: ClassifierConfig) -> None:
    """Refuse settings that cannot work, whatever the data.

    Raises:
        UsageError: if settings of a stage, of the loss or of the batch do not fit each other.
    """
    if config.class_weights == "positive" and len(TASKS[config.data.task]) > 2:
        raise UsageError(
            f"class_weights is 'positive', which is for two classes; of {config.data.task} give balanced or complement"
        )
    if 0 < config.focal_gamma < 1:
        raise UsageError(
            f"focal_gamma is {config.focal_gamma:g}: between 0 and 1 the gradient of a certain prediction is infinite;"
            " give 0, or 1 or more"
        )
    if config.accumulate > 1 and config.batch_size < 2 * config.accumulate:
        raise UsageError(
            f"accumulate is {config.accumulate} with batch_size {config.batch_size}; BatchNorm needs two images a part:"
            f" use at most {config.batch_size // 2}"
        )
    for i, stage in enumerate(config.stages or (StageConfig(),), 1):
        which = f"stage {i}: " if config.stages else ""
        if stage.epochs is not None and stage.steps is not None:
            raise UsageError(f"{which}epochs is {stage.epochs:g} and steps is {stage.steps}; give one of the two")
        if stage.trainable not in (None, "all") and config.model in OWN_MODELS:
            raise UsageError(
                f"{which}trainable is {stage.trainable!r}, which is for torchvision backbones;"
                f" model is {config.model!r}"
            )
        lr, low = (getattr(config, k) if (v := getattr(stage, k)) is None else v for k in ("lr", "lr_low"))
        if (stage.schedule or config.schedule) == "triangular" and low >= lr:
            raise UsageError(f"{which}lr_low is {low:g}; schedule triangular needs one below lr, which is {lr:g}")


def validation_steps(steps: int, evaluations: int) -> set[int]:
    """Return the steps of a stage, from 1, that end in a validation: evenly spread, the last step among them."""
    return {round(steps * (i + 1) / evaluations) for i in range(evaluations)} - {0} | {steps}


def should_stop(val_nlls: Sequence[float], patience: int) -> bool:
    """Return whether the last ``patience`` validations brought no NLL below the best one before; never if it is 0."""
    return bool(patience) and len(val_nlls) - 1 - int(np.argmin(val_nlls)) >= patience
