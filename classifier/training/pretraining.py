"""Pretraining of a classifier's network without labels: once for each trial seed, and kept in the cache.

The network learns from the real images of the training fold alone. Labels, synthetic images, validation and test are
never read. All regimes of a trial seed begin with the same weights: those of the training's own start, pretrained.

A file of the cache is named by a hash of all that its weights depend on. Two machines may differ in the last bits of a
sum, so trials record a hash of the weights too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from torch import Tensor

from balancer.core import progress
from balancer.core.card_memory import full_memory_explained
from balancer.core.device import autocast, memory_format, synchronize
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.files import locked, remove
from balancer.core.pixels import planes
from balancer.core.sealed import DamagedFile, load_tensors, save_tensors
from balancer.core.seeding import derive_seed, generator
from balancer.core.settings import ClassifierConfig
from balancer.core.shapes import parse
from balancer.core.speed import seconds_each
from balancer.core.system_errors import explained, is_out_of_memory
from balancer.data.cache import cache_dir
from balancer.data.dataset import Dataset
from balancer.data.sampling import batch_indices, evenly
from balancer.metrics.own_features import weights_hash
from classifier.models import build_model, features_of
from classifier.models.backbones import Backbone
from classifier.training.convolutions import zero_unread_gradients
from classifier.training.prediction import normalise
from classifier.training.record import Pretraining
from classifier.training.self_supervision import OBJECTIVES, spread, view

log = logging.getLogger("balancer")
Array = np.ndarray
Interrupt = Callable[[], int | None]
FORMAT = 1  # of the file; raise when a view or a loss changes
HASHED = 256  # training images whose pixels enter the name
NETWORK = ("model", "batch_norm", "s2", "head", "head_width", "head_dropout", "outputs", "precision", "pretrain")
WEIGHT_DECAY = 1e-4
WARM_UP = 0.05  # share of the steps in which the rate rises
KEPT_EVERY = 500  # steps after which an unfinished pretraining is kept
POLL = 1.0  # seconds between looks for a signal, while another process pretrains
BUDGET = 2.0  # seconds of an estimate


@dataclass(frozen=True)
class Pretrained:
    """The weights that a network begins its training with, by name, and how they were made."""

    facts: Pretraining
    state: Mapping[str, Tensor]


def is_wanted(config: ClassifierConfig) -> bool:
    """Return whether the settings ask for a pretraining."""
    return config.pretrain.method != "none"


def check(config: ClassifierConfig, data: Dataset) -> None:
    """Refuse a pretraining with larger batches than the training fold.

    Raises:
        UsageError: a batch is larger.
    """
    n, batch = len(data.indices("train")), config.pretrain.batch_size
    if is_wanted(config) and batch > n:
        raise UsageError(
            f"pretrain.batch_size is {batch}, but the training fold has {n} images; give a smaller one, or"
            " pretrain.method=none"
        )


def pretrained(
    config: ClassifierConfig,
    data: Dataset,
    seed: int,
    device: torch.device,
    interrupt: Interrupt = lambda: None,
) -> Pretrained | None:
    """Return the weights that trainings of a seed begin with, from the cache or made now; None without a pretraining.

    Two processes do not make the same weights: the second waits for the first.

    Args:
        config: the settings of the classifier.
        data: of which the training fold is read, without its labels.
        seed: the trial seed, and what a regime adds to it.
        device: where the network learns.
        interrupt: called after every step; a signal number ends the pretraining, and the next call goes on from there.

    Raises:
        Interrupted: if ``interrupt`` returns a signal number.
        BalancerError: if the pretraining diverges, memory is full, or the cache cannot be written.
    """
    if not is_wanted(config):
        return None
    file = _file_of(config, data, seed, device)
    # What looks damaged may just be replaced by another process: only under the lock the second look counts.
    with contextlib.suppress(DamagedFile, FileNotFoundError):
        return _read(file)
    remedy = "or set BALANCER_CACHE to a folder of your own"
    with explained(remedy, OSError), _held(file.with_suffix(".lock"), interrupt):
        try:
            return _read(file)
        except FileNotFoundError:
            pass
        except DamagedFile as damage:
            log.warning("%s; the network is pretrained again", damage)
            remove(file)
        made = pretrain(config, data, seed, device, interrupt, file.with_suffix(".unfinished.pt"))
        save_tensors(file, {"format": FORMAT, "state": dict(made.state), "facts": asdict(made.facts)})
    return _read(file)


def is_kept(config: ClassifierConfig, data: Dataset, seed: int, device: torch.device) -> bool:
    """Return whether the cache holds the pretrained weights of a seed."""
    return _file_of(config, data, seed, device).exists()


def pretrain(
    config: ClassifierConfig,
    data: Dataset,
    seed: int,
    device: torch.device,
    interrupt: Interrupt = lambda: None,
    unfinished: Path | None = None,
) -> Pretrained:
    """Pretrain a network, whatever the cache holds; arguments and errors as for :func:`pretrained`.

    ``unfinished`` is the file that an interrupted pretraining is kept in, and taken up from.
    """
    settings, name = config.pretrain, f"{config.pretrain.method}, seed {seed}"
    images, positions = data.images, data.indices("train")
    training = _begun(config, data, seed, device, unfinished)
    where = f"the pretraining ({name})", settings.batch_size, device
    memory = full_memory_explained(*where, None, ", which is pretrain.batch_size here")
    with memory, progress.bar(settings.steps, name, "step", training.step) as bar:
        while training.step < settings.steps:
            of_batches = derive_seed(seed, "pretrain", "batches")
            index = batch_indices(len(positions), settings.batch_size, training.step, of_batches)
            training.advance(images[positions[index]])
            bar.update()
            signum = interrupt()
            if unfinished and (signum is not None or training.step % KEPT_EVERY == 0):
                training.save(unfinished)
            if signum is not None:
                raise Interrupted(signum, f"stopped in the pretraining ({name}) at step {training.step}")
    state = {key: value.detach().cpu().contiguous() for key, value in training.model.state_dict().items()}
    if not all(torch.isfinite(value).all() for value in state.values()):
        raise BalancerError(f"the pretraining ({name}) diverged: its weights are not finite; lower pretrain.lr")
    if unfinished:
        remove(unfinished)
    facts = Pretraining(
        settings.method,
        settings.steps,
        settings.batch_size,
        len(positions),
        round(spread(training.outputs), 3),
        weights_hash(state),
        round(training.seconds, 1),
    )
    if facts.collapsed:
        log.warning("the pretraining (%s) collapsed: spread %.2f, not about 1; change pretrain.lr", name, facts.spread)
    return Pretrained(facts, state)


def estimate_seconds(config: ClassifierConfig, data: Dataset, device: torch.device) -> float:
    """Return the time of one pretraining, from steps on a few images with a network that is thrown away."""
    training = _Training(config, data, 0, device)
    images = data.images[data.indices("train")[: config.pretrain.batch_size]]

    def step(n: int) -> None:
        training.advance(images[:n])
        synchronize(device)

    return seconds_each(step, len(images), BUDGET) * config.pretrain.batch_size * config.pretrain.steps


class _Training:
    """The state of a pretraining: the network, what learns beside it, and the step."""

    def __init__(self, config: ClassifierConfig, data: Dataset, seed: int, device: torch.device) -> None:
        self.config, self.seed, self.device = config, seed, device
        self.step, self.seconds, self.outputs = 0, 0.0, torch.zeros(2, 2)
        torch.manual_seed(derive_seed(seed, "init"))  # as the training without pretraining begins
        self.model = build_model(config, len(data.classes), data.channels)
        if isinstance(self.model, Backbone):
            self.model.set_trainable("all")
        self.model = self.model.to(device).to(memory_format=memory_format(device))
        zero_unread_gradients(self.model)
        blank = torch.zeros(2, data.channels, *data.images.shape[1:3], device=device)
        with torch.no_grad():
            width = features_of(self.model.eval(), blank).shape[1]
        torch.manual_seed(derive_seed(seed, "pretrain", "heads"))
        self.objective = OBJECTIVES[config.pretrain.method](width).to(device)
        parameters = [*self.model.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, config.pretrain.lr, weight_decay=WEIGHT_DECAY)

    def save(self, path: Path) -> None:
        """Write the state, sealed."""
        content = {
            "step": self.step,
            "seconds": self.seconds,
            "outputs": self.outputs,
            "network": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_tensors(path, content)

    def load(self, path: Path) -> None:
        """Take up a saved state.

        Raises:
            OSError: there is none.
            DamagedFile: the file is not what was written.
        """
        saved = load_tensors(path, self.device)
        self.model.load_state_dict(saved["network"])
        self.objective.load_state_dict(saved["objective"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds, self.outputs = int(saved["step"]), float(saved["seconds"]), saved["outputs"]

    def advance(self, pixels: Array) -> None:
        """Make one optimiser step on images (B, H, W) or (B, H, W, 3) uint8; every draw depends on the step alone."""
        begin = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.pretrain.lr * _rate(self.step, self.config.pretrain.steps)
        torch.manual_seed(derive_seed(self.seed, "pretrain", "dropout", self.step))
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.config.precision, on_cpu=True):
            features = features_of(self.model, self._views(pixels))
        loss, outputs = self.objective(features.float())
        loss.backward()
        self.optimizer.step()
        self.outputs = outputs.detach()
        self.step += 1
        self.seconds += time.perf_counter() - begin

    def _views(self, pixels: Array) -> Tensor:
        """Return two views of each image as network input, (2B, 1 or 3, H, W); the first views come first."""
        source = generator(self.seed, "pretrain", "views", self.step)
        images = planes(torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)).float() / 255
        views = torch.cat([view(images, self.config.data.flips, source) for _ in range(2)])
        inputs = normalise(255 * views, self.config.input_normalisation)
        return inputs.contiguous(memory_format=memory_format(self.device))


def _rate(step: int, steps: int) -> float:
    """Return the share of the learning rate: a short rise, then half a cosine (Loshchilov & Hutter 2017)."""
    rise = max(1, round(WARM_UP * steps))
    return min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _begun(
    config: ClassifierConfig, data: Dataset, seed: int, device: torch.device, unfinished: Path | None
) -> _Training:
    """Return the state of an interrupted pretraining, or a new one where there is none, or a damaged file."""
    training = _Training(config, data, seed, device)
    if unfinished is not None and unfinished.exists():
        try:
            training.load(unfinished)
            log.info("going on with the pretraining at step %d of %d", training.step, config.pretrain.steps)
            return training
        except (OSError, DamagedFile, KeyError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise  # the file is sound
            text = error if isinstance(error, DamagedFile) else f"{unfinished} is damaged"
            log.warning("%s; the pretraining begins anew", text)
            training = _Training(config, data, seed, device)
    log.info("pretraining (%s, seed %d) without labels, once", config.pretrain.method, seed)
    return training


def _file_of(config: ClassifierConfig, data: Dataset, seed: int, device: torch.device) -> Path:
    """Return the file of the cache for these weights, whether it is there or not."""
    positions = data.indices("train")
    facts = [
        FORMAT,
        config.model_dump(mode="json", include=set(NETWORK)),
        [config.input_normalisation, config.data.flips, len(data.classes), list(data.images.shape[1:])],
        [seed, device.type, data.split_hash, data.fingerprint],
    ]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    key.update(np.ascontiguousarray(positions.astype(np.int64)).data)
    # how images are decoded and resized changes their pixels alone
    key.update(np.ascontiguousarray(data.images[positions[evenly(len(positions), HASHED)]]).data)
    return cache_dir("pretrained") / f"{config.model}-{key.hexdigest()[:16]}.pt"


def _read(file: Path) -> Pretrained:
    """Return the weights of a file of the cache.

    Raises:
        FileNotFoundError: the file is not there.
        DamagedFile: the file is not what was written.
    """
    content = load_tensors(file, torch.device("cpu"))
    if content.get("format") != FORMAT:
        raise DamagedFile(file, f"format {content.get('format')!r}; expected {FORMAT}")
    facts, state = parse(Pretraining, content.get("facts"), file), content.get("state")
    if not isinstance(state, dict):
        raise DamagedFile(file, "it holds no weights")
    return Pretrained(facts, state)


@contextlib.contextmanager
def _held(lock: Path, interrupt: Interrupt) -> Iterator[None]:
    """Hold a lock; while another process holds it, look for a signal."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(lock, POLL))
                break
            except filelock.Timeout:
                if (signum := interrupt()) is not None:
                    raise Interrupted(signum, "stopped while another process pretrains") from None
        yield
