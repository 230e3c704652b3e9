"""Exponential moving average of a network's weights, for the GAN and the classifier."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def exponential_average(model: nn.Module, decay: float, warm_up: bool = False) -> AveragedModel:
    """Return an exponential moving average of a network's weights and buffers.

    Call :func:`update_average` after every optimiser step; ``module`` is the averaged network. Floating-point
    buffers (BatchNorm's running statistics) are averaged too, because they belong to the averaged weights. Integer
    buffers are copied. Polyak & Juditsky 1992; Tarvainen & Valpola 2017, arXiv:1703.01780; for GANs Yazici et al. 2019,
    arXiv:1806.04498.

    Args:
        model: the network to average.
        decay: share of the average that an update keeps, in [0, 1]; 0 follows the network exactly.
        warm_up: start from the network as it is, with decay ``min(decay, n / (9 + n))`` at update ``n`` = 1, 2, ..., so
            that the random weights are soon forgotten. Otherwise the first update copies the network.
    """
    average = AveragedModel(model, use_buffers=True)
    if warm_up:
        average.n_averaged.fill_(1)  # at 0 the first update copies

    @torch.no_grad()
    def update(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = int(count)  # on the CPU, see below. Asking ``average`` would make a cycle, which holds its memory longer
        weight = 1 - (min(decay, n / (9 + n)) if warm_up else decay)
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, weight)
        else:
            torch._foreach_copy_(averaged, current)

    average.multi_avg_fn = update
    return average


@torch.no_grad()
def update_average(average: AveragedModel, model: nn.Module) -> None:
    """Do what ``average.update_parameters(model)`` does, without waiting.

    That method sends the number of updates to the device at each call, and so waits for all work that is queued there.
    """
    averaged = itertools.chain(average.module.parameters(), average.module.buffers())
    pairs = list(zip(averaged, itertools.chain(model.parameters(), model.buffers()), strict=True))
    is_first, averaging = int(average.n_averaged) == 0, average.multi_avg_fn
    assert averaging is not None, "exponential_average gives one"
    for dtype in dict.fromkeys(old.dtype for old, _ in pairs):
        ours, theirs = zip(*[(old.detach(), new.detach()) for old, new in pairs if old.dtype == dtype], strict=True)
        if is_first:
            torch._foreach_copy_(ours, theirs)
        else:
            averaging(ours, theirs, average.n_averaged)
    average.n_averaged += 1
