"""The steps of a study, one after the other; a step that is finished is read, and one that was begun goes on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from balancer import api as balancer
from balancer.core.errors import BalancerError
from balancer.core.marker import MARKER
from balancer.core.run import PreparedRun, RunDir, RunRequest, perform
from balancer.core.saved_runs import read_environment, resumed_config, saved_config
from balancer.core.sealed import DamagedFile
from balancer.core.settings import GanTrainConfig, Settings, StudyConfig, SynthesizeConfig
from balancer.data.manifest import read_manifest
from classifier.experiments.jobs import Kept, Workers, with_resume_note
from classifier.experiments.substudies import Substudy, check_same_data, run_substudy
from classifier.learning_curve.plan import (
    OtherClass,
    Point,
    Reference,
    ablation_settings,
    gan_settings,
    other_gan_settings,
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
    others: list[OtherClass]  # classes that lack no image and were synthesized too
    counts: tuple[int, ...]  # real training images of each class


def run_points(
    config: StudyConfig, references: Sequence[Reference], run: RunDir, workers: Workers
) -> list[FinishedPoint]:
    """Train the GANs, export their images and run the ablation, size by size.

    Args:
        config: of the study.
        references: what was checked at each size.
        run: its run directory.
        workers: what runs the trials; their device is that of the GANs too.

    Raises:
        Interrupted: a signal came; what is finished is kept.
        BalancerError: a step failed, or the data changed since the study began.
    """
    with with_resume_note(Kept(run.path, run.path, "step")):
        _check_unchanged(config, references, run.path)
        finished = [
            _run_point(config, reference, run.path, workers, f"size {reference.point.name} ({i} of {len(references)})")
            for i, reference in enumerate(references, start=1)
        ]
    # the test images are the same at every size
    check_same_data([of.ablation for of in finished], keys=("data_fingerprint", "recipe_hash"))
    return finished


def _folders(config: StudyConfig, reference: Reference, run: Path) -> list[Path]:
    """Return the folders of all steps at a size."""
    makers: list[Point | OtherClass] = [reference.point, *reference.others]
    made = [
        folder
        for maker in makers
        for k in range(config.gans)
        for folder in (maker.gan_folder(run, k), maker.synthesis_folder(run, k))
    ]
    return [*made, reference.point.ablation_folder(run)]


@contextlib.contextmanager
def damage_named(config: StudyConfig, references: Sequence[Reference], run: Path) -> Iterator[None]:
    """Say of a damaged file which step is to be made again, and how: its own command is not the one to start."""
    try:
        yield
    except DamagedFile as damage:
        folders = (folder for reference in references for folder in _folders(config, reference, run))
        step = next((folder for folder in folders if damage.path.is_relative_to(folder)), None)
        if step is None:
            raise
        remedy = f"remove the folder {step}, and continue with --resume {run}: this step is then made again"
        raise DamagedFile(damage.path, damage.problem, remedy) from damage


def _check_unchanged(config: StudyConfig, references: Sequence[Reference], run: Path) -> None:
    """Refuse, before anything is trained, to go on with steps that were made of other data."""
    for reference in references:
        steps = _folders(config, reference, run)
        for folder in steps:
            if not (folder / "env.json").exists():
                continue
            then, now = read_environment(folder).data.get("fingerprint"), reference.ablation.data.fingerprint
            if then != now:
                raise BalancerError(
                    f"{folder} was made of other images of {reference.ablation.data.source} (fingerprint {then}, now"
                    f" {now}); bring the data back, or start a new study"
                )
            if (folder / "config.yaml").exists() and not (folder / MARKER).exists():
                _check_place(folder, steps, run)


def _check_place(folder: Path, steps: Sequence[Path], run: Path) -> None:
    """Refuse to go on with a step whose settings name other steps where the study no longer lies."""
    saved = saved_config(read_environment(folder).command, folder)
    for named in map(Path, filter(None, [saved.get("gan_run"), *(saved.get("synthetic") or ())])):
        places = [step.relative_to(run).parts for step in steps]
        place = next((parts for parts in places if named.parts[-len(parts) :] == parts), None)
        if place and not named.exists():
            before = Path(*named.parts[: -len(place)])
            remedy = f"move it back, or leave a link there: ln -s {run.resolve()} {before}"
            if not before.is_absolute():  # as earlier versions noted them
                remedy = "start the command in the folder where the study was begun"
            raise BalancerError(
                f"{folder} was begun where the study lay in {before}, and now the study lies in {run}; {remedy}"
            )


def _run_point(config: StudyConfig, reference: Reference, run: Path, workers: Workers, where: str) -> FinishedPoint:
    point, several = reference.point, len(reference.ablation.data.classes) > 2
    for k in range(config.gans):
        which = f"{k + 1} of {config.gans}"
        log.info("study: %s, GAN %s", where, which)
        _make_images(
            point.gan_folder(run, k),
            point.synthesis_folder(run, k),
            partial(gan_settings, config, point, k, several),
            partial(synthesis_settings, config, n=reference.n),
            workers,
            run,
        )
        for other in reference.others:
            log.info("study: %s, GAN %s of %s", where, which, other.name)
            _make_images(
                other.gan_folder(run, k),
                other.synthesis_folder(run, k),
                partial(other_gan_settings, config, other, k),
                partial(synthesis_settings, config, n=other.n, latents=other.latents),
                workers,
                run,
            )
    log.info("study: %s, ablation", where)
    ablation = run_substudy(
        point.ablation_folder(run),
        lambda: ablation_settings(config, point, reference.others, run),
        workers,
        with_report=True,
        two_classes=False,
    )
    numbers = range(config.gans)
    return FinishedPoint(
        point,
        [point.gan_folder(run, k) for k in numbers],
        [point.synthesis_folder(run, k) for k in numbers],
        ablation,
        reference.others,
        reference.ablation.data.counts("train"),
    )


def _make_images(
    gan: Path,
    images: Path,
    train: Callable[[], GanTrainConfig],
    export: Callable[[Path], SynthesizeConfig],
    workers: Workers,
    run: Path,
) -> None:
    """Train a GAN and export its images, each in a run directory of its own within the study's ``run``."""
    device, threads = workers.device, workers.threads
    _run_step(
        "gan-train",
        GanTrainConfig,
        gan,
        train,
        lambda settings: balancer.prepare_gan_training(settings, device, threads),
        run,
    )
    _run_step(
        "synthesize",
        SynthesizeConfig,
        images,
        lambda: export(gan),
        lambda settings: balancer.prepare_synthesis(settings, device, threads),
        run,
    )
    read_manifest(images)  # a generator that has collapsed is refused now, and not after the other GANs


def _run_step(
    command: str,
    model: type[SettingsT],
    folder: Path,
    configure: Callable[[], SettingsT],
    prepare: Callable[[SettingsT], PreparedRun[Any]],
    run: Path,
) -> None:
    """Perform one step in its folder, unless the step is finished; a step that was begun keeps its settings."""
    if (folder / MARKER).exists():
        log.info("%s is finished", folder)
        return
    started = (folder / "env.json").exists()
    config = resumed_config(command, model, folder, {}) if started else configure()
    resume, out = (str(folder), None) if started else (None, folder)
    request = RunRequest(out, resume, force=not started, part_of=run)
    perform(prepare(config), request)
