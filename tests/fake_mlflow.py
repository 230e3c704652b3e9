"""A stand-in for the part of MLflow that the toolkit calls, kept in memory: the real one takes seconds to import."""

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PAGE = 2  # runs in one answer; MLflow's own are of 1,000


@dataclass
class FakeRun:
    """A run of the store."""

    name: str
    status: str = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    files: list[str] = field(default_factory=list)


class Page(list[Any]):
    """Some of the runs that were searched for, and where the others begin."""

    token: str | None = None


class FakeMlflow:
    """The store, and the calls that fail."""

    def __init__(self) -> None:
        self.runs: dict[str, FakeRun] = {}
        self.addresses: list[str] = []
        self.experiments: dict[str, str] = {}
        self.failing: set[str] = set()
        self.calls: list[str] = []

    def below(self, identity: str) -> dict[str, FakeRun]:
        """Return the runs that are nested below one."""
        return {r.name: r for r in self.runs.values() if r.tags.get("mlflow.parentRunId") == identity}

    @property
    def top(self) -> dict[str, FakeRun]:
        """Return the runs that are nested below none, by MLflow's name for them."""
        return {key: r for key, r in self.runs.items() if "mlflow.parentRunId" not in r.tags}

    def client(self, tracking_uri: str) -> Any:
        self.addresses.append(tracking_uri)
        store = self

        class Client:
            def __getattribute__(self, name: str) -> Any:
                store.calls.append(name)
                if name in store.failing:
                    raise ConnectionError(f"no answer to {name}")
                return object.__getattribute__(self, name)

            def get_experiment_by_name(self, name: str) -> Any:
                known = store.experiments.get(name)
                return known and SimpleNamespace(experiment_id=known)

            def create_experiment(self, name: str, artifact_location: str | None) -> str:
                store.experiments[name] = str(len(store.experiments))
                return store.experiments[name]

            def create_run(self, _experiment: str, run_name: str, tags: dict[str, str]) -> Any:
                identity = f"id{store.calls.count('create_run') - 1}"
                store.runs[identity] = FakeRun(run_name, tags=dict(tags))
                return SimpleNamespace(info=SimpleNamespace(run_id=identity))

            def get_run(self, identity: str) -> Any:
                if identity not in store.runs:
                    raise sys.modules["mlflow.exceptions"].MlflowException("RESOURCE_DOES_NOT_EXIST")
                run = store.runs[identity]
                info = SimpleNamespace(lifecycle_stage="active")
                return SimpleNamespace(info=info, data=SimpleNamespace(params=run.params))

            def update_run(self, identity: str, status: str) -> None:
                store.runs[identity].status = status

            def set_terminated(self, identity: str, status: str) -> None:
                store.runs[identity].status = status

            def set_tag(self, identity: str, name: str, value: str) -> None:
                store.runs[identity].tags[name] = value

            def search_runs(self, _experiments: list[str], text: str, page_token: str | None) -> Any:
                parent, start = text.split("'")[1], int(page_token or 0)
                below = [(k, r) for k, r in store.runs.items() if r.tags.get("mlflow.parentRunId") == parent]
                page = Page(
                    SimpleNamespace(info=SimpleNamespace(run_id=key, run_name=r.name, status=r.status))
                    for key, r in below[start : start + PAGE]
                )
                page.token = str(start + PAGE) if start + PAGE < len(below) else None
                return page

            def delete_run(self, identity: str) -> None:
                del store.runs[identity]

            def get_metric_history(self, identity: str, name: str) -> list[Any]:
                return [SimpleNamespace(step=step) for step, _ in store.runs[identity].metrics[name]]

            def log_batch(self, identity: str, metrics: Any = (), params: Any = ()) -> None:
                assert len(metrics) + len(params) <= 100
                run = store.runs[identity]
                for p in params:
                    assert run.params.setdefault(p.key, p.value) == p.value, "MLflow changes no parameter"
                for m in metrics:
                    run.metrics[m.key].append((m.step, m.value))

            def log_artifact(self, identity: str, file: str, below: str | None = None) -> None:
                store.runs[identity].files.append((Path(below or ".") / Path(file).name).as_posix())

        return Client()


def install(patch: pytest.MonkeyPatch) -> FakeMlflow:
    """Put the stand-in in the place of MLflow."""
    store = FakeMlflow()

    class MlflowException(Exception):
        def __init__(self, error_code: str) -> None:
            super().__init__(error_code)
            self.error_code = error_code

    modules: dict[str, Any] = {name: ModuleType(name) for name in ("mlflow", "mlflow.entities", "mlflow.exceptions")}
    modules["mlflow"].MlflowClient = store.client
    modules["mlflow.entities"].Metric = lambda key, value, _at, step: SimpleNamespace(key=key, value=value, step=step)
    modules["mlflow.entities"].Param = lambda key, value: SimpleNamespace(key=key, value=value)
    modules["mlflow.exceptions"].MlflowException = MlflowException
    for name, module in modules.items():
        patch.setitem(sys.modules, name, module)
    patch.setattr("balancer.core.tracking.check_installed", lambda _names: None)
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return store
