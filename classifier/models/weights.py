"""Initial weights: torchvision's ImageNet weights by name, or a file. Files are read as tensors; code is never run."""

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
# torchvision's published DenseNet files say norm.1 where its code says norm1.
_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def load_weights(net: nn.Module, name: str, weights: str, skip: Sequence[str]) -> None:
    """Load weights into a torchvision network as torchvision builds it.

    ``weights`` is ``imagenet`` or a file: safetensors, a plain state dict, or a checkpoint of this program. The
    parts named in ``skip`` will be replaced; their weights are neither needed nor used.

    Raises:
        BalancerError: if weights are missing, hold code, or belong to another network.
    """
    path = imagenet_file(name) if weights == "imagenet" else Path(weights)
    state = {_DENSENET.sub(r"\1\2", key): value for key, value in read_state(path).items()}
    prefixes = tuple(f"{part}." for part in (*skip, "AuxLogits", "aux1", "aux2"))
    state = {key: value for key, value in state.items() if not key.startswith(prefixes)}
    needed = {key: value for key, value in net.state_dict().items() if not key.startswith(prefixes)}
    if problems := _mismatch(needed, state):
        raise BalancerError(f"--weights {path} does not fit {name}: {'; '.join(problems)}")
    net.load_state_dict(state, strict=False)


def imagenet_file(name: str) -> Path:
    """Return the file of torchvision's best ImageNet weights, downloaded into torch's cache if it is not there.

    A cached file is checked as well: a copy made by hand can be cut short.

    Raises:
        UsageError: if torchvision publishes none for this network.
        BalancerError: if the download fails, or the file is not the published one.
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
                f"the ImageNet weights of {name} are not cached: {error}, or give --weights FILE (a state dict)"
            ) from error
    stat = file.stat()
    if not _sha256(file, stat.st_size, stat.st_mtime_ns).startswith(digits):
        raise BalancerError(f"{file} is not the file that torchvision publishes (its SHA-256 is another); delete it")
    return file


def weights_hash(weights: str) -> str:
    """Return sixteen hex digits that identify a weights file; ``none`` and ``imagenet`` are returned as they are.

    Raises:
        BalancerError: if the file cannot be read.
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
    """Return the SHA-256 in hex; a file with the same size and modification time is read once per process."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by key; of a checkpoint of this program those of the network below its head.

    Raises:
        BalancerError: if the file is missing, unreadable, no state dict, or holds code.
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
            f"--weights {path} is not a plain state dict ({type(error).__name__}); expected .safetensors, or tensors"
            " saved by torch; code is never loaded"
        ) from error
    state = _unwrapped(content)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        others = [str(k) for k, v in state.items() if not isinstance(v, Tensor)] if isinstance(state, dict) else []
        entries = f" with entries that are no tensors ({', '.join(others[:SHOWN])})" if others else ""
        raise BalancerError(f"--weights {path} holds a {type(state).__name__}{entries}; expected a state dict")
    return {str(key): value for key, value in state.items()}


def _unwrapped(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    if content.get("kind") == "classifier" and isinstance(content.get("state"), dict):
        state = content["state"]
        return {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}
    return next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)


def _mismatch(needed: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """Return what does not fit, in words, with the first keys of each kind in the network's order."""
    # torchvision's ResNet files are older than BatchNorm's count of batches, which does nothing.
    missing = [key for key in needed if key not in state and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in state if key not in needed]
    other = [
        f"{key} {tuple(state[key].shape)} where {tuple(needed[key].shape)} is needed"
        for key in needed
        if key in state and state[key].shape != needed[key].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    return [
        f"{len(keys)} {kind} ({', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''})"
        for kind, keys in kinds.items()
        if keys
    ]
