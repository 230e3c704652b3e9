"""Smoke runs of the systems: two steps of every stage on a few drawings, at a small size, with random weights.

They show that a system's settings run from end to end on this machine, and nothing else: no figure of theirs is shown.
"""

from __future__ import annotations

import contextlib
import io
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from balancer.core.config import merge, overruled, read_config_file, resolve
from balancer.core.errors import BalancerError, Interrupted
from balancer.core.settings import AblateConfig
from balancer.data.phantom import PhantomSpec, write_phantom
from classifier.systems.registry import System
from classifier.training.regimes import select_regimes

log = logging.getLogger("balancer")
NOTICE = "SMOKE: two steps on a few drawings with random weights; it shows that the systems run, and no more."
STEPS, SIZE, BATCH = 2, 32, 4
DRAWN = PhantomSpec(size=SIZE, train=(14, 20), val=(4, 4), test=(8, 12))
DATA = {"image_size": SIZE, "val_fraction": 0.3}
INTERRUPTED = {128 + signum: signum for signum in (signal.SIGINT, signal.SIGTERM)}  # by exit code


def draw_data(run: Path) -> Path:
    """The drawings of a smoke run, in its folder."""
    return write_phantom(run / "data", DRAWN)


def configured(system: System, data: Path, folder: Path) -> AblateConfig:
    """The system's settings with everything small; the synthetic images that it needs are made first."""
    explicit = shrunk(system, data)
    if any(regime.synthetic for regime in select_regimes(explicit["regimes"])):
        explicit["synthetic"] = [str(synthesis(system, data, folder))]
    config = resolve("ablate", explicit)
    assert isinstance(config, AblateConfig), "the section is that of ablate"
    return config


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
    """A few images of a GAN of two steps, made by the ordinary commands with the system's own settings; made once."""
    gan, made = folder / "gan", folder / "synthesis"
    where = ["--data", str(data), "--image-size", str(SIZE), "--val-fraction", str(DATA["val_fraction"]), "--force"]
    preset = read_config_file(system.file, "gan_train").get("preset", "dcgan")
    if not (gan / "done").exists():
        small = _sets(snapshot_every=STEPS, snapshot_images=4, generator_width=4, discriminator_width=4)
        length = ["--steps", str(STEPS), "--batch-size", str(BATCH)]
        _balancer("gan-train", "--preset", preset, "--out", str(gan), *where, *length, *small)
    if not (made / "done").exists():
        small = _sets(kid_subsets=2, kid_subset_size=2, two_sample="false")
        _balancer("synthesize", "--gan-run", str(gan), "--out", str(made), "--inception-weights", "off", *where, *small)
    return made


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


def _sets(**settings: object) -> list[str]:
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def _balancer(*arguments: str) -> None:
    """A `balancer` command in this process, which spares a second import of everything. Its summary, figures too, is dropped.

    Raises:
        Interrupted: a signal came.
        BalancerError: it failed, or ended otherwise than well.
    """
    from balancer.cli import main

    with _own_log(), contextlib.redirect_stdout(io.StringIO()):
        try:
            main([*arguments, "--quiet"], prog_name="balancer", standalone_mode=False)
        except click.Abort as stop:  # click's, for Ctrl-C while the command was not yet begun
            raise Interrupted(signal.SIGINT, "stopped") from stop
        except SystemExit as end:
            if isinstance(end.code, int) and end.code in INTERRUPTED:
                raise Interrupted(INTERRUPTED[end.code], "stopped") from end
            raise BalancerError(f"`balancer {arguments[0]}` of the smoke run ended with exit code {end.code}") from end


@contextlib.contextmanager
def _own_log() -> Iterator[None]:
    """A command sets logging up for itself; here that is undone once it ends."""
    handlers, level = list(log.handlers), log.level
    try:
        yield
    finally:
        log.handlers = handlers
        log.setLevel(level)
