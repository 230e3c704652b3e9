"""How long the trials of a study take on this machine, tried with networks that are thrown away."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import torch

from balancer.core.device import synchronize
from balancer.core.errors import Interrupted
from balancer.core.pixels import channels_of
from balancer.core.setting_types import Trainable
from balancer.core.settings import ClassifierConfig, PretrainConfig
from balancer.core.speed import seconds_each
from classifier import novelty
from classifier.experiments.study import Study
from classifier.models import build_model
from classifier.training import metering, pretraining, trainer
from classifier.training.frozen_features import learns_from_features
from classifier.training.regimes import Regime
from classifier.training.training_set import TrainingSet

BUDGET = 2.5  # seconds of trying
ESTIMATED_ON = 128  # validation images, at most
STEPS = 8  # at most
SMALLEST_BATCH = 2  # BatchNorm needs two images
STEP_PASSES = 3  # a step costs about as much as so many forward passes: forward, and twice as much backward
ENOUGH = 15  # stands for a signal: enough was tried


def estimate_seconds(study: Study, device: torch.device, budget: float = BUDGET) -> float:
    """Return the time of all trials on one worker, with the pretraining of each trial seed."""
    return training_seconds(study, device, budget) + pretraining_seconds(study, device)


def pretraining_seconds(study: Study, device: torch.device) -> float:
    """Return the time of the pretrainings that the cache does not hold: one for each trial seed."""
    if not pretraining.is_wanted(study.config):
        return 0.0
    seeds = {trial.seed + trial.regime.seed_offset for trial in study.trials}
    missing = [s for s in seeds if not pretraining.is_kept(study.config, study.data, s, device)]
    return len(missing) * pretraining.estimate_seconds(study.config, study.data, device) if missing else 0.0


def training_seconds(study: Study, device: torch.device, budget: float = BUDGET) -> float:
    """Return the time of all trials on one worker, without pretraining.

    Tried are the prediction of some validation images, and a few steps for each number of layers that learn, with and
    without augmentation. Stages on cached features cost their features alone. Early stopping is not foreseen.
    """
    config, data = study.config, study.data
    val, test = data.indices("val"), data.indices("test")
    # Weights do not change the speed; loading them would take long, and normalisation must not follow them.
    without = {"weights": "none", "normalisation": config.input_normalisation, "pretrain": PretrainConfig()}
    fresh = config.model_copy(update=without)
    an_image = _seconds_an_image(fresh, data.images[val[:ESTIMATED_ON]], device, budget / 4)
    at_the_end = len(test) + sum(min(len(data.indices(fold)), novelty.MOST) for fold in ("train", "val"))
    seen = len(val) + (trainer.BN_IMAGES if config.bn_statistics == "reestimated" else 0)  # images a validation
    a_step: dict[tuple[bool, Trainable], float] = {}
    a_trial: dict[tuple[str, int | None, float | None], float] = {}  # seeds take equally long
    for trial in study.trials:
        arm = trial.regime.name, trial.synthetic_set, trial.dose
        if arm in a_trial:
            continue
        seconds = 0.0
        train = study.training_set(trial, rehearsal=True)
        shown = len(study.measured_sets(trial))
        images = at_the_end + (metering.forward_passes(data, study.synthetic, shown) if shown else 0)
        for stage in trainer.stages(config, train):
            if learns_from_features(config, stage, trial.regime, len(train.images)):
                images += len(train.images) + len(val)
                continue
            kind = trial.regime.augment, stage.trainable
            if kind not in a_step:
                fold = data.images[val[:1]], data.labels[val[:1]]
                a_step[kind] = _seconds_a_step(
                    fresh, stage.trainable, trial.regime, train, fold, device, an_image, budget / 4
                )
            seconds += a_step[kind] * stage.steps
            images += stage.evaluations * seen
        a_trial[arm] = seconds + an_image * images
    return sum(a_trial[trial.regime.name, trial.synthetic_set, trial.dose] for trial in study.trials)


def _seconds_an_image(config: ClassifierConfig, images: np.ndarray, device: torch.device, budget: float) -> float:
    """Return the time of an image in prediction."""
    model = build_model(config, channels=channels_of(images)).to(device)
    return seconds_each(lambda n: trainer.predict(model, images[:n], config, device), len(images), budget)


def _seconds_a_step(
    config: ClassifierConfig,
    trainable: Trainable,
    regime: Regime,
    train_set: TrainingSet,
    val_set: tuple[np.ndarray, np.ndarray],
    device: torch.device,
    an_image: float,
    budget: float,
) -> float:
    """Return the time of a step, the median of a few; a slow network is tried on a part of the batch.

    Args:
        config: its length, its weights and its stages do not count.
        trainable: what learns.
        regime: says whether images are augmented.
        train_set: the images.
        val_set: an image and its label, which end the trial.
        device: where to train.
        an_image: seconds of an image in prediction.
        budget: seconds after which no further step begins.
    """
    fitting = int(budget / 3 / max(STEP_PASSES * an_image, 1e-9))
    batch = min(config.batch_size, max(fitting, SMALLEST_BATCH))
    brief = {"evaluations": 1, "threshold": "half", "exposure": "steps", "stages": (), "bn_statistics": "running"}
    brief |= {"steps": STEPS, "trainable": trainable, "batch_size": batch}
    changed = config.model_copy(update={**brief, "accumulate": min(config.accumulate, batch // SMALLEST_BATCH)})
    ends: list[float] = []

    def enough() -> int | None:
        synchronize(device)  # else the clock would tell how fast steps are queued
        ends.append(time.perf_counter())
        return ENOUGH if len(ends) > 1 and ends[-1] - ends[0] > budget else None

    with contextlib.suppress(Interrupted):
        trainer.train(changed, regime, 0, train_set, val_set, device, enough)
    return float(np.median(np.diff(ends))) * config.batch_size / batch  # the first step pays for set-up
