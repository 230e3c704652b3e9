"""GAN checkpoints: only tensors and plain values, written whole, read without executing anything."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from balancer.core.config import differences, validate
from balancer.core.errors import BalancerError
from balancer.core.files import atomic_file
from balancer.core.settings import GanTrainConfig
from balancer.data.dataset import Dataset
from balancer.gan.step import GanState

log = logging.getLogger("balancer")
FORMAT = 2
CHECKPOINT = "checkpoint.pt"  # the whole state, of the last snapshot: for --resume
BEST = "best.pt"  # the averaged generator of the chosen snapshot: for synthesis
GENERATOR_KEYS = {"config", "step", "class", "split_hash", "data", "G_ema"}  # "precisions" too, but in older files
KEYS = GENERATOR_KEYS | {"G", "D", "optimizer_G", "optimizer_D", "memory", "best"}


def save_checkpoint(path: Path, config: GanTrainConfig, state: GanState, data: Dataset, label: int) -> None:
    """Write the whole state atomically. No generator state is needed: every draw is derived from the step.

    Raises:
        BalancerError: a weight is not finite; the file is left as it was, since losses are looked at less often.
    """
    check_finite(state, path.parent)
    parts = {name: part.state_dict() for name, part in state.parts().items()}
    _write(path, {**_header(config, state, data, label), **parts, "memory": state.memory, "best": state.best})


def save_generator(path: Path, config: GanTrainConfig, state: GanState, data: Dataset, label: int) -> None:
    """Write the averaged generator alone."""
    _write(path, {**_header(config, state, data, label), "G_ema": state.ema.module.state_dict()})


def check_finite(state: GanState, folder: Path) -> None:
    """Refuse weights that are not finite.

    Raises:
        BalancerError: naming the step.
    """
    if not all(torch.isfinite(v).all() for net in (state.G, state.D) for v in net.state_dict().values()):
        raise BalancerError(
            f"training diverged by step {state.step}: weights are not finite; lower the learning rates;"
            f" the last snapshot is kept in {folder}"
        )


def _header(config: GanTrainConfig, state: GanState, data: Dataset, label: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "step": state.step,
        "class": data.classes[label],
        "split_hash": data.split_hash,
        "data": data.describe(),
        "precisions": state.precisions,
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_file(path) as handle:
        torch.save(content, handle)


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """The content of a GAN checkpoint, or of a generator saved alone; only tensors and plain values are read, never code.

    Raises:
        BalancerError: missing, damaged, or not a checkpoint of this program.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise BalancerError(f"{path} does not exist; train again") from error
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise BalancerError(f"{path} is not a readable GAN checkpoint ({type(error).__name__}); train again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() >= GENERATOR_KEYS:
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
    """Put a saved state back; warns where training goes on in another precision than before.

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
        state.memory = {name: content["memory"][name].to(device) for name in state.memory}
        state.step, state.best = content["step"], content["best"]
        state.ema.n_averaged.fill_(state.step + 1)  # not saved: the first weights and one update a step
        state.precisions = _continued(content.get("precisions", []), state.precisions)
    except (KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise BalancerError(f"{path} is of another configuration than config.yaml beside it; train again") from error


def _continued(before: list[str], now: list[str]) -> list[str]:
    """The precisions so far, where ``before`` is the file's; none in a file of an earlier version, and then none are known."""
    if not before or before[-1] == now[-1]:
        return before
    log.warning(
        "training continues in %s, was trained in %s: the weights will not be those of an uninterrupted run",
        now[-1],
        before[-1],
    )
    return before + now
