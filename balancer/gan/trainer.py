"""GAN training: one flat loop, every step a pure function of (state, seed, step), so that resuming is exact."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from balancer import progress
from balancer.augmentation.differentiable import check_policy, diff_augment
from balancer.config import GanTrainConfig, differences, validate
from balancer.data.dataset import Dataset
from balancer.data.folder import CLASSES
from balancer.data.sampling import batch_indices
from balancer.device import autocast, exact_float32, memory_format, peak_memory_mb, synchronize
from balancer.errors import BalancerError, Interrupted, UsageError
from balancer.gan.ema import EMA
from balancer.gan.losses import loss_named
from balancer.gan.networks import architecture
from balancer.grids import save_grid, to_uint8
from balancer.run import RunDir, atomic_file, deferred_signals, keep_jsonl, read_jsonl
from balancer.seeding import derive_seed, generator

log = logging.getLogger("balancer")
FORMAT = 1  # of the checkpoint
CHECKPOINT = "checkpoint.pt"
KEYS = {"config", "step", "class", "split_hash", "data", "G", "D", "G_ema", "optimizer_G", "optimizer_D"}
GRID_IMAGES = 64


@dataclass
class GanState:
    """Everything that training changes."""

    G: nn.Module
    D: nn.Module
    ema: EMA
    optimizer_G: torch.optim.Optimizer
    optimizer_D: torch.optim.Optimizer
    step: int = 0

    def parts(self) -> dict[str, Any]:
        return {
            "G": self.G,
            "D": self.D,
            "G_ema": self.ema.network,
            "optimizer_G": self.optimizer_G,
            "optimizer_D": self.optimizer_D,
        }


def build_state(config: GanTrainConfig, device: torch.device) -> GanState:
    """Fresh networks and optimisers; the weights depend on ``config.seed`` alone, not on the device."""
    nets = architecture(config.architecture)
    size = config.data.image_size
    torch.manual_seed(derive_seed(config.seed, "init"))
    G = nets.generator(size, config.z_dim, config.generator_width)
    D = nets.discriminator(size, config.discriminator_width, config.spectral_norm)
    for net in (G, D):
        net.to(device).to(memory_format=memory_format(device))
    ema = EMA(G, config.ema_decay)
    return GanState(
        G, D, ema, _optimizer(config, G, config.lr_generator), _optimizer(config, D, config.lr_discriminator)
    )


def _optimizer(config: GanTrainConfig, net: nn.Module, lr: float) -> torch.optim.Optimizer:
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(net.parameters(), lr=lr, alpha=0.9, eps=1e-7)  # Keras's rho and epsilon
    fused = next(net.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.Adam(net.parameters(), lr=lr, betas=(config.beta1, config.beta2), fused=fused)


def sample_z(config: GanTrainConfig, n: int, source: torch.Generator) -> Tensor:
    """Latents ``z`` (n, z_dim) on the CPU: N(0, 1) or U(-1, 1)."""
    if config.z_distribution == "uniform":
        return 2 * torch.rand(n, config.z_dim, generator=source) - 1
    return torch.randn(n, config.z_dim, generator=source)


def train_step(config: GanTrainConfig, state: GanState, real_images: Tensor) -> dict[str, Tensor]:
    """One optimiser step of D, one of G, one EMA update; advances ``state.step``.

    Args:
        real_images: (B, 1, H, W) in [-1, 1] on the training device.

    Returns:
        Scalars still on the device: ``loss_D``, ``loss_G``, and D's mean probability of "real" for each kind.
    """
    loss, device = loss_named(config.loss), real_images.device
    source = generator(config.seed, "step", state.step)
    z = sample_z(config, len(real_images), source).to(device)

    # D: the fakes are detached here and used again for G below, which saves a pass through G
    state.D.requires_grad_(True)
    with autocast(device, config.precision):
        fake_images = state.G(z).contiguous(memory_format=memory_format(device))
        real_logits = state.D(diff_augment(real_images, config.diffaugment, source)).float()
        fake_logits = state.D(diff_augment(fake_images.detach(), config.diffaugment, source)).float()
    loss_D = loss.discriminator(real_logits, fake_logits)
    state.optimizer_D.zero_grad(set_to_none=True)
    loss_D.backward()
    state.optimizer_D.step()

    # G: no gradients for D's weights
    state.D.requires_grad_(False)
    with autocast(device, config.precision):
        loss_G = loss.generator(state.D(diff_augment(fake_images, config.diffaugment, source)).float())
    state.optimizer_G.zero_grad(set_to_none=True)
    loss_G.backward()
    state.optimizer_G.step()

    state.ema.update(state.G, state.step)
    state.step += 1
    return {
        "loss_D": loss_D.detach(),
        "loss_G": loss_G.detach(),
        "D_real": real_logits.detach().sigmoid().mean(),
        "D_fake": fake_logits.detach().sigmoid().mean(),
    }


def target_label(config: GanTrainConfig, data: Dataset) -> int:
    """The class that the GAN learns: ``target_class``, else the minority class of the training fold."""
    if config.target_class is None:
        return data.minority_class
    names = [c.lower() for c in CLASSES]
    if config.target_class.lower() not in names:
        raise UsageError(f"--class is {config.target_class!r}; expected {' or '.join(CLASSES)}")
    return names.index(config.target_class.lower())


def training_images(data: Dataset, label: int, device: torch.device) -> Tensor:
    """The training fold's images of a class, (n, 1, H, W) uint8, all resident on the device."""
    pixels = np.ascontiguousarray(data.images[data.indices("train", label)])
    return torch.from_numpy(pixels)[:, None].to(device)


def train(config: GanTrainConfig, data: Dataset, run: RunDir, device: torch.device) -> dict[str, Any]:
    """Train to ``config.steps``, from the run's checkpoint if it was resumed.

    Returns:
        The last logged row, with the class, the number of training images and the seconds spent.

    Raises:
        Interrupted: a signal came; the state is saved.
        BalancerError: a loss is not finite; the last snapshot is kept.
    """
    check(config)
    label = target_label(config, data)
    images = training_images(data, label, device)
    state = build_state(config, device)
    if run.resumed and (run / CHECKPOINT).exists():
        load_checkpoint(run / CHECKPOINT, config, state, data, device)
        keep_jsonl(run / "metrics.jsonl", lambda row: row["step"] <= state.step)  # a kill may have come after it
        log.info("resumed at step %d of %d", state.step, config.steps)
    fixed_z = sample_z(config, GRID_IMAGES, generator(config.seed, "grid")).to(device)
    (run / "grids").mkdir(exist_ok=True)
    log.info("learning %s from %d images", CLASSES[label], len(images))

    sums: dict[str, Tensor] = {}
    since, begin = state.step, time.perf_counter()
    row = {k: v for past in read_jsonl(run / "metrics.jsonl")[-1:] for k, v in past.items() if k != "step"}
    start_step, start = state.step, begin
    with deferred_signals() as signalled, progress.bar(config.steps, "gan-train", "step", state.step) as bar:
        while state.step < config.steps:
            index = torch.from_numpy(batch_indices(len(images), config.batch_size, state.step, config.seed)).to(device)
            scalars = train_step(config, state, scale(images[index], device))
            sums = {k: sums[k] + v if sums else v for k, v in scalars.items()}
            bar.update()
            step = state.step

            # Log: the only point where the device is waited for
            if step % config.log_every == 0 or step == config.steps:
                synchronize(device)
                now = time.perf_counter()
                row = {k: float(v) / (step - since) for k, v in sums.items()}
                if not all(map(math.isfinite, row.values())):
                    raise BalancerError(
                        f"training diverged by step {step}: {row}; lower the learning rates; the last snapshot is kept in {run.path}"
                    )
                row |= _speed(config, step, since, now - begin, device)
                run.metrics({"step": step, **row})
                bar.set_postfix(D=f"{row['loss_D']:.2f}", G=f"{row['loss_G']:.2f}")
                sums, since, begin = {}, step, now

            # Snapshot: the fixed-z grid and a checkpoint
            if step % config.snapshot_every == 0 or step == config.steps:
                save_checkpoint(run / CHECKPOINT, config, state, data, label)
                save_grid(run / "grids" / f"step_{step:06d}.png", to_uint8(generate(state.ema.network, fixed_z)))
                log.info("step %d of %d: snapshot", step, config.steps)
            if (signum := signalled()) is not None and step < config.steps:
                save_checkpoint(run / CHECKPOINT, config, state, data, label)
                raise Interrupted(signum, f"saved at step {step} of {config.steps}; continue with --resume {run.path}")
    done = state.step - start_step
    return {
        "class": CLASSES[label],
        "n_train": len(images),
        "steps": state.step,
        "seconds": time.perf_counter() - start,
        "steps_run": done,
        **row,
    }


def _speed(config: GanTrainConfig, step: int, since: int, seconds: float, device: torch.device) -> dict[str, float]:
    rate = (step - since) / max(seconds, 1e-9)
    return {
        "images_per_s": round(rate * config.batch_size, 2),
        "memory_mb": round(peak_memory_mb(device), 1),
        "eta_s": round((config.steps - step) / rate, 1),
    }


def check(config: GanTrainConfig) -> None:
    """Refuse unknown names and sizes before anything is written."""
    loss_named(config.loss)
    check_policy(config.diffaugment)
    with torch.device("meta"):
        nets = architecture(config.architecture)
        nets.generator(config.data.image_size, config.z_dim, 1)


def scale(pixels: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 1, H, W) to float32 in [-1, 1], in the layout that convolutions like."""
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=memory_format(device))


@torch.no_grad()
def generate(G: nn.Module, z: Tensor) -> Tensor:
    """Images (n, 1, H, W) in [-1, 1] in evaluation mode, always in float32."""
    G.eval()
    with exact_float32(z.device):
        images: Tensor = G(z).float().clamp(-1, 1)
    return images


def estimate_seconds(config: GanTrainConfig, data: Dataset, device: torch.device, steps: int = 4) -> float:
    """How long the whole training will take, from a few real steps on throw-away networks."""
    check(config)
    images = training_images(data, target_label(config, data), device)
    state = build_state(config, device)
    begin = 0.0
    for i in range(steps + 2):
        if i == 2:  # the first steps pay for set-up
            synchronize(device)
            begin = time.perf_counter()
        index = torch.from_numpy(batch_indices(len(images), config.batch_size, i, config.seed)).to(device)
        train_step(config, state, scale(images[index], device))
    synchronize(device)
    return (time.perf_counter() - begin) / steps * config.steps


def save_checkpoint(path: Path, config: GanTrainConfig, state: GanState, data: Dataset, label: int) -> None:
    """Write the whole state atomically. No generator state is needed: every draw is derived from the step.

    Raises:
        BalancerError: a weight is not finite; the file is left as it was, since losses are looked at less often.
    """
    if not all(torch.isfinite(v).all() for net in (state.G, state.D) for v in net.state_dict().values()):
        raise BalancerError(
            f"training diverged by step {state.step}: weights are not finite; lower the learning rates;"
            f" the last snapshot is kept in {path.parent}"
        )
    content = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "step": state.step,
        "class": CLASSES[label],
        "split_hash": data.split_hash,
        "data": data.describe(),
        **{name: part.state_dict() for name, part in state.parts().items()},
    }
    with atomic_file(path) as handle:
        torch.save(content, handle)


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """The content of a GAN checkpoint; only tensors and plain values are read, never code.

    Raises:
        BalancerError: missing, damaged, or not a checkpoint of this program.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise BalancerError(f"{path} does not exist; the run stopped before its first snapshot: train again") from error
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise BalancerError(f"{path} is not a readable GAN checkpoint ({type(error).__name__}); train again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() >= KEYS:
        raise BalancerError(f"{path} is not a GAN checkpoint of format {FORMAT}; train again with this version")
    return content


def check_config(path: Path, content: dict[str, Any], config: GanTrainConfig) -> None:
    """Refuse a checkpoint that was made under other settings: its weights would not fit, or fit by chance.

    Raises:
        BalancerError: listing the differences.
    """
    saved = validate(GanTrainConfig, content["config"])  # fills in what a later version added
    changed = differences(saved.model_dump(mode="json"), config.model_dump(mode="json"))
    if changed:
        raise BalancerError(
            f"{path} was made under other settings than config.yaml beside it: {'; '.join(changed)}; train again"
        )


def load_checkpoint(path: Path, config: GanTrainConfig, state: GanState, data: Dataset, device: torch.device) -> None:
    """Put a saved state back.

    Raises:
        BalancerError: it was trained under other settings or on another split of the data.
    """
    content = read_checkpoint(path, device)
    check_config(path, content, config)
    if content["split_hash"] != data.split_hash:
        raise BalancerError(
            f"{path} was trained on split {content['split_hash']}, the data now give {data.split_hash}; the files or their split changed"
        )
    try:
        for name, part in state.parts().items():
            part.load_state_dict(content[name])
    except (KeyError, ValueError, RuntimeError) as error:
        raise BalancerError(f"{path} is of another configuration than config.yaml beside it; train again") from error
    state.step = content["step"]
