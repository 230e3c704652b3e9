"""What the ranks of torchrun share of a GAN's training: the state, and every batch. One rank has all of both."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from balancer.core import ranks, torchrun
from balancer.core.batch_norm import share_batch_norm
from balancer.core.errors import BalancerError, UsageError
from balancer.core.settings import GanTrainConfig
from balancer.data.dataset import Dataset
from balancer.gan.step import GanState


def check_shares(config: GanTrainConfig) -> None:
    """Refuse a training that the ranks which torchrun has started cannot share.

    Raises:
        UsageError: naming the setting and what to give instead.
    """
    launch = torchrun.several()
    if launch is None:
        return
    if config.batch_size % launch.ranks:
        more = math.ceil(config.batch_size / launch.ranks) * launch.ranks
        raise UsageError(
            f"batch_size is {config.batch_size}, the images of all ranks together, which {launch.ranks} ranks cannot"
            f" share equally; give --batch-size {more}, or another --nproc-per-node"
        )
    if config.step_mode not in ("auto", "plain"):
        raise UsageError(
            f"step_mode is {config.step_mode} in {launch.ranks} ranks, whose steps are plain; leave it out"
        )
    if config.minibatch_stddev:
        raise UsageError(
            f"minibatch_stddev compares the images of a whole batch, of which {launch.ranks} ranks see shares; leave it"
            " out, or start the command without torchrun"
        )


def check_enough(data: Dataset, label: int) -> None:
    """Refuse more ranks than images.

    Raises:
        BalancerError: with both numbers.
    """
    launch, n = torchrun.several(), data.counts("train")[label]
    if launch and n < launch.ranks:
        raise BalancerError(
            f"torchrun has started {launch.ranks} ranks for {n} images of {data.classes[label]} in the training fold;"
            f" start at most {n}, or take other data"
        )


def own_share(config: GanTrainConfig, batches: Tensor) -> Tensor:
    """Return this rank's share of each of the ``n_dis`` batches of a step, of any kind of item."""
    return batches if ranks.count() == 1 else torch.cat([ranks.own(b) for b in batches.split(config.batch_size)])


def share_state(state: GanState, device: torch.device) -> None:
    """Give every rank the state of the first one, and let each step and each BatchNorm be of the whole batch."""
    if ranks.count() == 1:
        return
    held = {name: part.state_dict() for name, part in state.modules().items()}
    held, stats, state.step = ranks.from_first((held, state.running_stats, state.step))
    for name, part in state.modules().items():
        part.load_state_dict(held[name])
    state.running_stats = {name: value.to(device) for name, value in stats.items()}
    state.ema.n_averaged.fill_(state.step + 1)  # as when a checkpoint is loaded
    for network in (state.G, state.D, *([state.decoder] if state.decoder else [])):
        share_batch_norm(network)
    for optimizer in (state.optimizer_G, state.optimizer_D):
        ranks.share_gradients(optimizer)
