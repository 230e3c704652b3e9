"""GAN steps at a card's speed: the same arithmetic as :func:`balancer.gan.step.train_step`, compiled or captured."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from balancer.core import ranks
from balancer.core.card_memory import full_memory_explained
from balancer.core.settings import GanTrainConfig
from balancer.core.stepping import Capture, FastStep, Source, choose_mode
from balancer.gan.checkpoint import kept_snapshot
from balancer.gan.step import (
    GanState,
    build_state,
    finish_step,
    set_rates,
    step_kind,
    step_source,
    train_step,
    update_networks,
)


class Stepper:
    """Makes training steps, as :func:`balancer.gan.step.train_step` of the same settings and state does."""

    def __init__(self, config: GanTrainConfig, state: GanState, fast: FastStep) -> None:
        self._config, self._state, self._fast = config, state, fast

    @property
    def ran(self) -> str:
        """Return how steps run, as :attr:`balancer.core.stepping.FastStep.ran`."""
        return self._fast.ran

    def __call__(self, real_images: Tensor) -> dict[str, Tensor]:
        """Make a step on (n_dis * B, 1 or 3, H, W) images in [-1, 1]."""
        config, state = self._config, self._state
        set_rates(config, state)

        def work(source: Source, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
            return update_networks(config, state, inputs[0], source)

        source = partial(step_source, config, state.step)
        scalars = self._fast(step_kind(config, state.step), work, source, [real_images])
        finish_step(state)
        return scalars


def open_stepper(
    config: GanTrainConfig, state: GanState, device: torch.device, capture: Capture | None = None
) -> Stepper | None:
    """Return what makes the steps of a state that is loaded; None: plain steps do. ``capture`` is for tests.

    A discriminator that reconstructs draws a corner, and each corner is another operation: its steps stay plain.

    Raises:
        UsageError: a graph is asked for where there is no CUDA.
    """
    mode = "graph" if capture else choose_mode(config.step_mode, device)
    if mode == "plain" or state.decoder is not None:
        return None
    others = list(state.running_stats.values())
    optimizers = [state.optimizer_G, state.optimizer_D]
    moving_rate = config.lr_schedule != "constant"
    return Stepper(config, state, FastStep(mode, device, [state.G, state.D], optimizers, others, moving_rate, capture))


def memory_errors(
    config: GanTrainConfig, channels: int, folder: Path, device: torch.device
) -> contextlib.AbstractContextManager[None]:
    """Turn an error about full memory into one line that names a batch size, and what is kept in the run's folder."""

    def try_batch(batch: int) -> None:
        changed, size = config.model_copy(update={"batch_size": batch}), config.data.image_size
        with torch.random.fork_rng(devices=[]):
            state = build_state(changed, device, channels)
        for _ in range(2):  # the second has the optimisers' moments
            train_step(changed, state, torch.zeros(config.n_dis * batch, channels, size, size, device=device))

    # Of several ranks, one alone would wait for the others
    tried = try_batch if ranks.count() == 1 else None
    return full_memory_explained("gan-train", config.batch_size, device, tried, f"; {kept_snapshot(folder)}")
