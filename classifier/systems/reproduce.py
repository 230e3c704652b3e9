"""`classifier reproduce`: the published systems under one protocol, beside what each of them reported."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from balancer.core.config import data_path, flatten, merge, overruled, parse_assignment, resolve
from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import JsonObject, write_text
from balancer.core.run import RunDir
from balancer.core.saved_runs import resumed_config, resumed_path, saved_config
from balancer.core.sealed import write_json
from balancer.core.settings import AblateConfig, ReproduceConfig, StageConfig
from balancer.reporting.document import to_markdown
from classifier.experiments.estimates import BUDGET, estimate_seconds
from classifier.experiments.jobs import Workers
from classifier.experiments.study import configure as study_settings
from classifier.experiments.study import open_study
from classifier.experiments.substudies import Substudy, check_same_data, resume_note_of, run_substudy
from classifier.systems import smoke
from classifier.systems import tables as system_tables
from classifier.systems.registry import System, select_systems
from classifier.systems.tables import Entry, ResultEntry, document

log = logging.getLogger("balancer")
Explicit = dict[str, Any]
NOT_COMPARED = {"seed", "seeds", "regimes", "synthetic", "data.path"}
PERIODIC = ("step", "triangular")  # schedules whose period is lr_period


@dataclass(frozen=True)
class Reproduction:
    """What each system gave."""

    smoke: bool
    entries: list[Entry]
    table: Path

    def to_json(self) -> JsonObject:
        """Return the content of table.json."""
        return {"smoke": self.smoke, "entries": [entry.to_json() for entry in self.entries]}

    def describe(self) -> str:
        """Return the table for a terminal."""
        return self.markdown.strip()

    @property
    def markdown(self) -> str:
        """Return the content of table.md."""
        return to_markdown(system_tables.smoke_document(self.entries) if self.smoke else document(self.entries))


def command_name(smoke: bool) -> str:
    """Return the command that a run is saved under: a smoke run must not continue as a real run."""
    return "reproduce-smoke" if smoke else "reproduce"


def checked_systems(config: ReproduceConfig) -> list[System]:
    """Return the systems of the settings, after checking that every system can take the changes.

    Raises:
        UsageError: if a system is unknown, or does not have a setting.
    """
    systems = select_systems(config.systems)
    for system in systems:
        task = resolve(AblateConfig, explicit_settings(system, config)).data.task
        if task == "multiclass":
            raise UsageError(f"task is {task!r}; the published systems tell two classes apart, so leave data.task out")
    return systems


def reproduce(
    systems: list[System], config: ReproduceConfig, smoke_run: bool, run: RunDir, workers: Workers
) -> Reproduction:
    """Run the systems and write ``table.{md,csv,json}``. A system that fails does not stop the others.

    Raises:
        BalancerError: if a system failed; the table of the others is written.
        Interrupted: if a signal came; finished trials are kept.
    """
    with resume_note_of(run.path):
        entries = run_systems(systems, config, smoke_run, run, workers)
    result = Reproduction(smoke_run, entries, run / "table.md")
    write_json(run / "table.json", result.to_json())
    write_text(run / "table.csv", system_tables.csv_table(entries, smoke_run))
    write_text(result.table, result.markdown)
    if failed := [e for e in entries if e.error]:
        log.info("%s", result.markdown.strip())
        raise BalancerError(
            f"{len(failed)} of {len(systems)} systems failed, first {failed[0].system} ({failed[0].error}); the table "
            f"of the others is {result.table}; correct the cause and continue with --resume {run.path}"
        )
    return result


def configure(explicit: Explicit, resume: str | None = None, smoke_run: bool = False) -> ReproduceConfig:
    """Return the settings of a new run, with the path of the data, or the settings of the run to resume.

    Settings of a classifier become changes that are laid over those of every system.

    Raises:
        UsageError: if a smoke run gets settings, or a setting is unknown.
    """
    explicit = _own(explicit, smoke_run)
    if resume is not None:
        path = resumed_path(command_name(smoke_run), resume)
        saved = list(saved_config(command_name(smoke_run), path).get("changes", ()))
        new = [text for text in explicit.get("changes", ()) if text not in saved]
        return resumed_config(command_name(smoke_run), ReproduceConfig, path, {**explicit, "changes": [*saved, *new]})
    config = resolve(ReproduceConfig, explicit)
    if smoke_run or "path" in _changes(config).get("data", {}):
        return config
    return config.model_copy(update={"changes": (*config.changes, f"data.path={json.dumps(data_path(None))}")})


def _own(explicit: Explicit, smoke_run: bool) -> Explicit:
    """Return the user's settings as settings of this command."""
    own = {key: value for key, value in explicit.items() if key in ReproduceConfig.model_fields}
    others = flatten({key: value for key, value in explicit.items() if key not in own})
    if smoke_run:
        if dropped := sorted({*own, *others} - {"data.path", "systems"}):
            raise UsageError(
                f"--smoke brings its own data and sizes, so it takes no {', '.join(dropped)}; drop the setting or "
                "--smoke"
            )
        if "data.path" in others:  # often from the environment
            log.info("--smoke runs on a few drawings of its own, not on %s", others["data.path"])
        return own
    if others:
        own["changes"] = [*own.get("changes", ()), *(f"{key}={json.dumps(v)}" for key, v in sorted(others.items()))]
    return own


def _changes(config: ReproduceConfig) -> Explicit:
    return merge(*(parse_assignment(text) for text in config.changes))


def explicit_settings(system: System, config: ReproduceConfig) -> Explicit:
    """Return the settings of a system's file, with the changes of this run laid over them."""
    of_run: Explicit = {"seed": config.seed, "seeds": config.seeds}
    of_run |= {"regimes": list(config.regimes)} if config.regimes else {}
    of_run |= {"synthetic": list(config.synthetic)} if config.synthetic else {}
    explicit = merge(system.settings(), of_run, _changes(config))
    if config.share < 1:
        explicit |= shortened(resolve(AblateConfig, explicit), config.share)
    return explicit


def shortened(config: AblateConfig, share: float) -> Explicit:
    """Return settings for a share of every stage's epochs or steps (at least one step), and of its schedule's period.

    A setting around the stages that every stage overrules stays as it is; a change would be refused.
    """
    scaled: dict[str, Callable[[Any], Any]] = {
        "epochs": lambda epochs: epochs * share,
        "steps": lambda steps: max(1, round(steps * share)),
        "lr_period": lambda period: period * share,
    }
    stages = [stage.model_dump(exclude_none=True) for stage in config.stages]
    for stage in stages:
        stage.update({key: scaled[key](stage[key]) for key in scaled.keys() & stage.keys()})
    periodic = any(s.lr_period is None and (s.schedule or config.schedule) in PERIODIC for s in _stages(config))
    around = {"steps", *(["lr_period"] if periodic else [])} - overruled(config)
    return {"stages": stages, **{key: scaled[key](getattr(config, key)) for key in around}}


def configured(system: System, config: ReproduceConfig) -> AblateConfig:
    """Return the settings of a system's study, with the named or newest synthesis if it needs synthetic images."""
    return study_settings(AblateConfig, explicit_settings(system, config))


def run_systems(
    systems: list[System], config: ReproduceConfig, smoke_run: bool, run: RunDir, workers: Workers
) -> list[Entry]:
    """Return an entry per system and regime; a system that fails has one entry, with the error."""
    data = smoke.draw_data(run.path) if smoke_run else None
    entries: list[Entry] = []
    first: Substudy | None = None
    for number, system in enumerate(systems, 1):
        log.info("[%d/%d] %s: %s", number, len(systems), system.name, system.title)
        settings: Callable[[], AblateConfig] = partial(configured, system, config)
        if data is not None:
            settings = partial(smoke.configured, system, data, run / system.name)
        try:
            substudy = _run_system(settings, smoke_run, run / system.name, workers)
            first = first or substudy
            # The split may differ: a system has its own val_fraction.
            check_same_data([first, substudy], ["data_fingerprint"])
            entries += system_tables.smoke_entries(system, substudy) if smoke_run else _entries(system, substudy)
        except (BalancerError, RuntimeError, OSError) as error:  # of the device's memory, a library, the disk
            reason = _reason(error)
            log.warning("%s failed: %s", system.name, reason)
            log.debug("where it failed:", exc_info=True)
            entries.append(Entry(system.name, system.title, error=reason))
        gc.collect()  # before the next network is built: two large ones may not fit
    return entries


def _reason(error: Exception) -> str:
    """Return the first line of an error, with its type if the error was not written for the user."""
    line = (str(error).splitlines() or [""])[0]
    return line if isinstance(error, BalancerError) else f"{type(error).__name__}: {line}".removesuffix(": ")


def _run_system(settings: Callable[[], AblateConfig], smoke_run: bool, folder: Path, workers: Workers) -> Substudy:
    """Run the study of one system. Several regimes get the report of an ablation too."""
    if not smoke_run:
        return run_substudy(folder, settings, workers, with_report=True)
    with smoke.silent():
        substudy = run_substudy(folder / "study", settings, workers, with_report=False, smoke_notice=smoke.NOTICE)
    smoke.remove_weights(substudy.folder)
    return substudy


def _entries(system: System, substudy: Substudy) -> list[ResultEntry]:
    path = {"data": {"path": substudy.config.data.path}}
    published = resolve(AblateConfig, merge(system.settings(), path))
    return system_tables.result_entries(system, substudy, changed(published, substudy.config))


def changed(published: AblateConfig, used: AblateConfig) -> list[str]:
    """Return where a run's settings depart from the system's file: ``data.image_size 64 instead of 148``."""
    before, now = (flatten(c.model_dump(mode="json", exclude={"stages"})) for c in (published, used))
    keys = [key for key in now if key not in NOT_COMPARED and now[key] != before[key]]
    return [*(f"{key} {now[key]} instead of {before[key]}" for key in keys), *_changed_stages(published, used)]


def _changed_stages(published: AblateConfig, used: AblateConfig) -> list[str]:
    """Return changes of the stages' lengths, and of their other settings, stage by stage."""
    before, now = (" + ".join(_length(stage, c) for stage in _stages(c)) for c in (published, used))
    changes = [f"stages {now} instead of {before}"] if now != before else []
    pairs = zip_longest(_stages(used), _stages(published)[: len(_stages(used))], fillvalue=StageConfig())
    for number, (stage, old) in enumerate(pairs, 1):
        for key in StageConfig.model_fields:
            if key in ("epochs", "steps") or getattr(stage, key) == getattr(old, key):
                continue
            a, b = (_in_force(s, c, key) for s, c in ((stage, used), (old, published)))
            changes += [f"stage {number} {key} {a} instead of {b}"] if a != b else []
    return changes


def _stages(config: AblateConfig) -> tuple[StageConfig, ...]:
    return config.stages or (StageConfig(),)


def _in_force(stage: StageConfig, config: AblateConfig, key: str) -> Any:
    """Return a setting of a stage; a stage that leaves the setting out takes it from around the stages."""
    of_stage = getattr(stage, key)
    return getattr(config, key) if of_stage is None else of_stage


def _length(stage: StageConfig, config: AblateConfig) -> str:
    return f"{_in_force(stage, config, 'steps')} steps" if stage.epochs is None else f"{stage.epochs:g} epochs"


@dataclass(frozen=True)
class Estimate:
    """The settings that a system would be run with, and how long it would take; or the error."""

    config: AblateConfig | None = None
    seconds: float | None = None
    error: str | None = None

    def to_json(self) -> JsonObject:
        """Return settings, seconds and error."""
        config = self.config and self.config.model_dump(mode="json")
        return {"config": config, "estimated_seconds": self.seconds, "error": self.error}


@dataclass(frozen=True)
class Estimates:
    """The estimate of each system."""

    systems: dict[str, Estimate]  # by name
    device: str  # in words

    @property
    def seconds(self) -> float:
        """Return the time of all systems."""
        return float(sum(estimate.seconds or 0 for estimate in self.systems.values()))

    def to_json(self) -> JsonObject:
        """Return the estimates and their sum."""
        systems = {name: estimate.to_json() for name, estimate in self.systems.items()}
        return {"systems": systems, "estimated_seconds": self.seconds, "device": self.device}

    def describe(self) -> str:
        """Return a line per system and the total."""
        lines = [
            f"{name}: cannot be run: {e.error}"
            if e.seconds is None
            else f"{name}: estimated {e.seconds / 60:.1f} minutes"
            for name, e in self.systems.items()
        ]
        return "\n".join([*lines, f"estimated {self.seconds / 60:.1f} minutes in all on {self.device}"])


def estimate(systems: list[System], config: ReproduceConfig, workers: Workers) -> Estimates:
    """Return what would be run, and how long each system would take; write nothing."""
    estimates = {}
    for system in systems:
        try:
            settings = configured(system, config)
            study = open_study(settings, decode=False)
            seconds = estimate_seconds(study, workers.local_device, BUDGET / len(systems)) / workers.count()
            estimates[system.name] = Estimate(settings, round(seconds, 1))
        except BalancerError as error:
            estimates[system.name] = Estimate(error=str(error))
    return Estimates(estimates, workers.describe())
