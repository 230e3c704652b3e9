"""Train one classifier under one regime: the same number of optimiser steps whatever the regime."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balancer import progress
from balancer.augmentation.classical import Augmenter
from balancer.config import ClassifierConfig, validate
from balancer.data.dataset import Dataset
from balancer.data.folder import CLASSES
from balancer.data.sampling import batch_indices
from balancer.device import autocast, memory_format
from balancer.errors import BalancerError, Interrupted, UsageError
from balancer.run import atomic_file
from balancer.seeding import derive_seed
from classifier.evaluation import nll
from classifier.models import build_model
from classifier.regimes import Regime
from classifier.synthetic import SyntheticSet
from classifier.thresholds import threshold_rule

log = logging.getLogger("balancer")
Array = np.ndarray
FORMAT = 1  # of the checkpoint
IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TrainingSet:
    """Images (n, H, W) uint8 and labels (n,); the first ``n_real`` are the training fold's, each once."""

    images: Array
    labels: Array
    n_real: int
    added: int  # synthetic images or duplicates
    synthetic_digest: str | None


def training_set(data: Dataset, regime: Regime, synthetic: SyntheticSet | None, seed: int, copies: int) -> TrainingSet:
    """The training fold, with what the regime adds to its minority class.

    Args:
        copies: how many duplicates the control adds.

    Raises:
        BalancerError: the regime wants synthetic images and there are none, or no duplicates are asked for.
    """
    real = data.indices("train")
    images, labels = np.ascontiguousarray(data.images[real]), data.labels[real]
    extra: Array | None = None
    if regime.synthetic:
        if synthetic is None:
            raise BalancerError(
                f"regime {regime.name} needs synthetic images; run `balancer synthesize`, or give --synthetic DIR"
            )
        extra = synthetic.images
    elif regime.duplicate:
        if copies < 1:
            raise BalancerError(
                f"regime {regime.name} would add {copies} duplicates (the deficit here is {data.deficit}); give --synthetic-count N"
            )
        minority = data.indices("train", data.minority_class)
        extra = data.images[minority[batch_indices(len(minority), copies, 0, derive_seed(seed, "duplicates"))]]
    if extra is None:
        return TrainingSet(images, labels, len(real), 0, None)
    labels = np.concatenate([labels, np.full(len(extra), data.minority_class)])
    digest = synthetic.digest if regime.synthetic and synthetic is not None else None
    return TrainingSet(np.concatenate([images, extra]), labels, len(real), len(extra), digest)


@dataclass(frozen=True)
class Fitted:
    """A trained classifier, as selected on validation."""

    model: nn.Module
    threshold: float
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
    """Probabilities of PNEUMONIA (n,) float64 for images (n, H, W) uint8, in evaluation mode and float32."""
    model.eval()
    parts = [
        model(to_input(pixels[i : i + batch_size], config, device)).float().sigmoid().cpu()
        for i in range(0, len(pixels), batch_size)
    ]
    scores: Array = torch.cat(parts).double().numpy()
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
    """Train to ``config.steps`` and select on validation, which is real and never augmented.

    The trial seed gives initialisation, batch order, transforms and dropout; the same seed gives the same
    initialisation under every regime.

    Args:
        val: images (n, H, W) uint8 and labels (n,).
        signalled: asked after every step; a signal number ends the training.

    Raises:
        Interrupted: when ``signalled`` says so.
        BalancerError: the loss is not finite.
    """
    torch.manual_seed(derive_seed(trial_seed, "init"))
    model = build_model(config).to(device)
    model = model.to(memory_format=memory_format(device))
    torch.manual_seed(derive_seed(trial_seed, "dropout"))
    optimizer = make_optimizer(config, model)
    augment = Augmenter(config.augmentation, trial_seed) if regime.augment else None
    resident = torch.from_numpy(train.images).to(device) if augment is None else None  # else the CPU transforms each
    labels = torch.from_numpy(train.labels).to(device)
    weights = torch.from_numpy(class_weights(train.labels, regime.weighted)).float().to(device)
    looks, best = evaluation_steps(config), _Best(config.selection, f"{regime.name}, seed {trial_seed}")
    seen_real, losses, begin = 0, [], time.perf_counter()
    with progress.bar(config.steps, f"{regime.name}, seed {trial_seed}", "step") as bar:
        for step in range(config.steps):
            index = batch_indices(len(train.images), config.batch_size, step, trial_seed)
            seen_real += int((index < train.n_real).sum())
            where = torch.from_numpy(index).to(device)
            pixels = resident[where] if resident is not None else train.images[index]
            if augment is not None:
                pixels = augment(train.images[index], index, step)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * schedule(config, step)

            y = labels[where]
            model.train()
            with autocast(device, config.precision):
                logits = model(to_input(pixels, config, device)).float()
            loss = F.binary_cross_entropy_with_logits(logits, y.float(), weight=weights[y])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            bar.update()
            if (signum := signalled()) is not None:
                raise Interrupted(signum, f"stopped in {regime.name}, seed {trial_seed}")
            if step + 1 in looks:
                train_loss, losses = float(torch.stack(losses).mean()), []
                score = predict(model, val[0], config, device)
                best.look(step + 1, train_loss, nll(val[1], score), score, model)
    model.load_state_dict(best.state)
    threshold = threshold_rule(config.threshold)(val[1], best.score)
    passes = seen_real / train.n_real
    seconds = time.perf_counter() - begin
    return Fitted(model.eval(), threshold, best.step, best.history, best.score, passes, seconds)


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


def make_optimizer(config: ClassifierConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over what is not frozen; weight decay is decoupled only in AdamW."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=0.9, nesterov=True, weight_decay=config.weight_decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    fused = parameters[0].device.type in ("cpu", "cuda")
    return kind(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


def schedule(config: ClassifierConfig, step: int) -> float:
    """The factor on the learning rate: 1, or half a cosine from 1 towards 0 (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    return 1.0 if config.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / config.steps))


def evaluation_steps(config: ClassifierConfig) -> set[int]:
    """Steps after which validation is looked at: evenly spread, the last one always among them."""
    return {round(config.steps * (i + 1) / config.evaluations) for i in range(config.evaluations)} - {0} | {
        config.steps
    }


def class_weights(labels: Array, weighted: bool) -> Array:
    """Weight of each class in the loss: 1, or n / (2 n_class), which lets both classes weigh the same."""
    counts = np.bincount(labels, minlength=len(CLASSES))
    return len(labels) / (len(CLASSES) * counts) if weighted else np.ones(len(CLASSES))


def save_classifier(
    path: Path, config: ClassifierConfig, regime: Regime, trial_seed: int, data: Dataset, fitted: Fitted
) -> None:
    """Write everything that prediction needs, atomically."""
    content = {
        "format": FORMAT,
        "kind": "classifier",
        "config": config.model_dump(mode="json", include=set(ClassifierConfig.model_fields)),
        "regime": regime.name,
        "trial_seed": trial_seed,
        "classes": list(CLASSES),
        "threshold": fitted.threshold,
        "step": fitted.selected_step,
        "data": data.describe(),
        "state": fitted.model.state_dict(),
    }
    with atomic_file(path) as handle:
        torch.save(content, handle)


@dataclass(frozen=True)
class Loaded:
    """A classifier read from disk."""

    model: nn.Module
    config: ClassifierConfig
    threshold: float
    content: dict[str, Any]


def load_classifier(path: Path, device: torch.device) -> Loaded:
    """Read a classifier checkpoint, as tensors and plain values only.

    Raises:
        BalancerError: missing, damaged, or not such a checkpoint.
    """
    path = path / "model.pt" if path.is_dir() else path
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise BalancerError(
            f"{path} does not exist; give a model.pt made by `classifier train` or `classifier ablate`"
        ) from error
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise BalancerError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); train again or give another model.pt"
        ) from error
    if not isinstance(content, dict) or content.get("kind") != "classifier" or content.get("format") != FORMAT:
        raise BalancerError(
            f"{path} is not a classifier checkpoint of format {FORMAT}; give a model.pt of this program"
        )
    try:
        config = validate(ClassifierConfig, content["config"])
        model = build_model(config.model_copy(update={"weights": "none"})).to(device)
        model.load_state_dict(content["state"])
    except (UsageError, RuntimeError) as error:
        raise BalancerError(f"{path} does not fit its own settings ({str(error).splitlines()[0]})") from error
    return Loaded(model.to(memory_format=memory_format(device)).eval(), config, float(content["threshold"]), content)
