"""GAN checkpoints: tensors and plain values only, written atomically, read without executing anything.

Every file carries its own SHA-256. The file that a new one replaces is kept beside it: when ``checkpoint.pt`` is
damaged, ``--resume`` takes ``checkpoint.previous.pt``, and trains to the same weights from there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from balancer.core.config import differences, validate
from balancer.core.errors import BalancerError, UsageError
from balancer.core.marker import MARKER
from balancer.core.pixels import WORDS
from balancer.core.saved_runs import saved_config
from balancer.core.sealed import DamagedFile, load_tensors, save_tensors
from balancer.core.settings import GanTrainConfig
from balancer.core.shapes import check_format, check_tensors, parse
from balancer.data.dataset import Dataset
from balancer.gan.ancestry import Ancestor
from balancer.gan.networks import make_generator
from balancer.gan.snapshot import Snapshot
from balancer.gan.step import GanState

log = logging.getLogger("balancer")
ValueT = TypeVar("ValueT")
FORMAT = 2
CHECKPOINT = "checkpoint.pt"  # the state at the last snapshot: for --resume
BEST = "best.pt"  # the averaged generator of the chosen snapshot: for synthesis
GENERATOR_KEYS = {"config", "step", "class", "split_hash", "data", "G_ema"}  # "precisions" too, but in older files
KEYS = GENERATOR_KEYS | {"G", "D", "optimizer_G", "optimizer_D", "running_stats", "best"}
SOME_KEYS = {"decoder"}  # of settings that need them
OPTIMIZER_SLOTS = {torch.optim.Adam: ("exp_avg", "exp_avg_sq"), torch.optim.RMSprop: ("square_avg",)}
REMEDY = "train again"


@dataclass(frozen=True)
class DataSource:
    """What a checkpoint says of its training data; the file holds more facts about them."""

    source: str  # path, or "phantom"
    channels: Literal[1, 3] = 1  # files of earlier versions have none


@dataclass(frozen=True)
class Header:
    """The plain values of a checkpoint, by their keys in the file."""

    config: dict[str, Any]
    step: Annotated[int, Field(ge=0)]
    class_name: Annotated[str, Field(alias="class")]
    split_hash: str
    data: DataSource
    precisions: list[str] = field(default_factory=list)  # not in files of earlier versions
    threads: list[int] = field(default_factory=list)
    ancestors: list[Ancestor] = field(default_factory=list)  # only in files of trainings that have any


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint, or of a generator saved alone."""

    path: Path
    config: GanTrainConfig
    step: int
    class_name: str
    split_hash: str
    data_source: str  # path of the training data, or "phantom"
    channels: int  # of the images: 1 grey, 3 colour
    precisions: list[str]  # as in GanState; empty in files of earlier versions
    threads: list[int]
    ancestors: tuple[Ancestor, ...]  # as in GanState
    state: dict[str, Any]  # state dicts by the keys of GanState.modules(), running_stats and best; not checked yet

    @property
    def best(self) -> Snapshot | None:
        """Return the snapshot that was the best at this step."""
        best = self.state.get("best")
        is_none = best is None or (isinstance(best, Mapping) and not best)
        return None if is_none else Snapshot.from_json(best, self.path, "best")


def previous(path: Path) -> Path:
    """Return the name of the file that a newer one has replaced."""
    return path.with_suffix(".previous.pt")


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
    """Refuse a state whose tensors are not finite.

    Raises:
        BalancerError: naming the step.
    """
    content = {name: module.state_dict() for name, module in state.modules().items()}
    for key, tensor in _tensors({**content, "running_stats": state.running_stats}):
        if not torch.isfinite(tensor).all():
            raise BalancerError(
                f"training diverged by step {state.step}: weights are not finite; lower the learning rates"
                f" (first in {key}); {kept_snapshot(folder)}"
            )


def _tensors(value: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of nested dictionaries with its dotted name."""
    if isinstance(value, Tensor):
        yield name, value
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        yield from _tensors(inner, f"{name}.{key}" if name else str(key))


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
        "threads": state.threads,
        **({"ancestors": [asdict(ancestor) for ancestor in state.ancestors]} if state.ancestors else {}),
    }
    save_tensors(path, {**header, **content}, previous(path))


def read_checkpoint(
    path: Path, device: torch.device, config: GanTrainConfig | None = None, remedy: str = REMEDY
) -> Checkpoint:
    """Read a GAN checkpoint, or a generator saved alone; code in the file is never executed.

    With ``config``, the file must have been made under these settings: else its weights would not fit, or fit by
    chance.

    Raises:
        DamagedFile: not what was written: the seal does not fit, or a key is missing or of another type.
        BalancerError: missing, not a checkpoint of this program, or of other settings than ``config``.
    """
    try:
        content = load_tensors(path, device, remedy)
    except FileNotFoundError as error:
        raise BalancerError(f"{path} does not exist; train again") from error
    check_format(path, content.get("format"), FORMAT, "GAN checkpoint", "train again with this version")
    if "memory" in content:  # its name in earlier versions
        content["running_stats"] = content.pop("memory")
    header = parse(Header, content, path, remedy)
    try:
        saved = validate(GanTrainConfig, header.config)  # fills in what a later version added
    except UsageError as error:
        raise DamagedFile(path, f"config: {error}", remedy) from error
    changed = differences(saved.model_dump(mode="json"), config.model_dump(mode="json")) if config else []
    if changed:
        raise BalancerError(
            f"{path} was made under other settings than config.yaml beside it: {'; '.join(changed)}; train again"
        )
    if header.step > saved.steps:
        raise DamagedFile(path, f"step: {header.step}; expected at most {saved.steps}", remedy)
    state = {key: content[key] for key in KEYS - GENERATOR_KEYS | {"G_ema"} | SOME_KEYS if key in content}
    origin = header.split_hash, header.data.source, header.data.channels
    past = header.precisions, header.threads, tuple(header.ancestors)
    return Checkpoint(path, saved, header.step, header.class_name, *origin, *past, state)


def load_weights(saved: Checkpoint, name: str, network: nn.Module, remedy: str = REMEDY) -> None:
    """Load the weights that a checkpoint holds under a name.

    Raises:
        DamagedFile: a tensor is missing, of another shape or type, or not finite.
    """
    if name not in saved.state:
        raise DamagedFile(saved.path, f"{name}: missing", remedy)
    network.load_state_dict(check_tensors(saved.path, name, saved.state[name], network.state_dict(), remedy))


def load_state(
    folder: Path, config: GanTrainConfig, state: GanState, data: Dataset, label: int, device: torch.device
) -> bool:
    """Load the last good checkpoint of a run into ``state``; return whether there is one.

    Raises:
        BalancerError: as :func:`load_checkpoint`; the only checkpoint is damaged.
    """
    last, before = folder / CHECKPOINT, previous(folder / CHECKPOINT)
    if not last.exists() and not before.exists():
        return False
    problem = "" if last.exists() else f"{last} is missing"
    try:
        if not problem:
            load_checkpoint(last, config, state, data, device, "" if before.exists() else REMEDY)
    except DamagedFile as damage:
        if not before.exists():
            raise
        problem = str(damage)
    if problem:
        load_checkpoint(before, config, state, data, device)
        log.warning("%s; took %s, the checkpoint before it, of step %d", problem, before.name, state.step)
        before.replace(last)  # else the next checkpoint would drop the good file and keep the damaged one
    _restore_best(folder, config, state, data, label, device)
    return True


def _restore_best(
    folder: Path, config: GanTrainConfig, state: GanState, data: Dataset, label: int, device: torch.device
) -> None:
    """Let ``best.pt`` hold the generator of the snapshot that the state calls the best.

    The file is newer than the state after a kill between the two files, and when the last checkpoint was damaged.
    """
    if state.best is None:
        return
    best = folder / BEST
    for path in (best, previous(best)):
        try:
            step = read_checkpoint(path, device, config, remedy="").step
        except BalancerError as error:
            if path.exists():
                log.warning("%s", error)
            continue
        if step == state.best.step:
            path.replace(best)
            return
    if state.step == state.best.step:
        save_generator(best, config, state, data, label)
        return
    log.warning("%s of step %d is lost; the best of the snapshots to come will be taken", best, state.best.step)
    state.best = None


def finished_settings(run: Path) -> GanTrainConfig:
    """Return the settings of a finished run.

    Raises:
        BalancerError: the run cannot be read, or is not finished.
    """
    config = validate(GanTrainConfig, saved_config("gan-train", run))
    if not (run / MARKER).exists():
        raise BalancerError(f"{run} is not finished; continue it with `balancer gan-train --resume {run}`")
    return config


def read_best(folder: Path, device: torch.device, config: GanTrainConfig) -> tuple[nn.Module, Checkpoint]:
    """Return the chosen generator of a finished run, on the CPU, and its checkpoint.

    When ``best.pt`` is damaged, a checkpoint of the same step serves, which holds the same generator.

    Raises:
        BalancerError: as :func:`read_checkpoint`, and no checkpoint holds this generator.
    """
    try:
        saved = read_checkpoint(folder / BEST, device, config)
        return _generator(saved), saved
    except DamagedFile as damage:
        for path in (folder / CHECKPOINT, previous(folder / CHECKPOINT)):
            try:
                other = read_checkpoint(path, device, config)
                if other.best is not None and other.best.step == other.step:
                    G = _generator(other)
                    log.warning("%s is damaged (%s); took the same generator from %s", BEST, damage.problem, path)
                    return G, other
            except BalancerError:
                continue
        raise


def _generator(saved: Checkpoint) -> nn.Module:
    """Return the averaged generator that a checkpoint holds; raises as :func:`load_weights`."""
    G = make_generator(saved.config, saved.channels)
    load_weights(saved, "G_ema", G)
    return G


def load_checkpoint(
    path: Path,
    config: GanTrainConfig,
    state: GanState,
    data: Dataset,
    device: torch.device,
    remedy: str = REMEDY,
) -> None:
    """Load a saved state into ``state``; warn if training goes on in another precision.

    Raises:
        DamagedFile: the file is not what was written; the message names the key. Some of ``state`` may be loaded.
        BalancerError: the file was trained under other settings or on another split of the data.
    """
    saved = read_checkpoint(path, device, config, remedy)
    if saved.split_hash != data.split_hash:
        raise BalancerError(
            f"{path} was trained on split {saved.split_hash}, the data now give {data.split_hash};"
            " the files or their split changed"
        )
    if saved.channels != data.channels:
        raise BalancerError(
            f"{path} was trained on {WORDS[saved.channels]} images, the data are now read in {WORDS[data.channels]};"
            " train again"
        )
    for key in sorted(KEYS - GENERATOR_KEYS - saved.state.keys()):
        raise DamagedFile(path, f"{key}: missing", remedy)
    for name, module in state.modules().items():
        if isinstance(module, nn.Module):
            load_weights(saved, name, module, remedy)
        else:
            _load_optimizer(saved, name, module, remedy)
    stats = check_tensors(path, "running_stats", saved.state["running_stats"], state.running_stats, remedy)
    state.running_stats = {name: stats[name].to(device) for name in state.running_stats}
    state.step, state.best, state.ancestors = saved.step, saved.best, saved.ancestors
    state.ema.n_averaged.fill_(state.step + 1)  # not saved: the first weights and one update a step
    precision = state.precisions[0]
    if saved.precisions and saved.precisions[-1] != precision:
        log.warning(
            "training continues in %s, was trained in %s: the weights will not be those of an uninterrupted run",
            precision,
            saved.precisions[-1],
        )
    state.precisions = _continued(saved.precisions, precision)
    state.threads = _continued(saved.threads, state.threads[0])  # choose_threads warns of another number


def _continued(before: list[ValueT], now: ValueT) -> list[ValueT]:
    """Return the values of a run so far, with that of now if it is another one."""
    return before if not before or before[-1] == now else [*before, now]


def _load_optimizer(saved: Checkpoint, name: str, optimizer: torch.optim.Optimizer, remedy: str) -> None:
    """Load the moments of every parameter. The learning rate and the like are those of the settings."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    content = saved.state[name]
    moments = content.get("state") if isinstance(content, Mapping) else None
    if not isinstance(moments, Mapping):
        raise DamagedFile(saved.path, f"{name}.state: missing", remedy)
    for i, parameter in enumerate(parameters if saved.step else ()):
        if i not in moments:
            raise DamagedFile(saved.path, f"{name}.state.{i}: missing", remedy)
        expected = dict.fromkeys(OPTIMIZER_SLOTS[type(optimizer)], parameter.detach())
        check_tensors(saved.path, f"{name}.state.{i}", moments[i], {"step": torch.zeros(()), **expected}, remedy)
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
