"""Run directories: what a command leaves behind, written so that a kill at any moment leaves no half-written file.

    config.yaml  env.json  metrics.jsonl  log.txt  (the outputs)  done

``done`` is written last: a directory without it is an interrupted run (:mod:`balancer.core.marker`).
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import filelock

from balancer.core import torchrun
from balancer.core.config import config_hash, dump, flatten
from balancer.core.environment import TIME, environment
from balancer.core.errors import BalancerError, Interrupted
from balancer.core.files import JsonObject, refuse_unwritable, remove, sweep
from balancer.core.jsonl import append_jsonl
from balancer.core.marker import MARKER, check_stated, stated_files, write_marker
from balancer.core.preview import Undecoded
from balancer.core.run_names import RUNS, point_latest
from balancer.core.saved_page import Page, find_page, read_page
from balancer.core.saved_runs import begun_by, read_environment, resumed_path, saved_config
from balancer.core.sealed import YAML_SEAL, content_of, write_json, write_yaml
from balancer.core.settings import Settings
from balancer.core.system_errors import explain, explained, naming
from balancer.core.tracking import FILE as TRACKING_FILE
from balancer.core.tracking import NOT_TRACKED, Tracker, Tracking, tracked

log = logging.getLogger("balancer")
# What a run holds before its work has come to anything.
START_FILES = {"config.yaml", "env.json", "log.txt", "split.csv", "split.csv.sha256", TRACKING_FILE}
IN_USE = "{} is in use by another process; wait for it or choose another --out"
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class RunRequest:
    """What the user said about the run directory."""

    out: Path | None = None
    resume: str | None = None  # a directory or "latest"
    force: bool = False
    tracking: Tracking = NOT_TRACKED
    part_of: Path | None = None  # the run that this one is a step of, which the user resumes in its place


class _LogFile(logging.FileHandler):
    """Raises what it meets: logging itself would print a traceback for every line that a full disk refuses."""

    def handleError(self, record: logging.LogRecord) -> None:
        with naming(self.baseFilename):
            raise


def lock_file(run: Path) -> Path:
    """Return the lock of a run directory, which lies beside the directory."""
    absolute = run.resolve()  # "." has no name of its own
    return absolute.parent / f".{absolute.name}.lock"


def _remove_lock(path: Path) -> None:
    """Remove the lock that a killed step of this run left; one that another process holds stays."""
    lock = filelock.FileLock(str(path))
    with contextlib.suppress(filelock.Timeout), lock.acquire(timeout=0):
        path.unlink(missing_ok=True)


class RunDir:
    """A run directory, locked for as long as the command runs."""

    def __init__(self, path: Path, resumed: bool) -> None:
        self.path, self.resumed = path, resumed
        self.tracker = Tracker()  # of nothing, until the run is performed
        self._lock = filelock.FileLock(str(lock_file(path)))
        try:
            with naming(path, instead_of=self._lock.lock_file):
                self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise BalancerError(IN_USE.format(path)) from error
        self._handler: logging.Handler | None = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def finished(self) -> bool:
        """Return whether the run has its ``done`` file."""
        return (self.path / MARKER).exists()

    def log_to_file(self) -> None:
        """Log into log.txt too, with the lines that were logged before the folder was there."""
        self._handler = _LogFile(self.path / "log.txt", encoding="utf-8", errors="backslashreplace")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for early in [h for h in log.handlers if isinstance(h, logging.handlers.MemoryHandler)]:
            early.setTarget(self._handler)
            early.flush()
            log.removeHandler(early)
        log.addHandler(self._handler)

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Append a row to metrics.jsonl, and track it."""
        append_jsonl(self.path / "metrics.jsonl", row)
        self.tracker.scalars(row)

    def finish(self) -> None:
        """Mark the run as finished."""
        write_marker(self.path)
        point_latest(self.path)

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the error that ends the run is the one to tell
            self._close_log()
        with contextlib.suppress(OSError):
            for inner in self.path.rglob(".*.lock"):
                _remove_lock(inner)
            Path(self._lock.lock_file).unlink(missing_ok=True)  # while held: later, it could be another process's lock
        self._lock.release()

    def _close_log(self) -> None:
        if self._handler is not None:
            log.removeHandler(self._handler)
            self._handler.close()

    def discard_if_empty(self) -> bool:
        """Remove what the run was started with if the work has come to nothing; return whether it was removed."""
        files = [p for p in self.path.rglob("*") if not p.is_dir() and p.suffix != ".lock"]
        if self.resumed or any(p.name not in START_FILES for p in files):
            return False
        with contextlib.suppress(OSError):  # a mount point or the current folder stays
            self._close_log()
            empty_run(self.path)
            self.path.rmdir()
        return True


class FollowedRun(RunDir):
    """The run directory of the first rank, as the other ranks know it: they write nothing there."""

    def __init__(self, path: Path) -> None:
        self.path, self.resumed, self.tracker = path, False, Tracker()

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Leave a row to the first rank."""

    def __exit__(self, *_: object) -> None:
        pass


@explained()
def open_run(command: str, config: Settings, request: RunRequest) -> RunDir:
    """Make (or, with ``resume``, reopen) the run directory of a command, named as in ``gan-train``.

    Raises:
        BalancerError: ``--out`` holds a run or other files already, or another process has it.
    """
    resumed = request.resume is not None
    path = _new_folder(command, config, request) if request.resume is None else resumed_path(command, request.resume)
    run = RunDir(path, resumed)
    try:
        sweep(path)
        if not resumed:
            path.mkdir(exist_ok=True)
            write_yaml(path / "config.yaml", dump(config))
        run.log_to_file()
    except BaseException:
        run.discard_if_empty()
        run.__exit__()
        raise
    return run


@dataclass(frozen=True)
class PreparedRun(Generic[ResultT]):
    """A run whose inputs are read and checked. Nothing is written yet."""

    command: str  # as in gan-train
    config: Settings
    device: str  # in words, for env.json
    data: JsonObject | None  # what was read, for env.json
    estimate_seconds: Callable[[], float]
    work: Callable[[RunDir], ResultT]
    follow: Callable[[RunDir], ResultT] | None = None  # the part of the work that all ranks of torchrun do
    # What --resume does with a run that is finished: nothing, write its outputs again, or go on with the work.
    if_finished: Literal["stop", "rewrite", "extend"] = "stop"
    keep_environment: bool = False  # a resumed run keeps the env.json of its start
    is_complete: Callable[[ResultT], bool] = lambda _: True  # False: the run stays open for --resume
    tracked_files: tuple[str, ...] = ()  # patterns of the files that trackers keep at the end
    tracked_by: tuple[str, ...] = ()  # trackers that the settings name
    undecoded: Undecoded | None = None  # images whose pixels a dry run has not read


@dataclass(frozen=True)
class FinishedRun(Generic[ResultT]):
    """The folder of a run, and its result. Notebooks show the head of the run's page."""

    path: Path
    result: ResultT = field(repr=False)

    @property
    def page(self) -> Page:
        """Return the report of the run, section by section.

        Raises:
            BalancerError: the run has no report, as a GAN's training.
        """
        return read_page(self.path)

    def _repr_markdown_(self) -> str:
        """Return the head of the page, else what the result says of itself, and where the run lies."""
        page, describe = find_page(self.path), getattr(self.result, "describe", None)
        text = page._repr_markdown_() if page else describe() if describe else ""
        return f"{text}\n\nFolder of the run: `{self.path}`"


class AlreadyFinished(BalancerError):
    """Raised when a run to resume has nothing left to do."""

    def __init__(self, run: Path) -> None:
        super().__init__(f"{run} is finished already; nothing to do")
        self.run = run


def perform(prepared: PreparedRun[ResultT], request: RunRequest) -> FinishedRun[ResultT]:
    """Make or reopen the run directory, write env.json, work, and mark the run as finished.

    Raises:
        AlreadyFinished: the run to resume is finished, and the command does not go on with such a run.
        BalancerError: as :func:`open_run`, or the work fails.
        Interrupted: a signal came; what the work had saved is kept.
    """
    several = prepared.follow is not None and torchrun.several() is not None
    if several:
        from balancer.core import ranks  # torch, which is loaded where there are several
    if several and torchrun.is_silent():
        return _follow(prepared)
    request = _continued(prepared, request, ranks.earlier_starts() if several else 0)
    with open_run(prepared.command, prepared.config, request) as run:
        finished = run.finished and prepared.if_finished == "stop"
        if several:
            ranks.from_first((str(run.path), finished))
        if finished:
            raise AlreadyFinished(run.path)
        to_resume = request.part_of or run.path
        try:
            return FinishedRun(run.path, _perform(prepared, run, request.tracking))
        except (KeyboardInterrupt, Interrupted) as stop:
            signum, said = (stop.signum, stop.message) if isinstance(stop, Interrupted) else (signal.SIGINT, "stopped")
            if "--resume" in said or not (run / "env.json").exists():  # without that file there is nothing to resume
                raise
            raise Interrupted(signum, f"{said}; continue with --resume {to_resume}") from stop
        except Exception as error:
            refusal = str(error) if isinstance(error, BalancerError) else explain(error)
            removed = refusal is not None and run.discard_if_empty()
            if refusal is None or removed or isinstance(error, BalancerError):
                raise
            raise BalancerError(f"{refusal}; then continue with --resume {to_resume}") from error


def _follow(prepared: PreparedRun[ResultT]) -> FinishedRun[ResultT]:
    """Do this rank's part of the work in the run that the first rank has opened.

    Raises:
        AlreadyFinished: there is nothing left to do.
    """
    from balancer.core import ranks

    path, finished = ranks.from_first(("", False))
    if finished:
        raise AlreadyFinished(Path(path))
    assert prepared.follow is not None
    return FinishedRun(Path(path), prepared.follow(FollowedRun(Path(path))))


def _continued(prepared: PreparedRun[Any], request: RunRequest, earlier_starts: int) -> RunRequest:
    """Return the request, or the one to continue what this torchrun has begun and starts anew.

    ``earlier_starts`` are those that the ranks know of; the torchrun of a machine counts its own errors alone.
    """
    launch = torchrun.launched()
    if launch is None or request.resume is not None:
        return request
    launch = replace(launch, restarts=max(launch.restarts, earlier_starts))
    if request.force and not launch.restarts:
        return request
    path = begun_by(launch, prepared.command, prepared.config, request.out)
    return replace(request, out=None, force=False, resume=str(path)) if path else request


def _perform(prepared: PreparedRun[ResultT], run: RunDir, tracking: Tracking) -> ResultT:
    """Write env.json, work, and mark the run as finished."""
    if prepared.if_finished == "extend":
        for name in stated_files(run.path):  # unchecked, what is missing would be lost from the record
            check_stated(run / name)
        (run / MARKER).unlink(missing_ok=True)
        write_yaml(run / "config.yaml", dump(prepared.config))
    if not run.finished and not (run.resumed and prepared.keep_environment):
        data = {} if prepared.data is None else {"data": prepared.data}
        write_json(run / "env.json", environment(prepared.command, prepared.device, **_start(run), **data))
    settings, files = flatten(prepared.config.model_dump(mode="json")), prepared.tracked_files
    with tracked(run.path, prepared.command, settings, tracking, files, prepared.tracked_by) as run.tracker:
        result = prepared.work(run)
    if prepared.is_complete(result):
        run.finish()
    return result


def _start(run: RunDir) -> JsonObject:
    """Return when a run that is resumed was started, and when it was resumed; nothing for a new run."""
    if not run.resumed:
        return {}
    started = read_environment(run.path).started
    return {"started": started, "resumed": time.strftime(TIME)} if started else {}


def _new_folder(command: str, config: Settings, request: RunRequest) -> Path:
    """Return the folder of a new run, of which only the parent is made."""
    path = request.out or _new_path(command, config)
    if path.is_dir():
        sweep(path)  # a process that was killed before it wrote config.yaml leaves no run, but its temporary file
    if _is_to_replace(command, path, config, request):
        with RunDir(path, resumed=False):  # another process may be writing there
            empty_run(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@explained()
def check_folder(prepared: PreparedRun[Any], request: RunRequest) -> None:
    """Refuse the folder of a run as :func:`perform` would. Nothing is made, removed or locked.

    Raises:
        AlreadyFinished: the run to resume has nothing left to do.
        BalancerError: the folder holds something else, cannot be written to, or another process has it.
    """
    if request.resume is not None:
        path = resumed_path(prepared.command, request.resume)
        if (path / MARKER).exists() and prepared.if_finished == "stop":
            raise AlreadyFinished(path)
    else:
        path = request.out or _new_path(prepared.command, prepared.config)
        if path.is_dir():
            sweep(path)
        _is_to_replace(prepared.command, path, prepared.config, request)
    if lock_file(path).exists():  # a lock is there for as long as somebody holds it, or was killed
        try:
            with filelock.FileLock(str(lock_file(path)), timeout=0):
                pass
        except filelock.Timeout as error:
            raise BalancerError(IN_USE.format(path)) from error
    refuse_unwritable(path)


def _refuse_inside_inputs(out: Path, config: Settings) -> None:
    """Refuse ``--out`` inside a folder of images: the next command would meet the results among them."""
    data = getattr(config, "data", None)
    paths = [
        getattr(data, "path", None),
        *(getattr(config, name, None) for name in ("real", "training", "fake", "folder")),
    ]
    for folder in (Path(path) for path in paths if path):
        is_images = folder.is_dir() and not (folder / "config.yaml").exists()  # a run keeps its images apart
        if is_images and out.resolve().is_relative_to(folder.resolve()):
            raise BalancerError(f"--out {out} lies inside {folder}, the images to read; give a folder elsewhere")


def _new_path(command: str, config: Settings) -> Path:
    """``runs/<command>/<stamp>-<hash>``, with a number when the same run was started within the same second."""
    path = first = RUNS / command / f"{time.strftime('%Y%m%d-%H%M%S')}-{config_hash(config)}"
    number = 1
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


def _is_to_replace(command: str, path: Path, config: Settings, request: RunRequest) -> bool:
    """Return whether a folder must be emptied first; refuse a folder that holds anything but a run to replace."""
    if request.out is not None:
        _refuse_inside_inputs(request.out, config)
    if path.exists() and not path.is_dir():
        raise BalancerError(f"--out {path} is a file; give a new folder")
    if not path.exists() or not any(path.iterdir()):
        return False
    if not (path / "config.yaml").exists():
        raise BalancerError(f"--out {path} is not empty and holds no run; give a new or empty folder")
    if not (path / "env.json").exists():
        _check_left_over(path, request.force)
        return True
    if not request.force:
        raise BalancerError(
            f"--out {path} holds a run already; use --resume {path}, --force to replace it, or a new folder"
        )
    saved_config(command, path)  # refuses a run of another command: it may be the input of this one
    return True


def _check_left_over(path: Path, force: bool) -> None:
    """Refuse a folder with config.yaml and without env.json, unless a killed start or removal of a run left it so.

    Other programs have a config.yaml too, and what lies beside it is not ours to remove.
    """
    if YAML_SEAL.search(content_of(path / "config.yaml")) is None:
        raise BalancerError(f"--out {path} is not empty and holds no run; give a new or empty folder")
    if not force and any(p.name not in START_FILES and p.suffix not in (".lock", ".tmp") for p in path.iterdir()):
        raise BalancerError(f"--out {path} holds what is left of a run; use --force to replace it, or a new folder")


def empty_run(path: Path) -> None:
    """Remove what is in the folder of a run, so that a failure half-way leaves no finished run, and one to replace.

    Whether the run is finished goes first, and last what names the folder a run.
    """
    (path / MARKER).unlink(missing_ok=True)
    for entry in sorted(path.iterdir(), key=lambda p: p.name == "config.yaml"):
        remove(entry)
