"""The steps of a study, one after the other; a step that is finished is read, and one that was begun goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from balancer import api as balancer
from balancer.core.marker import MARKER
from balancer.core.run import PreparedRun, RunDir, RunRequest, perform
from balancer.core.saved_runs import resumed_config
from balancer.core.settings import GanTrainConfig, Settings, StudyConfig, SynthesizeConfig
from classifier.experiments.jobs import Workers
from classifier.experiments.substudies import Substudy, check_same_data, resume_note_of, run_substudy
from classifier.learning_curve.plan import (
    Point,
    ablation_settings,
    gan_settings,
    points_of,
    synthesis_settings,
)

log = logging.getLogger("balancer")
SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True)
class FinishedPoint:
    """Everything that was made at one size."""

    point: Point
    gans: list[Path]
    syntheses: list[Path]
    ablation: Substudy


def run_points(config: StudyConfig, run: RunDir, workers: Workers, several: bool) -> list[FinishedPoint]:
    """Train the GANs, export their images and run the ablation, size by size.

    Args:
        config: of the study.
        run: its run directory.
        workers: what runs the trials; their device is that of the GANs too.
        several: whether there are more than two classes.

    Raises:
        Interrupted: a signal came; what is finished is kept.
        BalancerError: a step failed, or the data changed since the study began.
    """
    points = points_of(config)
    with resume_note_of(run.path):
        finished = [
            _run_point(config, point, run.path, workers, several, f"size {point.name} ({i} of {len(points)})")
            for i, point in enumerate(points, start=1)
        ]
    # the test images are the same at every size
    check_same_data([of.ablation for of in finished], keys=("data_fingerprint", "recipe_hash"))
    return finished


def _run_point(
    config: StudyConfig, point: Point, run: Path, workers: Workers, several: bool, where: str
) -> FinishedPoint:
    device, threads = workers.device, workers.threads
    gans, syntheses = [], []
    for k in range(config.gans):
        which = f"{k + 1} of {config.gans}"
        gan, images = point.gan_folder(run, k), point.synthesis_folder(run, k)
        log.info("study: %s, GAN %s", where, which)
        _run_step(
            "gan-train",
            GanTrainConfig,
            gan,
            lambda k=k: gan_settings(config, point, k, several),  # type: ignore[misc]
            lambda settings: balancer.prepare_gan_training(settings, device, threads),
        )
        log.info("study: %s, images of GAN %s", where, which)
        _run_step(
            "synthesize",
            SynthesizeConfig,
            images,
            lambda k=k: synthesis_settings(config, point, run, k),  # type: ignore[misc]
            lambda settings: balancer.prepare_synthesis(settings, device, threads),
        )
        gans.append(gan)
        syntheses.append(images)
    log.info("study: %s, ablation", where)
    ablation = run_substudy(
        point.ablation_folder(run),
        lambda: ablation_settings(config, point, run),
        workers,
        with_report=True,
        two_classes=False,
    )
    return FinishedPoint(point, gans, syntheses, ablation)


def _run_step(
    command: str,
    model: type[SettingsT],
    folder: Path,
    configure: Callable[[], SettingsT],
    prepare: Callable[[SettingsT], PreparedRun[Any]],
) -> None:
    """Perform one run in its folder, unless the run is finished; a run that was begun keeps its settings."""
    if (folder / MARKER).exists():
        log.info("%s is finished", folder)
        return
    started = (folder / "env.json").exists()
    config = resumed_config(command, model, folder, {}) if started else configure()
    request = RunRequest(resume=str(folder)) if started else RunRequest(out=folder, force=True)
    perform(prepare(config), request)
