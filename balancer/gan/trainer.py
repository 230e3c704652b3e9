"""GAN training: one flat loop, every step a pure function of (state, seed, step), so that resuming is exact.

Under torchrun every rank runs this loop on its share of each batch (:mod:`balancer.core.ranks`). The first one writes.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from balancer.augmentation.differentiable import check_policy
from balancer.core import progress, ranks, torchrun
from balancer.core.device import memory_format, peak_memory_mb, resolve_precision, synchronize, to_device
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.files import JsonObject
from balancer.core.jsonl import keep_jsonl
from balancer.core.pixels import planes
from balancer.core.run import RunDir
from balancer.core.seeding import generator
from balancer.core.settings import GanTrainConfig
from balancer.core.shapes import parse
from balancer.core.signals import deferred_signals
from balancer.core.tracking import check_installed
from balancer.data.chest import other_task
from balancer.data.dataset import Dataset
from balancer.data.sampling import batch_indices
from balancer.data.subset import Subset
from balancer.gan.checkpoint import (
    BEST,
    CHECKPOINT,
    check_finite,
    kept_snapshot,
    load_state,
    save_checkpoint,
    save_generator,
)
from balancer.gan.decoder import feature_channels
from balancer.gan.donor import open_donor, start_from
from balancer.gan.losses import loss_named
from balancer.gan.monitor import generate, measure, open_monitor, seconds_an_image
from balancer.gan.networks import architecture
from balancer.gan.shares import check_shares, own_share, share_state
from balancer.gan.snapshot import Snapshot, read_history
from balancer.gan.step import GanState, build_state, sample_z, train_step
from balancer.gan.stepper import memory_errors, open_stepper
from balancer.metrics.feature_choice import seconds_to_train
from balancer.reporting.grids import save_grid, tile, to_uint8

log = logging.getLogger("balancer")
GRID_IMAGES = 64
TRIED_BATCH, TRIED_STEPS = 8, 3  # of an estimate


@dataclass(frozen=True)
class GanSummary:
    """The result of a training."""

    class_name: str
    n_train: int  # the class's images in the training fold
    steps: int
    seconds: float  # of this process, snapshots included
    snapshot_seconds: float
    steps_run: int  # of this process: fewer than ``steps`` after --resume
    chosen: Snapshot | None
    losses: dict[str, float]  # the last logged row: means since the row before, and the speed
    features: str | None = None  # the network on which snapshots were measured; None if none was
    step_mode: str = "plain"  # how steps ran, of plain, compiled, graph and compiled+graph

    def to_json(self) -> JsonObject:
        """Return the values of summary.json."""
        values = asdict(self) | {"chosen": self.chosen.to_json() if self.chosen else {}}
        return {"class": values.pop("class_name"), **values.pop("losses"), **values}

    @classmethod
    def from_json(cls, values: JsonObject, path: Path) -> GanSummary:
        """Return the result that :meth:`to_json` gave.

        Raises:
            DamagedFile: a value is missing or of another type; the message gives ``path`` and the key.
        """
        chosen = Snapshot.from_json(values["chosen"], path, "chosen") if values.get("chosen") else None
        facts = {key: value for key, value in values.items() if key in cls.__dataclass_fields__ and key != "chosen"}
        losses = {key: value for key, value in values.items() if key not in (*facts, "class", "chosen")}
        read = parse(cls, {**facts, "class_name": values.get("class"), "chosen": None, "losses": losses}, path)
        return replace(read, chosen=chosen)

    def describe(self) -> str:
        """Return one line for the user."""
        last = ", ".join(f"{name} {self.losses[name]:.3f}" for name in ("loss_D", "loss_G") if name in self.losses)
        losses = f" ({last})" if last else ""  # a run killed after its last step may have no row
        resumed = f" ({self.steps_run} of them after --resume)" if self.steps_run < self.steps else ""
        return (
            f"{self.class_name}: {self.steps} steps{resumed} on {self.n_train} images in {self.seconds:.0f} s{losses}"
        )


def target_label(config: GanTrainConfig, data: Dataset) -> int:
    """Return the class that the GAN learns: ``target_class``, else the minority class of the training fold.

    Raises:
        UsageError: the data have no such class.
    """
    if config.target_class is None:
        return data.minority_class
    if config.target_class in data.classes:
        return data.classes.index(config.target_class)
    names = [c.lower() for c in data.classes]
    if names.count(config.target_class.lower()) != 1:  # two names may differ in nothing but case
        task = other_task(config.target_class, data.classes)
        other = f", or --task {task}, which has that class" if task else ""
        raise UsageError(f"--class is {config.target_class!r}; expected {' or '.join(data.classes)}{other}")
    return names.index(config.target_class.lower())


def training_images(data: Dataset, label: int, device: torch.device) -> Tensor | Subset:
    """Return the training fold's images of a class: on a GPU all of them, (n, 1 or 3, H, W) uint8.

    On the CPU each batch is read from the memory map of the data.
    """
    images = Subset(data.images, data.indices("train", label))
    return images if device.type == "cpu" else planes(torch.from_numpy(np.asarray(images))).to(device)


def train(config: GanTrainConfig, data: Dataset, run: RunDir, device: torch.device) -> GanSummary:
    """Train to ``config.steps``, from the run's checkpoint if the run was resumed.

    Raises:
        Interrupted: a signal came; the state is saved.
        BalancerError: a loss is not finite, or the images have lost their variety; the last good snapshot is kept.
    """
    check(config, data.channels)
    label = target_label(config, data)
    images = training_images(data, label, device)
    state = (
        _new_or_resumed_state(config, data, label, run, device)
        if ranks.is_first()  # it alone has the run's files
        else build_state(config, device, data.channels)
    )
    share_state(state, device)
    snapshots = Snapshots(config, data, label, run, device, state)
    precision = resolve_precision(device, config.precision, on_cpu=True)
    log.info("learning %s from %d images in %s", data.classes[label], len(images), precision)
    fast_step = open_stepper(config, state, device) if ranks.count() == 1 else None
    losses = _last_losses(run)
    totals: dict[str, Tensor] = {}  # of every scalar since the last row
    row_step, row_time = state.step, time.perf_counter()
    start_step, start_time = state.step, row_time
    with (
        memory_errors(config, data.channels, run.path, device),
        deferred_signals() as signal_received,
        progress.bar(config.steps, "gan-train", "step", state.step) as bar,
    ):
        while state.step < config.steps:
            real = next_batch(config, images, state.step, device)
            scalars = fast_step(real) if fast_step else train_step(config, state, real)
            totals = {k: totals[k] + v if totals else v for k, v in scalars.items()}
            bar.update()
            step = state.step

            # Log: but for snapshots, the only point that waits for the device
            if step % config.log_every == 0 or step == config.steps:
                synchronize(device)
                now = time.perf_counter()
                losses = ranks.means({k: float(v) / (step - row_step) for k, v in totals.items()})
                if not all(map(math.isfinite, losses.values())):
                    raise BalancerError(
                        f"training diverged by step {step}: {losses}; lower the learning rates;"
                        f" {kept_snapshot(run.path)}"
                    )
                losses |= _speed(config, step, row_step, now - row_time, device)
                run.metrics({"step": step, **losses})
                bar.set_postfix(D=f"{losses['loss_D']:.2f}", G=f"{losses['loss_G']:.2f}")
                totals, row_step, row_time = {}, step, now

            if step % config.snapshot_every == 0 or step == config.steps:
                row_time += snapshots.take(state)  # the speed is that of training alone
            if (signum := ranks.of_any(signal_received())) is not None:
                snapshots.keep(state)
                raise Interrupted(signum, f"saved at step {step} of {config.steps}; continue with --resume {run.path}")
    return GanSummary(
        class_name=data.classes[label],
        n_train=len(images),
        steps=state.step,
        seconds=time.perf_counter() - start_time,
        snapshot_seconds=snapshots.seconds,
        steps_run=state.step - start_step,
        chosen=state.best,
        losses=losses,
        features=snapshots.features,
        step_mode=fast_step.ran if fast_step else "plain",
    )


class Snapshots:
    """Writes the grid of fixed latents, the quality, the checkpoint, and the generator if it is the best so far.

    The first of several ranks does so, and the others wait for it.
    """

    def __init__(
        self, config: GanTrainConfig, data: Dataset, label: int, run: RunDir, device: torch.device, state: GanState
    ) -> None:
        """Open the monitor."""
        self._config, self._data, self._label, self._run, self._device = config, data, label, run, device
        self._monitor = open_monitor(config, data, label, device) if ranks.is_first() else None
        self._fixed_z = sample_z(config, GRID_IMAGES, generator(config.seed, "grid")).to(device)
        before = [s.quality for s in read_history(run / "metrics.jsonl").snapshots if s.quality]  # of a resumed run
        self._diversities = [quality.diversity for quality in before]  # of all snapshots
        self.seconds = 0.0
        if ranks.is_first():
            (run / "grids").mkdir(exist_ok=True)
        ranks.wait_for_first()  # which may have trained a feature network

    @property
    def features(self) -> str | None:
        """Return the name of the network on which snapshots are measured."""
        return self._monitor.network.name if self._monitor else None

    def take(self, state: GanState) -> float:
        """Write and measure a snapshot.

        Returns:
            Seconds spent, not counting training steps still queued on the GPU.

        Raises:
            BalancerError: the weights are not finite, or the images have lost their variety in two snapshots running.
        """
        synchronize(self._device)
        begin = time.perf_counter()
        if ranks.is_first():
            self._write(state)
        ranks.wait_for_first()
        seconds = time.perf_counter() - begin
        self.seconds += seconds
        return seconds

    def keep(self, state: GanState) -> None:
        """Write the checkpoint alone, for a training that is stopped."""
        if ranks.is_first():
            save_checkpoint(self._run / CHECKPOINT, self._config, state, self._data, self._label)
        ranks.wait_for_first()

    def _write(self, state: GanState) -> None:
        run, step, config, G = self._run, state.step, self._config, state.ema.module
        check_finite(state, run.path)
        grid = to_uint8(generate(G, self._fixed_z))
        save_grid(run / "grids" / f"step_{step:06d}.png", grid)
        run.tracker.image("fixed z", tile(grid, 8), step)
        snapshot = Snapshot(step, measure(self._monitor, G, self._device) if self._monitor else None)
        figures = snapshot.to_json()
        if snapshot.quality:
            self._stop_if_collapsed(step, snapshot.quality.diversity)
            run.metrics(figures)
        if snapshot.is_better_than(state.best, config.selection):
            state.best = snapshot
            save_generator(run / BEST, config, state, self._data, self._label)
        save_checkpoint(run / CHECKPOINT, config, state, self._data, self._label)
        text = ", ".join(f"{k} {figures[k]:.4g}" for k in ("kid", "frechet", "diversity") if k in figures)
        log.info("step %d of %d: %s%s", step, config.steps, text, " (best so far)" if state.best is snapshot else "")

    def _stop_if_collapsed(self, step: int, diversity: float) -> None:
        """Stop after two dull snapshots running, unless variety has never been there and is rising still."""
        least, earlier = self._config.min_diversity, self._diversities
        self._diversities = [*earlier, diversity]
        if not earlier or max(earlier[-1], diversity) >= least:
            return
        if max(earlier) < least and diversity > earlier[0]:  # the first one, since single snapshots go up and down
            return
        raise BalancerError(
            f"the generator collapsed by step {step}: its images have {diversity:.1%} of the real ones' variance,"
            f" and had {earlier[-1]:.1%} at the snapshot before (min_diversity {least:g}); lower"
            f" lr_generator or change the recipe; the best snapshot is kept in {self._run.path}"
        )


def _new_or_resumed_state(
    config: GanTrainConfig, data: Dataset, label: int, run: RunDir, device: torch.device
) -> GanState:
    """Return a fresh or a donor's state, or that of the run's last good checkpoint; drop logged rows of later steps."""
    state = build_state(config, device, data.channels)
    if run.resumed:
        read_history(run / "metrics.jsonl")  # refused before anything is changed
    if run.resumed and load_state(run.path, config, state, data, label, device):
        log.info("resumed at step %d of %d", state.step, config.steps)
    elif donor := open_donor(config, data):
        start_from(donor, state)
    if not run.resumed:
        return state
    # a kill may have come between a row and its snapshot, also before the first one
    keep_jsonl(run / "metrics.jsonl", lambda row: row["step"] <= state.step)
    return state


def _last_losses(run: RunDir) -> dict[str, float]:
    """Return the last logged row of a run that was killed after its last step."""
    if not ranks.is_first():
        return {}
    rows = read_history(run / "metrics.jsonl").losses
    return {k: v for k, v in rows[-1].items() if k != "step"} if rows else {}


def next_batch(config: GanTrainConfig, images: Tensor | Subset, step: int, device: torch.device) -> Tensor:
    """Return the real images of a step, (n_dis * B, 1 or 3, H, W) in [-1, 1]; of several ranks, this one's share."""
    n = config.n_dis * config.batch_size
    index = own_share(config, torch.from_numpy(batch_indices(len(images), n, step, config.seed)))
    if isinstance(images, Subset):
        pixels = planes(torch.from_numpy(images[index.numpy()]))
    else:
        pixels = images[to_device(index, device)]
    batch = scale(pixels, device)
    if not config.data.flips:
        return batch
    mirrored = own_share(config, torch.rand(n, generator=generator(config.seed, "flips", step))) < 0.5
    mirrored = to_device(mirrored, device)
    return torch.where(mirrored[:, None, None, None], batch.flip(-1), batch)


def _speed(config: GanTrainConfig, step: int, row_step: int, seconds: float, device: torch.device) -> dict[str, float]:
    rate = (step - row_step) / max(seconds, 1e-9)
    memory = peak_memory_mb(device)
    return {
        "images_per_s": round(rate * config.batch_size * config.n_dis, 2),  # real images that D saw
        **({} if memory is None else {"memory_mb": round(memory, 1)}),
        "eta_s": round((config.steps - step) / rate, 1),
    }


def trackers(config: GanTrainConfig) -> tuple[str, ...]:
    """Return the programs that the settings track the run by."""
    return ("tensorboard",) if config.tensorboard else ()


def check(config: GanTrainConfig, channels: int | None = None) -> None:
    """Refuse unknown names, and sizes that the networks cannot have, before anything is written.

    ``channels`` are those of the images, where the data are known already.

    Raises:
        UsageError: naming the setting and what to give instead.
    """
    if loss_named(config.loss).relativistic and config.ada_target is not None:
        raise UsageError(
            f"ada_target uses the sign of D's logits, of which the {config.loss} loss fixes only differences; leave"
            " ada_target out or take another loss"
        )
    check_policy(config.diffaugment, channels)
    check_policy(config.consistency_augment, channels, "consistency_augment")
    check_installed(trackers(config))
    check_shares(config)
    # Of width 1, which costs nothing. On the meta device, initial weights would import the compiler (2 s).
    with torch.random.fork_rng(devices=[]):
        nets = architecture(config.architecture)
        nets.generator(config.data.image_size, config.z_dim, 1, channels or 1)
        D = nets.discriminator(config.data.image_size, 1, config.discriminator_norm, False, channels or 1)
        D.first_layers(config.freeze_discriminator)
        if config.reconstruction_weight:
            feature_channels(config, D, channels or 1)


def scale(pixels: Tensor, device: torch.device) -> Tensor:
    """Return uint8 pixels (B, C, H, W) as float32 in [-1, 1], in the memory format that is fastest for convolutions."""
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=memory_format(device))


def estimate_seconds(config: GanTrainConfig, data: Dataset, device: torch.device, budget: float = 1.5) -> float:
    """Return the seconds that training and its snapshots will take, tried with networks that are thrown away.

    Steps that would not fit into ``budget`` seconds are tried on a part of the batch.
    """
    check(config, data.channels)
    label = target_label(config, data)
    images = training_images(data, label, device)
    state = build_state(config, device, data.channels)

    def seconds(batch: int) -> float:
        changed = config.model_copy(update={"batch_size": batch})
        begin = time.perf_counter()
        train_step(changed, state, next_batch(changed, images, state.step, device))
        synchronize(device)
        return time.perf_counter() - begin

    launch = torchrun.several()
    share = config.batch_size // (launch.ranks if launch else 1)  # what this process will see of each batch
    part = min(share, TRIED_BATCH)
    seconds(part)  # the first step pays for set-up
    a_step = seconds(part) * share / part
    if TRIED_STEPS * a_step < budget:
        a_step = min(seconds(share) for _ in range(TRIED_STEPS))
    snapshots = math.ceil(config.steps / config.snapshot_every)
    shown = min(len(images) // 2, config.snapshot_images)
    watching = snapshots * shown * seconds_an_image(config, state.ema.module, device, budget / 3)
    return a_step * config.steps + watching + seconds_to_train(config.features, data, device)
