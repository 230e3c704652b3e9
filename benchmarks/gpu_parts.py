"""Parts of the GPU tier that time and compare steps. Each takes a :class:`Tier`, and returns figures for its JSON."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gan_speed
import numpy as np
import torch
from classifier_speed import plain_step
from torch import Tensor

from balancer.augmentation.classical import Augmenter
from balancer.core.config import resolve, validate
from balancer.core.device import exact_float32, memory_format, synchronize, to_device
from balancer.core.ema import exponential_average, update_average
from balancer.core.settings import ClassifierConfig, GanTrainConfig
from balancer.core.yaml_reader import read_yaml
from balancer.gan.step import build_state
from balancer.gan.step import train_step as gan_step
from balancer.gan.stepper import open_stepper as open_gan_stepper
from balancer.gan.trainer import next_batch
from classifier.models import build_model
from classifier.training.inputs import ImageInputs
from classifier.training.losses import make_loss
from classifier.training.regimes import REGIMES
from classifier.training.stages import Stage, stages
from classifier.training.step import make_optimizer, open_stepper, train_step
from classifier.training.training_set import BatchSampler, TrainingSet

CONFIGS = Path(__file__).parents[1] / "configs"
CPU = torch.device("cpu")
Figures = dict[str, Any]


@dataclass(frozen=True)
class Tier:
    """What is measured, and how large. ``smoke`` has the same parts in sizes that a CPU makes in seconds."""

    device: torch.device
    data: str  # folder of a data set, or "phantom"
    out: Path
    smoke: bool = False
    results: dict[str, Figures] = field(default_factory=dict)  # of the parts that are done
    begun: Figures = field(default_factory=dict)  # what the part that runs has measured, if it is stopped

    @property
    def sizes(self) -> dict[int, int]:
        """Return the sizes that are reported, with those that are run."""
        return dict.fromkeys((64, 128, 148), 16) if self.smoke else {64: 64, 128: 128, 148: 148}

    @property
    def modes(self) -> tuple[str, ...]:
        """Return the ways of making steps that this device has, without compiling."""
        return ("plain", "graph") if self.device.type == "cuda" else ("plain",)

    def seconds(self, seconds: float) -> float:
        """Return for how long something is timed."""
        return 0.0 if self.smoke else seconds


def recipe(name: str, section: str) -> Figures:
    """Return a section of a file in configs, with its data section."""
    values = read_yaml((CONFIGS / f"{name}.yaml").read_text())
    return {**values[section], "data": values["data"]}


def gan_config(tier: Tier, size: int, **changes: Any) -> GanTrainConfig:
    """Return the GAN of a size: the defaults at 64 px, gpu.yaml's at 128, and S2's at 148."""
    values: Figures = {64: {}, 128: recipe("gpu", "gan_train"), 148: recipe("seeds/s2_cnn_gan", "gan_train")}[size]
    small: Figures = {"generator_width": 2, "discriminator_width": 2, "batch_size": 4} if tier.smoke else {}
    data = {"path": tier.data, "image_size": tier.sizes[size]}
    demo = {} if size == 148 else {"generator_width": 32, "discriminator_width": 32}  # else the phantom set has its own
    return resolve(GanTrainConfig, {**demo, **values, **small, **changes, "data": data})


def classifier_config(tier: Tier, size: int, **changes: Any) -> ClassifierConfig:
    """Return the classifier of a size, as :func:`gan_config`."""
    sections = {64: {}, 128: recipe("gpu", "ablate"), 148: recipe("seeds/s2_cnn_gan", "classifier")}[size]
    values = {key: value for key, value in sections.items() if key in ClassifierConfig.model_fields and key != "stages"}
    if size == 148:
        values["augmentation"] = "mild"  # its own has no version on the device
    small: Figures = {"batch_size": 8} if tier.smoke else {}
    return validate(ClassifierConfig, {**values, **small, **changes, "data": {"image_size": tier.sizes[size]}})


def noise(n: int, size: int) -> Tensor:
    """Return random pixels (n, size, size) uint8: nothing here depends on what is learnt."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, size, size), dtype=np.uint8))


def rate(tier: Tier, step: Callable[[], object], seconds: float = 1.5) -> float:
    """Return steps per second, after enough steps for a graph to be captured."""
    for _ in range(0 if tier.smoke else 6):
        step()
    synchronize(tier.device)
    begin, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - begin < tier.seconds(seconds):
        for _ in range(1 if tier.smoke else 20):
            step()
            steps += 1
        synchronize(tier.device)
    return steps / (time.perf_counter() - begin)


# GAN


def gan_loop(
    config: GanTrainConfig, device: torch.device, mode: str
) -> tuple[Callable[[], Figures], Callable[[], str]]:
    """Return a function that makes a step, and one that says how steps run."""
    changed = config.model_copy(update={"step_mode": mode})
    pixels = noise(1147, config.data.image_size)[:, None].to(device)
    state = build_state(changed, device)
    stepper = open_gan_stepper(changed, state, device)

    def step() -> Figures:
        real = next_batch(changed, pixels, state.step, device)
        return stepper(real) if stepper else gan_step(changed, state, real)

    return step, lambda: stepper.ran if stepper else "plain"


def gan_rates(tier: Tier, sizes: tuple[int, ...], modes: tuple[str, ...]) -> Figures:
    """Return steps per second by size and mode, and under ``ran`` how the steps of each mode really ran."""
    figures = tier.begun
    for size in sizes:
        config = gan_config(tier, size)
        of_size: Figures = {"ran": {}}
        if "plain" in modes:
            pixels = noise(1147, config.data.image_size)[:, None]
            of_size["reference"] = rate(tier, gan_speed.reference(config, pixels, tier.device))
        for mode in modes:
            step, ran = gan_loop(config, tier.device, mode)
            of_size[mode] = rate(tier, step)
            of_size["ran"][mode] = ran()
        figures[str(size)] = of_size
    return figures


def gan_speed_part(tier: Tier) -> Figures:
    """Time the step in every mode, against the tutorials' loop with the same networks; float32 there, bfloat16 here."""
    return gan_rates(tier, (64, 128, 148), tier.modes)


# Classifier


def small_set(config: ClassifierConfig) -> TrainingSet:
    """Return random images with random labels."""
    n = 16 if config.data.image_size <= 32 else 256 if config.data.image_size > 200 else 2048
    labels = np.random.default_rng(1).integers(0, 2, n)
    return TrainingSet(noise(n, config.data.image_size).numpy(), labels, n, 0, None, 2, n)


def classifier_loop(config: ClassifierConfig, device: torch.device, regime: str, mode: str) -> Callable[[], Tensor]:
    """Return a function that makes a step and returns its loss."""
    changed, train = config.model_copy(update={"step_mode": mode}), small_set(config)
    torch.manual_seed(0)
    model = build_model(changed).to(device).to(memory_format=memory_format(device))
    stage: Stage = stages(changed, train)[0]
    optimizer, loss_of = make_optimizer(stage, model), make_loss(changed, REGIMES[regime], train, device)
    sampler = BatchSampler(changed, REGIMES[regime], train, 0)
    inputs = ImageInputs(changed, REGIMES[regime], train, train.images, 0, device)
    stepper = open_stepper(changed, stage, model, optimizer, loss_of, device)
    labels, count = torch.from_numpy(train.labels).to(device), 0
    averaged = exponential_average(model, changed.ema_decay) if changed.ema_decay else None

    def step() -> Tensor:
        nonlocal count
        index = sampler.indices(count)
        y, batch = labels[to_device(torch.from_numpy(index), device)], inputs.batch(index, count)
        count += 1
        loss = (
            stepper(batch, y)
            if stepper
            else train_step(model, optimizer, loss_of, batch, y, changed.precision, changed.accumulate)
        )
        if averaged is not None:
            update_average(averaged, model)
        return loss

    return step


def classifier_reference(config: ClassifierConfig, device: torch.device, augments: bool) -> Callable[[], None]:
    """Return a step of a plain loop: decoded images, a DataLoader, albumentations, contiguous float32, AdamW."""
    train, augment = small_set(config), Augmenter(config.augmentation, 0)

    class Images(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
        def __len__(self) -> int:
            return len(train.labels)

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            pixels = np.asarray(train.images[i])
            if augments:
                pixels = augment(pixels[None], np.array([i]), 0)[0]
            x = torch.from_numpy(pixels)[None].float() / 255
            return (x - x.mean()) / (x.std() + 1e-3), torch.tensor(float(train.labels[i]))

    loader = torch.utils.data.DataLoader(Images(), config.batch_size, shuffle=True, drop_last=True)
    return plain_step(loader, build_model(config).to(device), config.lr, device)


def classifier_speed_part(tier: Tier) -> Figures:
    """Time the step in every mode, without and with augmentation, against a plain loop."""
    figures = tier.begun
    for size in (64, 128, 148):
        for regime in ("baseline", "augment"):
            config = classifier_config(tier, size)
            rates = {"reference": rate(tier, classifier_reference(config, tier.device, regime == "augment"), 0.8)}
            for mode in tier.modes:
                rates[mode] = rate(tier, classifier_loop(config, tier.device, regime, mode), 0.8)
            figures[f"{size} {regime}"] = rates
    return figures


def compiled_part(tier: Tier) -> Figures:
    """Time the compiled steps of the 128 px recipes: what ``auto`` would win by compiling, and what compiling costs."""
    begin = time.perf_counter()
    gan = gan_rates(tier, (128,), ("compiled",)) if not tier.smoke else {}
    config = classifier_config(tier, 128)
    of_classifier = 0.0 if tier.smoke else rate(tier, classifier_loop(config, tier.device, "baseline", "compiled"), 0.8)
    return {"gan": gan, "classifier": of_classifier, "seconds with compiling": time.perf_counter() - begin}


# Agreement, waiting, kernels


def losses_of(step: Callable[[], Any], n: int) -> list[float]:
    """Return n losses."""
    return [
        float(loss["loss_D"] + loss["loss_G"]) if isinstance(loss := step(), dict) else float(loss) for _ in range(n)
    ]


def agreement_part(tier: Tier) -> Figures:
    """Compare the first 20 losses in float32 on the CPU, on the device, and on the device in every other mode."""
    gan = gan_config(tier, 64, precision="float32")
    net = classifier_config(tier, 64, precision="float32", model="s2_cnn")  # without dropout, which each device draws
    makers: dict[str, Callable[[torch.device, str], Callable[[], Any]]] = {
        "gan": lambda device, mode: gan_loop(gan, device, mode)[0],
        "classifier": lambda device, mode: classifier_loop(net, device, "baseline", mode),
    }
    figures = tier.begun
    for name, make in makers.items():
        with exact_float32(tier.device):
            losses = {"cpu": losses_of(make(CPU, "plain"), 20)}
            losses |= {mode: losses_of(make(tier.device, mode), 20) for mode in tier.modes}
        apart = {mode: float(np.abs(np.subtract(losses[mode], losses["cpu"])).max()) for mode in tier.modes}
        figures[name] = {"losses": losses, "largest difference": apart}
    return figures


def waiting_part(tier: Tier) -> Figures:
    """Make steps while torch refuses whatever waits for the card; a text names the operation that waited."""
    figures = tier.begun
    for mode in tier.modes:
        loops: dict[str, Callable[[], object]] = {
            "gan": gan_loop(gan_config(tier, 64), tier.device, mode)[0],
            **{r: classifier_loop(classifier_config(tier, 64), tier.device, r, mode) for r in ("baseline", "augment")},
        }
        for name, step in loops.items():
            for _ in range(6):
                step()
            problem = None
            with _no_waiting(tier.device):
                try:
                    for _ in range(4):
                        step()
                except RuntimeError as error:
                    problem = str(error).splitlines()[0]
            figures[f"{name}, {mode}"] = {"waits": problem}
    return figures


@contextlib.contextmanager
def _no_waiting(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def kernels_part(tier: Tier) -> Figures:
    """Return the operations that take most of a plain GAN step at 128 px, in milliseconds a step."""
    step, _ = gan_loop(gan_config(tier, 128), tier.device, "plain")
    for _ in range(4):
        step()
    cuda = tier.device.type == "cuda"
    kind = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[kind]) as profile:
        for _ in range(3):
            step()
        synchronize(tier.device)
    times = {
        row.key: (row.self_device_time_total if cuda else row.self_cpu_time_total) for row in profile.key_averages()
    }
    slowest = sorted(times, key=times.__getitem__, reverse=True)[:10]
    return {"ms": {name[:90]: times[name] / 3e3 for name in slowest}, "all": sum(times.values()) / 3e3}
