"""Smoke runs of the systems: two steps of every stage on a few drawings, at a small size, with random weights.

They show that a system's settings run from end to end on this machine, and nothing else: no metric is shown.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from balancer import api
from balancer.core.config import merge, overruled, read_config_file, resolve
from balancer.core.marker import MARKER
from balancer.core.settings import AblateConfig, DataConfig, GanTrainConfig, SynthesizeConfig
from balancer.data.phantom import PhantomSpec, write_phantom
from classifier.systems.registry import System
from classifier.training.regimes import select_regimes

log = logging.getLogger("balancer")
NOTICE = "SMOKE: two steps on a few drawings with random weights; it shows that the systems run, and no more."
STEPS, SIZE, BATCH = 2, 32, 4
DRAWINGS = PhantomSpec(size=SIZE, train=(14, 20), val=(4, 4), test=(8, 12))
DATA: dict[str, Any] = {"image_size": SIZE, "val_fraction": 0.3}


def draw_data(run: Path) -> Path:
    """Write the drawings of a smoke run into its folder; return where they are."""
    return write_phantom(run / "data", DRAWINGS)


def configured(system: System, data: Path, folder: Path) -> AblateConfig:
    """Return the system's settings with small sizes; make the synthetic images first if the system needs any."""
    explicit = shrunk(system, data)
    if any(regime.synthetic for regime in select_regimes(explicit["regimes"])):
        explicit["synthetic"] = [str(synthesis(system, data, folder))]
    return resolve(AblateConfig, explicit)


def shrunk(system: System, data: Path) -> dict[str, Any]:
    """Return the settings of the system's file with lengths and sizes cut; networks, heads, stages and losses stay.

    The number of validations is cut where the file sets it, in the stages or around them, since a setting that every
    stage overrules is refused.
    """
    config = system.config()
    stages = [stage.model_dump(exclude_none=True, exclude={"epochs"}) | {"steps": STEPS} for stage in config.stages]
    for stage in stages:
        stage.update({"evaluations": 1} if "evaluations" in stage else {})
    around = {} if stages else {"steps": STEPS}
    around |= {} if "evaluations" in overruled(config) else {"evaluations": 1}
    small = {
        **around,
        "data": {**DATA, "path": str(data.resolve())},
        "weights": "none",
        "normalisation": config.input_normalisation,  # as with the weights
        "batch_size": BATCH,
        "accumulate": min(config.accumulate, 2),
        "stages": stages,
        "seeds": 1,
        "regimes": list(config.regimes),
    }
    return merge(system.settings(), small)


def synthesis(system: System, data: Path, folder: Path) -> Path:
    """Return a synthesis of a few images, by a GAN of two steps with the preset of the system's file. Make it once."""
    gan, images = folder / "gan", folder / "synthesis"
    if not (gan / MARKER).exists():
        gan_config = GanTrainConfig(
            data=DataConfig(path=str(data.resolve()), **DATA),
            preset=read_config_file(system.file, "gan_train").get("preset", "dcgan"),
            steps=STEPS,
            batch_size=BATCH,
            generator_width=4,
            discriminator_width=4,
            snapshot_every=STEPS,
            snapshot_images=4,
        )
        api.train_gan(gan_config, gan, force=True)
    if not (images / MARKER).exists():
        settings = SynthesizeConfig(
            gan_run=str(gan.resolve()), inception="off", kid_subsets=2, kid_subset_size=2, two_sample=False
        )
        api.synthesize(settings, images, force=True)
    return images


def remove_weights(folder: Path) -> None:
    """Remove the weights of a smoke run: a gigabyte in all, and useless."""
    for path in folder.rglob("model.pt"):
        path.unlink()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Log warnings only; the metrics of a smoke run are meaningless."""
    level = log.level
    log.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        log.setLevel(level)
