"""`classifier compare`: size and speed of networks, measured on this machine."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from balancer.core.config import validate
from balancer.core.device import describe_device, memory_format, open_device, synchronize
from balancer.core.errors import BalancerError, UsageError, nearest
from balancer.core.files import JsonObject, refuse_unwritable, write_text
from balancer.core.pixels import shape_of
from balancer.core.preview import Preview
from balancer.core.settings import ClassifierConfig, DataConfig
from balancer.core.speed import seconds_each
from balancer.reporting.document import Table, csv_text
from classifier.models import OWN_MODELS, build_model
from classifier.models.backbones import backbone_names
from classifier.systems.registry import SYSTEMS
from classifier.training.checkpoint import load_classifier
from classifier.training.prediction import to_input

log = logging.getLogger("balancer")
TRYING = 3.0  # seconds, of a preview, for all networks


@dataclass(frozen=True)
class Timing:
    """How a network is timed."""

    batch_size: int = 32
    repeats: int = 10  # of the batch
    single_repeats: int = 50  # of one image
    warm_up: int = 2  # passes before the clock starts, which choose kernels and fill caches


@dataclass(frozen=True)
class Profile:
    """Size and speed of one network, in evaluation mode and float32."""

    name: str
    model: str
    image_size: int
    parameters: int
    trainable: int  # in the last stage of its training
    megabytes: float  # of the state, buffers too, at four bytes a value
    images_per_second: float  # of the median batch
    latency_ms: float  # of one image, median
    latency_p95_ms: float


@dataclass(frozen=True)
class Comparison:
    """The profiles of several networks."""

    profiles: list[Profile]
    device: str  # in words
    timing: Timing
    out: Path | None  # the CSV file, if there is one

    def to_json(self) -> JsonObject:
        """Return how the networks were timed, and their profiles."""
        how = {"device": self.device, "threads": torch.get_num_threads(), **asdict(self.timing)}
        return {**how, "networks": [asdict(p) for p in self.profiles]}

    def describe(self) -> str:
        """Return the table, and how the networks were timed."""
        header = ["name", "network", "px", "parameters", "trainable", "MB", "images/s", "latency ms", "p95 ms"]
        timing = self.timing
        note = (
            f"{self.device}, torch {torch.__version__}, float32; images/s at batch {timing.batch_size}, "
            f"median of {timing.repeats}; latency of one image, median of {timing.single_repeats}. "
            "Reading and decoding files is not included."
        )
        text = f"{Table(header, [_cells(p) for p in self.profiles]).to_text()}\n\n{note}"
        return text if self.out is None else f"{text}\n{self.out}"

    def to_csv(self) -> str:
        """Return a line per network, with the device and the batch size."""
        rows = [[*asdict(p).values(), self.device, self.timing.batch_size] for p in self.profiles]
        return csv_text([*Profile.__dataclass_fields__, "device", "batch_size"], rows)


def compare(
    names: Sequence[str],
    image_size: int | None,
    device: str,
    timing: Timing,
    out: Path | None,
    threads: int | None = None,
) -> Comparison:
    """Profile systems, networks and checkpoints by name or path; write a CSV file if ``out`` names one.

    Raises:
        UsageError: if a name is no system, no network and no file.
        BalancerError: if a file is no checkpoint.
    """
    torch_device = open_device(device, threads)
    _check_folder(out)
    profiles = []
    for name in names:
        log.info("%s", name)
        model, config, channels = network(name, image_size, torch_device)
        profiles.append(profile(name, model, config, torch_device, timing, channels))
        del model  # before the next one is built
    comparison = Comparison(profiles, describe_device(torch_device), timing, out)
    if out is not None:
        write_text(out, comparison.to_csv())
    return comparison


def preview(
    names: Sequence[str],
    image_size: int | None,
    device: str,
    timing: Timing,
    out: Path | None,
    threads: int | None = None,
) -> Preview:
    """Return what :func:`compare` would do. Every network is built; passes of a few images say how long it would take.

    The arguments and errors are those of :func:`compare`.
    """
    torch_device = open_device(device, threads)
    _check_folder(out)
    passes = timing.batch_size * (timing.warm_up + timing.repeats) + timing.warm_up + timing.single_repeats
    total = 0.0
    for name in names:
        model, config, channels = network(name, image_size, torch_device)
        with _too_small(name, config):
            images = _images(config, timing.batch_size, torch_device, channels)
            total += passes * _seconds_an_image(model, images, TRYING / len(names))
    settings = {**asdict(timing), "image size": image_size, "device": describe_device(torch_device)}
    return Preview(", ".join(names), str(out or "nothing"), total, settings)


def _seconds_an_image(model: nn.Module, images: Tensor, budget: float) -> float:
    """Return the time of an image (B, C, H, W), from as many passes of ever more images as fit into the budget."""
    return seconds_each(lambda n: seconds(model, images[:n], images.device, 0, 1), len(images), budget)


def _check_folder(out: Path | None) -> None:
    """Refuse a file to write whose folder is not there, or cannot be written to."""
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out is not None:
        refuse_unwritable(out)


def network(name: str, image_size: int | None, device: torch.device) -> tuple[nn.Module, ClassifierConfig, int]:
    """Return the network of a system, a name or a checkpoint, with its settings and the channels of its images.

    Systems and names take grey images. Weights do not change size or speed: a system's network gets random ones, so
    nothing is downloaded.
    """
    if Path(name).exists():
        loaded = load_classifier(Path(name), device)
        return loaded.model, _resized(loaded.config, image_size), loaded.channels
    if name in SYSTEMS:
        system = SYSTEMS[name].config()
        last = system.stages[-1].trainable if system.stages else None
        values = {"weights": "none", "normalisation": system.input_normalisation, "trainable": last or system.trainable}
        config: ClassifierConfig = _resized(system.model_copy(update=values), image_size)
    elif name in OWN_MODELS or name in backbone_names():
        config = _resized(ClassifierConfig(model=name), image_size)
    else:
        known = [*SYSTEMS, *OWN_MODELS, *backbone_names()]
        raise UsageError(f"{name!r} is no system, no network and no file; {nearest(name, known)}")
    model = build_model(config)
    return model.to(device).to(memory_format=memory_format(device)).eval(), config, 1


def _resized(config: ClassifierConfig, image_size: int | None) -> ClassifierConfig:
    if image_size is None:
        return config
    data = validate(DataConfig, {**config.data.model_dump(), "image_size": image_size})
    return config.model_copy(update={"data": data})


def profile(
    name: str,
    model: nn.Module,
    config: ClassifierConfig,
    device: torch.device,
    timing: Timing,
    channels: int = 1,
) -> Profile:
    """Count and time a network on images of so many channels.

    Raises:
        BalancerError: if the network cannot take images of that size.
    """
    sizes = {id(p): (p.numel(), p.requires_grad) for p in model.parameters()}
    state = [v for v in model.state_dict().values() if v.is_floating_point()]
    with _too_small(name, config):
        images, one = (_images(config, count, device, channels) for count in (timing.batch_size, 1))
        batch = seconds(model, images, device, timing.warm_up, timing.repeats)
        single = seconds(model, one, device, timing.warm_up, timing.single_repeats)
    return Profile(
        name=name,
        model=config.model,
        image_size=config.data.image_size,
        parameters=sum(n for n, _ in sizes.values()),
        trainable=sum(n for n, learns in sizes.values() if learns),
        megabytes=sum(v.numel() for v in state) * 4 / 1e6,
        images_per_second=timing.batch_size / float(np.median(batch)),
        latency_ms=1000 * float(np.median(single)),
        latency_p95_ms=1000 * float(np.percentile(single, 95)),
    )


@contextlib.contextmanager
def _too_small(name: str, config: ClassifierConfig) -> Iterator[None]:
    """Turn what a network says of images too small for a pooling or a patch into one line."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BalancerError(
            f"{name} cannot take {config.data.image_size} px images ({reason}); give --image-size"
        ) from error


def _images(config: ClassifierConfig, count: int, device: torch.device, channels: int) -> Tensor:
    shape = count, *shape_of(config.data.image_size, channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return to_input(pixels, config, device)


@torch.inference_mode()
def seconds(model: nn.Module, images: Tensor, device: torch.device, warm_up: int, repeats: int) -> list[float]:
    """Return the seconds of ``repeats`` passes over a batch (B, C, H, W), after ``warm_up`` passes without a clock."""
    for _ in range(warm_up):
        model(images)
    passes = []
    for _ in range(repeats):
        synchronize(device)
        begin = time.perf_counter()
        model(images)
        synchronize(device)
        passes.append(time.perf_counter() - begin)
    return passes


def _cells(p: Profile) -> list[str]:
    sizes: list[Any] = [p.image_size, f"{p.parameters:,}", f"{p.trainable:,}", f"{p.megabytes:.1f}"]
    speeds = [f"{p.images_per_second:.1f}", f"{p.latency_ms:.2f}", f"{p.latency_p95_ms:.2f}"]
    return [p.name, p.model, *(str(s) for s in sizes), *speeds]
