"""Any torchvision classification network by name, with one output and grey input."""

from __future__ import annotations

import contextlib
import re
import sys
import urllib.error
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from balancer.errors import BalancerError, UsageError, nearest

# DenseNet files that torchvision publishes say norm.1 for what its code calls norm1.
_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def backbone_names() -> list[str]:
    """Names that torchvision knows: resnet18, densenet161, convnext_base, vit_b_16, ..."""
    from torchvision import models

    return list(models.list_models(module=models))


class Backbone(nn.Module):
    """A torchvision network with its last layer replaced by one output; images (B, 1 or 3, H, W) to logits (B,).

    A grey image is repeated over the three channels that the first layer expects, so pretrained filters see what
    they were trained on. With ``freeze`` only the new head learns, and BatchNorm of the frozen part stays in
    evaluation mode: its statistics are part of the pretrained function.
    """

    def __init__(self, name: str, image_size: int, weights: str, freeze: bool) -> None:
        super().__init__()
        self.net, self.freeze = _build(name, image_size, weights), freeze
        head_name, head = _last_layer(self.net)
        new = _one_output(head)
        if weights not in ("none", "imagenet"):
            _load_file(self.net, Path(weights), head_name)
        _replace(self.net, head_name, new)
        self.head = [new]  # in a list: it is registered inside the network already
        if freeze:
            self.requires_grad_(False)
            new.requires_grad_(True)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        if self.freeze:
            self.net.eval()
            self.head[0].train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images.expand(-1, 3, -1, -1))
        return torch.flatten(logits)


def _build(name: str, image_size: int, weights: str) -> nn.Module:
    from torchvision import models

    known = backbone_names()
    if name not in known:
        raise UsageError(f"model is {name!r}; {nearest(name, ['small_cnn', 's2_cnn', *known])}")
    if name == "inception_v3" and image_size < 75:
        raise UsageError(f"inception_v3 needs images of at least 75 px; got {image_size}")
    more: dict[str, Any] = {"image_size": image_size} if name.startswith("vit_") else {}
    if name in ("inception_v3", "googlenet"):
        more["init_weights"] = True
    try:
        with contextlib.redirect_stdout(
            sys.stderr
        ):  # torch.hub announces a download on stdout, which --json keeps clean
            net: nn.Module = models.get_model(name, weights="DEFAULT" if weights == "imagenet" else None, **more)
    except (urllib.error.URLError, OSError) as error:
        raise BalancerError(
            f"the ImageNet weights of {name} are not cached and cannot be downloaded ({error}); download them on a machine "
            "with a network into the torch hub cache, or give --weights FILE (a torchvision state dict)"
        ) from error
    except (ValueError, RuntimeError, AssertionError) as error:
        raise UsageError(
            f"{name} cannot be built at {image_size} px with weights {weights!r}: {str(error).splitlines()[0]}"
        ) from error
    for attribute in ("AuxLogits", "aux1", "aux2"):  # their outputs would turn the training output into a tuple
        if hasattr(net, attribute):
            setattr(net, attribute, None)
    if hasattr(net, "aux_logits"):
        net.aux_logits = False  # type: ignore[assignment]
    return net


def _last_layer(net: nn.Module) -> tuple[str, nn.Module]:
    layers: list[tuple[str, nn.Module]]
    layers = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not layers:  # SqueezeNet ends in a 1 x 1 convolution
        layers = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    return layers[-1]


def _one_output(head: nn.Module) -> nn.Module:
    if isinstance(head, nn.Conv2d):
        return nn.Conv2d(head.in_channels, 1, kernel_size=1)
    assert isinstance(head, nn.Linear), f"unexpected last layer {type(head).__name__}"
    return nn.Linear(head.in_features, 1)


def _replace(net: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, new)
    if isinstance(new, nn.Conv2d):  # SqueezeNet has a ReLU behind it: such a logit could never say NORMAL
        setattr(net.get_submodule(parent), str(int(child) + 1), nn.Identity())


def _load_file(net: nn.Module, path: Path, head: str) -> None:
    """Load a state dict from a file, as tensors only; the last layer's entries are left out, since it is replaced.

    Raises:
        BalancerError: unreadable, holding code, or made for another architecture.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BalancerError(f"--weights {path} does not exist; expected imagenet, none or a state-dict file") from error
    except Exception as error:
        raise BalancerError(
            f"--weights {path} is not a plain state dict ({type(error).__name__}); code is never loaded"
        ) from error
    if not isinstance(state, dict):
        raise BalancerError(f"--weights {path} holds a {type(state).__name__}; expected a state dict")
    state = {
        key: value for key, value in state.items() if not key.startswith((f"{head}.", "AuxLogits.", "aux1.", "aux2."))
    }
    state = {_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    own = {key: value for key, value in net.state_dict().items() if not key.startswith(f"{head}.")}
    # A count of batches that does nothing; files of before it existed, torchvision's ResNets among them, lack it.
    own = {key: value for key, value in own.items() if key in state or not key.endswith(".num_batches_tracked")}
    wrong = [
        key
        for key in (own.keys() | state.keys())
        if key not in own or key not in state or own[key].shape != state[key].shape
    ]
    if wrong:
        raise BalancerError(
            f"--weights {path} does not fit: {len(wrong)} keys differ, such as {', '.join(sorted(wrong)[:3])}"
        )
    net.load_state_dict(state, strict=False)
