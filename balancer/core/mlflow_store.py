"""MLflow runs: one a command, with one a trial nested below it. The store is a local SQLite file unless told otherwise.

MLflow is an extra (``pip install -e '.[mlflow]'``), imported when it is first used. Its telemetry is switched
off, so that nothing is sent anywhere but to the address that the user gave.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from balancer.core.files import locked

if TYPE_CHECKING:
    import numpy as np

    from balancer.core.tracking import Row, TrackedRun, TrackedTrial

log = logging.getLogger("balancer")
STORE = Path("runs") / "mlflow"  # the default store: a database, and the files of the runs
DATABASE = "mlflow.db"
ADDRESS = "MLFLOW_TRACKING_URI"  # MLflow's own variable, for who does not give --tracking-uri
PARENT = "mlflow.parentRunId"  # MLflow's own tag, by which its pages nest runs
STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
BATCH = 100  # values in one call: what every MLflow server takes
LONGEST = 500  # characters of a value: what every MLflow server takes
QUIET = {  # nothing is sent but to the store, and a server that is gone is given up after seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class MlflowRun:
    """Keeps what a run logs in MLflow; see :class:`balancer.core.tracking.Backend`."""

    def __init__(self, run: TrackedRun) -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name, level in (("mlflow", "WARNING"), ("alembic", "WARNING"), ("urllib3", "ERROR")):
            logging.getLogger(name).setLevel(level)  # else each step of making a database is reported, and each retry
        address = run.address or os.environ.get(ADDRESS)
        if address is None:
            STORE.mkdir(parents=True, exist_ok=True)
            address = f"sqlite:///{(STORE / DATABASE).resolve()}"
            with locked(STORE / ".lock"):  # two commands that start at once would both make the database
                self._client: Any = MlflowClient(tracking_uri=address)
                self._experiment = _experiment(self._client, run.command, (STORE / "files").resolve().as_uri())
        else:
            self._client = MlflowClient(tracking_uri=address)
            self._experiment = _experiment(self._client, run.command, None)
        _say_where(address)
        known = run.identity if run.identity is not None and _is_there(self._client, run.identity) else None
        self.identity = known or self._begin(run.path.name, {})
        self._client.update_run(self.identity, status="RUNNING")
        self._client.set_tag(self.identity, "folder", str(run.path))
        self._steps: dict[str, int] = {}  # the last step of each curve
        self._resumed = known is not None
        self._trials: set[str] | None = None  # names of the finished ones; None: not looked up yet

    def _begin(self, name: str, tags: Mapping[str, str]) -> str:
        """Return the name that MLflow gives to a new run."""
        return str(self._client.create_run(self._experiment, run_name=name, tags=dict(tags)).info.run_id)

    def settings(self, values: Mapping[str, str]) -> None:
        """Keep the settings; one that --resume has changed becomes a tag, since MLflow changes no parameter."""
        before = self._client.get_run(self.identity).data.params
        self._log(self.identity, settings={k: v for k, v in values.items() if k not in before})
        for name, value in values.items():
            if before.get(name, value[:LONGEST]) != value[:LONGEST]:
                self._client.set_tag(self.identity, f"changed.{name}", value[:LONGEST])

    def scalars(self, row: Row) -> None:
        """Keep the values of a row at its step; a resumed run repeats no point."""
        step = int(row["step"])
        new = {k: v for k, v in row.items() if k != "step" and step > self._last_step(k)}
        self._steps |= dict.fromkeys(new, step)
        self._log(self.identity, rows=[{**new, "step": step}])

    def _last_step(self, name: str) -> int:
        """Return the last step of a curve; -1 before its first."""
        if name not in self._steps:
            history = self._client.get_metric_history(self.identity, name) if self._resumed else []
            self._steps[name] = max((point.step for point in history), default=-1)
        return self._steps[name]

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Do nothing: the run writes its images as files, which are kept at the end."""

    def figures(self, values: Mapping[str, float]) -> None:
        """Keep the main figures."""
        self._log(self.identity, rows=[{**values, "step": 0}])

    def text(self, name: str, words: str) -> None:
        """Keep a text as the description of the run."""
        self._client.set_tag(self.identity, "mlflow.note.content", f"{name}: {words}")

    def trial(self, trial: TrackedTrial) -> None:
        """Keep a trial as a run below this one."""
        if self._trials is None:
            self._trials = self._finished_trials()
        if trial.name in self._trials:
            return
        identity = self._begin(trial.name, {PARENT: self.identity})
        self._log(identity, trial.settings, trial.all_rows)
        for file in trial.files:
            self._client.log_artifact(identity, str(file))
        self._client.set_terminated(identity, "FINISHED")
        self._trials.add(trial.name)

    def _finished_trials(self) -> set[str]:
        """Return the names of the trials below this run; those that an earlier process left half-logged are deleted."""
        finished: set[str] = set()
        left: list[str] = []
        token: str | None = None
        while token != "":
            page = self._client.search_runs(
                [self._experiment], f"tags.`{PARENT}` = '{self.identity}'", page_token=token
            )
            for run in page:
                if run.info.status == STATUS["finished"]:
                    finished.add(run.info.run_name)
                else:
                    left.append(run.info.run_id)
            token = page.token or ""
        for identity in left:
            self._client.delete_run(identity)
        return finished

    def files(self, folder: Path, files: Sequence[Path]) -> None:
        """Keep files under their names relative to the folder."""
        for file in files:
            below = file.relative_to(folder).parent.as_posix()
            self._client.log_artifact(self.identity, str(file), None if below == "." else below)

    def end(self, status: str) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self.identity, STATUS[status])

    def _log(self, identity: str, settings: Mapping[str, str] | None = None, rows: Sequence[Row] = ()) -> None:
        """Send settings and rows, as many at a time as every server takes."""
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        metrics = [
            Metric(_plain(k), float(v), now, int(row["step"])) for row in rows for k, v in row.items() if k != "step"
        ]
        params = [Param(_plain(k), v[:LONGEST]) for k, v in (settings or {}).items()]
        for values, name in ((params, "params"), (metrics, "metrics")):
            for start in range(0, len(values), BATCH):
                self._client.log_batch(identity, **{name: values[start : start + BATCH]})


def _plain(name: str) -> str:
    """Return a name in the characters that MLflow takes."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)


def _experiment(client: Any, command: str, files: str | None) -> str:
    """Return MLflow's number of the experiment of a command, made if need be."""
    name = f"xray-balancer {command}"
    known = client.get_experiment_by_name(name)
    return str(known.experiment_id if known else client.create_experiment(name, artifact_location=files))


def _is_there(client: Any, identity: str) -> bool:
    """Return whether a store holds a run: a run that is resumed elsewhere, or after the store was removed, is new."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(identity).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _say_where(address: str) -> None:
    """Say where the run is kept; warn if that is another machine."""
    parts = urlsplit(address)
    if parts.hostname in (None, "localhost", "127.0.0.1", "::1"):
        log.info("tracked in MLflow: %s", parts._replace(netloc=parts.hostname or "").geturl())  # without a password
        return
    log.warning(
        "MLflow at %s gets the settings, figures, reports and models of this run; reports show images and file names"
        " of the data",
        parts.hostname,
    )
