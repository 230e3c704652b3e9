"""What every command of this toolkit shares: settings from flags, a run or a dry run, JSON output."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import click

from balancer.core import program, torchrun
from balancer.core.config import (
    SettingsT,
    absolute_paths,
    dump,
    merge,
    nested,
    parse_assignments,
    read_config_file,
    reads_data,
)
from balancer.core.errors import Interrupted, UsageError
from balancer.core.exported import FORMATS
from balancer.core.files import JsonObject
from balancer.core.options import DATA, MAIN, SETTING, SETTINGS, Option, Options, SettingOption
from balancer.core.preview import duration
from balancer.core.program import printing, reporting
from balancer.core.run import AlreadyFinished, PreparedRun, ResultT, RunRequest, check_folder, perform
from balancer.core.run_names import named_folder
from balancer.core.saved_runs import resumed_or_new, threads_before
from balancer.core.settings import COMMANDS, AblateConfig, Settings
from balancer.core.threads import WAIT_POLICY, allowed_processors, choose_threads, thread_environment
from balancer.core.tracking import NOT_TRACKED, Tracking
from balancer.core.variables import check_variables, flag_variable, names_of

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Described(Protocol):
    """A result that can be shown: as JSON, and as text."""

    def to_json(self) -> JsonObject:
        """Return the result as values that JSON has."""

    def describe(self) -> str:
        """Return the result as text for a terminal."""


@dataclass(frozen=True)
class CommandResult:
    """What a command has to say: ``data`` under ``--json``, else ``text``."""

    data: JsonObject
    text: str
    exit_code: int = 0  # 1 if the answer is that something must be mended first

    @classmethod
    def of(cls, result: Described, **first: str) -> CommandResult:
        """Return what a command says of a result, with further keys placed before those of the result."""
        return cls({**first, **result.to_json()}, result.describe())


@dataclass(frozen=True)
class CommandArgs:
    """What the user asked for, before defaults are filled in."""

    command: str  # as typed: gan-train
    explicit: dict[str, Any]  # config file < environment < flags
    device: str
    threads: int
    out: Path | None
    resume: str | None
    force: bool
    dry_run: bool
    options: dict[str, Any] = field(default_factory=dict)  # of this command alone, and no settings of the run
    tracking: Tracking = NOT_TRACKED

    def settings(
        self, model: type[SettingsT], new: Callable[[Mapping[str, Any]], SettingsT] | None = None
    ) -> SettingsT:
        """Return the settings of the run; see :func:`balancer.core.saved_runs.resumed_or_new`."""
        return resumed_or_new(model, self.command, self.resume, self.explicit, new)


DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
THREADS = click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads that compute, of each trial. [default: OMP_NUM_THREADS, or 1]",
)
COMPUTING = Options("Computing", (DEVICE, THREADS))
DRY_RUN = click.option(
    "--dry-run", "dry", is_flag=True, help="Say what would be read and written, and the estimated cost, and stop."
)
EXPORT = (
    click.option("--to", type=click.Choice(FORMATS), required=True, help="Format of the file. [default: none]"),
    click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="File. [default: beside the model]"),
    click.option("--force", is_flag=True, help="Replace a file that is there."),
    DRY_RUN,
)
RUN = Options(
    "Run",
    (
        click.option("--name", metavar="NAME", help="Name of the run: its directory is runs/<command>/NAME."),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Run directory. [default: runs/<command>/<stamp>-<hash>]",
        ),
        click.option(
            "--resume", metavar="DIR|NAME|latest", help="Continue an interrupted run. [default: start a new one]"
        ),
        click.option("--force", is_flag=True, help="Replace the run that --out or --name holds."),
        click.option(
            "--dry-run", is_flag=True, help="Check the data, print the settings and the estimated cost, and stop."
        ),
    ),
)
OUTPUT = Options(
    program.OUTPUT,
    (
        click.option("--json", "as_json", is_flag=True, help="Only JSON on stdout; logs on stderr."),
        click.option("-q", "--quiet", is_flag=True, help="Warnings and errors only."),
        click.option("-v", "--verbose", is_flag=True, help="More detail."),
    ),
)


def run_command(
    group: click.Group, name: str, *own: Option | Options, example: str = "", closing: str = ""
) -> Callable[[Callable[[CommandArgs], CommandResult]], Any]:
    """Register a command that makes a run: its own settings and options, then the shared ones.

    Args:
        group: the program.
        name: as typed.
        own: options of this command.
        example: a command line for ``--help``.
        closing: the last line of a finished run, such as ``next: balancer synthesize --gan-run {run}``; names in
            braces are keys of the result.
    """
    section = name.replace("-", "_")
    data = (_without(DATA, own),) if reads_data(section) or section == "reproduce" else ()

    def register(body: Callable[[CommandArgs], CommandResult]) -> click.Command:
        @functools.wraps(body)
        def callback(as_json: bool, quiet: bool, verbose: bool, **typed: Any) -> None:
            with reporting(as_json, quiet, verbose):
                check_variables((group, *getattr(group, "beside", ())))
                args = _arguments(name, section, typed)
                with thread_environment(args.threads), _resumable(args):
                    emit(body(args), as_json, "" if args.dry_run else closing)

        def model(option: SettingOption) -> type[Settings]:
            """`reproduce` passes settings of the data on to every system."""
            return AblateConfig if option.key.startswith("data.") else COMMANDS[section]

        return _registered(group, name, callback, (*own, *data, SETTINGS, COMPUTING, RUN, OUTPUT), example, model)

    return register


@contextlib.contextmanager
def _resumable(args: CommandArgs) -> Iterator[None]:
    """Let a signal that comes before the run to resume is open say how to continue, as one that comes later does."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as stop:
        if args.resume is None or args.dry_run or "--resume" in str(stop):
            raise
        signum = stop.signum if isinstance(stop, Interrupted) else signal.SIGINT
        raise Interrupted(signum, f"stopped; continue with --resume {args.resume}") from stop


def _without(options: Options, own: Sequence[Option | Options]) -> Options:
    """Return shared options without those that a command has itself, such as ``--strict`` of the audit."""
    flags = {option.flag for option in own if isinstance(option, SettingOption)}
    kept = (o for o in options.options if not (isinstance(o, SettingOption) and o.flag in flags))
    return Options(options.heading, tuple(kept))


def _arguments(name: str, section: str, typed: dict[str, Any]) -> CommandArgs:
    """Return what the user typed, checked as far as that needs no data."""
    shared = ("config_file", "assignments", "device", "threads", "name", "out", "resume", "force", "dry_run")
    file, assignments, device, threads, run_name, out, resume, force, dry = (typed.pop(key) for key in shared)
    if resume is not None and (force or out is not None or run_name is not None):
        raise UsageError("--resume names its own directory; drop --out, --name and --force")
    if run_name is not None and out is not None:
        raise UsageError("--name and --out both name the run directory; give one of them")
    if run_name is not None:
        out = named_folder(name, run_name)
    source = click.get_current_context().get_parameter_source("assignments")
    flags_win = source is click.core.ParameterSource.ENVIRONMENT
    flags = {key: value for key, value in typed.items() if key.startswith(SETTING)}
    explicit = _explicit(section, file, flags, assignments, flags_win)
    tracking = Tracking(typed.pop("track", ()), typed.pop("tracking_uri", None))
    options = {key: value for key, value in typed.items() if key not in flags}
    count = choose_threads(threads, threads_before(name, resume))
    return CommandArgs(name, explicit, device, count, out, resume, force, dry, options, tracking)


def plain_command(
    group: click.Group, name: str, *own: Callable[[Any], Any] | Options, example: str = "", closing: str = ""
) -> Callable[[Callable[..., CommandResult]], Any]:
    """Register a command that makes no run directory: only the output options are shared.

    The arguments are those of :func:`run_command`.
    """

    def register(body: Callable[..., CommandResult]) -> click.Command:
        @functools.wraps(body)
        def callback(as_json: bool, quiet: bool, verbose: bool, **values: Any) -> None:
            with reporting(as_json, quiet, verbose), _computing(values):
                check_variables((group, *getattr(group, "beside", ())))
                emit(body(**values), as_json, "" if values.get("dry") else closing)

        return _registered(group, name, callback, (*own, OUTPUT), example)

    return register


@contextlib.contextmanager
def _computing(values: dict[str, Any]) -> Iterator[None]:
    """Settle the number of threads, where the command has that option, and the environment that goes with it."""
    if "threads" not in values:
        yield
        return
    values["threads"] = choose_threads(values["threads"])
    with thread_environment(values["threads"]):
        yield


def data_command(
    group: click.Group, name: str, like: str, *own: Option | Options, example: str = "", closing: str = ""
) -> Callable[[Callable[..., CommandResult]], Any]:
    """Register a command that makes no run directory and takes the settings of the data.

    Args:
        group: the program.
        name: as typed.
        like: the command whose section of a config file holds too.
        own: arguments of this command; its body gets them after what the user set.
        example: a command line for ``--help``.
        closing: the last line.
    """

    def register(body: Callable[..., CommandResult]) -> click.Command:
        @functools.wraps(body)
        def callback(as_json: bool, quiet: bool, verbose: bool, **values: Any) -> None:
            with reporting(as_json, quiet, verbose), _computing(values):
                check_variables((group, *getattr(group, "beside", ())))
                flags = {key: values.pop(key) for key in [*values] if key.startswith(SETTING)}
                file, assignments = values.pop("config_file"), values.pop("assignments")
                result = body(_explicit(like, file, flags, assignments, False), **values)
                emit(result, as_json, "" if values.get("dry") else closing)
            click.get_current_context().exit(result.exit_code)

        data = Options(DATA.heading, DATA.options[1:])  # without --data, which is the argument
        settings = Options(SETTINGS.heading, SETTINGS.options[1:])  # without --seed
        return _registered(group, name, callback, (*own, data, settings, OUTPUT), example, lambda _: COMMANDS[like])

    return register


def _registered(
    group: click.Group,
    name: str,
    callback: Any,
    sections: Sequence[Option | Options],
    example: str,
    model: Callable[[SettingOption], type[Settings]] | None = None,
) -> click.Command:
    """Return the command of a callback, with its options in the order and under the headings of ``sections``."""
    placed = [
        (section.heading, option) if isinstance(section, Options) else (MAIN, section)
        for section in sections
        for option in (section.options if isinstance(section, Options) else (section,))
    ]
    headings: dict[str, str] = {}
    for heading, option in reversed(placed):
        if isinstance(option, SettingOption):
            assert model is not None, "settings are for commands that make a run"
            option = option.option(model(option))
        callback = option(callback)
        headings[_with_variable(callback.__click_params__[-1], group, name)] = heading
    texts = program.Help(headings, example)
    return group.command(name, cls=program.Command, context_settings=HELP, help_texts=texts)(callback)


def _with_variable(parameter: click.Parameter, group: click.Group, command: str) -> str:
    """Let an option be read from the variable of its flag too, before all others; return the parameter's name.

    click itself makes variables of parameters' names, which users do not know.
    """
    prefix = group.context_settings.get("auto_envvar_prefix")
    if isinstance(parameter, click.Option) and prefix:
        flag = next(flag for flag in reversed(parameter.opts) if flag.startswith("--"))
        parameter.envvar = [flag_variable(flag_variable(prefix, command), flag), *names_of(parameter.envvar)]
    return str(parameter.name)


def _explicit(
    section: str, file: Path | None, flags: dict[str, Any], assignments: tuple[str, ...], flags_win: bool
) -> dict[str, Any]:
    """Config file, then flags, then ``--set``; assignments from the environment come before the flags."""
    layers = [read_config_file(file, section)] if file else []
    assigned = parse_assignments(assignments)
    layers += assigned if flags_win else []
    for key, value in flags.items():
        if value is not None and value != ():
            layers.append(nested(key.removeprefix(SETTING).replace("__", "."), value))
    return absolute_paths(merge(*layers, *([] if flags_win else assigned)))


def execute(
    args: CommandArgs, prepared: PreparedRun[ResultT], show: Callable[[Path, ResultT], CommandResult]
) -> CommandResult:
    """Perform a run, or under ``--dry-run`` say what it would do.

    Args:
        args: what the user typed.
        prepared: the run, with its inputs open.
        show: makes what the command says of the run's folder and result.
    """
    request = RunRequest(args.out, args.resume, args.force, args.tracking)
    try:
        if args.dry_run:
            check_folder(prepared, request)
            return dry_run(prepared, args.threads, request)
        finished = perform(prepared, request)
    except AlreadyFinished as done:
        return CommandResult({"run": str(done.run), "finished": True}, str(done))
    return show(finished.path, finished.result)


def show_run(run: Path, result: Described) -> CommandResult:
    """Return what a command says of a run whose result describes itself."""
    return CommandResult.of(result, run=str(run))


def dry_run(prepared: PreparedRun[Any], threads: int, request: RunRequest) -> CommandResult:
    """Return the settings, the data, the threads and the estimated time of a run. Write nothing."""
    config, data, device = prepared.config, prepared.data or {}, prepared.device
    undecoded = prepared.undecoded
    seconds = prepared.estimate_seconds() + (undecoded.seconds if undecoded else 0)
    split = f", split {data['split_hash']}" if "split_hash" in data else ""
    checked = f"# data checked: {data['counts']}{split}"
    waiting = os.environ.get(WAIT_POLICY, "as the environment says").lower()
    computing = f"# threads: {threads} of {allowed_processors()} processors; waiting: {waiting}"
    left = [f"# not checked: {undecoded.describe()}"] if undecoded else []
    resumed = ", from the start; a run that is resumed does only what is left" if request.resume else ""
    cost = f"# estimated {duration(seconds)} on {device}{resumed}"
    values = {"config": config.model_dump(mode="json"), "data": data, "estimated_seconds": round(seconds, 1)}
    values |= {"device": device, "threads": threads, "waiting": waiting}
    values |= {"undecoded": undecoded.images if undecoded else 0}
    return CommandResult(values, "\n".join([dump(config).rstrip(), checked, *left, computing, cost]))


def emit(outcome: CommandResult, as_json: bool, closing: str = "") -> None:
    """Print the outcome on stdout, as JSON or as text with a closing line."""
    if torchrun.is_silent():
        return
    text = "\n".join([outcome.text, closing.format_map(outcome.data)] if closing else [outcome.text])
    with printing():
        click.echo(json.dumps(outcome.data, indent=2, allow_nan=False) if as_json else text)
