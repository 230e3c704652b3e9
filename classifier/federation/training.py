"""A training at one site: between the rounds the network, its optimiser and its averages stay there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from balancer.core.card_memory import full_memory_explained
from balancer.core.device import memory_format
from balancer.core.ema import exponential_average, update_average
from balancer.core.pixels import channels_of
from balancer.core.seeding import derive_seed
from balancer.core.settings import TrainConfig
from balancer.data.subset import Subset
from classifier.models import build_model
from classifier.models.backbones import Backbone
from classifier.training.convolutions import zero_unread_gradients
from classifier.training.inputs import ImageInputs
from classifier.training.losses import Loss, make_loss, with_penalty
from classifier.training.prediction import predict
from classifier.training.regimes import REGIMES
from classifier.training.schedules import SCHEDULES
from classifier.training.stages import stages
from classifier.training.step import make_optimizer, train_step
from classifier.training.trainer import unaugmented_batches, update_bn
from classifier.training.training_set import BatchSampler, TrainingSet

Array = np.ndarray


def initial_model(config: TrainConfig, seed: int, classes: int, channels: int) -> nn.Module:
    """Return the network with the initial weights that a training of the same seed on pooled data has."""
    torch.manual_seed(derive_seed(seed, "init"))
    model = build_model(config, classes, channels)
    if isinstance(model, Backbone):
        model.set_trainable(config.trainable)
    return model


def norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers that learn, in the order of the network."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and any(p.requires_grad for p in m.parameters())]


def shared_parameters(model: nn.Module, site_norm: bool) -> list[nn.Parameter]:
    """Return the parameters that travel: all that learn, without those of BatchNorm if sites keep their own."""
    kept = {id(p) for norm in norms(model) for p in norm.parameters()} if site_norm else set()
    return [p for p in model.parameters() if p.requires_grad and id(p) not in kept]


def to_vector(parameters: Sequence[nn.Parameter]) -> Array:
    """Return parameters as one vector (P,) float32."""
    vector: Array = torch.cat([p.detach().reshape(-1) for p in parameters]).cpu().float().numpy().copy()
    return vector


@torch.no_grad()
def fill(parameters: Sequence[nn.Parameter], vector: Array) -> None:
    """Set parameters from a vector (P,), in place: their place in memory is the optimiser's too."""
    parts = torch.from_numpy(vector.copy()).split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.copy_(part.view(parameter.shape))


def set_statistics(model: nn.Module, mean: Array, variance: Array) -> None:
    """Set the running statistics of the BatchNorm layers that learn, from vectors (C,) over all layers."""
    layers = norms(model)
    if not layers:
        return
    ends = np.cumsum([norm.num_features for norm in layers])[:-1]
    for norm, m, v in zip(layers, np.split(mean, ends), np.split(variance, ends), strict=True):
        for running, value in ((norm.running_mean, m), (norm.running_var, v)):
            assert running is not None, "the networks here keep statistics"
            running.copy_(torch.from_numpy(value))


def with_proximal_term(loss_of: Loss, parameters: list[nn.Parameter], mu: float) -> Loss:
    """Return a loss plus ``mu / 2`` times the squared distance of the weights from where they are now.

    The term keeps a site near the weights of the round's start (Li et al. 2020, arXiv:1812.06127, equation 2).
    """
    start = [p.detach().clone() for p in parameters]

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        away = torch.stack([(p - p0).square().sum() for p, p0 in zip(parameters, start, strict=True)]).sum()
        return loss_of(logits, y) + mu / 2 * away

    return loss


class SiteTraining:
    """One training of one trial seed, in rounds. With a single site, it is the training on pooled data, bit by bit."""

    def __init__(
        self, config: TrainConfig, train_set: TrainingSet, seed: int, first: int, site_norm: bool, device: torch.device
    ) -> None:
        """Make the network and the optimiser; ``first`` is the step that comes next, 0 unless the site is late."""
        self._config, self._device, self._first, self.step = config, device, first, first
        regime = REGIMES[config.regime]
        (stage,) = stages(config, train_set)
        model = initial_model(config, seed, train_set.n_classes, channels_of(train_set.images))
        self._model = model.to(device).to(memory_format=memory_format(device))
        self._average = exponential_average(self._model, config.ema_decay) if config.ema_decay else None
        zero_unread_gradients(self._model)
        torch.manual_seed(derive_seed(seed, "dropout"))
        self._loss_of = make_loss(config, regime, train_set, device)
        if config.head_l2 and isinstance(self._model, Backbone):
            self._loss_of = with_penalty(self._loss_of, self._model.first_weight, config.head_l2)
        self._sampler = BatchSampler(config, regime, train_set, seed, stage.steps)
        self._labels = torch.from_numpy(train_set.labels).to(device)
        self._inputs = ImageInputs(config, regime, train_set, train_set.images, seed, device)
        self._optimizer = make_optimizer(stage, self._model)
        self._scheduler = SCHEDULES[stage.schedule](self._optimizer, stage, [])
        if first:
            self._optimizer.step()  # without gradients no step at all, but torch wants one before the scheduler's
        for _ in range(first):
            self._scheduler.step()
        self._shared = shared_parameters(self._model, site_norm)
        self._random = torch.get_rng_state()  # of dropout: other work of this process must not disturb it
        self.site_norm = site_norm

    @property
    def final(self) -> nn.Module:
        """Return the network that is judged: the running average of the weights, or the network itself without one."""
        return self._model if self._average is None else self._average.module

    def train(self, weights: Array, last: int, mu: float, check_interrupt: Callable[[], None] = lambda: None) -> float:
        """Go on from the weights of all sites to the step ``last``; return the mean loss of the round."""
        fill(self._shared, weights)
        loss_of = with_proximal_term(self._loss_of, self._shared, mu) if mu else self._loss_of
        torch.set_rng_state(self._random)
        losses = []
        with full_memory_explained("a round", self._config.batch_size, self._device, None, ", or a larger accumulate"):
            for step in range(self.step, last):
                index = self._sampler.indices(step)
                batch, y = self._inputs.batch(index, step), self._labels[torch.from_numpy(index).to(self._device)]
                losses.append(
                    train_step(
                        self._model, self._optimizer, loss_of, batch, y, self._config.precision, self._config.accumulate
                    )
                )
                if self._average is not None:
                    update_average(self._average, self._model)
                self._scheduler.step()
                check_interrupt()
        self._random = torch.get_rng_state()
        self.step = last
        return float(torch.stack(losses).mean()) if losses else math.nan

    @property
    def weights(self) -> Array:
        """Return the weights that travel."""
        return to_vector(self._shared)

    @property
    def average(self) -> Array:
        """Return the running average of the weights that travel; the weights themselves without an average."""
        return to_vector(shared_parameters(self.final, self.site_norm))

    def statistics(self, final: Array) -> tuple[Array, Array]:
        """Take the final weights; return the mean and the variance of every BatchNorm channel over training images."""
        fill(shared_parameters(self.final, self.site_norm), final)
        self.final.eval()
        # A site that comes after the last round has made no step here, so nothing of its statistics has run.
        if self._config.bn_statistics == "reestimated" or self.step == self._first:
            update_bn(self.final, unaugmented_batches(self._config, self._sampler, self._inputs, self.step - 1))
        layers = norms(self.final)
        nothing = np.empty(0, np.float32)
        means = [norm.running_mean.cpu().numpy() for norm in layers if norm.running_mean is not None]
        variances = [norm.running_var.cpu().numpy() for norm in layers if norm.running_var is not None]
        return np.concatenate([nothing, *means]), np.concatenate([nothing, *variances])

    def validate(self, images: Array | Subset) -> Array:
        """Return the probabilities of images, as :func:`~classifier.training.prediction.predict` does."""
        return predict(self.final.eval(), images, self._config, self._device)
