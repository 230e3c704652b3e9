"""A training step on nothing, to see what memory a step takes."""

from __future__ import annotations

import copy

import numpy as np
import torch

from balancer.core.device import memory_format
from balancer.core.pixels import shape_of
from balancer.core.settings import ClassifierConfig
from classifier.models import build_model
from classifier.training.prediction import to_input
from classifier.training.step import make_optimizer, train_step


def try_batch(config: ClassifierConfig, classes: int, channels: int, device: torch.device, batch: int) -> None:
    """Make two steps on black images with a network that is thrown away; the second has the optimiser's moments."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        model = build_model(config, classes, channels).to(device).to(memory_format=memory_format(device))
        optimizer, parts = make_optimizer(config, model), max(1, min(config.accumulate, batch // 2))
        pixels = np.zeros((batch, *shape_of(config.data.image_size, channels)), np.uint8)
        # A training also holds the weights that it has selected, and their average if there is one
        kept = [copy.deepcopy(model.state_dict()) for _ in range(1 + bool(config.ema_decay))]
        inputs, y = to_input(pixels, config, device), torch.zeros(batch, dtype=torch.long, device=device)
        for _ in range(2):
            train_step(model, optimizer, lambda logits, _: logits.square().mean(), inputs, y, config.precision, parts)
        del kept
