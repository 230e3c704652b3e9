"""Tracking: off by default, resumed as it was begun, quiet about the network, and never the end of a training."""

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_mlflow import FakeMlflow, install

from balancer.core import tracking
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.sealed import DamagedFile, read_json
from balancer.core.tracking import FILE, NOT_TRACKED, TrackedTrial, Tracking, tracked

SETTINGS = {"steps": 8, "data.path": "phantom"}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeMlflow:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    return install(monkeypatch)


def track(run: Path = Path("run"), request: Tracking | None = None, steps: range = range(2, 9, 2)) -> None:
    with tracked(run, "gan-train", SETTINGS, request or Tracking(("mlflow",)), ("*.txt", "grids/*.png")) as tracker:
        for step in steps:
            tracker.scalars({"step": step, "loss": step / 8})
        tracker.figures({"kid": 0.5})
        tracker.text("verdict", "No.")


@contextlib.contextmanager
def interrupted() -> Iterator[None]:
    """Let what is inside end as a signal ends it."""
    with pytest.raises(Interrupted):
        yield


def test_off_by_default(store: FakeMlflow) -> None:
    track(request=NOT_TRACKED)
    assert not store.calls
    assert not list(Path("run").iterdir())


def test_what_mlflow_keeps(store: FakeMlflow) -> None:
    (Path("run") / "grids").mkdir()
    for name in ("log.txt", "grids/step_8.png", "secret.csv"):
        (Path("run") / name).touch()
    track()
    ((identity, run),) = store.runs.items()
    assert store.experiments == {"xray-balancer gan-train": "0"}
    assert store.addresses == [f"sqlite:///{Path.cwd() / 'runs' / 'mlflow' / 'mlflow.db'}"]
    assert (run.name, run.status) == ("run", "FINISHED")
    assert run.params == {"steps": "8", "data.path": "phantom"}
    assert run.metrics["loss"] == [(2, 0.25), (4, 0.5), (6, 0.75), (8, 1.0)]
    assert run.metrics["kid"] == [(0, 0.5)]
    assert sorted(run.files) == ["grids/step_8.png", "log.txt"], "what the patterns name, and nothing else"
    assert run.tags["mlflow.note.content"] == "verdict: No."
    assert read_json(Path("run") / FILE)["identities"] == {"mlflow": identity}


def test_a_resumed_run_goes_on_as_it_was_begun(store: FakeMlflow) -> None:
    """Its curve repeats no step, though the steps since the last checkpoint are trained again."""
    with interrupted(), tracked(Path("run"), "gan-train", SETTINGS, Tracking(("mlflow",)), ()) as tracker:
        for step in (2, 4):
            tracker.scalars({"step": step, "loss": 1.0})
        raise Interrupted(2, "stopped")
    (run,) = store.runs.values()
    assert run.status == "KILLED"
    track(request=NOT_TRACKED, steps=range(4, 9, 2))
    assert list(store.runs.values()) == [run]
    assert run.metrics["loss"] == [(2, 1.0), (4, 1.0), (6, 0.75), (8, 1.0)]
    assert run.status == "FINISHED"


def test_a_run_that_the_store_lost_begins_anew(store: FakeMlflow) -> None:
    track()
    store.runs.clear()
    track(request=NOT_TRACKED)
    assert {run.name for run in store.runs.values()} == {"run"}


def test_tracking_ends_when_asked(store: FakeMlflow) -> None:
    track()
    before = len(store.calls)
    track(request=Tracking(("none",)))
    track(request=NOT_TRACKED)
    assert len(store.calls) == before


def test_a_setting_that_resuming_changes(store: FakeMlflow) -> None:
    """MLflow refuses another value of a parameter: a search that gets more trials must not lose its tracking."""
    track()
    with tracked(Path("run"), "gan-train", {"steps": 99}, NOT_TRACKED, ()) as tracker:
        tracker.scalars({"step": 99, "loss": 0.0})
    (run,) = store.runs.values()
    assert run.params["steps"] == "8"
    assert run.tags["changed.steps"] == "99"
    assert run.metrics["loss"][-1] == (99, 0.0)


def test_trials_are_nested_and_kept_once(store: FakeMlflow, tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    model = tmp_path / "model.pt"
    for names in (("gan-0",), ("gan-0", "gan-1"), ("gan-0", "gan-1")):
        with tracked(Path("run"), "ablate", {}, Tracking(("mlflow",)), ()) as tracker:
            for name in names:
                tracker.trial(
                    TrackedTrial(name, {"regime": "gan"}, [{"step": 5, "nll": 0.5}], {"test.auroc": 0.75}, [model])
                )
    ((identity, _),) = store.top.items()
    below = store.below(identity)
    assert below.keys() == {"gan-0", "gan-1"}
    assert len(store.runs) == 3
    for run in below.values():
        assert (run.status, run.params, run.files) == ("FINISHED", {"regime": "gan"}, ["model.pt"])
        assert dict(run.metrics) == {"nll": [(5, 0.5)], "test.auroc": [(5, 0.75)]}


def test_a_trial_that_was_left_half_logged_is_logged_anew(store: FakeMlflow, tmp_path: Path) -> None:
    """By a process that was killed, or a store that was gone in the middle; finished ones stay, on every page."""
    model = tmp_path / "model.pt"
    model.touch()
    for failing in ("log_artifact", ""):
        store.failing = {failing}
        with tracked(Path("run"), "ablate", {}, Tracking(("mlflow",)), ()) as tracker:
            for name, files in (("a", []), ("b", []), ("c", []), ("d", [model])):
                tracker.trial(TrackedTrial(name, {}, [], {"test.auroc": 0.75}, files))
    trials = [r for r in store.runs.values() if "mlflow.parentRunId" in r.tags]
    assert [(r.name, r.status, r.files) for r in trials] == [
        ("a", "FINISHED", []),
        ("b", "FINISHED", []),
        ("c", "FINISHED", []),
        ("d", "FINISHED", ["model.pt"]),
    ]


@pytest.mark.parametrize(
    "call", ["get_experiment_by_name", "create_run", "log_batch", "log_artifact", "set_terminated", "set_tag"]
)
def test_a_tracker_that_fails_warns_once(store: FakeMlflow, caplog: pytest.LogCaptureFixture, call: str) -> None:
    store.failing.add(call)
    (Path("run") / "log.txt").touch()
    with caplog.at_level(logging.WARNING, "balancer"):
        track()
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "mlflow" in warning
    assert f"no answer to {call}" in warning
    assert "--resume" in warning


def test_one_that_fails_leaves_the_other_alone(store: FakeMlflow) -> None:
    store.failing.add("log_batch")
    track(request=Tracking(("mlflow", "tensorboard")))
    assert list((Path("run") / "events").glob("events*"))


def test_an_error_of_the_training_stays_its_own(store: FakeMlflow) -> None:
    context = tracked(Path("run"), "gan-train", {}, Tracking(("mlflow",)), ())
    with pytest.raises(BalancerError, match="diverged"), context:
        raise BalancerError("diverged")
    (run,) = store.runs.values()
    assert run.status == "FAILED"


def test_the_address(store: FakeMlflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The option, else MLflow's own variable, which may hold a password and is therefore not kept in the run."""
    track(request=Tracking(("mlflow",), "http://tracking.example"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@other.example")
    with caplog.at_level(logging.INFO, "balancer"):
        track(request=NOT_TRACKED)
        Path("second").mkdir()
        track(Path("second"))
    assert store.addresses == ["http://tracking.example"] * 2 + ["https://me:secret@other.example"]
    assert "other.example" in caplog.text
    assert "secret" not in caplog.text + (Path("second") / FILE).read_text()
    warned = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == 3, "that images and file names leave this machine"


def test_another_address_is_another_run(store: FakeMlflow) -> None:
    track()
    track(request=Tracking(("mlflow",), "http://tracking.example"))
    assert len(store.top) == 2


@pytest.mark.parametrize(
    ("backends", "address", "words"),
    [
        (("mlfow",), None, "'mlflow'"),
        (("none", "mlflow"), None, "none"),
        (("tensorboard",), "http://a.example", "--track mlflow"),
        ((), "http://a.example", "--track mlflow"),
        (("mlflow",), "https://me:secret@a.example", "MLFLOW_TRACKING_URI"),
        (("mlflow",), "http://[", "--tracking-uri"),
    ],
)
def test_requests_that_make_no_sense(
    monkeypatch: pytest.MonkeyPatch, backends: tuple[str, ...], address: str | None, words: str
) -> None:
    monkeypatch.setattr(tracking, "check_installed", lambda _names: None)
    with pytest.raises(UsageError, match=words) as refusal:
        Tracking(backends, address)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("name", tracking.BACKENDS)
def test_what_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(BalancerError, match=rf"pip install -e '.*\[{name}\]'"):
        Tracking((name,))
    assert Tracking() == NOT_TRACKED


def test_a_damaged_record_is_named(store: FakeMlflow) -> None:
    track()
    content = (Path("run") / FILE).read_text()
    (Path("run") / FILE).write_text(content.replace("id0", "id1"))
    with pytest.raises(DamagedFile, match=FILE):
        track(request=NOT_TRACKED)


def test_images_are_small_work(store: FakeMlflow) -> None:
    """Grids are files of the run, which MLflow gets at the end."""
    with tracked(Path("run"), "gan-train", {}, Tracking(("mlflow",)), ()) as tracker:
        tracker.image("fixed z", np.zeros((4, 4), np.uint8), 1)
    assert not store.runs["id0"].files


@pytest.mark.nightly
def test_a_real_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow itself, with every way to another machine closed: curves, files and nested trials are there."""

    def refuse(self: socket.socket, address: object, *_: object) -> None:
        raise AssertionError(f"a connection to {address}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    (tmp_path / "run" / "grids").mkdir(parents=True)
    (tmp_path / "run" / "log.txt").write_text("a line")
    (tmp_path / "run" / "grids" / "a.png").touch()
    with interrupted(), tracked(Path("run"), "ablate", SETTINGS, Tracking(("mlflow",)), ()) as tracker:
        tracker.scalars({"step": 2, "loss": 1.0})
        tracker.trial(
            TrackedTrial("gan@0.5-set1-0", {"regime": "gan"}, [{"step": 5, "nll": 0.5}], {"test.auroc": 0.75})
        )
        raise Interrupted(2, "stopped")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow' / 'mlflow.db'}")
    parent = read_json(Path("run") / FILE)["identities"]["mlflow"]
    assert client.get_run(parent).info.status == "KILLED"
    number = client.get_run(parent).info.experiment_id
    client.create_run(number, run_name="gan-1", tags={"mlflow.parentRunId": parent})  # as a killed process leaves it
    with tracked(Path("run"), "ablate", {**SETTINGS, "steps": 9}, NOT_TRACKED, ("*.txt", "grids/*.png")) as tracker:
        for step in (2, 4):
            tracker.scalars({"step": step, "loss": step / 8})
        for name in ("gan@0.5-set1-0", "gan-1"):
            tracker.trial(TrackedTrial(name, {"regime": "gan"}, [], {"test.auroc": 0.5}))
        tracker.figures({"gan - baseline": -0.125})
        tracker.text("verdict", "No.")
    experiment = client.get_experiment_by_name("xray-balancer ablate")
    runs = client.search_runs([experiment.experiment_id])
    (top,) = (r for r in runs if "mlflow.parentRunId" not in r.data.tags)
    assert (top.info.status, top.info.run_name) == ("FINISHED", "run")
    assert top.data.params == {"steps": "8", "data.path": "phantom"}
    assert [(m.step, m.value) for m in client.get_metric_history(top.info.run_id, "loss")] == [(2, 1.0), (4, 0.5)]
    assert top.data.metrics["gan - baseline"] == -0.125
    assert {f.path for f in client.list_artifacts(top.info.run_id)} == {"grids", "log.txt"}
    assert (tmp_path / "runs" / "mlflow" / "files").is_dir()
    below = {r.info.run_name: r for r in runs if r.data.tags.get("mlflow.parentRunId") == top.info.run_id}
    assert below.keys() == {"gan@0.5-set1-0", "gan-1"}
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert len(runs) == 3, "none twice"
    assert below["gan@0.5-set1-0"].data.metrics == {"nll": 0.5, "test.auroc": 0.75}


@pytest.mark.nightly
def test_a_server_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing listens: one warning within seconds, and the run goes on."""
    (tmp_path / "run").mkdir()
    with caplog.at_level(logging.WARNING, "balancer"):
        track(tmp_path / "run", Tracking(("mlflow",), "http://127.0.0.1:9"))
    assert [r.name for r in caplog.records if r.levelno == logging.WARNING] == ["balancer"]
