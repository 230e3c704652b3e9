"""`balancer gan-train --class all`: a GAN for each class that lacks images, each in a folder that is a run of its own.

So whatever takes a run of one class (`--resume`, `synthesize --gan-run`, `export`) takes the run of a class too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from balancer.core import torchrun
from balancer.core.device import describe_device
from balancer.core.environment import environment
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.files import JsonObject, folder_name
from balancer.core.jsonl import read_jsonl
from balancer.core.run import RunDir, RunRequest, open_run
from balancer.core.saved_runs import resumed_config
from balancer.core.sealed import read_json, write_json
from balancer.core.settings import GanTrainConfig
from balancer.core.tracking import TrackedTrial
from balancer.data.dataset import Dataset
from balancer.gan import trainer
from balancer.gan.checkpoint import BEST
from balancer.gan.class_runs import ALL, FOLDER
from balancer.gan.trainer import GanSummary

log = logging.getLogger("balancer")
SUMMARY = "summary.json"


@dataclass(frozen=True)
class GanSummaries:
    """The results of the trainings of several classes."""

    summaries: list[GanSummary]

    def to_json(self) -> JsonObject:
        """Return the values of summary.json."""
        return {"classes": [summary.to_json() for summary in self.summaries]}

    def describe(self) -> str:
        """Return a line for each class."""
        return "\n".join(summary.describe() for summary in self.summaries)


def is_for_all(config: GanTrainConfig, data: Dataset) -> bool:
    """Return whether a GAN is wanted for every class; a class of that very name goes first."""
    return config.target_class == ALL and ALL not in data.classes


def settings_of_classes(config: GanTrainConfig, data: Dataset) -> dict[str, GanTrainConfig]:
    """Return the settings of the training of each class that lacks images in the training fold, by its name.

    Raises:
        BalancerError: no class lacks any.
        UsageError: torchrun has started several ranks, which train one GAN.
    """
    if launch := torchrun.several():
        raise UsageError(f"--class is {ALL!r} in {launch.ranks} ranks of torchrun; name one class")
    names = [name for name, lacking in zip(data.classes, data.deficits, strict=True) if lacking]
    if not names:
        raise BalancerError(
            f"--class is {ALL!r}, but no class of {data.source} lacks images in the training fold"
            f" ({', '.join(map(str, data.counts('train')))}); name one of {', '.join(data.classes)}"
        )
    return {name: config.model_copy(update={"target_class": name}) for name in names}


def estimate_seconds(config: GanTrainConfig, data: Dataset, device: torch.device) -> float:
    """Return the seconds that all trainings will take."""
    return sum(trainer.estimate_seconds(own, data, device) for own in settings_of_classes(config, data).values())


def train_every_class(config: GanTrainConfig, data: Dataset, run: RunDir, device: torch.device) -> GanSummaries:
    """Train the GANs one after the other; a class that an earlier command finished is read.

    Raises:
        Interrupted: a signal came; the state is saved.
        BalancerError: as :func:`balancer.gan.trainer.train`, with the name of the class.
    """
    summaries, wanted = [], settings_of_classes(config, data)
    for number, (name, own) in enumerate(wanted.items(), 1):
        folder = run / FOLDER / folder_name(name)
        log.info("class %d of %d: %s", number, len(wanted), name)
        with _of_class(name, run.path):
            summaries.append(_train_class(own, data, folder, device))
        run.tracker.trial(_tracked(summaries[-1], folder))
    return GanSummaries(summaries)


def _train_class(config: GanTrainConfig, data: Dataset, folder: Path, device: torch.device) -> GanSummary:
    """Train the GAN of one class in a run directory of its own, or continue it."""
    started = (folder / "env.json").exists()
    if started:
        resumed_config("gan-train", GanTrainConfig, folder, config.model_dump(mode="json"))  # refuses other settings
    folder.parent.mkdir(exist_ok=True)
    with open_run(
        "gan-train", config, RunRequest(folder, force=not started, resume=str(folder) if started else None)
    ) as part:
        if part.finished:
            return GanSummary.from_json(read_json(part / SUMMARY), part / SUMMARY)
        if not started:
            write_json(part / "env.json", environment("gan-train", describe_device(device), data=data.describe()))
            data.write_split(part / "split.csv")
        summary = trainer.train(config, data, part, device)
        write_json(part / SUMMARY, summary.to_json())
        part.finish()
    return summary


@contextmanager
def _of_class(name: str, run: Path) -> Iterator[None]:
    """Let whatever ends the training of a class name the class, and say how to continue the run of all classes."""
    try:
        yield
    except Interrupted as stop:
        saved = stop.message.partition(";")[0]
        raise Interrupted(stop.signum, f"{name}: {saved}; continue with --resume {run}") from stop
    except BalancerError as error:
        kind = UsageError if isinstance(error, UsageError) else BalancerError  # a damaged file's is made of its parts
        raise kind(f"{name}: {error}") from error


def _tracked(summary: GanSummary, folder: Path) -> TrackedTrial:
    """Return a class's training as trackers keep it, below the run of all classes."""
    figures = {key: float(value) for key, value in summary.to_json().items() if isinstance(value, int | float)}
    rows: Sequence[JsonObject] = read_jsonl(folder / "metrics.jsonl")
    files = [path for path in (folder / SUMMARY, folder / BEST) if path.exists()]
    return TrackedTrial(folder.name, {"class": summary.class_name}, rows, figures, files)
