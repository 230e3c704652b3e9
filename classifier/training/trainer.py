"""Train one classifier under one regime, in one stage or several: the same number of optimiser steps whatever the regime."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from balancer.augmentation.classical import Augmenter
from balancer.core import progress
from balancer.core.device import autocast, memory_format
from balancer.core.ema import exponential_average
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.seeding import derive_seed
from balancer.core.settings import ClassifierConfig, Trainable
from classifier.evaluation.metrics import nll
from classifier.evaluation.thresholds import fit_temperature, threshold_rule
from classifier.models import build_model
from classifier.models.backbones import Backbone
from classifier.training.frozen_features import HeadStage, worthwhile
from classifier.training.losses import Loss, make_loss, with_penalty
from classifier.training.prediction import predict, to_input
from classifier.training.regimes import Regime
from classifier.training.schedules import learning_rate
from classifier.training.stages import Stage, check_stages, evaluation_steps, stages, stalled
from classifier.training.training_set import Batches, TrainingSet

Array = np.ndarray
CLEAN = 2048  # training images that BatchNorm's statistics are re-estimated on


@dataclass(frozen=True)
class Fitted:
    """A trained classifier, as selected on validation."""

    model: nn.Module
    temperature: float
    threshold: float  # on probabilities without the temperature, which changes no decision; of more than two classes .5, unused
    steps: int  # that were made: early stopping may leave some out
    selected_step: int
    history: list[dict[str, float]]
    val_score: Array  # (n,), or (n, C) of more than two classes
    passes_over_real: float
    seconds: float


def check(config: ClassifierConfig) -> None:
    """Refuse unknown names, weights that do not fit and images too small for the network, before anything is written.

    The network is built for real: on the meta device RegNets cannot be, and a weights file is not looked at.

    Raises:
        UsageError: settings that cannot be used.
        BalancerError: weights that cannot be had or do not fit.
    """
    threshold_rule(config.threshold)
    Augmenter(config.augmentation, 0)
    check_stages(config)
    model, size = build_model(config).eval(), config.data.image_size
    for stage in config.stages:
        if stage.trainable is not None:
            set_trainable(model, config, stage.trainable)
    try:
        with torch.no_grad():
            model(to_input(np.zeros((2, size, size), np.uint8), config, torch.device("cpu")))
    except (RuntimeError, ValueError, AssertionError) as error:  # too small for a pooling or a patch
        raise UsageError(
            f"{config.model} cannot take {size} px images ({str(error).splitlines()[0]}); give another --image-size or --model"
        ) from error


def set_trainable(model: nn.Module, config: ClassifierConfig, trainable: Trainable) -> None:
    """Say what of a network learns in a stage.

    Raises:
        UsageError: a part of a network of our own, which learns as a whole, or more layers than a backbone has.
    """
    if isinstance(model, Backbone):
        model.set_trainable(trainable)
    elif trainable != "all":
        raise UsageError(
            f"a stage's trainable is {trainable!r}, which is for torchvision backbones; model is {config.model!r}"
        )


def fit(
    config: ClassifierConfig,
    regime: Regime,
    trial_seed: int,
    train: TrainingSet,
    val: tuple[Array, Array],
    device: torch.device,
    signalled: Callable[[], int | None] = lambda: None,
    on_look: Callable[[int, Array], None] | None = None,
) -> Fitted:
    """Train, and select, calibrate and choose the threshold on validation, which is real and never augmented.

    The trial seed gives initialisation, batch order, transforms and dropout; the same seed gives the same
    initialisation under every regime (one with a ``seed_offset`` apart).

    Every stage begins with the state that the selection rule keeps so far, the best or the last that was looked at, as it
    would be predicted with (averaged, if there is averaging), and with a new optimiser. The count of steps, the stream of
    batches and the average go on.

    Args:
        val: images (n, H, W) uint8 and labels (n,).
        signalled: asked after every step; a signal number ends the training.
        on_look: told the step and the scores (n,) or (n, C) of every look; what it raises ends the training.

    Raises:
        Interrupted: when ``signalled`` says so.
        UsageError: stages that do not fit, or a batch larger than the training fold.
        BalancerError: the loss is not finite, or the device's memory is full.
    """
    planned = stages(config, train)
    training = _Training(config, regime, trial_seed, train, val, device, signalled, on_look)
    begin = time.perf_counter()
    with progress.bar(sum(stage.steps for stage in planned), training.name, "step") as bar:
        try:
            for stage in planned:
                training.run(stage, bar)
        except torch.OutOfMemoryError as error:
            raise BalancerError(
                f"{training.name}: the memory of {device} is full at batch_size {config.batch_size}; use a smaller one, or a larger accumulate"
            ) from error
    seconds, best, model = time.perf_counter() - begin, training.best, training.model
    model.load_state_dict(best.state)
    two_classes = best.score.ndim == 1
    return Fitted(
        model.eval(),
        fit_temperature(val[1], best.score),
        threshold_rule(config.threshold)(val[1], best.score) if two_classes else 0.5,
        training.step,
        best.step,
        best.history,
        best.score,
        training.seen_real / train.n_real,
        seconds,
    )


class _Way(Protocol):
    """How the steps of a stage are computed: through the whole network, or from features computed once."""

    @property
    def learner(self) -> nn.Module:
        """What a step trains."""

    @property
    def averaged(self) -> AveragedModel | None:
        """The average of that, if there is one."""

    def draw(self, step: int) -> tuple[Tensor, Tensor, int]:
        """The learner's input (B, ...) and labels (B,) of a batch, and how many of its images are real."""

    def score(self) -> Array:
        """Probabilities of the validation images."""


class _Training:
    """What a training holds, and goes on with from stage to stage."""

    def __init__(
        self,
        config: ClassifierConfig,
        regime: Regime,
        trial_seed: int,
        train: TrainingSet,
        val: tuple[Array, Array],
        device: torch.device,
        signalled: Callable[[], int | None],
        on_look: Callable[[int, Array], None] | None,
    ) -> None:
        seed, self.name = trial_seed + regime.seed_offset, f"{regime.name}, seed {trial_seed}"
        torch.manual_seed(derive_seed(seed, "init"))
        model = build_model(config).to(device)
        self.model = model.to(memory_format=memory_format(device))
        self.averaged = exponential_average(self.model, config.ema_decay) if config.ema_decay else None
        torch.manual_seed(derive_seed(seed, "dropout"))
        self.loss_of = make_loss(config, regime, train, device)
        if config.head_l2 and isinstance(self.model, Backbone):
            self.loss_of = with_penalty(self.loss_of, self.model.first_weight, config.head_l2)
        self.batches = Batches(config, regime, train, seed, device)
        self.best = _Best(config.selection, self.name)
        self.config, self.regime, self.train, self.val, self.device = config, regime, train, val, device
        self.signalled, self.on_look = signalled, on_look
        self.step, self.seen_real, self.losses = 0, 0, list[Tensor]()

    def run(self, stage: Stage, bar: tqdm) -> None:
        """Train for a stage."""
        self._begin(stage)
        config, way, seen = self.config, self._way(stage), list[float]()
        optimizer, looks = make_optimizer(stage, self.model), evaluation_steps(stage.steps, stage.evaluations)
        for step in range(stage.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(stage.schedule, stage.rates, step, seen)
            images, y, n_real = way.draw(self.step)
            loss = train_step(way.learner, optimizer, self.loss_of, images, y, config.precision, config.accumulate)
            self.losses.append(loss)
            if way.averaged is not None:
                way.averaged.update_parameters(way.learner)
            self.seen_real += n_real
            self.step += 1
            bar.update()
            self.heed()
            if step + 1 in looks:
                seen.append(self._look(way))
                if stalled(seen, stage.patience):
                    return

    def heed(self) -> None:
        """End the training if a signal has come."""
        if (signum := self.signalled()) is not None:
            raise Interrupted(signum, f"stopped in {self.name}")

    def _begin(self, stage: Stage) -> None:
        for model in (self.model, None if self.averaged is None else self.averaged.module):
            if model is not None:
                if self.best.state:
                    model.load_state_dict(self.best.state)
                set_trainable(model, self.config, stage.trainable)

    def _way(self, stage: Stage) -> _Way:
        config, model, val_images = self.config, self.model, self.val[0]
        shared = (self.averaged, self.batches, val_images, self.device)
        if isinstance(model, Backbone) and worthwhile(config, stage, self.regime, model, self.train, len(val_images)):
            return HeadStage(config, model, *shared, self.train, self.heed)
        return _WholeNetwork(config, model, *shared)

    def _look(self, way: _Way) -> float:
        """Look at validation; returns its NLL."""
        train_loss, self.losses = float(torch.stack(self.losses).mean()), []
        score = way.score()
        found = nll(self.val[1], score)
        shown = self.model if self.averaged is None else self.averaged.module
        self.best.look(self.step, train_loss, found, score, shown)
        if self.on_look is not None:
            self.on_look(self.step, score)
        return found


class _WholeNetwork:
    """Steps through the whole network, as :class:`_Way` says."""

    def __init__(
        self,
        config: ClassifierConfig,
        model: nn.Module,
        averaged: AveragedModel | None,
        batches: Batches,
        val_images: Array,
        device: torch.device,
    ) -> None:
        self.learner, self.averaged = model, averaged
        self._config, self._batches, self._val, self._device = config, batches, val_images, device

    def draw(self, step: int) -> tuple[Tensor, Tensor, int]:
        pixels, y, n_real = self._batches.draw(step)
        return to_input(pixels, self._config, self._device), y, n_real

    def score(self) -> Array:
        shown = self.learner if self.averaged is None else self.averaged.module
        if self._config.bn_statistics == "clean":  # what is predicted on is not augmented either
            parts = (p for batch in self._batches.clean(CLEAN) for p in np.array_split(batch, self._config.accumulate))
            restate(shown, (to_input(pixels, self._config, self._device) for pixels in parts))
        return predict(shown, self._val, self._config, self._device)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Loss,
    images: Tensor,
    y: Tensor,
    precision: str,
    accumulate: int = 1,
) -> Tensor:
    """One optimiser step on network input (B, ...) and labels (B,); returns the loss, detached.

    With ``accumulate`` the batch is computed in so many parts, one after the other: memory for one, and the gradient of
    the whole, BatchNorm aside, which sees each part for itself.
    """
    model.train()
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=y.device)
    for part, truth in zip(images.tensor_split(accumulate), y.tensor_split(accumulate), strict=True):
        with autocast(images.device, precision, on_cpu=True):
            logits = model(part).float()
        loss = loss_of(logits, truth) * (len(truth) / len(y))
        loss.backward()
        total += loss.detach()
    optimizer.step()
    return total


class _Best:
    """The state that the selection rule keeps, and what was seen at every look at validation."""

    def __init__(self, rule: str, trial: str) -> None:
        self.rule, self.trial, self.history = rule, trial, list[dict[str, float]]()
        self.nll, self.step, self.state, self.score = math.inf, 0, dict[str, Tensor](), np.empty(0)

    def look(self, step: int, train_loss: float, val_nll: float, score: Array, model: nn.Module) -> None:
        """
        Raises:
            BalancerError: a loss is not finite.
        """
        if not (math.isfinite(train_loss) and math.isfinite(val_nll)):
            raise BalancerError(
                f"{self.trial}: the loss is not finite by step {step} (training {train_loss}, validation {val_nll}); lower lr"
            )
        self.history.append({"step": step, "train_loss": train_loss, "val_nll": val_nll})
        if self.rule == "last" or val_nll < self.nll:
            self.nll, self.step, self.state, self.score = val_nll, step, copy.deepcopy(model.state_dict()), score


@torch.no_grad()
def restate(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Give every BatchNorm that is being trained the mean statistics of batches of network input (B, C, H, W).

    As torch's ``update_bn``, but with dropout off: its draws would change the training that goes on afterwards.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and any(p.requires_grad for p in module.parameters())
    ]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None  # every batch weighs the same
    if norms:
        for batch in images:
            model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def make_optimizer(config: Stage | ClassifierConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a stage, or of the settings, over what is not frozen; weight decay is decoupled only in AdamW."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=0.9, nesterov=True, weight_decay=config.weight_decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    fused = parameters[0].device.type in ("cpu", "cuda")
    return kind(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


def training_steps(config: ClassifierConfig, train: TrainingSet) -> int:
    """Optimiser steps of all stages, at most: the same in every regime, or so many more that real images are seen as often
    as without the added ones.

    Raises:
        UsageError: stages that do not fit, or a batch larger than the training fold.
    """
    return sum(stage.steps for stage in stages(config, train))
