"""Smoke runs of the systems: two steps of every stage on a few drawings, at a small size, with random weights.

They show that a system's settings run from end to end on this machine, and nothing else: no figure of theirs is shown.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from balancer import api
from balancer.core.config import merge, overruled, read_config_file, resolve
from balancer.core.settings import AblateConfig, DataConfig, GanTrainConfig, SynthesizeConfig
from balancer.data.phantom import PhantomSpec, write_phantom
from classifier.systems.registry import System
from classifier.training.regimes import select_regimes

log = logging.getLogger("balancer")
NOTICE = "SMOKE: two steps on a few drawings with random weights; it shows that the systems run, and no more."
STEPS, SIZE, BATCH = 2, 32, 4
DRAWN = PhantomSpec(size=SIZE, train=(14, 20), val=(4, 4), test=(8, 12))
DATA: dict[str, Any] = {"image_size": SIZE, "val_fraction": 0.3}


def draw_data(run: Path) -> Path:
    """The drawings of a smoke run, in its folder."""
    return write_phantom(run / "data", DRAWN)


def configured(system: System, data: Path, folder: Path) -> AblateConfig:
    """The system's settings with everything small; the synthetic images that it needs are made first."""
    explicit = shrunk(system, data)
    if any(regime.synthetic for regime in select_regimes(explicit["regimes"])):
        explicit["synthetic"] = [str(synthesis(system, data, folder))]
    return resolve(AblateConfig, explicit)


def shrunk(system: System, data: Path) -> dict[str, Any]:
    """What the system's file says, its networks, heads, stages and losses untouched, their lengths and sizes cut.

    How often validation is looked at is cut where the file says it, in the stages or around them: a setting that every
    stage overrules is refused.
    """
    whole = system.config()
    stages = [stage.model_dump(exclude_none=True, exclude={"epochs"}) | {"steps": STEPS} for stage in whole.stages]
    for stage in stages:
        stage.update({"evaluations": 1} if "evaluations" in stage else {})
    around = {} if stages else {"steps": STEPS}
    around |= {} if "evaluations" in overruled(whole) else {"evaluations": 1}
    small = {
        **around,
        "data": {**DATA, "path": str(data.resolve())},
        "weights": "none",
        "normalisation": whole.input_normalisation,  # as with the weights
        "batch_size": BATCH,
        "accumulate": min(whole.accumulate, 2),
        "stages": stages,
        "seeds": 1,
        "regimes": list(whole.regimes),
    }
    return merge(system.settings(), small)


def synthesis(system: System, data: Path, folder: Path) -> Path:
    """Return a synthesis of a few images, by a GAN of two steps with the preset of the system's file. Make it once."""
    gan, images = folder / "gan", folder / "synthesis"
    if not (gan / "done").exists():
        config = GanTrainConfig(
            data=DataConfig(path=str(data.resolve()), **DATA),
            preset=read_config_file(system.file, "gan_train").get("preset", "dcgan"),
            steps=STEPS,
            batch_size=BATCH,
            generator_width=4,
            discriminator_width=4,
            snapshot_every=STEPS,
            snapshot_images=4,
        )
        api.train_gan(config, gan, force=True)
    if not (images / "done").exists():
        settings = SynthesizeConfig(
            gan_run=str(gan.resolve()), inception="off", kid_subsets=2, kid_subset_size=2, two_sample=False
        )
        api.synthesize(settings, images, force=True)
    return images


def forget_weights(folder: Path) -> None:
    """Remove the weights of a smoke run: a gigabyte in all, and of no use."""
    for path in folder.rglob("model.pt"):
        path.unlink()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Only warnings are told: what training says as it goes on are figures, and of a smoke run none means anything."""
    level = log.level
    log.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        log.setLevel(level)
