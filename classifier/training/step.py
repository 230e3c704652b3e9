"""One optimiser step of a classifier: as it is, or at a card's speed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from balancer.core.device import autocast
from balancer.core.settings import ClassifierConfig
from balancer.core.stepping import Capture, FastStep, Source, choose_mode
from classifier.training.losses import Loss
from classifier.training.stages import Stage


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Loss,
    inputs: Tensor,
    y: Tensor,
    precision: str,
    accumulate: int = 1,
) -> Tensor:
    """Make one optimiser step on network input (B, ...) and labels (B,); return the loss, detached.

    ``accumulate`` computes the batch in so many parts, one after the other. Memory is that of one part; the gradient
    is that of the batch, except that BatchNorm sees each part on its own.
    """
    model.train()
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=y.device)
    for part, truth in zip(inputs.tensor_split(accumulate), y.tensor_split(accumulate), strict=True):
        with autocast(inputs.device, precision, on_cpu=True):
            logits = model(part).float()
        loss = loss_of(logits, truth) * (len(truth) / len(y))
        loss.backward()
        total += loss.detach()
    optimizer.step()
    return total


def make_optimizer(settings: Stage | ClassifierConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser of the parameters that are not frozen; only AdamW decouples weight decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    lr, weight_decay, where = settings.lr, settings.weight_decay, parameters[0].device.type
    if settings.optimizer == "sgd":
        # On CUDA only the fused step reads a moving rate on the device; the other asks for its value, and so waits
        fused = True if where == "cuda" else None
        return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=weight_decay, fused=fused)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=lr, weight_decay=weight_decay, fused=where in ("cpu", "cuda"))


class Stepper:
    """Makes the steps of a stage, as :func:`train_step` does; dropout draws from the device's own stream."""

    def __init__(
        self,
        config: ClassifierConfig,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_of: Loss,
        fast: FastStep,
    ) -> None:
        self._config, self._parts, self._fast = config, (network, optimizer, loss_of), fast

    @property
    def ran(self) -> str:
        """Return how steps run, as :attr:`balancer.core.stepping.FastStep.ran`."""
        return self._fast.ran

    def __call__(self, inputs: Tensor, y: Tensor) -> Tensor:
        """Make a step on network input (B, ...) and labels (B,); return the loss, detached."""
        return self._fast("step", self._work, torch.Generator, [inputs, y])["loss"]

    def _work(self, _source: Source, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        inputs, y = tensors
        return {"loss": train_step(*self._parts, inputs, y, self._config.precision, self._config.accumulate)}


def open_stepper(
    config: ClassifierConfig,
    stage: Stage,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Loss,
    device: torch.device,
    capture: Capture | None = None,
) -> Stepper | None:
    """Return what makes the steps of a stage; None: plain steps do. ``capture`` is for tests.

    Raises:
        UsageError: a graph is asked for where there is no CUDA.
    """
    mode = "graph" if capture else choose_mode(config.step_mode, device)
    if mode == "plain":
        return None
    moving_rate = stage.schedule != "constant"
    fast = FastStep(mode, device, [network], [optimizer], (), moving_rate, capture)
    return Stepper(config, network, optimizer, loss_of, fast)
