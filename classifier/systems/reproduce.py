"""`classifier reproduce`: the published systems under one protocol, side by side with what each of them reported."""

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
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.files import write_json, write_text
from balancer.core.run import RunDir, resumed_config, resumed_path, saved_config
from balancer.core.settings import AblateConfig, ReproduceConfig, StageConfig
from classifier.experiments.jobs import Workers
from classifier.experiments.study import configure as study_settings
from classifier.experiments.study import open_study, refuse_multiclass
from classifier.experiments.substudies import Substudy, check_same_data, resume_note_of, run_substudy
from classifier.experiments.trial import estimate_seconds
from classifier.systems import smoke
from classifier.systems import tables as system_tables
from classifier.systems.registry import System, select_systems

log = logging.getLogger("balancer")
Explicit = dict[str, Any]
NOT_COMPARED = {"seed", "seeds", "regimes", "synthetic", "data.path"}
PERIODIC = ("step", "triangular")  # schedules that lr_period is the length of


@dataclass(frozen=True)
class Reproduction:
    """What each system gave."""

    smoke: bool
    entries: list[dict[str, Any]]
    table: Path
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the entries."""
        return {"smoke": self.smoke, "entries": self.entries}

    def describe(self) -> str:
        """Return the table for a terminal."""
        return f"{self.text}\n{self.table}"


def command_name(smoke: bool) -> str:
    """Return the command that a run is saved under: a smoke run is no run to continue as a real one."""
    return "reproduce-smoke" if smoke else "reproduce"


def checked_systems(config: ReproduceConfig) -> list[System]:
    """Return the systems of the settings, after checking that every system can take the changes.

    Raises:
        UsageError: an unknown system, or a setting that a system does not have.
    """
    systems = select_systems(config.systems)
    for system in systems:
        refuse_multiclass(resolve(AblateConfig, explicit_settings(system, config)), "classifier reproduce")
    return systems


def reproduce(
    systems: list[System], config: ReproduceConfig, smoke_run: bool, run: RunDir, workers: Workers
) -> Reproduction:
    """Run the systems and write ``table.{md,csv,json}``; a system that fails leaves the others alone.

    Raises:
        BalancerError: a system failed; the table of the others is written.
        Interrupted: a signal came; finished trials are kept.
    """
    with resume_note_of(run.path):
        entries = run_systems(systems, config, smoke_run, run, workers)
    text = write_outputs(entries, smoke_run, run)
    if failed := [e for e in entries if e["error"]]:
        log.info("%s", text)
        raise BalancerError(
            f"{len(failed)} of {len(systems)} systems failed, first {failed[0]['system']} ({failed[0]['error']}); the table of the "
            f"others is {run / 'table.md'}; mend it and continue with --resume {run.path}"
        )
    return Reproduction(smoke_run, entries, run / "table.md", text)


def configure(explicit: Explicit, resume: str | None = None, smoke_run: bool = False) -> ReproduceConfig:
    """Return the settings of a new run, with the path of the data, or the settings of the run to resume.

    Settings of a classifier become changes that are laid over those of every system.

    Raises:
        UsageError: a smoke run is given settings, or an unknown setting.
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
                f"--smoke brings its own data and sizes, but {', '.join(dropped)} was given; drop that or --smoke"
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
    """The settings of a system's file with what this run changes laid over them."""
    given: Explicit = {"seed": config.seed, "seeds": config.seeds}
    given |= {"regimes": list(config.regimes)} if config.regimes else {}
    given |= {"synthetic": list(config.synthetic)} if config.synthetic else {}
    explicit = merge(system.settings(), given, _changes(config))
    if config.share < 1:
        explicit |= shortened(resolve(AblateConfig, explicit), config.share)
    return explicit


def shortened(config: AblateConfig, share: float) -> Explicit:
    """Settings for a share of every stage's passes or steps, at least a step of each, and of the periods of its schedule.

    What no stage takes from the settings around the stages is left alone there: it would be refused.
    """
    scaled: dict[str, Callable[[Any], Any]] = {
        "epochs": lambda whole: whole * share,
        "steps": lambda whole: max(1, round(whole * share)),
        "lr_period": lambda whole: whole * share,
    }
    stages = [stage.model_dump(exclude_none=True) for stage in config.stages]
    for stage in stages:
        stage.update({key: scaled[key](stage[key]) for key in scaled.keys() & stage.keys()})
    periodic = any(s.lr_period is None and (s.schedule or config.schedule) in PERIODIC for s in _stages(config))
    around = {"steps", *(["lr_period"] if periodic else [])} - overruled(config)
    return {"stages": stages, **{key: scaled[key](getattr(config, key)) for key in around}}


def configured(system: System, config: ReproduceConfig) -> AblateConfig:
    """The settings of a system's study; where it needs synthetic images, with those that are named or newest."""
    return study_settings(AblateConfig, explicit_settings(system, config))


def run_systems(
    systems: list[System], config: ReproduceConfig, smoke_run: bool, run: RunDir, workers: Workers
) -> list[dict[str, Any]]:
    """One entry per system and regime; a system that fails has one entry that says why."""
    data = smoke.draw_data(run.path) if smoke_run else None
    entries: list[dict[str, Any]] = []
    first: Substudy | None = None
    for number, system in enumerate(systems, 1):
        log.info("[%d/%d] %s: %s", number, len(systems), system.name, system.title)
        settings: Callable[[], AblateConfig] = partial(configured, system, config)
        if data is not None:
            settings = partial(smoke.configured, system, data, run / system.name)
        try:
            part = _run_system(settings, smoke_run, run / system.name, workers)
            first = first or part
            check_same_data(
                [first, part], ["data_fingerprint"]
            )  # the split may differ: a system has its own val_fraction
            entries += system_tables.smoke_entries(system, part) if smoke_run else _entries(system, part)
        except Interrupted:
            raise
        except (BalancerError, RuntimeError, OSError) as error:  # of the device's memory, a library, the disk
            reason = _reason(error)
            log.warning("%s failed: %s", system.name, reason)
            log.debug("where it failed:", exc_info=True)
            entries.append(system_tables.failure(system, reason))
        gc.collect()  # before the next network is built: two of the large ones need not fit
    return entries


def _reason(error: Exception) -> str:
    """The first line of an error; with its kind where it was not written for the user."""
    said = (str(error).splitlines() or [""])[0]
    return said if isinstance(error, BalancerError) else f"{type(error).__name__}: {said}".removesuffix(": ")


def _run_system(settings: Callable[[], AblateConfig], smoke_run: bool, folder: Path, workers: Workers) -> Substudy:
    """The study of one system. Several regimes are a question of their own: they get an ablation's report too."""
    if not smoke_run:
        return run_substudy(folder, settings, workers, with_report=True)
    with smoke.silent():
        part = run_substudy(folder / "study", settings, workers, with_report=False, smoke_notice=smoke.NOTICE)
    smoke.forget_weights(part.folder)
    return part


def _entries(system: System, part: Substudy) -> list[dict[str, Any]]:
    """One entry per regime of a finished study, with what departs from the system's file."""
    path = {"data": {"path": part.config.data.path}}
    pure = resolve(AblateConfig, merge(system.settings(), path))
    return system_tables.entries(system, part, changed(pure, part.config))


def changed(pure: AblateConfig, used: AblateConfig) -> list[str]:
    """Where a run's settings are not those of the system's file: ``data.image_size 64 instead of 148``."""
    before, now = (flatten(c.model_dump(mode="json", exclude={"stages"})) for c in (pure, used))
    keys = [key for key in now if key not in NOT_COMPARED and now[key] != before[key]]
    return [*(f"{key} {now[key]} instead of {before[key]}" for key in keys), *_changed_stages(pure, used)]


def _changed_stages(pure: AblateConfig, used: AblateConfig) -> list[str]:
    """Of stages, how long they are, and in each what else differs; what a stage leaves out is as around it."""
    before, now = (" + ".join(_length(stage, c) for stage in _stages(c)) for c in (pure, used))
    found = [f"stages {now} instead of {before}"] if now != before else []
    pairs = zip_longest(_stages(used), _stages(pure)[: len(_stages(used))], fillvalue=StageConfig())
    for number, (stage, old) in enumerate(pairs, 1):
        for key in StageConfig.model_fields:
            if key in ("epochs", "steps") or getattr(stage, key) == getattr(old, key):
                continue
            a, b = (_in_force(s, c, key) for s, c in ((stage, used), (old, pure)))
            found += [f"stage {number} {key} {a} instead of {b}"] if a != b else []
    return found


def _stages(config: AblateConfig) -> tuple[StageConfig, ...]:
    return config.stages or (StageConfig(),)


def _in_force(stage: StageConfig, config: AblateConfig, key: str) -> Any:
    own = getattr(stage, key)
    return getattr(config, key) if own is None else own


def _length(stage: StageConfig, config: AblateConfig) -> str:
    return f"{_in_force(stage, config, 'steps')} steps" if stage.epochs is None else f"{stage.epochs:g} epochs"


def write_outputs(entries: list[dict[str, Any]], smoke_run: bool, run: RunDir) -> str:
    """``table.md``, ``table.csv`` and ``table.json``; returns the table for a terminal."""
    markdown = system_tables.smoke_markdown(entries) if smoke_run else system_tables.markdown(entries)
    write_json(run / "table.json", {"smoke": smoke_run, "entries": entries})
    write_text(run / "table.csv", system_tables.csv_table(entries, smoke_run))
    write_text(run / "table.md", markdown)
    return markdown.strip()


@dataclass(frozen=True)
class Estimates:
    """What each system would be run with, and how long it would take."""

    systems: dict[str, dict[str, Any]]  # settings, seconds and error, by the name of the system
    device: str  # in words

    @property
    def seconds(self) -> float:
        """Return the time of all systems."""
        return float(sum(system["estimated_seconds"] or 0 for system in self.systems.values()))

    def to_json(self) -> dict[str, Any]:
        """Return the estimates."""
        return {"systems": self.systems, "estimated_seconds": self.seconds, "device": self.device}

    def describe(self) -> str:
        """Return a line per system and the total."""
        lines = [
            f"{name}: estimated {system['estimated_seconds'] / 60:.1f} minutes"
            if system["error"] is None
            else f"{name}: cannot be run: {system['error']}"
            for name, system in self.systems.items()
        ]
        return "\n".join([*lines, f"estimated {self.seconds / 60:.1f} minutes in all on {self.device}"])


def estimate(systems: list[System], config: ReproduceConfig, workers: Workers) -> Estimates:
    """Return what would be run, and how long each system would take; write nothing."""
    estimates: dict[str, dict[str, Any]] = {}
    for system in systems:
        try:
            settings = configured(system, config)
            seconds = estimate_seconds(open_study(settings), workers.local_device) / workers.count()
            estimates[system.name] = {
                "config": settings.model_dump(mode="json"),
                "estimated_seconds": round(seconds, 1),
                "error": None,
            }
        except BalancerError as error:
            estimates[system.name] = {"config": None, "estimated_seconds": None, "error": str(error)}
    return Estimates(estimates, workers.describe())
