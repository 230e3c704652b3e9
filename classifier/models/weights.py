"""Weights to begin from: torchvision's ImageNet weights by name, or a file. Read as tensors; code is never run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from balancer.core.download import download
from balancer.core.errors import BalancerError, UsageError

WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts save a state dict
SHOWN = 3  # keys of each kind that a message names
_HASH = re.compile(r"-([0-9a-f]{8,})\.")  # torchvision names its files by the first digits of their SHA-256
# DenseNet files that torchvision publishes say norm.1 for what its code calls norm1.
_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def load_weights(net: nn.Module, name: str, weights: str, skip: Sequence[str]) -> None:
    """Give a torchvision network, whole as torchvision builds it, the weights that the settings name.

    Args:
        name: of the network, for torchvision's registry and for messages.
        weights: ``imagenet``, or a file: safetensors, a plain state dict, or a checkpoint of this program.
        skip: parts, by their names, whose weights are neither expected nor used: they are replaced.

    Raises:
        BalancerError: weights that cannot be had, hold code, or belong to another network.
    """
    path = imagenet_file(name) if weights == "imagenet" else Path(weights)
    state = {_DENSENET.sub(r"\1\2", key): value for key, value in read_state(path).items()}
    prefixes = tuple(f"{part}." for part in (*skip, "AuxLogits", "aux1", "aux2"))
    state = {key: value for key, value in state.items() if not key.startswith(prefixes)}
    own = {key: value for key, value in net.state_dict().items() if not key.startswith(prefixes)}
    if problems := _mismatch(own, state):
        raise BalancerError(f"--weights {path} does not fit {name}: {'; '.join(problems)}")
    net.load_state_dict(state, strict=False)


def imagenet_file(name: str) -> Path:
    """The file of torchvision's best ImageNet weights, downloaded into torch's cache if it is not there.

    The cache is checked too, not the download alone: a copy by hand can be cut short.

    Raises:
        UsageError: torchvision publishes none for this network.
        BalancerError: it cannot be downloaded, or the file is not the published one.
    """
    from torchvision import models

    published = getattr(models.get_model_weights(name), "DEFAULT", None)
    if published is None:
        raise UsageError(f"torchvision publishes no ImageNet weights of {name}; give --weights none or FILE")
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(published.url).path).name
    digits = match[1] if (match := _HASH.search(file.name)) else ""
    if not file.exists():
        try:
            download(published.url, file, digits)
        except BalancerError as error:
            raise BalancerError(
                f"the ImageNet weights of {name} are not cached: {error}, or give --weights FILE (a torchvision state dict)"
            ) from error
    stat = file.stat()
    if not _sha256(file, stat.st_size, stat.st_mtime_ns).startswith(digits):
        raise BalancerError(f"{file} is not the file that torchvision publishes (its SHA-256 is another); delete it")
    return file


def weights_hash(weights: str) -> str:
    """Sixteen hex digits that name the content of a weights file; ``none`` and ``imagenet`` speak for themselves.

    Raises:
        BalancerError: the file cannot be read.
    """
    if weights in ("none", "imagenet"):
        return weights
    try:
        stat = Path(weights).stat()
        return _sha256(Path(weights), stat.st_size, stat.st_mtime_ns)[:16]
    except OSError as error:
        raise BalancerError(
            f"--weights {weights} cannot be read ({error.strerror}); give imagenet, none or a file"
        ) from error


@lru_cache(maxsize=8)
def _sha256(file: Path, _size: int, _changed: int) -> str:
    """Hex digits; a file of the same size and time of change is read once in a process."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by their keys; of a checkpoint of this program those of the network below its head.

    Raises:
        BalancerError: missing, unreadable, holding code, or no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BalancerError(f"--weights {path} does not exist; expected imagenet, none or a state-dict file") from error
    except Exception as error:  # both readers raise many kinds for a damaged file
        raise BalancerError(
            f"--weights {path} is not a plain state dict ({type(error).__name__}); expected .safetensors, or tensors saved "
            "by torch; code is never loaded"
        ) from error
    state = _unwrapped(content)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        what = type(state).__name__
        odd = [str(k) for k, v in state.items() if not isinstance(v, Tensor)] if isinstance(state, dict) else []
        held = f"a {what} with entries that are no tensors ({', '.join(odd[:SHOWN])})" if odd else f"a {what}"
        raise BalancerError(f"--weights {path} holds {held}; expected a state dict")
    return {str(key): value for key, value in state.items()}


def _unwrapped(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    if content.get("kind") == "classifier" and isinstance(content.get("state"), dict):
        state = content["state"]
        return {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}
    return next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)


def _mismatch(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """What is wrong with a state for a network, in words; the first keys of each kind, in the network's order."""
    # A count of batches that does nothing; files of before it existed, torchvision's ResNets among them, lack it.
    missing = [key for key in own if key not in state and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    other = [
        f"{key} {tuple(state[key].shape)} where {tuple(own[key].shape)} is needed"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    return [
        f"{len(keys)} {kind} ({', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''})"
        for kind, keys in kinds.items()
        if keys
    ]
