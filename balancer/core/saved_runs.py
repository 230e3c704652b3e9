"""Runs that are there: their settings and environment, the newest of a command, and the run that ``--resume`` names."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from balancer.core.config import SettingsT, differences, merge, resolve, validate
from balancer.core.environment import Environment
from balancer.core.errors import BalancerError, UsageError
from balancer.core.marker import MARKER, check_stated
from balancer.core.run_names import LATEST, RUNS, find_run
from balancer.core.sealed import DamagedFile, read_json, read_yaml_text
from balancer.core.settings import Settings, settings_model
from balancer.core.shapes import parse
from balancer.core.torchrun import Launch
from balancer.core.yaml_reader import read_yaml

log = logging.getLogger("balancer")


def saved_config(command: str, path: Path) -> dict[str, Any]:
    """Return the settings of an existing run, as its config.yaml has them.

    Raises:
        DamagedFile: config.yaml or env.json is not what was written; the message names the key.
        BalancerError: the directory holds no run of this command.
    """
    file, elsewhere = path / "config.yaml", f"give another folder under {RUNS / command}"
    try:
        values = read_yaml(read_yaml_text(file, elsewhere))
        check_stated(file)
        saved_command = read_environment(path, elsewhere).command
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BalancerError(
            f"{path} holds no {command} run (no readable config.yaml and env.json);"
            f" give a folder under {RUNS / command}"
        ) from error
    except ValueError as error:
        raise DamagedFile(file, f"it is no YAML: {error}", elsewhere) from error
    if not isinstance(values, dict):
        raise DamagedFile(file, "it is no mapping", elsewhere)
    if saved_command != command:
        raise BalancerError(
            f"{path} holds {_article(saved_command)} run; expected {_article(command)} run{inner_runs(path, command)}"
        )
    try:
        validate(settings_model(command), values)
    except UsageError as error:
        raise DamagedFile(file, str(error), elsewhere) from error
    return dict(values)


def _article(command: str) -> str:
    return f"{'an' if command[0] in 'aeiou' else 'a'} {command}"


def inner_runs(run: Path, *commands: str) -> str:
    """Return, for a message, the runs of some commands that are steps of a run, such as of a study; nothing if none is.

    ``; give one that it holds: study/size-50/ablation, study/size-all/ablation``
    """
    if not (run / "env.json").exists():
        return ""
    inner = []
    for file in sorted(file for depth in ("*", "*/*", "*/*/*") for file in run.glob(f"{depth}/env.json")):
        with contextlib.suppress(OSError, DamagedFile):
            if read_environment(file.parent).command in commands:
                inner.append(str(file.parent))
    more = f" and {len(inner) - 3} more" if len(inner) > 3 else ""
    return f"; give one that it holds: {', '.join(inner[:3])}{more}" if inner else ""


def read_environment(run: Path, remedy: str = "") -> Environment:
    """Return what env.json of a run says.

    Raises:
        OSError: there is no such file.
        DamagedFile: it is not what was written; the message names the key.
    """
    file = run / "env.json"
    content = parse(Environment, read_json(file, remedy), file, remedy)
    check_stated(file)
    return content


def threads_before(command: str, resume: str | None) -> int | None:
    """Return how many threads computed the run to resume; None for a new run, or if its env.json does not say."""
    run = latest_run(command, finished=False) if resume == "latest" else resume and find_run(Path(resume), command)
    if not run:
        return None
    try:
        return read_environment(run).threads_used
    except (OSError, DamagedFile):  # whoever reads the run next says so
        return None


def latest_run(command: str, finished: bool = True) -> Path | None:
    """Return the newest run of a command under ``runs/``, finished or unfinished."""
    marker = MARKER if finished else "config.yaml"
    runs = [p.parent for p in (RUNS / command).glob(f"*/{marker}") if p.parent.name != LATEST]
    if not finished:  # without env.json, the run was killed in its first moment: there is nothing to resume
        runs = [p for p in runs if (p / "env.json").exists() and not (p / MARKER).exists()]
    return max(runs, key=lambda p: (p / marker).stat().st_mtime_ns, default=None)


def begun_by(launch: Launch, command: str, config: Settings, folder: Path | None) -> Path | None:
    """Return the newest run that a torchrun has begun, for it to go on with; None if there is none.

    A torchrun with the same ``--rdzv-id`` counts as the same: a scheduler that starts a job again gives the same one.

    Args:
        launch: what torchrun says of this process; ``restarts`` are those of all machines.
        command: as in ``gan-train``.
        config: the settings, which must be those of the run.
        folder: the run that it must be, where the user named one.

    Raises:
        BalancerError: the run was started with other settings.
    """
    if not launch.is_named and not launch.restarts:  # a process of before may have had this one's number
        return None
    begun = []
    for run in [folder] if folder else [p.parent for p in (RUNS / command).glob("*/env.json")]:
        with contextlib.suppress(OSError, DamagedFile):  # none, or damaged: not one to go on with
            environment = read_environment(run)
            if (environment.command, environment.job) == (command, launch.identity) and run.name != LATEST:
                begun.append(run)
    newest = max(begun, key=lambda run: (run / "config.yaml").stat().st_mtime_ns, default=None)
    if newest is None or ((newest / MARKER).exists() and not launch.restarts):  # finished by an earlier torchrun
        return None
    try:
        resumed_config(command, type(config), newest, config.model_dump(mode="json"))
    except DamagedFile:
        raise
    except BalancerError as error:
        raise BalancerError(f"{error}, by another --rdzv-id than {launch.identity}") from error
    log.info("continuing %s, which torchrun %s has begun", newest, launch.identity)
    return newest


def newest_run(*commands: str) -> Path:
    """Return the newest finished run of several commands, and say which run that is.

    Raises:
        BalancerError: there is none.
    """
    newest = newest_of(*commands)
    if newest is None:
        raise BalancerError(
            f"no run is named, and {RUNS} holds no finished run of {' or '.join(commands)}; name a run, or start one"
        )
    log.info("taking the newest run, %s", newest)
    return newest


def newest_of(*commands: str) -> Path | None:
    """Return the newest finished run of several commands; None if there is none."""
    runs = [run for command in commands if (run := latest_run(command)) is not None]
    return max(runs, key=lambda run: (run / MARKER).stat().st_mtime_ns, default=None)


def data_settings(run: Path) -> dict[str, Any]:
    """Return the settings of the data of a run, of whichever command.

    Raises:
        DamagedFile: as :func:`saved_config`.
        BalancerError: the folder holds no run, or a run that reads no data set.
    """
    try:
        command = read_environment(run).command
    except OSError as error:
        raise BalancerError(f"{run} holds no run (no readable env.json); give a folder under {RUNS}") from error
    data = saved_config(command, run).get("data")
    if not isinstance(data, dict):
        raise BalancerError(f"{run} holds a {command} run, which reads no data set; give another run")
    return data


def resumed_path(command: str, resume: str) -> Path:
    """Return the directory that ``--resume`` names by path or name; ``latest`` is the newest unfinished run."""
    if resume != "latest":
        return find_run(Path(resume), command)
    path = latest_run(command, finished=False)
    if path is None:
        raise BalancerError(
            f"--resume latest: no unfinished {command} run under {RUNS / command}; start one without it"
        )
    return path


def resumed_config(command: str, model: type[SettingsT], path: Path, explicit: Mapping[str, Any]) -> SettingsT:
    """Return the saved settings of a run; refuse settings that the user now gives otherwise.

    Only what was said explicitly is compared, so ``--resume latest`` alone continues any run.
    """
    saved = saved_config(command, path)
    # Validated before they are compared: YAML reads 1e-4 as a string, and it is the number that counts.
    before, requested = validate(model, saved), validate(model, merge(saved, explicit))
    changed = differences(before.model_dump(mode="json"), requested.model_dump(mode="json"))
    if changed:
        raise BalancerError(
            f"{path} was started with other settings: {'; '.join(changed)}; drop them or start a new run"
        )
    return before


def resumed_or_new(
    model: type[SettingsT],
    command: str,
    resume: str | None,
    explicit: Mapping[str, Any],
    new: Callable[[Mapping[str, Any]], SettingsT] | None = None,
) -> SettingsT:
    """Return the saved settings of the run to resume, else those of a new run.

    Args:
        model: the settings model of the command.
        command: as in ``gan-train``.
        resume: a directory or ``latest``; None for a new run.
        explicit: what the user set.
        new: makes the settings of a new run from ``explicit``; None for :func:`balancer.core.config.resolve`.
    """
    if resume is not None:
        return resumed_config(command, model, resumed_path(command, resume), explicit)
    return resolve(model, explicit) if new is None else new(explicit)
