"""The state of a GAN and one training step: a pure function of (state, seed, step), so that resuming is exact."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from balancer.augmentation.differentiable import diff_augment
from balancer.core import ranks
from balancer.core.device import autocast, memory_format, resolve_precision
from balancer.core.ema import exponential_average, update_average
from balancer.core.seeding import derive_seed, generator
from balancer.core.settings import GanTrainConfig
from balancer.core.stepping import Source, drawn, set_rate
from balancer.gan.ancestry import Ancestor
from balancer.gan.decoder import Reconstruction
from balancer.gan.losses import loss_named
from balancer.gan.networks import Discriminator, architecture
from balancer.gan.penalties import inconsistency, lecam, one_centred_penalty, zero_centred_penalty
from balancer.gan.snapshot import Snapshot

# ADA's probability and overfitting measure, LeCam's anchors
RUNNING_STATS = ("augment_p", "r_t", "lecam_real", "lecam_fake")
R_T_DECAY, LECAM_DECAY = 0.95, 0.99
MOST_AUGMENTED = 0.8  # up to here, augmentations do not leak into the images (Karras et al. 2020, arXiv:2006.06676)


@dataclass
class GanState:
    """Everything that training changes."""

    G: nn.Module
    D: Discriminator
    ema: AveragedModel
    optimizer_G: torch.optim.Optimizer
    optimizer_D: torch.optim.Optimizer
    running_stats: dict[str, Tensor]  # scalars on the training device, by the names in RUNNING_STATS
    precisions: list[str]  # one after the other; more than one if the run was resumed on another machine
    threads: list[int]  # as precisions
    step: int = 0
    best: Snapshot | None = None  # the snapshot chosen so far
    decoder: nn.Module | None = None  # of a discriminator that reconstructs
    ancestors: tuple[Ancestor, ...] = ()  # whose weights training started from, the first one first

    def modules(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Return what has a ``state_dict``, by its key in a checkpoint."""
        return {
            "G": self.G,
            "D": self.D,
            "G_ema": self.ema.module,
            "optimizer_G": self.optimizer_G,
            "optimizer_D": self.optimizer_D,
            **({"decoder": self.decoder} if self.decoder else {}),
        }


def build_state(config: GanTrainConfig, device: torch.device, channels: int = 1) -> GanState:
    """Return fresh networks and optimisers for images of so many channels.

    The weights depend on ``config.seed`` alone, not on the device.
    """
    nets, size = architecture(config.architecture), config.data.image_size
    torch.manual_seed(derive_seed(config.seed, "init"))
    G = nets.generator(size, config.z_dim, config.generator_width, channels)
    D = nets.discriminator(
        size, config.discriminator_width, config.discriminator_norm, config.minibatch_stddev, channels
    )
    decoder = Reconstruction(config, D, channels) if config.reconstruction_weight else None
    for net in (G, D, *([decoder] if decoder else [])):
        net.to(device).to(memory_format=memory_format(device))
    of_D = [*_trained(config, D), *(decoder.parameters() if decoder else [])]
    optimizers = (
        _optimizer(config, list(G.parameters()), config.lr_generator),
        _optimizer(config, of_D, config.lr_discriminator),
    )
    ema = exponential_average(G, config.ema_decay, warm_up=True).eval().requires_grad_(False)
    stats = {name: torch.zeros((), device=device) for name in RUNNING_STATS}
    precisions = [resolve_precision(device, config.precision, on_cpu=True)]
    return GanState(G, D, ema, *optimizers, stats, precisions, [torch.get_num_threads()], decoder=decoder)


def _trained(config: GanTrainConfig, D: Discriminator) -> list[nn.Parameter]:
    """Return the parameters of D that are trained; the others are marked as fixed."""
    for layer in D.first_layers(config.freeze_discriminator):
        layer.requires_grad_(False)
    return [p for p in D.parameters() if p.requires_grad]


def _optimizer(config: GanTrainConfig, parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=lr, alpha=0.9, eps=1e-7)  # Keras's rho and epsilon
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.Adam(parameters, lr=lr, betas=(config.beta1, config.beta2), fused=fused)


def learning_rate_share(config: GanTrainConfig, step: int) -> float:
    """Return the share of the learning rates that a step, counted from 0, uses (Loshchilov & Hutter 2017)."""
    return 1.0 if config.lr_schedule == "constant" else (1 + math.cos(math.pi * step / config.steps)) / 2


def best_share(config: GanTrainConfig, step: int) -> float:
    """Return the share of a batch that G learns from: it falls from 1 to ``top_k`` over the first half of training.

    Sinha et al. 2020, arXiv:2002.06224, who shrink it by 1 % with each pass over the training images.
    """
    return 1 - (1 - config.top_k) * min(1.0, 2 * step / config.steps)


def _kept(config: GanTrainConfig, step: int, n: int) -> int:
    """Return how many of n images G learns from."""
    return max(1, round(best_share(config, step) * n))


def _is_lazy(config: GanTrainConfig, count: int) -> bool:
    """Return whether D's step number ``count`` has the penalties."""
    return count % config.penalty_every == 0


def sample_z(config: GanTrainConfig, n: int, source: torch.Generator) -> Tensor:
    """Return latents ``z`` (n, z_dim) on the CPU: N(0, 1) or U(-1, 1)."""
    if config.z_distribution == "uniform":
        return 2 * torch.rand(n, config.z_dim, generator=source) - 1
    return torch.randn(n, config.z_dim, generator=source)


def train_step(config: GanTrainConfig, state: GanState, real_images: Tensor) -> dict[str, Tensor]:
    """Make ``n_dis`` optimiser steps of D, one of G and one EMA update; advance ``state.step``.

    ``real_images`` are (n_dis * B, 1 or 3, H, W) in [-1, 1] on the training device, B images for each step of D. In one
    of several ranks, B is its share of the batch.

    Returns:
        Scalars still on the device: ``loss_D``, ``loss_G``; ``D_real`` and ``D_fake``, D's mean probability of "real"
        of each kind of image; with adaptive augmentation ``augment_p``, its probability; ``reconstruction`` and
        ``inconsistency``, where these are part of D's loss.
    """
    set_rates(config, state)
    scalars = update_networks(config, state, real_images, step_source(config, state.step))
    finish_step(state)
    return scalars


def step_source(config: GanTrainConfig, step: int) -> torch.Generator:
    """Return the generator of all random numbers of a step."""
    return generator(config.seed, "step", step)


def step_kind(config: GanTrainConfig, step: int) -> tuple[object, ...]:
    """Return what steps have in common that run the same operations: where penalties fall, and top_k's number."""
    counts = range(config.n_dis * step, config.n_dis * (step + 1))
    return *(_is_lazy(config, count) for count in counts), _kept(config, step, config.batch_size)


def set_rates(config: GanTrainConfig, state: GanState) -> None:
    """Give both optimisers the learning rates of the step to come, if these move."""
    if config.lr_schedule != "constant":
        share = learning_rate_share(config, state.step)
        set_rate(state.optimizer_G, config.lr_generator * share)
        set_rate(state.optimizer_D, config.lr_discriminator * share)


def finish_step(state: GanState) -> None:
    """Update the averaged weights, and advance ``state.step``."""
    update_average(state.ema, state.G)
    state.step += 1


def update_networks(config: GanTrainConfig, state: GanState, real_images: Tensor, source: Source) -> dict[str, Tensor]:
    """Make the optimiser steps of a training step: that part which changes tensors alone, so it can be captured."""
    loss, device = loss_named(config.loss), real_images.device
    batches = real_images.chunk(config.n_dis)
    scalars: dict[str, Tensor] = {}
    for i, real in enumerate(batches):
        z = drawn(source, ranks.shared(partial(sample_z, config), len(real)), device)
        # The last fakes serve D here, detached, and G below, which saves a pass through G.
        last = i == len(batches) - 1
        with torch.set_grad_enabled(last), autocast(device, config.precision, on_cpu=True):
            fake_images = state.G(z).float().contiguous(memory_format=memory_format(device))
        scalars = _discriminator_step(config, state, real, fake_images.detach(), source, len(batches) * state.step + i)

    # G: no gradients for D's weights
    state.D.requires_grad_(False)
    with autocast(device, config.precision, on_cpu=True):
        fake_logits = state.D(_seen_by_D(config, state, fake_images, source)).float()
        real_logits = fake_logits
        if loss.relativistic:
            with torch.no_grad():
                real_logits = state.D(_seen_by_D(config, state, batches[-1], source)).float()
    if config.top_k < 1:
        real_logits, fake_logits = ranks.joined(real_logits), ranks.joined(fake_logits)
        kept = fake_logits.topk(_kept(config, state.step, len(fake_logits))).indices
        real_logits, fake_logits = real_logits[kept], fake_logits[kept]
    loss_G = loss.generator(real_logits, fake_logits)
    state.optimizer_G.zero_grad(set_to_none=True)
    loss_G.backward()
    state.optimizer_G.step()
    return {**scalars, "loss_G": loss_G.detach()}


def _seen_by_D(config: GanTrainConfig, state: GanState, images: Tensor, source: Source) -> Tensor:
    probability = None if config.ada_target is None else state.running_stats["augment_p"]
    return diff_augment(images, config.diffaugment, source, probability)


def _discriminator_step(
    config: GanTrainConfig, state: GanState, real: Tensor, fake: Tensor, source: Source, count: int
) -> dict[str, Tensor]:
    """Make one optimiser step of D; ``count`` is the number of steps of D before."""
    loss = loss_named(config.loss)
    for parameter in state.optimizer_D.param_groups[0]["params"]:  # those that are frozen stay so
        parameter.requires_grad_(True)
    with autocast(real.device, config.precision, on_cpu=True):
        lazy = _is_lazy(config, count)
        real = _seen_by_D(config, state, real, source).requires_grad_(lazy and config.r1_weight > 0)
        fake = _seen_by_D(config, state, fake, source).requires_grad_(lazy and config.r2_weight > 0)
        real_logits, maps = _judged(state, real)
        fake_logits = state.D(fake).float()
        loss_D = loss.discriminator(real_logits, fake_logits)
        total, scalars = loss_D, dict[str, Tensor]()
        if lazy:
            total = total + config.penalty_every * _penalties(
                config, state, real, fake, real_logits, fake_logits, source
            )
        if config.consistency_weight:
            moved_real, moved_fake = (
                state.D(diff_augment(images.detach(), config.consistency_augment, source)).float()
                for images in (real, fake)
            )
            moved = inconsistency(real_logits, moved_real) + inconsistency(fake_logits, moved_fake)
            scalars["inconsistency"] = moved
            total = total + config.consistency_weight * moved
        if state.decoder:
            corner = int(drawn(source, lambda g: torch.randint(4, (), generator=g), torch.device("cpu")))
            scalars["reconstruction"] = state.decoder(real.detach(), maps, corner)
            total = total + config.reconstruction_weight * scalars["reconstruction"]
    if config.lecam_weight:
        anchors = state.running_stats["lecam_real"], state.running_stats["lecam_fake"]
        total = total + config.lecam_weight * lecam(real_logits, fake_logits, *anchors)
    state.optimizer_D.zero_grad(set_to_none=True)
    total.backward()
    state.optimizer_D.step()
    update_running_stats(config, state, ranks.gathered(real_logits.detach()), ranks.gathered(fake_logits.detach()))
    scalars = {name: value.detach() for name, value in scalars.items()} | {
        "loss_D": loss_D.detach(),
        "D_real": real_logits.detach().sigmoid().mean(),
        "D_fake": fake_logits.detach().sigmoid().mean(),
    }
    return scalars if config.ada_target is None else scalars | {"augment_p": state.running_stats["augment_p"].clone()}


def _judged(state: GanState, images: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """Return D's logits, and the features that the decoders see if D reconstructs."""
    if state.decoder is None:
        return state.D(images).float(), {}
    logits, maps = state.D.with_maps(images)
    return logits.float(), maps


def _penalties(
    config: GanTrainConfig,
    state: GanState,
    real: Tensor,
    fake: Tensor,
    real_logits: Tensor,
    fake_logits: Tensor,
    source: Source,
) -> Tensor:
    total = real_logits.new_zeros(())
    if config.r1_weight:
        total = total + config.r1_weight / 2 * zero_centred_penalty(real_logits, real)
    if config.r2_weight:
        total = total + config.r2_weight / 2 * zero_centred_penalty(fake_logits, fake)
    if config.gradient_penalty_weight:
        draw = ranks.shared(lambda n, g: torch.rand(n, 1, 1, 1, generator=g), len(real))
        share = drawn(source, draw, real.device)
        total = total + config.gradient_penalty_weight * one_centred_penalty(state.D, real, fake, share)
    return total


@torch.no_grad()
def update_running_stats(config: GanTrainConfig, state: GanState, real_logits: Tensor, fake_logits: Tensor) -> None:
    """Update LeCam's anchors, and ADA's overfitting measure and probability, from logits (B,).

    ADA (Karras et al. 2020, arXiv:2006.06676): r_t is the mean sign of D at real training images. Above the target, D
    has begun to memorise the images, and the probability of augmentation rises; below, it falls. The speed is fixed.
    """
    stats = state.running_stats
    stats["lecam_real"].lerp_(real_logits.mean(), 1 - LECAM_DECAY)
    stats["lecam_fake"].lerp_(fake_logits.mean(), 1 - LECAM_DECAY)
    if config.ada_target is not None:
        stats["r_t"].lerp_(real_logits.sign().mean(), 1 - R_T_DECAY)
        move = (stats["r_t"] - config.ada_target).sign() * len(real_logits) / config.ada_images
        stats["augment_p"].add_(move).clamp_(0, MOST_AUGMENTED)
