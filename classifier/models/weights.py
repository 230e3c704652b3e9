"""Initial weights: torchvision's ImageNet weights by name, or a file. Files are read as tensors; code is never run."""

from __future__ import annotations

import hashlib
import io
import logging
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
from balancer.core.sealed import ZIP_SEAL, DamagedFile, check_seal

log = logging.getLogger("balancer")
WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts save a state dict
# What DataParallel, Lightning and torch.compile put before every key, and other common names of the network.
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.", "backbone.")
COUNTERS = ("n_averaged",)  # beside the keys that AveragedModel begins with ``module.``
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
    replaced = tuple(f"{part}." for part in (*skip, "AuxLogits", "aux1", "aux2"))
    needed = {key: value for key, value in net.state_dict().items() if not key.startswith(replaced)}

    def kept(state: dict[str, Tensor]) -> dict[str, Tensor]:
        renamed = {_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
        return {key: value for key, value in renamed.items() if not key.startswith(replaced)}

    saved = read_state(path)
    prefix, bare = _without_prefix(saved)
    state = kept(saved)
    if prefix and not _mismatch(needed, kept(bare)):
        log.info("--weights %s: every key begins with %s, which is left out", path, prefix)
        state = kept(bare)
    if problems := _mismatch(needed, state):
        advice = f"every key begins with {prefix} and the rest does not fit either; " if prefix else ""
        raise BalancerError(
            f"--weights {path} does not fit {name}: {'; '.join(problems)}; {advice}give a state dict of torchvision's "
            f"{name}, or another --model"
        )
    if broken := [key for key in needed if key in state and not bool(state[key].isfinite().all())]:
        raise BalancerError(
            f"--weights {path} holds values that are not finite ({_first(broken)}): that training diverged; give "
            "another file"
        )
    net.load_state_dict(state, strict=False)


def _without_prefix(state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return what known :data:`PREFIXES`, one or several, stand before every key, and the state without them."""
    prefix, bare = "", {key: value for key, value in state.items() if key not in COUNTERS}
    while chosen := next((p for p in PREFIXES if bare and all(key.startswith(p) for key in bare)), ""):
        prefix += chosen
        bare = {key.removeprefix(chosen): value for key, value in bare.items()}
    return prefix, bare


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
            saved = path.read_bytes()
            check_seal(path, saved, ZIP_SEAL, "give another model.pt")
            content = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BalancerError(f"--weights {path} does not exist; expected imagenet, none or a state-dict file") from error
    except DamagedFile:
        raise
    except Exception as error:  # both readers raise many kinds for a damaged file
        raise BalancerError(
            f"--weights {path} is not a plain state dict ({type(error).__name__}); expected .safetensors, or tensors"
            " saved by torch.save(model.state_dict(), FILE); code is never loaded"
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
    inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
    return content if inner is None else _unwrapped(inner)


def _mismatch(needed: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """Return what does not fit, in words, with the first keys of each kind in the network's order."""
    # torchvision's ResNet files are older than BatchNorm's count of batches, which does nothing.
    missing = [key for key in needed if key not in state and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in state if key not in needed]
    shared = [key for key in needed if key in state]
    other = [
        f"{key} {tuple(state[key].shape)} where {tuple(needed[key].shape)} is needed"
        for key in shared
        if state[key].shape != needed[key].shape
    ]
    # float16 and bfloat16 are floating point and become float32; quantised or integer weights do not.
    kind = [
        f"{key} {state[key].dtype}"
        for key in shared
        if state[key].is_meta  # has a shape and no values
        or (
            needed[key].is_floating_point()
            and not (state[key].is_floating_point() and state[key].layout is torch.strided)
        )
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": other, "not in floating point": kind}
    return [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in kinds.items() if keys]


def _first(keys: Sequence[str]) -> str:
    """Return the first keys in words."""
    return f"{', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''}"
