"""What `balancer runs` says and does: a list by descent, all about one run, and removal."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from balancer.catalog.records import RunRecord, children, distinct_names, find_runs, is_run
from balancer.core.config import changed_keys, flatten
from balancer.core.errors import BalancerError
from balancer.core.files import JsonObject
from balancer.core.run import RunDir, empty_run
from balancer.core.run_names import LATEST, RUNS
from balancer.core.settings import settings_model
from balancer.reporting.document import Table
from balancer.reporting.numbers import megabytes, plural

log = logging.getLogger("balancer")
INDENT = "  "
OF_BALANCER = ("gan-train", "synthesize", "import", "evaluate", "audit")  # the other commands are of `classifier`
NEXT = {  # by command: what is typed after it
    "gan-train": "balancer synthesize --gan-run {run}",
    "synthesize": "classifier ablate --synthetic {run}",
    "import": "classifier ablate --synthetic {run}",
    "ablate": "classifier thresholds {run}",
    "train": "classifier predict {run}/model.pt IMAGE_OR_FOLDER",
    "tune": "classifier train --config {run}/best.yaml",
}


@dataclass(frozen=True)
class RunList:
    """The runs of a folder."""

    folder: Path
    records: list[RunRecord]

    def to_json(self) -> JsonObject:
        """Return the runs."""
        return {"folder": str(self.folder), "runs": [record.to_json() for record in self.records]}

    def describe(self) -> str:
        """Return a line a run, below the run that it came from."""
        if not self.records:
            return f"no run in {self.folder}; begin with `balancer gan-train`"
        names = distinct_names(self.records)
        rows = [
            [
                f"{INDENT * depth}{names[record.place]}",
                record.state,
                record.started[:16].replace("T", " "),
                _words(record),
            ]
            for record, depth in by_descent(self.records)
        ]
        table = Table(["run, below what it came from", "state", "started", "main figure"], rows)
        return f"{table.to_text()}\nnext: balancer runs show RUN"


@dataclass(frozen=True)
class Size:
    """How much a folder holds, in folders below it too."""

    files: int
    megabytes: float

    def describe(self) -> str:
        """Return the size in words."""
        return f"{plural(self.files, 'file')}, {megabytes(self.megabytes)}"


@dataclass(frozen=True)
class RunDetails:
    """All that is known of one run."""

    record: RunRecord
    changed: dict[str, object]  # settings that differ from the defaults
    led_to: list[RunRecord]
    size: Size

    def to_json(self) -> JsonObject:
        """Return the record with what surrounds it."""
        env = self.record.environment
        made = {"balancer": env.balancer, "git_commit": env.git_commit, "device": env.device} if env else {}
        return {
            **self.record.to_json(),
            **made,
            "settings": self.changed,
            "led_to": [str(child.path) for child in self.led_to],
            "page": str(self.record.page) if self.record.page else None,
            "files": self.size.files,
            "megabytes": round(self.size.megabytes, 1),
        }

    def describe(self) -> str:
        """Return what is known, a line a fact."""
        record, env = self.record, self.record.environment
        facts = {
            "run": str(record.path),
            "state": f"{record.state}: {record.reason}" if record.reason else record.state,
            "command": record.command,
            "started": record.started,
            "main figure": record.figure,
            "data": _data(record),
            "came from": ", ".join(_source(source) for source in record.sources),
            "led to": ", ".join(str(child.path) for child in self.led_to),
            "settings": _settings(record, self.changed),
            "made by": f"balancer {env.balancer}, code {env.git_commit or 'of no commit'}; {env.device}" if env else "",
            "page": str(record.page or ""),
            "size": self.size.describe(),
            "next": _next(record),
        }
        return "\n".join(f"{name + ':':<13}{value}" for name, value in facts.items() if value)


def by_descent(records: Sequence[RunRecord]) -> list[tuple[RunRecord, int]]:
    """Return each run once, below the first of the runs that it came from, with how deep it stands."""
    places = {record.place for record in records}
    below: dict[Path | None, list[RunRecord]] = defaultdict(list)
    for record in records:
        parent = next((origin for origin in record.origins if origin != record.place), None)
        below[parent if parent in places else None].append(record)
    rows: dict[Path, tuple[RunRecord, int]] = {}

    def add(record: RunRecord, depth: int) -> None:
        if record.place in rows:
            return
        rows[record.place] = record, depth
        for child in below[record.place]:
            add(child, depth + 1)

    for record in (*below[None], *records):  # the latter for damaged runs that name each other
        add(record, 0)
    return list(rows.values())


def details(record: RunRecord, folder: Path = RUNS) -> RunDetails:
    """Return all about a run; ``folder`` is searched for the runs that came from it."""
    others = find_runs(folder) if folder.is_dir() else []
    changed: dict[str, object] = {}
    if record.settings:
        defaults, values = settings_model(record.command)().model_dump(mode="json"), flatten(record.settings)
        changed = {key: values[key] for key in changed_keys(defaults, record.settings)}
    return RunDetails(record, changed, children(record, others), size_of(record.path))


def size_of(folder: Path) -> Size:
    """Return how much a folder holds."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Size(len(sizes), sum(sizes) / 1e6)


def check_removal(records: Sequence[RunRecord], force: bool, folder: Path = RUNS) -> None:
    """Refuse to remove what is no run, is in use, holds another run, or is what another run came from.

    Raises:
        BalancerError: naming the first such folder.
    """
    removed = {record.place for record in records}
    others = find_runs(folder) if folder.is_dir() else []
    for record in records:
        if record.path.is_symlink() or not is_run(record.path):
            raise BalancerError(f"{record.path} is no run of this program; nothing was removed, remove it by hand")
        if record.state == "running":
            raise BalancerError(f"{record.path} is in use by another process; nothing was removed, wait for it")
        heirs = [child for child in children(record, others) if child.place not in removed]
        if heirs and not force:
            raise BalancerError(
                f"{heirs[0].path} came from {record.path}; nothing was removed, remove that run too, or give --force"
            )
        inner = _runs_within(record)
        if inner and inner[0].resolve() not in removed:
            raise BalancerError(
                f"{record.path} holds another run, {inner[0]}; nothing was removed, move that run first"
            )


def _runs_within(record: RunRecord) -> list[Path]:
    """Return runs inside the folder of a run that are no part of it: its own classes, studies and steps are."""
    inner = [path.parent for path in record.path.glob("**/env.json") if path.parent != record.path]
    own = record.command in ("gan-train", "components", "reproduce", "reproduce-smoke", "study")
    return [] if own else sorted(path for path in inner if is_run(path))


def remove(records: Sequence[RunRecord]) -> list[Path]:
    """Remove runs that :func:`check_removal` has let pass; return their folders."""
    removed = []
    for record in records:
        with RunDir(record.path, resumed=True):  # another process may have begun to write there
            empty_run(record.path)
            record.path.rmdir()
        with contextlib.suppress(OSError):
            latest = record.path.parent / LATEST
            if latest.is_symlink() and not latest.exists():  # a link to what was removed
                latest.unlink()
        removed.append(record.path)
        log.info("removed %s", record.path)
    return removed


def _words(record: RunRecord) -> str:
    return record.reason or record.figure


def _data(record: RunRecord) -> str:
    """Return the data with their split."""
    split = record.environment.data.get("split_hash") if record.environment else None
    return record.data + (f", split {split}" if split else "")


def _settings(record: RunRecord, changed: dict[str, object]) -> str:
    """Return the settings that differ from the defaults; nothing if they are not known."""
    default = "the defaults" if record.settings else ""
    return ", ".join(f"{key}={value}" for key, value in changed.items()) or default


def _source(source: Path) -> str:
    return str(source) if source.exists() else f"{source} (not there any more)"


def _next(record: RunRecord) -> str:
    """Return what to type next."""
    if record.state == "unfinished":
        program = "balancer" if record.command in OF_BALANCER else "classifier"
        return f"{program} {record.command} --resume {record.path}"
    return NEXT.get(record.command, "").format(run=record.path) if record.state == "finished" else ""
