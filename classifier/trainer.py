"""Train one classifier under one regime: the same number of optimiser steps whatever the regime."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.ops import sigmoid_focal_loss

from balancer import progress
from balancer.augmentation.classical import Augmenter
from balancer.data.folder import CLASSES
from balancer.device import autocast, memory_format
from balancer.errors import BalancerError, Interrupted, UsageError
from balancer.seeding import derive_seed
from balancer.settings import ClassifierConfig
from classifier.evaluation import nll
from classifier.models import build_model
from classifier.regimes import Regime
from classifier.thresholds import fit_temperature, threshold_rule
from classifier.training_set import Batches, TrainingSet

log = logging.getLogger("balancer")
Array = np.ndarray
CLEAN = 2048  # training images that BatchNorm's statistics are re-estimated on
Loss = Callable[[Tensor, Tensor], Tensor]
IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Fitted:
    """A trained classifier, as selected on validation."""

    model: nn.Module
    temperature: float
    threshold: float  # on probabilities without the temperature, which changes no decision
    steps: int
    selected_step: int
    history: list[dict[str, float]]
    val_score: Array
    passes_over_real: float
    seconds: float


def normalise(images: Tensor, how: str) -> Tensor:
    """Grey (B, 1, H, W) in 0 to 255 to what the network sees.

    ``per_image`` subtracts each image's mean and divides by its SD, which takes exposure out; ``unit`` divides by 255;
    ``imagenet`` gives three channels with ImageNet's mean and SD.
    """
    if how == "per_image":
        sd, mean = torch.std_mean(images, dim=(1, 2, 3), keepdim=True)
        return (images - mean) / (sd + 1e-3)
    images = images / 255
    if how == "unit":
        return images
    mean, sd = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_SD))
    return (images - mean) / sd


def to_input(pixels: Array | Tensor, config: ClassifierConfig, device: torch.device) -> Tensor:
    """(B, H, W) uint8 to network input on the device."""
    whole = torch.from_numpy(np.ascontiguousarray(pixels)) if isinstance(pixels, np.ndarray) else pixels
    images = whole[:, None].to(device).float()
    return normalise(images, config.input_normalisation).contiguous(memory_format=memory_format(device))


@torch.no_grad()
def predict(
    model: nn.Module, pixels: Array, config: ClassifierConfig, device: torch.device, batch_size: int = 128
) -> Array:
    """Probabilities of PNEUMONIA (n,) float64 for images (n, H, W) uint8, in evaluation mode and float32.

    They are as the network gives them, without the temperature: one below 1 would round large ones to 1 and tie them.
    """
    model.eval()
    parts = [
        model(to_input(pixels[i : i + batch_size], config, device)).double().sigmoid().cpu()
        for i in range(0, len(pixels), batch_size)
    ]
    scores: Array = torch.cat(parts).numpy()
    return scores


def check(config: ClassifierConfig) -> None:
    """Refuse unknown names, weights that do not fit and images too small for the network, before anything is written.

    The network is built for real: on the meta device RegNets cannot be, and a weights file is not looked at.
    """
    threshold_rule(config.threshold)
    Augmenter(config.augmentation, 0)
    model, size = build_model(config).eval(), config.data.image_size
    try:
        with torch.no_grad():
            model(to_input(np.zeros((2, size, size), np.uint8), config, torch.device("cpu")))
    except (RuntimeError, ValueError, AssertionError) as error:  # too small for a pooling or a patch
        raise UsageError(
            f"{config.model} cannot take {size} px images ({str(error).splitlines()[0]}); give another --image-size or --model"
        ) from error


def fit(
    config: ClassifierConfig,
    regime: Regime,
    trial_seed: int,
    train: TrainingSet,
    val: tuple[Array, Array],
    device: torch.device,
    signalled: Callable[[], int | None] = lambda: None,
) -> Fitted:
    """Train, and select, calibrate and choose the threshold on validation, which is real and never augmented.

    The trial seed gives initialisation, batch order, transforms and dropout; the same seed gives the same
    initialisation under every regime (one with a ``seed_offset`` apart).

    Args:
        val: images (n, H, W) uint8 and labels (n,).
        signalled: asked after every step; a signal number ends the training.

    Raises:
        Interrupted: when ``signalled`` says so.
        BalancerError: the loss is not finite.
    """
    seed, name = trial_seed + regime.seed_offset, f"{regime.name}, seed {trial_seed}"
    torch.manual_seed(derive_seed(seed, "init"))
    model = build_model(config).to(device)
    model = model.to(memory_format=memory_format(device))
    averaged = average(model, config.ema_decay)
    torch.manual_seed(derive_seed(seed, "dropout"))
    optimizer, loss_of = make_optimizer(config, model), make_loss(config, regime, train, device)
    batches, steps = Batches(config, regime, train, seed, device), training_steps(config, train)
    looks, best = evaluation_steps(steps, config.evaluations), _Best(config.selection, name)
    seen_real, losses, begin = 0, [], time.perf_counter()
    with progress.bar(steps, name, "step") as bar:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * schedule(config, step / steps)
            pixels, y, n_real = batches.draw(step)
            losses.append(train_step(model, optimizer, loss_of, to_input(pixels, config, device), y, config.precision))
            if averaged is not None:
                averaged.update_parameters(model)
            seen_real += n_real
            bar.update()
            if (signum := signalled()) is not None:
                raise Interrupted(signum, f"stopped in {name}")
            if step + 1 in looks:
                train_loss, losses = float(torch.stack(losses).mean()), []
                shown = model if averaged is None else averaged.module
                if config.bn_statistics == "clean":  # what is predicted on is not augmented either
                    restate(shown, (to_input(pixels, config, device) for pixels in batches.clean(CLEAN)))
                score = predict(shown, val[0], config, device)
                best.look(step + 1, train_loss, nll(val[1], score), score, shown)
    model.load_state_dict(best.state)
    return Fitted(
        model.eval(),
        fit_temperature(val[1], best.score),
        threshold_rule(config.threshold)(val[1], best.score),
        steps,
        best.step,
        best.history,
        best.score,
        seen_real / train.n_real,
        time.perf_counter() - begin,
    )


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Loss, images: Tensor, y: Tensor, precision: str
) -> Tensor:
    """One optimiser step on network input (B, C, H, W) and labels (B,); returns the loss, detached."""
    model.train()
    with autocast(images.device, precision, on_cpu=True):
        logits = model(images).float()
    loss = loss_of(logits, y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


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


def average(model: nn.Module, decay: float) -> AveragedModel | None:
    """An exponential moving average of weights and BatchNorm statistics (Polyak & Juditsky 1992; Tarvainen & Valpola
    2017, arXiv:1703.01780), or None where ``decay`` is 0."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None


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


def make_loss(config: ClassifierConfig, regime: Regime, train: TrainingSet, device: torch.device) -> Loss:
    """The regime's loss of logits (B,) and labels (B,): cross-entropy, with class weights or focused on what is hard."""
    if regime.focal:
        return lambda logits, y: sigmoid_focal_loss(logits, y.float(), -1, config.focal_gamma, "mean")  # -1: no weights
    weights = torch.from_numpy(class_weights(train.labels, regime.weighted)).float().to(device)
    targets = torch.tensor([config.label_smoothing, 1 - config.label_smoothing], device=device)
    return lambda logits, y: F.binary_cross_entropy_with_logits(logits, targets[y], weight=weights[y])


def make_optimizer(config: ClassifierConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over what is not frozen; weight decay is decoupled only in AdamW."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=0.9, nesterov=True, weight_decay=config.weight_decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    fused = parameters[0].device.type in ("cpu", "cuda")
    return kind(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


def schedule(config: ClassifierConfig, done: float) -> float:
    """The factor on the learning rate at a share of the steps: 1, or half a cosine from 1 towards 0 (Loshchilov & Hutter
    2017, arXiv:1608.03983)."""
    return 1.0 if config.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * done))


def training_steps(config: ClassifierConfig, train: TrainingSet) -> int:
    """Optimiser steps: the same in every regime, or so many more that real images are seen as often as without the added ones."""
    return config.steps if config.exposure == "steps" else round(config.steps * len(train.images) / train.n_real)


def evaluation_steps(steps: int, evaluations: int) -> set[int]:
    """Steps after which validation is looked at: evenly spread, the last one always among them."""
    return {round(steps * (i + 1) / evaluations) for i in range(evaluations)} - {0} | {steps}


def class_weights(labels: Array, weighted: bool) -> Array:
    """Weight of each class in the loss: 1, or n / (2 n_class), which lets both classes weigh the same."""
    counts = np.bincount(labels, minlength=len(CLASSES))
    return len(labels) / (len(CLASSES) * counts) if weighted else np.ones(len(CLASSES))
