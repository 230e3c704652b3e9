"""Find the runs in a folder and read of each what a list shows. A run that cannot be read is listed with the reason."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import filelock

from balancer.catalog.figures import READERS, main_figure
from balancer.core.environment import Environment
from balancer.core.errors import BalancerError, nearest
from balancer.core.files import JsonObject
from balancer.core.marker import MARKER, check_stated, stated_files
from balancer.core.mlflow_store import DATABASE
from balancer.core.run import lock_file
from balancer.core.run_names import RUNS
from balancer.core.saved_runs import read_environment, saved_config
from balancer.core.sealed import YAML_SEAL, content_of
from balancer.core.system_errors import explain

log = logging.getLogger("balancer")
DEPTH = 4  # folders below the one that is searched
START = ("config.yaml", "env.json")  # what names a folder a run
LEFT = ("log.txt", "split.csv", "metrics.jsonl", "results.jsonl", "report.json", "summary.json", "analysis.json")
NAMES = READERS.keys()  # of the folders below runs/
SOURCES = ("gan_run", "init_from", "synthetic", "fake")  # settings that name the runs that a run builds on
PAGES = ("report.html", "audit.html", "report.md", "table.md", "MODEL_CARD.md")
# Pictures for a thumbnail, the first that is there; of a pattern the last, which is the latest.
PICTURES = (
    *("grid.png", "figures/forest.png", "figures/history.png", "histograms.png", "grids/*.png", "figures/*.png"),
    *("reports/*/grid.png", "classes/*/grids/*.png"),
)


@dataclass(frozen=True)
class RunRecord:
    """A run as a list shows it.

    Attributes:
        state: finished, unfinished, running or damaged.
        reason: why it is damaged; else empty.
        sources: the folders of the runs that it came from.
        figure: its main figure in words; how far it is where it is not finished.
    """

    path: Path
    command: str = ""
    state: str = "unfinished"
    reason: str = ""
    environment: Environment | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    sources: tuple[Path, ...] = ()
    figure: str = ""

    @cached_property
    def place(self) -> Path:
        """Return the folder as an absolute path without links, by which runs are compared."""
        return self.path.resolve()

    @cached_property
    def origins(self) -> tuple[Path, ...]:
        """Return the sources as :attr:`place` gives a folder."""
        return tuple(source.resolve() for source in self.sources)

    @property
    def name(self) -> str:
        """Return the folder's name with that of the folder above, as ``ablate/20261128-120000-0123abcd``."""
        return "/".join(self.place.parts[-2:])

    @property
    def started(self) -> str:
        """Return when the run was started, as ``2026-11-28T12:00:00+0000``; empty if that is not known."""
        return self.environment.started if self.environment else ""

    @property
    def data(self) -> str:
        """Return what was read; empty if that is not known."""
        return str(self.environment.data.get("source", "")) if self.environment else ""

    @property
    def page(self) -> Path | None:
        """Return the report of the run, or its latest picture."""
        pages = (self.path / name for name in PAGES)
        return next((page for page in pages if page.is_file()), self.picture)

    @property
    def picture(self) -> Path | None:
        """Return a picture that stands for the run."""
        of_pattern = (max(self.path.glob(pattern), default=None) for pattern in PICTURES)
        return next((picture for picture in of_pattern if picture is not None), None)

    def to_json(self) -> JsonObject:
        """Return the record as ``--json`` prints it."""
        sources = [str(source) for source in self.sources]
        shown = {"run": str(self.path), "command": self.command, "state": self.state, "started": self.started}
        return {**shown, "data": self.data, "sources": sources, "figure": self.figure, "reason": self.reason}


def find_runs(folder: Path) -> list[RunRecord]:
    """Return the runs in a folder, or the run that the folder is, in the order in which they were started.

    Raises:
        BalancerError: there is no such folder.
    """
    if not folder.is_dir():
        raise BalancerError(f"{folder} is no folder; give a folder of runs, such as {RUNS}")
    with _without_warnings():
        records = [read_run(path) for path in _run_folders(folder, DEPTH)]
    records = [replace(r, sources=tuple(_moved(source, records) for source in r.sources)) for r in records]
    return sorted(records, key=lambda r: (r.started, r.name))


def named_run(name: str, folder: Path = RUNS) -> RunRecord:
    """Return the run of a folder, of a folder's name below ``runs/``, or of a part of the name that fits one run.

    Raises:
        BalancerError: no run fits, or several do.
    """
    path = next((path for path in (Path(name), folder / name) if is_run(path)), None)
    if path is not None:
        with _without_warnings():
            return read_run(path)
    records = find_runs(folder) if folder.is_dir() else []
    names = distinct_names(records)
    fitting = [r for r in records if name in (names[r.place], r.name, r.path.name)]
    fitting = fitting or [r for r in records if name in names[r.place]]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        first = ", ".join(names[r.place] for r in fitting[:3])
        raise BalancerError(f"{name} fits {len(fitting)} runs ({first}); give more of the name")
    known = [r.path.name for r in records]
    hint = nearest(name, known) if known else f"there are none in {folder}"
    raise BalancerError(f"{name} is no run; {hint if len(hint) < 200 else 'see balancer runs list'}")


def distinct_names(records: Sequence[RunRecord]) -> dict[Path, str]:
    """Return a name for each run by its place: :attr:`RunRecord.name`, and more of the path where two have the same."""
    names: dict[Path, str] = {}
    depth, left = 2, {record.place for record in records}
    while left:
        tails = {place: place.parts[-depth:] for place in left}
        counts = Counter(tails.values())
        names |= {place: "/".join(tail) for place, tail in tails.items() if counts[tail] == 1}
        left -= names.keys()
        depth += 1
    return names


def is_run(path: Path) -> bool:
    """Return whether a folder is a run of this program: damaged files do not make it another thing."""
    if not path.is_dir():
        return False
    try:
        if read_environment(path).command in NAMES:
            return True
    except (BalancerError, OSError, ValueError):
        pass
    try:
        return YAML_SEAL.search(content_of(path / "config.yaml")) is not None
    except (BalancerError, OSError):
        return False


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the folders that are runs, or lie where runs lie. Studies within a run are part of the run."""
    if (folder / DATABASE).exists():  # MLflow's copies of the files of runs are no runs
        return
    if is_run(folder) or (folder.parent.name in NAMES and _was_run(folder)):
        yield folder
        return
    try:
        below = sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except OSError as error:
        log.debug("%s: %s", folder, error)
        return
    for path in below if depth else ():
        if not path.name.startswith("."):
            yield from _run_folders(path, depth - 1)


def _was_run(folder: Path) -> bool:
    """Return whether a folder that lies where runs lie holds what is left of one: a data set has a train folder too."""
    return any((folder / name).exists() for name in (*START, MARKER, *LEFT)) or not any(folder.iterdir())


def read_run(path: Path) -> RunRecord:
    """Return the record of a run; what cannot be read makes it a damaged one."""
    record = RunRecord(path)
    try:
        missing = [name for name in START if not (path / name).exists()]
        if missing:
            return replace(record, state="damaged", reason=f"it has no {' and no '.join(missing)}")
        environment = read_environment(path)
        record = replace(record, command=environment.command, environment=environment, state=_state(path))
        if environment.command not in NAMES:
            return replace(record, state="damaged", reason=f"no command is called {environment.command!r}")
        settings = saved_config(environment.command, path)
        record = replace(record, settings=settings, sources=_sources(settings))
        for name in stated_files(path):
            check_stated(path / name)
        return replace(record, figure=main_figure(environment.command, path, record.state == "finished"))
    except Exception as error:  # whatever is wrong with one run, the others are listed
        reason = (
            str(error) if isinstance(error, BalancerError) else explain(error) or f"{type(error).__name__}: {error}"
        )
        return replace(record, state="damaged", reason=" ".join(reason.split()))


def _state(path: Path) -> str:
    """Return whether the run is finished, or running: its lock is held."""
    lock = lock_file(path)
    if lock.exists():
        try:
            with filelock.FileLock(lock, timeout=0):
                pass
        except filelock.Timeout:
            return "running"
    return "finished" if (path / MARKER).exists() else "unfinished"


def _sources(settings: dict[str, Any]) -> tuple[Path, ...]:
    """Return the folders of the runs that the settings name."""
    values = [settings.get(key) for key in SOURCES]
    names = [name for value in values for name in (value if isinstance(value, list) else [value])]
    return tuple(Path(name) for name in names if isinstance(name, str))


def _moved(source: Path, records: Sequence[RunRecord]) -> Path:
    """Return where a source lies: where the settings say, or the run of its name in a folder that was moved."""
    if source.exists():
        return source
    return next((r.path for r in records if r.path.name == source.name), source)


def children(record: RunRecord, records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the runs that came from a run, or from a step of it, however deep that lies in its folder."""
    return [r for r in records if any(origin.is_relative_to(record.place) for origin in r.origins)]


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Read without a line for each file of an earlier version: a list says in its own words what is wrong."""
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
