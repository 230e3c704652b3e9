"""The layer whose maps a class activation map weighs: chosen by one rule for every network, or by name.

The rule takes the last map that the network computes before it pools: after the last convolution, its normalisation,
its activation and the sum of a residual block. Pooling layers are passed over, since they only coarsen the map. In a
vision transformer the class token reads the patches for the last time in the last attention, so the rule takes the
tokens that enter this attention.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from balancer.core.errors import UsageError

POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d)  # these give what they take
MOST_NAMED = 40  # layers in a message
COARSE = 4  # cells a side below which a map says little about where


@dataclass(frozen=True)
class MapLayer:
    """A layer of a network that gives maps."""

    name: str
    module: nn.Module
    cells: tuple[int, int]  # rows and columns of its maps
    chosen_by_rule: bool = True  # False: tokens that the class token no longer reads, pooled maps and the like


def as_maps(output: Tensor, image: tuple[int, int]) -> Tensor | None:
    """Return a layer's output as maps (N, K, h, w), or None if the output is none.

    Args:
        output: (N, K, h, w); or (N, h, w, K), as in Swin; or tokens (N, 1 + hw, K) or (N, hw, K), as in ViT.
        image: height and width of the image, whose aspect the maps have.
    """
    if output.ndim == 4:
        for maps in (output, output.permute(0, 3, 1, 2)):
            if min(maps.shape[2:]) > 1 and _is_aspect(maps.shape[2], maps.shape[3], image):
                return maps
    if output.ndim == 3:
        for tokens in (output[:, 1:], output):  # without and with a class token
            rows = round((tokens.shape[1] * image[0] / image[1]) ** 0.5)
            if rows > 1 and tokens.shape[1] % rows == 0 and _is_aspect(rows, tokens.shape[1] // rows, image):
                return tokens.transpose(1, 2).unflatten(2, (rows, tokens.shape[1] // rows))
    return None


def _is_aspect(rows: int, columns: int, image: tuple[int, int]) -> bool:
    """Return whether a map has the aspect of the image, up to the rounding of strides, and is no larger."""
    return rows <= image[0] and columns <= image[1] and abs(rows - columns * image[0] / image[1]) < 1


@torch.no_grad()
def map_layers(model: nn.Module, image: Tensor) -> list[MapLayer]:
    """Return the layers of a network that give maps, in the order in which they finish.

    Args:
        model: the network, in evaluation mode.
        image: one network input (1, C, H, W).
    """
    side = image.shape[2], image.shape[3]
    layers: dict[str, MapLayer] = {}
    pooled: dict[tuple[int, torch.Size], Tensor] = {}  # kept, so that no other tensor takes their memory
    before_attention: list[str] = []

    def note(name: str, module: nn.Module, output: Any) -> None:
        if isinstance(module, nn.MultiheadAttention):
            before_attention[:] = list(layers)
        if not isinstance(output, Tensor) or output.ndim not in (3, 4):
            return
        place = output.data_ptr(), output.shape
        if isinstance(module, POOLING):
            pooled[place] = output
        maps = as_maps(output, side)
        if maps is not None:
            layers.pop(name, None)  # a layer that is used twice counts where it is used last
            passed = isinstance(module, PASSING) or place in pooled  # true of a container that ends in pooling too
            layers[name] = MapLayer(name, module, (maps.shape[2], maps.shape[3]), not passed)

    hooks = [
        module.register_forward_hook(lambda m, _, output, name=name: note(name, m, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    tokens_last = bool(layers) and bool(before_attention) and _gives_tokens(layers, before_attention)
    return [
        replace(layer, chosen_by_rule=False) if tokens_last and name not in before_attention else layer
        for name, layer in layers.items()
    ]


def _gives_tokens(layers: dict[str, MapLayer], before_attention: list[str]) -> bool:
    """Return whether no convolution follows the last attention, so that a class token may be what is read."""
    after = [layer.module for name, layer in layers.items() if name not in before_attention]
    return not any(isinstance(module, nn.Conv2d) for module in after)


def choose_layer(model: nn.Module, image: Tensor, name: str | None = None) -> MapLayer:
    """Return the layer of that name, or the one that the rule takes.

    Args:
        model: the network, in evaluation mode.
        image: one network input (1, C, H, W).
        name: as PyTorch names the module, such as ``net.layer4``; None for the rule.

    Raises:
        UsageError: if the network has no such layer, or none with maps.
    """
    layers = map_layers(model, image)
    if name is not None:
        for layer in layers:
            if layer.name == name:
                return layer
        there = name in dict(model.named_modules())
        problem = "which gives no map" if there else "which the network does not have"
        raise UsageError(f"--layer is {name!r}, {problem}; layers with maps: {_names(layers)}")
    fitting = [layer for layer in layers if layer.chosen_by_rule]
    if not fitting:
        raise UsageError(
            f"no layer of this network gives maps of {image.shape[2]} x {image.shape[3]} px images;"
            " use --method integrated_gradients or occlusion"
        )
    return fitting[-1]


def _names(layers: list[MapLayer]) -> str:
    """Return the layers' names; of a deep network those that stand highest, and how many more there are."""
    shown = sorted(layers, key=lambda layer: layer.name.count("."))[:MOST_NAMED]
    names = [layer.name for layer in layers if layer in shown]
    more = len(layers) - len(names)
    return ", ".join(names or ["none"]) + (f" and {more} inside these" if more else "")
