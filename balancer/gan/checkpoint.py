"""GAN checkpoints: tensors and plain values only, written atomically, read without executing anything."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from balancer.core.config import differences, validate
from balancer.core.errors import BalancerError
from balancer.core.files import atomic_file
from balancer.core.settings import GanTrainConfig
from balancer.data.dataset import Dataset
from balancer.gan.snapshot import Snapshot
from balancer.gan.step import GanState

log = logging.getLogger("balancer")
FORMAT = 2
CHECKPOINT = "checkpoint.pt"  # the state at the last snapshot: for --resume
BEST = "best.pt"  # the averaged generator of the chosen snapshot: for synthesis
GENERATOR_KEYS = {"config", "step", "class", "split_hash", "data", "G_ema"}  # "precisions" too, but in older files
KEYS = GENERATOR_KEYS | {"G", "D", "optimizer_G", "optimizer_D", "running_stats", "best"}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint, or of a generator saved alone."""

    config: GanTrainConfig
    step: int
    class_name: str
    split_hash: str
    data_source: str  # path of the training data, or "phantom"
    precisions: list[str]  # as in GanState; empty in files of earlier versions
    state: dict[str, Any]  # state dicts by the keys of GanState.modules(), running_stats and best


def save_checkpoint(path: Path, config: GanTrainConfig, state: GanState, data: Dataset, label: int) -> None:
    """Write the state atomically. No random state is needed: every draw is derived from the step.

    Raises:
        BalancerError: a weight is not finite. The old file stays.
    """
    check_finite(state, path.parent)
    modules = {name: module.state_dict() for name, module in state.modules().items()}
    best = state.best.to_json() if state.best else {}
    _write(path, config, state, data, label, {**modules, "running_stats": state.running_stats, "best": best})


def save_generator(path: Path, config: GanTrainConfig, state: GanState, data: Dataset, label: int) -> None:
    """Write the averaged generator alone."""
    _write(path, config, state, data, label, {"G_ema": state.ema.module.state_dict()})


def check_finite(state: GanState, folder: Path) -> None:
    """Refuse weights that are not finite.

    Raises:
        BalancerError: naming the step.
    """
    if not all(torch.isfinite(v).all() for net in (state.G, state.D) for v in net.state_dict().values()):
        raise BalancerError(
            f"training diverged by step {state.step}: weights are not finite; lower the learning rates;"
            f" {kept_snapshot(folder)}"
        )


def kept_snapshot(folder: Path) -> str:
    """Return, for a message, whether a failed training left a snapshot."""
    return f"the last snapshot is kept in {folder}" if (folder / CHECKPOINT).exists() else "no snapshot was taken yet"


def _write(
    path: Path, config: GanTrainConfig, state: GanState, data: Dataset, label: int, content: Mapping[str, object]
) -> None:
    header = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "step": state.step,
        "class": data.classes[label],
        "split_hash": data.split_hash,
        "data": data.describe(),
        "precisions": state.precisions,
    }
    with atomic_file(path) as handle:
        torch.save({**header, **content}, handle)


def read_checkpoint(path: Path, device: torch.device, config: GanTrainConfig | None = None) -> Checkpoint:
    """Read a GAN checkpoint, or a generator saved alone; code in the file is never executed.

    With ``config``, the file must have been made under these settings: else its weights would not fit, or fit by
    chance.

    Raises:
        BalancerError: missing, damaged, not a checkpoint of this program, or of other settings than ``config``.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise BalancerError(f"{path} does not exist; train again") from error
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise BalancerError(f"{path} is not a readable GAN checkpoint ({type(error).__name__}); train again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() >= GENERATOR_KEYS:
        raise BalancerError(f"{path} is not a GAN checkpoint of format {FORMAT}; train again with this version")
    if "memory" in content:  # its name in earlier versions
        content["running_stats"] = content.pop("memory")
    saved = validate(GanTrainConfig, content["config"])  # fills in what a later version added
    changed = differences(saved.model_dump(mode="json"), config.model_dump(mode="json")) if config else []
    if changed:
        raise BalancerError(
            f"{path} was made under other settings than config.yaml beside it: {'; '.join(changed)}; train again"
        )
    return Checkpoint(
        config=saved,
        step=content["step"],
        class_name=content["class"],
        split_hash=content["split_hash"],
        data_source=content["data"]["source"],
        precisions=content.get("precisions", []),
        state={key: content[key] for key in KEYS - GENERATOR_KEYS | {"G_ema"} if key in content},
    )


def load_checkpoint(path: Path, config: GanTrainConfig, state: GanState, data: Dataset, device: torch.device) -> None:
    """Load a saved state into ``state``; warn if training goes on in another precision.

    Raises:
        BalancerError: the file was trained under other settings or on another split of the data.
    """
    saved = read_checkpoint(path, device, config)
    if saved.split_hash != data.split_hash:
        raise BalancerError(
            f"{path} was trained on split {saved.split_hash}, the data now give {data.split_hash};"
            " the files or their split changed"
        )
    try:
        for name, module in state.modules().items():
            module.load_state_dict(saved.state[name])
        stats, best = saved.state["running_stats"], saved.state["best"]
        state.running_stats = {name: stats[name].to(device) for name in state.running_stats}
        state.step, state.best = saved.step, Snapshot.from_json(best) if best else None
    except (KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise BalancerError(f"{path} is of another configuration than config.yaml beside it; train again") from error
    state.ema.n_averaged.fill_(state.step + 1)  # not saved: the first weights and one update a step
    before, (now,) = saved.precisions, state.precisions
    if before and before[-1] != now:
        log.warning(
            "training continues in %s, was trained in %s: the weights will not be those of an uninterrupted run",
            now,
            before[-1],
        )
        before = [*before, now]
    state.precisions = before
