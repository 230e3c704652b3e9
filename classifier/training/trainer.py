"""Classifier training: one flat loop over stages and steps; the number of steps is the same under every regime."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from balancer.augmentation.classical import Augmenter
from balancer.augmentation.on_device import DeviceAugmenter
from balancer.core import progress
from balancer.core.card_memory import full_memory_explained
from balancer.core.device import memory_format, to_device
from balancer.core.ema import exponential_average, update_average
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.pixels import channels_of
from balancer.core.seeding import derive_seed
from balancer.core.settings import ClassifierConfig
from balancer.data.subset import Subset
from classifier.evaluation.fold_metrics import Validation
from classifier.evaluation.metrics import nll
from classifier.evaluation.thresholds import fit_temperature, threshold_rule
from classifier.models import build_model
from classifier.models.backbones import Backbone
from classifier.training.convolutions import zero_unread_gradients
from classifier.training.frozen_features import FeatureInputs, can_cache_features
from classifier.training.inputs import ImageInputs
from classifier.training.losses import make_loss, with_penalty
from classifier.training.memory import try_batch
from classifier.training.prediction import predict, predict_inputs, to_input
from classifier.training.pretraining import Pretrained, is_wanted
from classifier.training.regimes import Regime
from classifier.training.schedules import SCHEDULES
from classifier.training.stages import should_stop, stages, validation_steps
from classifier.training.step import make_optimizer, open_stepper, train_step
from classifier.training.training_set import BatchSampler, TrainingSet

__all__ = ["TrainResult", "check", "predict", "stages", "train"]

Array = np.ndarray
BN_IMAGES = 2048  # training images that BatchNorm statistics are re-estimated on, rounded up to whole batches


@dataclass(frozen=True)
class TrainResult:
    """A trained classifier, as selected on validation."""

    model: nn.Module
    temperature: float
    threshold: float  # on probabilities without the temperature; 0.5, unused, if there are more than two classes
    steps: int  # optimiser steps made; early stopping makes fewer than planned
    selected_step: int
    history: tuple[Validation, ...]
    val_score: Array  # (n,), or (n, C) if there are more than two classes
    passes_over_real: float  # real images drawn, divided by the number of real images
    seconds: float
    step_mode: str = "plain"  # how steps ran, of plain, compiled, graph and compiled+graph
    augmented_on: str | None = None  # cpu or device; None: not at all


@dataclass(frozen=True)
class Selected:
    """The weights that the selection rule keeps so far."""

    step: int
    val_nll: float
    val_score: Array
    state: dict[str, Tensor]


def train(
    config: ClassifierConfig,
    regime: Regime,
    trial_seed: int,
    train_set: TrainingSet,
    val_set: tuple[Array | Subset, Array],
    device: torch.device,
    interrupt: Callable[[], int | None] = lambda: None,
    pretrained: Pretrained | None = None,
    on_validation: Callable[[int, Array], None] | None = None,
) -> TrainResult:
    """Train a classifier; select, calibrate and choose the threshold on validation, which is real and never augmented.

    Each stage starts from the best checkpoint so far (EMA weights if enabled) with a fresh optimizer. The step counter
    and the batch stream continue. The trial seed gives initial weights, batch order, transforms and dropout. The
    initial weights are the same under every regime without a ``seed_offset``.

    ``val_set`` holds images, of the shape and kind of the training images, and labels (n,). ``interrupt`` is called
    after every step; a signal number ends the training. ``on_validation`` is called with the step and the scores, (n,)
    or (n, C), of every validation. ``pretrained`` holds the weights to begin with, if the settings ask for a
    pretraining.

    Raises:
        Interrupted: if ``interrupt`` returns a signal number.
        UsageError: if stages do not fit, a batch is larger than the training fold, or pretrained weights are missing.
        BalancerError: if the loss is not finite, or the device's memory is full.
    """
    planned = stages(config, train_set)
    seed, name = trial_seed + regime.seed_offset, f"{regime.name}, seed {trial_seed}"
    val_images, val_labels = val_set

    # Network: each use of random numbers has a seed of its own, so that regimes are paired
    torch.manual_seed(derive_seed(seed, "init"))
    model = build_model(config, train_set.n_classes, channels_of(train_set.images))
    _begin_with(model, pretrained, config)
    model = model.to(device).to(memory_format=memory_format(device))
    ema = exponential_average(model, config.ema_decay) if config.ema_decay else None
    zero_unread_gradients(model)
    torch.manual_seed(derive_seed(seed, "dropout"))
    loss_of = make_loss(config, regime, train_set, device)
    if config.head_l2 and isinstance(model, Backbone):
        loss_of = with_penalty(loss_of, model.first_weight, config.head_l2)

    # Data: positions of each batch, labels, and network inputs
    sampler = BatchSampler(config, regime, train_set, seed, sum(stage.steps for stage in planned))
    labels = torch.from_numpy(train_set.labels).to(device)
    images = ImageInputs(config, regime, train_set, val_images, seed, device)

    def check_interrupt() -> None:
        if (signum := interrupt()) is not None:
            raise Interrupted(signum, f"stopped in {name}")

    selected = Selected(0, math.inf, np.empty(0), model.state_dict())
    history, losses, step, real_drawn = list[Validation](), list[Tensor](), 0, 0
    begin = time.perf_counter()
    shape = train_set.n_classes, channels_of(train_set.images), device
    memory = full_memory_explained(
        name, config.batch_size, device, lambda n: try_batch(config, *shape, n), ", or use a larger accumulate"
    )
    with progress.bar(sum(s.steps for s in planned), name, "step") as bar, memory:
        for stage in planned:
            # Stage: from the selected weights, with a fresh optimiser
            for each in (model, ema.module) if ema else (model,):
                each.load_state_dict(selected.state)
                if isinstance(each, Backbone):
                    each.set_trainable(stage.trainable)
            inputs: ImageInputs | FeatureInputs = images
            if isinstance(model, Backbone) and can_cache_features(config, stage, regime, model, images):
                inputs = FeatureInputs(config, model, images, check_interrupt)
            network = inputs.network(model)
            stage_ema = ema and _ema_of_part(ema, inputs.network(ema.module))
            evaluated = stage_ema.module if stage_ema else network
            val_nlls = list[float]()
            optimizer = make_optimizer(stage, model)
            scheduler = SCHEDULES[stage.schedule](optimizer, stage, val_nlls)
            fast_step = open_stepper(config, stage, network, optimizer, loss_of, device)
            validate_after = validation_steps(stage.steps, stage.evaluations)

            for stage_step in range(1, stage.steps + 1):
                # Optimiser step
                index = sampler.indices(step)
                y = labels[to_device(torch.from_numpy(index), device)]
                batch = inputs.batch(index, step)
                losses.append(
                    fast_step(batch, y)
                    if fast_step
                    else train_step(network, optimizer, loss_of, batch, y, config.precision, config.accumulate)
                )
                if stage_ema:
                    update_average(stage_ema, network)
                real_drawn += int((index < train_set.n_real).sum())
                step += 1
                bar.update()
                check_interrupt()

                if stage_step in validate_after:
                    # Validation: EMA weights if there are any, BatchNorm statistics of images without augmentation
                    if config.bn_statistics == "reestimated":
                        update_bn(evaluated, unaugmented_batches(config, sampler, inputs, step - 1))
                    score = predict_inputs(evaluated, inputs.validation(), len(val_labels), device)
                    figures = Validation(step, float(torch.stack(losses).mean()), nll(val_labels, score))
                    _check_finite(figures, name)
                    history.append(figures)
                    val_nlls.append(figures.val_nll)
                    losses.clear()

                    # Selection: the best or the last weights
                    if config.selection == "last" or figures.val_nll < selected.val_nll:
                        state = copy.deepcopy((ema.module if ema else model).state_dict())
                        selected = Selected(step, figures.val_nll, score, state)
                    if on_validation is not None:
                        on_validation(step, score)
                    if should_stop(val_nlls, stage.patience):
                        break
                scheduler.step()
    seconds = time.perf_counter() - begin

    # Calibration: temperature and threshold from the selected weights' scores
    model.load_state_dict(selected.state)
    two_classes = selected.val_score.ndim == 1
    return TrainResult(
        model=model.eval(),
        temperature=fit_temperature(val_labels, selected.val_score),
        threshold=threshold_rule(config.threshold)(val_labels, selected.val_score) if two_classes else 0.5,
        steps=step,
        selected_step=selected.step,
        history=tuple(history),
        val_score=selected.val_score,
        passes_over_real=real_drawn / train_set.n_real,
        seconds=seconds,
        step_mode=fast_step.ran if fast_step else "plain",
        augmented_on=images.augmented_on,
    )


def _begin_with(model: nn.Module, pretrained: Pretrained | None, config: ClassifierConfig) -> None:
    """Load pretrained weights, if the settings ask for them; the head keeps its random ones.

    Raises:
        UsageError: they do, and there are none.
    """
    if pretrained is not None:
        model.load_state_dict(pretrained.state)
    elif is_wanted(config):
        raise UsageError(
            f"pretrain.method is {config.pretrain.method}, and this command does not pretrain; leave it out"
        )


def _ema_of_part(ema: AveragedModel, part: nn.Module) -> AveragedModel:
    """Return the EMA of a part of its network, on the same tensors; averaging a frozen backbone would cost time."""
    if part is ema.module:
        return ema
    view = AveragedModel(part, multi_avg_fn=ema.multi_avg_fn, use_buffers=True)
    view.module, view.n_averaged = part, ema.n_averaged
    return view


@torch.no_grad()
def update_bn(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Re-estimate the statistics of every BatchNorm layer that is not frozen; each batch of inputs counts the same.

    ``torch.optim.swa_utils.update_bn`` does the same with dropout on. Its random draws would change the training that
    goes on after a validation, and dropout would distort the statistics; here dropout is off.
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
        norm.momentum = None  # the plain mean over batches
    if norms:
        for batch in batches:
            model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def unaugmented_batches(
    config: ClassifierConfig, sampler: BatchSampler, inputs: ImageInputs | FeatureInputs, step: int
) -> Iterator[Tensor]:
    """Yield the inputs of the first batches like that of ``step``, about BN_IMAGES in all, without augmentation."""
    first = sampler.first_like(step)
    for like in range(first, first + math.ceil(BN_IMAGES / config.batch_size)):
        for index in np.array_split(sampler.indices(like), config.accumulate):
            yield inputs.unaugmented(index)


def _check_finite(figures: Validation, name: str) -> None:
    """Raise a BalancerError if a loss is not finite."""
    if not (math.isfinite(figures.train_loss) and math.isfinite(figures.val_nll)):
        raise BalancerError(
            f"{name}: the loss is not finite by step {figures.step}"
            f" (training {figures.train_loss}, validation {figures.val_nll}); lower lr"
        )


def check(config: ClassifierConfig) -> None:
    """Refuse unknown names, weights that do not fit and images too small for the network, before anything is written.

    The network is really built: RegNets cannot be built on the meta device, which also skips the weights file.

    Raises:
        UsageError: if settings cannot be used.
        BalancerError: if weights are missing or do not fit.
    """
    threshold_rule(config.threshold)
    (DeviceAugmenter if config.augment_on == "device" else Augmenter)(config.augmentation, 0)
    model, size = build_model(config).eval(), config.data.image_size
    for i, stage in enumerate(config.stages, 1):
        if stage.trainable in (None, "all"):
            continue
        if not isinstance(model, Backbone):
            raise UsageError(
                f"stage {i}: trainable is {stage.trainable!r}, which is for torchvision backbones;"
                f" model is {config.model!r}"
            )
        model.set_trainable(stage.trainable)
    try:
        with torch.no_grad():
            model(to_input(np.zeros((2, size, size), np.uint8), config, torch.device("cpu")))
    except (RuntimeError, ValueError, AssertionError) as error:  # too small for a pooling or a patch
        raise UsageError(
            f"{config.model} cannot take {size} px images ({str(error).splitlines()[0]});"
            " give another --image-size or --model"
        ) from error
