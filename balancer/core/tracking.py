"""Tracking: what a run logs, kept by other programs too. Off unless the user names a program.

A program is a :class:`Backend`. The run talks to a :class:`Tracker`, which hands everything on. A backend that fails is
turned off with one warning: no training ends because of its tracking.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit

from balancer.core import mlflow_store, tensorboard_events
from balancer.core.errors import BalancerError, Interrupted, UsageError, lookup
from balancer.core.extras import install
from balancer.core.sealed import read_json, write_json
from balancer.core.shapes import parse

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("balancer")
FILE = "tracking.json"  # in the run: what it is tracked by, for --resume
OFF = "none"  # as a name on the command line: a resumed run is tracked no more
Row = Mapping[str, float]  # values by name, at the step that stands under "step"
T = TypeVar("T")


@dataclass(frozen=True)
class Tracking:
    """What the user asked for.

    Raises:
        UsageError: an unknown name, or an address that nothing uses or that holds a password.
        BalancerError: a package is not installed.
    """

    backends: tuple[str, ...] = ()  # none: as the run was begun, and a new run is not tracked
    address: str | None = None  # of an MLflow server or store; None: a store beside the runs

    def __post_init__(self) -> None:
        for name in self.backends:
            lookup({**BACKENDS, OFF: None}, name, "--track")
        check_installed(self.backends)
        if OFF in self.backends and len(self.backends) > 1:
            raise UsageError(f"--track is {','.join(self.backends)!r}; {OFF} stands alone")
        if self.address is None:
            return
        if "mlflow" not in self.backends:
            raise UsageError("--tracking-uri is for MLflow; add --track mlflow")
        try:
            password = urlsplit(self.address).password
        except ValueError as error:
            raise UsageError(
                f"--tracking-uri is {self.address!r}: {error}; give one such as http://host:5000"
            ) from error
        if password:
            raise UsageError(
                "--tracking-uri holds a password, which the run would keep; set MLFLOW_TRACKING_USERNAME and"
                " MLFLOW_TRACKING_PASSWORD, or give the whole address in MLFLOW_TRACKING_URI"
            )


@dataclass(frozen=True)
class TrackedTrial:
    """A finished trial, which becomes a run below that of its study."""

    name: str
    settings: Mapping[str, str]
    rows: Sequence[Row] = ()  # curves
    figures: Mapping[str, float] = field(default_factory=dict)
    files: Sequence[Path] = ()

    @property
    def all_rows(self) -> list[Row]:
        """Return the curves, and the figures at their last step."""
        last = max((int(row["step"]) for row in self.rows), default=0)
        return [*self.rows, {**self.figures, "step": last}]


@dataclass(frozen=True)
class TrackedRun:
    """What a backend is told of the run when it opens."""

    path: Path
    command: str
    address: str | None
    identity: str | None  # what the backend called the run when it was begun; None for a new run


class Backend(Protocol):
    """A program that keeps what runs log. Every method may raise anything."""

    identity: str  # names the run in the program; kept in the run for --resume

    def settings(self, values: Mapping[str, str]) -> None:
        """Keep the settings of the run."""

    def scalars(self, row: Row) -> None:
        """Keep the values of a row at its step."""

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Keep an image (H, W) or (H, W, 3) uint8."""

    def figures(self, values: Mapping[str, float]) -> None:
        """Keep the main figures of the run, which have no step."""

    def text(self, name: str, words: str) -> None:
        """Keep a text, such as the verdict."""

    def trial(self, trial: TrackedTrial) -> None:
        """Keep a finished trial of the run, once, however often it is given."""

    def files(self, folder: Path, files: Sequence[Path]) -> None:
        """Keep files of the run's folder under their names relative to it."""

    def end(self, status: str) -> None:
        """Write what is buffered; status is ``finished``, ``failed`` or ``killed``."""


@dataclass(frozen=True)
class BackendEntry:
    """How a backend is made, and what must be installed for it."""

    open: Callable[[TrackedRun], Backend]
    package: str  # that must be installed, and the name of the extra that brings it


BACKENDS = {
    "mlflow": BackendEntry(mlflow_store.MlflowRun, "mlflow"),
    "tensorboard": BackendEntry(tensorboard_events.EventFiles, "tensorboard"),
}


@dataclass(frozen=True)
class _Record:
    """The content of :data:`FILE`."""

    backends: tuple[str, ...]
    address: str | None = None
    identities: dict[str, str] = field(default_factory=dict)  # by backend


class Tracker:
    """Hands on what a run logs to each backend, as long as the backend does not fail. See :class:`Backend`."""

    def __init__(self) -> None:
        self._backends: dict[str, Backend] = {}

    def open(self, name: str, run: TrackedRun) -> str | None:
        """Open a backend; return what it calls the run, or None if it fails."""
        backend = self._try(name, lambda: BACKENDS[name].open(run))
        if backend is None:
            return None
        self._backends[name] = backend
        return backend.identity

    def settings(self, values: Mapping[str, str]) -> None:
        """Keep the settings of the run."""
        self._each(lambda backend: backend.settings(values))

    def scalars(self, row: Row) -> None:
        """Keep the values of a row at its step."""
        self._each(lambda backend: backend.scalars(row))

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Keep an image (H, W) or (H, W, 3) uint8."""
        self._each(lambda backend: backend.image(name, pixels, step))

    def figures(self, values: Mapping[str, float]) -> None:
        """Keep the main figures of the run."""
        self._each(lambda backend: backend.figures(values))

    def text(self, name: str, words: str) -> None:
        """Keep a text."""
        self._each(lambda backend: backend.text(name, words))

    def trial(self, trial: TrackedTrial) -> None:
        """Keep a finished trial, once."""
        self._each(lambda backend: backend.trial(trial))

    def files(self, folder: Path, files: Sequence[Path]) -> None:
        """Keep files of the run's folder."""
        self._each(lambda backend: backend.files(folder, files))

    def end(self, status: str) -> None:
        """Write what is buffered."""
        self._each(lambda backend: backend.end(status))

    def _each(self, call: Callable[[Backend], None]) -> None:
        for name, backend in list(self._backends.items()):
            self._try(name, partial(call, backend))

    def _try(self, name: str, call: Callable[[], T]) -> T | None:
        """Return what a call gives; turn a backend off that fails, with one warning."""
        try:
            return call()
        except Exception as error:
            self._backends.pop(name, None)
            words = " ".join(str(error).split())[:300] or type(error).__name__
            log.warning("%s fails (%s): the run goes on without it; --resume tries again", name, words)
            return None


def check_installed(backends: Sequence[str]) -> None:
    """Refuse a run that would fail later for want of a package.

    Raises:
        BalancerError: naming the extra to install.
    """
    from importlib.util import find_spec

    for name in backends:
        if name != OFF and find_spec(package := BACKENDS[name].package) is None:
            raise BalancerError(f"{package} is not installed; {install(package)}, or do not track with {name}")


NOT_TRACKED = Tracking()


@contextlib.contextmanager
def tracked(
    run: Path,
    command: str,
    settings: Mapping[str, object],
    tracking: Tracking,
    files: Sequence[str],
    always: Sequence[str] = (),
) -> Iterator[Tracker]:
    """Track a run while the context lasts; a resumed run is tracked as it was begun, unless ``tracking`` says so.

    Args:
        run: the folder of the run.
        command: as in ``gan-train``.
        settings: of the run, by dotted name.
        tracking: what the user asked for.
        files: patterns of the files that are kept at the end, relative to the folder.
        always: backends that the settings of the run name.
    """
    record = _record(run, tracking, always)
    tracker = _opened(run, command, record)
    tracker.settings({name: str(value) for name, value in settings.items()})
    status = "failed"
    try:
        yield tracker
        tracker.files(run, sorted({path for pattern in files for path in run.glob(pattern)}))
        status = "finished"
    except (Interrupted, KeyboardInterrupt):
        status = "killed"
        raise
    finally:
        tracker.end(status)


def _record(run: Path, tracking: Tracking, always: Sequence[str]) -> _Record:
    """Return what the run is tracked by from now on.

    Raises:
        DamagedFile: what the run says of its tracking is damaged.
    """
    remedy = f"remove it, and give --track again with --resume {run}"
    saved = _Record(())
    if (run / FILE).exists():
        saved = parse(_Record, read_json(run / FILE, remedy), run / FILE, remedy)
    chosen = [name for name in tracking.backends or saved.backends if name != OFF]
    backends = tuple(name for name in dict.fromkeys([*chosen, *always]) if name in BACKENDS)  # others: a later version
    address = tracking.address or saved.address
    same = {k: v for k, v in saved.identities.items() if k != "mlflow" or address == saved.address}
    return _Record(backends, address, same)


def _opened(run: Path, command: str, record: _Record) -> Tracker:
    """Open the backends, and keep in the run what they call it; a run that was never tracked keeps nothing."""
    tracker, identities = Tracker(), dict(record.identities)
    for name in record.backends:
        opened = TrackedRun(run.resolve(), command, record.address, identities.get(name))
        identity = tracker.open(name, opened)
        if identity is not None:
            identities[name] = identity
    if record.backends or (run / FILE).exists():
        values = {"backends": list(record.backends), "address": record.address, "identities": identities}
        write_json(run / FILE, values)
    return tracker
