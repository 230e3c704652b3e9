"""Weights of a convolution that meet padding alone, and their gradients.

On an image that has shrunk to a pixel, the outer weights of a 3 x 3 kernel are only ever multiplied by padding. Their
gradient is 0. oneDNN leaves it unwritten in bfloat16, at some strides and sizes (seen with torch 2.15 on AMD EPYC): the
gradient is then what the memory held before, another in each run, and not always finite.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def zero_unread_gradients(model: nn.Module) -> None:
    """Let the gradient of weights that meet padding alone be 0, as it is by definition.

    Each convolution looks at the size of its input at its next pass. Only convolutions with such weights are changed.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.register_forward_pre_hook(_Guard())


def read_weights(convolution: nn.Conv2d, height: int, width: int) -> Tensor:
    """Return which weights of a kernel, (kernel height, kernel width) bool, meet a pixel of an input of this size."""
    paddings = (0, 0) if isinstance(convolution.padding, str) else convolution.padding
    sides = [
        _read_along(size, kernel, stride, padding, dilation)
        for size, kernel, stride, padding, dilation in zip(
            (height, width),
            convolution.kernel_size,
            convolution.stride,
            paddings,
            convolution.dilation,
            strict=True,
        )
    ]
    return sides[0][:, None] & sides[1][None, :]


def _read_along(size: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    places = torch.arange(outputs)[:, None] * stride + torch.arange(kernel)[None, :] * dilation - padding
    return ((places >= 0) & (places < size)).any(dim=0)


class _Guard:
    """Hooks a convolution's weight once: when it is trained, which a stage may begin later."""

    def __init__(self) -> None:
        self.is_hooked = False

    def __call__(self, convolution: nn.Conv2d, inputs: tuple[Any, ...]) -> None:
        if self.is_hooked or not convolution.weight.requires_grad:
            return
        self.is_hooked = True
        height, width = inputs[0].shape[-2:]
        read = read_weights(convolution, height, width).to(convolution.weight.device)
        if not bool(read.all()):
            convolution.weight.register_hook(lambda gradient: torch.where(read, gradient, 0.0))
