"""The recipe of every trained feature network: self-supervised, on the training fold of a data set.

Class labels alone would collapse the variation within a class. A distance between sets of images of one class has to
see that variation. So the objective has three parts:

- VICReg (Bardes et al. 2022, arXiv:2105.04906) on two slightly different views of every image. Its variance and
  covariance terms are taken *within each class*: all 128 features have to vary among the images of a class, each in
  its own way.
- A linear map must read the strengths of random degradations from the features of a third view. So what goes wrong with
  generated images (blur, white noise, contrast, brightness, elastic distortion, a checkerboard) moves the features.
- A small classification loss, for what separates the classes.

Images and labels are those of the training fold alone. Batches hold the classes equally. One seed draws everything, and
every draw depends on the step alone: an interrupted training goes on to the same weights.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balancer.core import progress
from balancer.core.device import exact_float32, memory_format, synchronize
from balancer.core.errors import BalancerError, Interrupted
from balancer.core.files import remove
from balancer.core.sealed import DamagedFile, load_tensors, save_tensors
from balancer.core.seeding import derive_seed, generator
from balancer.core.shapes import check_tensors
from balancer.core.signals import deferred_signals
from balancer.metrics.trained_features import TrainedFeatures

log = logging.getLogger("balancer")
Array = np.ndarray
STRENGTHS = ("blur", "noise", "contrast", "brightness", "elastic", "checkerboard")
INVARIANCE, VARIANCE, COVARIANCE, DEGRADATION, LABEL = 25.0, 25.0, 1.0, 8.0, 1.0
TRIED = 8  # images a step of an estimate


@dataclass(frozen=True)
class Recipe:
    """What a network depends on beside its images: with another value its weights are others."""

    version: int = 1  # raise when a view or a loss changes
    seed: int = 20220105
    steps: int = 1200
    batch: int = 128  # images a step, the classes equally
    most_classes: int = 4  # in a batch: of more, some are drawn at each step, so that each has images enough to vary
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class TrainingImages:
    """Images (n, H, W) or (n, H, W, 3) uint8, and the positions of those of each class in the training fold."""

    images: Array
    classes: tuple[Array, ...]

    @property
    def channels(self) -> int:
        """Return 1 for grey images, 3 for colour."""
        return 3 if self.images.ndim == 4 else 1

    @property
    def count(self) -> int:
        """Return the number of images that a training can draw."""
        return sum(map(len, self.classes))

    def pixels(self, positions: Array) -> Tensor:
        """Return some of the images as the network's input, float (B, C, 64, 64) in [-1, 1]."""
        chosen = torch.from_numpy(np.ascontiguousarray(self.images[positions]))
        return TrainedFeatures.prepare(chosen[:, None] if self.channels == 1 else chosen.permute(0, 3, 1, 2))


def uniform(n: int, low: float, high: float, source: torch.Generator) -> Tensor:
    """Draw (n,) in [low, high)."""
    return low + (high - low) * torch.rand(n, generator=source)


def warp(images: Tensor, angle: Tensor, zoom: Tensor, shift: Tensor, bend: Tensor, source: torch.Generator) -> Tensor:
    """Rotate (rad), zoom, shift (fractions of the side) and bend (pixels) images (B, C, H, W); borders are repeated."""
    n, size = len(images), images.shape[-1]
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack([torch.stack([cos, -sin, 2 * shift[:, 0]], 1), torch.stack([sin, cos, 2 * shift[:, 1]], 1)], 1)
    grid = F.affine_grid(theta.to(images.device), [n, 1, size, size], align_corners=False)
    coarse = torch.randn(n, 2, 7, 7, generator=source) * (2 * bend / size)[:, None, None, None]
    smooth = F.interpolate(coarse.to(images.device), (size, size), mode="bicubic", align_corners=True)
    return F.grid_sample(images, grid + smooth.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


def weak_view(images: Tensor, source: torch.Generator) -> Tensor:
    """Change what the features should not see: a few pixels of position, a little gain, a trace of noise."""
    n = len(images)
    moved = warp(
        images,
        uniform(n, -0.05, 0.05, source),
        uniform(n, 0.96, 1.04, source),
        torch.stack([uniform(n, -0.03, 0.03, source), uniform(n, -0.03, 0.03, source)], 1),
        torch.zeros(n),
        source,
    )
    gain, offset = uniform(n, 0.96, 1.04, source), uniform(n, -0.04, 0.04, source)
    noise = 0.02 * torch.randn(images.shape, generator=source)
    return (moved * gain[:, None, None, None] + offset[:, None, None, None] + noise).clamp(-1, 1)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur by Gaussians of ``sigma`` (B,) pixels, with reflected borders, through the Fourier transform."""
    size, pad = images.shape[-1], 8
    x = F.pad(images, (pad, pad, pad, pad), mode="reflect")
    fy, fx = torch.fft.fftfreq(size + 2 * pad)[:, None], torch.fft.rfftfreq(size + 2 * pad)[None]
    transfer = torch.exp(-2 * (np.pi * sigma[:, None, None]) ** 2 * (fy**2 + fx**2)).to(images.device)
    out = torch.fft.irfft2(torch.fft.rfft2(x) * transfer[:, None], s=x.shape[-2:])
    return out[..., pad:-pad, pad:-pad]


def degraded_view(images: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Degrade images in several ways at once; return them with the strengths (B, 6) in [0, 1] or [-1, 1], 0 for none.

    Half the images go without each degradation.
    """
    n = len(images)
    strength = torch.rand(n, len(STRENGTHS), generator=source)
    strength[:, 3] = 2 * strength[:, 3] - 1
    strength *= torch.rand(strength.shape, generator=source) < 0.5
    b, noise, contrast, bright, elastic, board = strength.T
    zero = torch.zeros(n)
    x = warp(images, zero, torch.ones(n), torch.zeros(n, 2), 3.0 * elastic, source)
    x = blur(x, 2.5 * b)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * (1 - 0.6 * contrast)[:, None, None, None] + mean + 0.3 * bright[:, None, None, None]
    size = images.shape[-1]
    period = torch.where(torch.rand(n, generator=source) < 0.5, 2, 4)
    rows = torch.arange(size)[None] // (period[:, None] // 2)
    signs = 1.0 - 2.0 * ((rows[:, :, None] + rows[:, None, :]) % 2)
    x = x + 0.1 * board[:, None, None, None] * signs[:, None]
    x = x + 0.3 * noise[:, None, None, None] * torch.randn(images.shape, generator=source)
    return x.clamp(-1, 1), strength


def vicreg(first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """Return the VICReg loss: invariance over all images, variance and covariance within each class, on average."""
    loss = INVARIANCE * F.mse_loss(first, second)
    present = labels.unique()
    for z in (first, second):
        for label in present:
            inside = z[labels == label]
            centred = inside - inside.mean(0)
            covariance = centred.T @ centred / (len(inside) - 1)
            spread = torch.sqrt(covariance.diagonal() + 1e-4)
            off = covariance - torch.diag(covariance.diagonal())
            within = VARIANCE * F.relu(1 - spread).mean() + COVARIANCE * off.square().sum() / z.shape[1]
            loss = loss + within / (2 * len(present))
    return loss


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of labels (B,): of two classes on one logit (B, 1), of K classes on K logits (B, K)."""
    if logits.shape[1] == 1 and labels.max() > 0:
        return F.binary_cross_entropy_with_logits(logits.squeeze(1), labels.float())
    return F.cross_entropy(logits, labels)


def batch(data: TrainingImages, recipe: Recipe, step: int) -> tuple[Tensor, Tensor]:
    """Return the images of a step, (B, C, 64, 64) in [-1, 1], and their labels (B,): the classes of a batch equally.

    An image stands twice in a batch only where its class has too few.
    """
    rng = np.random.default_rng(derive_seed(recipe.seed, "batch", step))
    labels = np.arange(len(data.classes))
    if len(labels) > recipe.most_classes:
        labels = np.sort(rng.permutation(labels)[: recipe.most_classes])
    each = recipe.batch // len(labels)
    chosen = [rng.choice(data.classes[k], each, replace=len(data.classes[k]) < each) for k in labels]
    return data.pixels(np.concatenate(chosen)), torch.from_numpy(labels).repeat_interleave(each)


class _Training:
    """The state of a training: the network, what learns beside it, and the step."""

    def __init__(self, data: TrainingImages, recipe: Recipe, device: torch.device) -> None:
        self.step = 0
        outputs = 1 if len(data.classes) == 2 else len(data.classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(recipe.seed, "init"))
            self.network = TrainedFeatures(data.channels)
            self.strengths, self.label = nn.Linear(TrainedFeatures.DIM, len(STRENGTHS)), nn.Linear(128, outputs)
        self.network = self.network.to(device).to(memory_format=memory_format(device))
        self.heads = nn.ModuleList([self.strengths, self.label]).to(device)
        parameters = [*self.network.parameters(), *self.heads.parameters()]
        rate = recipe.learning_rate
        self.optimizer = torch.optim.AdamW(parameters, rate, weight_decay=1e-3, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=recipe.steps, pct_start=0.1
        )

    def save(self, path: Path) -> None:
        """Write the state, sealed."""
        content = {
            "step": self.step,
            "network": self.network.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        save_tensors(path, content)

    def load(self, path: Path, device: torch.device) -> None:
        """Take up a saved state.

        Raises:
            OSError: there is none.
            DamagedFile: the file is not what was written.
        """
        saved = load_tensors(path, device)
        self.network.load_state_dict(check_tensors(path, "network", saved.get("network"), self.network.state_dict()))
        self.heads.load_state_dict(saved["heads"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.step = int(saved["step"])

    def losses(self, data: TrainingImages, recipe: Recipe, device: torch.device) -> dict[str, Tensor]:
        """Return the parts of the loss at the next step."""
        source = generator(recipe.seed, "views", self.step)
        images, labels = batch(data, recipe, self.step)
        worse, strength = degraded_view(images, source)
        views = torch.cat([weak_view(images, source), weak_view(images, source), worse])
        inputs = views.contiguous(memory_format=memory_format(device)).to(device)
        first, second, third = self.network.layers(inputs).chunk(3)
        labels = labels.to(device)
        return {  # in this order: gradients are summed in it, and the last digit of the shipped weights hangs on it
            "vicreg": vicreg(first, second, labels),
            "degradation": DEGRADATION * F.mse_loss(self.strengths(third), strength.to(device)),
            "label": LABEL * class_loss(self.label(first), labels),
        }

    def advance(self, parts: Mapping[str, Tensor]) -> None:
        """Take one step along the gradient of the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        sum(parts.values()).backward()  # type: ignore[union-attr]
        self.optimizer.step()
        self.schedule.step()
        self.step += 1


def train(
    data: TrainingImages,
    recipe: Recipe,
    device: torch.device,
    name: str,
    unfinished: Path | None = None,
) -> TrainedFeatures:
    """Return a network trained by the recipe, on the CPU and in evaluation mode.

    Args:
        data: the images of the training fold.
        recipe: what else the weights depend on.
        device: where the network learns. On a CPU the weights are the same each time.
        name: of the network, beside the progress bar.
        unfinished: file that an interrupted training is kept in, and taken up from.

    Raises:
        Interrupted: a signal came; the state is saved.
        BalancerError: the weights are not finite.
    """
    state = _begun(data, recipe, device, unfinished) if unfinished else _Training(data, recipe, device)
    with (
        deferred_signals() as signal_received,
        exact_float32(device),
        progress.bar(recipe.steps, name, "step", state.step) as bar,
    ):
        while state.step < recipe.steps:
            parts = state.losses(data, recipe, device)
            state.advance(parts)
            bar.update()
            if state.step % 100 == 0:
                log.debug("step %d: %s", state.step, {k: round(float(v.detach()), 3) for k, v in parts.items()})
            if unfinished and (signum := signal_received()) is not None:
                state.save(unfinished)
                done = f"{state.step} of {recipe.steps}"
                raise Interrupted(signum, f"{name}: saved at step {done}; the same command goes on from there")
    if not all(torch.isfinite(value).all() for value in state.network.state_dict().values()):
        raise BalancerError(f"the training of {name} diverged: its weights are not finite; give --set features=random")
    if unfinished:
        remove(unfinished)
    # A new network, since the weights' order in memory changes the last digit of features, and files do not keep it.
    with torch.random.fork_rng(devices=[]):
        network = TrainedFeatures(data.channels)
    network.load_state_dict(state.network.state_dict())
    return network.eval().requires_grad_(False)


def _begun(data: TrainingImages, recipe: Recipe, device: torch.device, unfinished: Path) -> _Training:
    """Return the state of an interrupted training, or a new one where there is none, or a damaged file."""
    state = _Training(data, recipe, device)
    try:
        state.load(unfinished, device)
    except FileNotFoundError:
        return state
    except (DamagedFile, KeyError, ValueError, RuntimeError) as error:
        log.warning("%s; training begins anew", error if isinstance(error, DamagedFile) else f"{unfinished} is damaged")
        return _Training(data, recipe, device)
    log.info("going on at step %d of %d", state.step, recipe.steps)
    return state


def estimate_seconds(recipe: Recipe, channels: int, device: torch.device) -> float:
    """Return the seconds that a training takes, from small steps on noise with a network that is thrown away."""
    noise = np.random.default_rng(0).integers(0, 256, (2 * TRIED, 64, 64, 3)[: 3 if channels == 1 else 4], np.uint8)
    data = TrainingImages(noise, (np.arange(TRIED), np.arange(TRIED, 2 * TRIED)))
    small = Recipe(**{**asdict(recipe), "batch": TRIED, "steps": 3})
    state, seconds = _Training(data, small, device), []
    for _ in range(small.steps):  # the first step pays for set-up
        begin = time.perf_counter()
        state.advance(state.losses(data, small, device))
        synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds) * recipe.steps * recipe.batch / TRIED
