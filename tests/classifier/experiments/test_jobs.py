"""Trials in several processes and on a cluster: the same results as in one, each once, whatever dies on the way."""

import contextlib
import errno
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from fake_study import fake_trial

from balancer.core.environment import environment
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.run import RunRequest, open_run
from balancer.core.sealed import write_json
from balancer.core.settings import AblateConfig, DataConfig
from classifier.experiments import ablation, jobs
from classifier.experiments import cluster as clusters
from classifier.experiments.jobs import Workers, run_trials
from classifier.experiments.plan import Trial
from classifier.experiments.study import Study, open_study, provenance
from classifier.experiments.trial import TrainedTrial
from classifier.training.regimes import REGIMES

NEEDS_A_SET = Trial(REGIMES["gan"], 0)  # fails where it runs: there is no synthetic set


def study_of(folder: Path, **more: Any) -> Study:
    """Two regimes on a folder of noise; a trial takes a fraction of a second."""
    small = {"steps": 6, "batch_size": 8, "evaluations": 2, "precision": "float32", "seeds": 2}
    small |= {"bn_statistics": "running"}
    data = DataConfig(path=str(folder), image_size=16)
    return open_study(AblateConfig(data=data, regimes=("baseline", "augment"), **{**small, **more}))


class Keeper:
    """What was kept; ``then`` is called with the number of trials so far."""

    def __init__(self, then: Callable[[int], object] = lambda n: None) -> None:
        self.results: list[TrainedTrial] = []
        self.then = then

    def __call__(self, trained: TrainedTrial) -> None:
        self.results.append(trained)
        self.then(len(self.results))

    @property
    def names(self) -> list[str]:
        return [trained.trial.name for trained in self.results]

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """By trial, without the time taken, and the code, which someone may change while the tests run."""
        passing = ("seconds", "git_commit", "code_hash")
        rows = {trained.trial.name: trained.result.to_json() for trained in self.results}
        return {name: {k: v for k, v in row.items() if k not in passing} for name, row in rows.items()}


def rows_here(study: Study, names: list[str]) -> dict[str, dict[str, Any]]:
    """The rows that these trials give in this process."""
    keeper = Keeper()
    run_trials(study, [t for t in study.trials if t.name in names], Workers("cpu"), keeper, "")
    return keeper.rows


# ---------------------------------------------------------------- who runs them


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"jobs": 0}, "--jobs is 0"),
        ({"jobs": -1}, "--jobs is -1"),
        ({"jobs": 10**9}, "--jobs is 1000000000.* 1024"),
        ({"backend": "dask"}, "needs --scheduler"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "add --backend dask"),
        ({"backend": "dask", "scheduler": "tcp://127.0.0.1:1", "jobs": 2}, "start as many workers"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], phrase: str) -> None:
    with pytest.raises(UsageError, match=phrase):
        Workers(**options)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BalancerError, match=r"pip install -e '.*\[cluster\]'"):
        Workers(backend="dask", scheduler="tcp://127.0.0.1:1").count()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x", "x:y:z", "tls://127.0.0.1:9"])
def test_an_address_where_nobody_answers(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", 1)
    with pytest.raises(BalancerError, match="no dask scheduler answers at") as caught:
        Workers(backend="dask", scheduler=address).count()
    assert "\n" not in str(caught.value)


def test_a_scheduler_without_workers_names_the_line_that_starts_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit of memory: dask's own is the share of one processor, at which it kills a trial."""
    import distributed

    class Client(contextlib.AbstractContextManager):
        wait_for_workers = staticmethod(lambda *_, **__: (_ for _ in ()).throw(TimeoutError))
        __exit__ = staticmethod(lambda *_: None)

    monkeypatch.setattr(distributed, "Client", lambda *_, **__: Client())
    with pytest.raises(
        BalancerError, match="no worker; start some: dask worker tcp://s:1 --nthreads 1 --memory-limit 0"
    ):
        Workers(backend="dask", scheduler="tcp://s:1").count()


# ---------------------------------------------------------------- one attempt, and what becomes of many


@pytest.fixture
def study(template: Path) -> Study:
    return study_of(template)


def attempt(study: Study, trial: Trial, **other: str) -> jobs.Attempt:
    return jobs._attempt_trial(trial, study.config, provenance(study) | other, "cpu", 1)


def test_an_attempt_brings_the_result_and_what_was_said_in_it(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """What opening the data gives rise to was said by the process that asked, and is not said again."""
    original = jobs.run_trial

    def warn(*args: Any) -> TrainedTrial:
        logging.getLogger("balancer").warning("%s is odd", "this")
        logging.getLogger("balancer").info("this is not")
        return original(*args)

    monkeypatch.setattr(jobs, "run_trial", warn)
    jobs._open_once.cache_clear()
    first, again = (attempt(study, study.trials[1]) for _ in range(2))
    assert first.warnings == again.warnings == [(logging.WARNING, "this is odd")]
    assert first.result is not None
    assert (first.result.result.regime, first.result.result.trial_seed) == ("augment", 0)
    assert {*first.result.result.predictions} == {"val", "test"}
    assert first.result.model


def test_other_data_than_those_of_the_parent_are_refused(study: Study) -> None:
    found = attempt(study, study.trials[0], data_fingerprint="e" * 16)
    assert found.result is None
    assert isinstance(found.error, BalancerError)
    assert f"data_fingerprint {study.data.fingerprint}, expected {'e' * 16}" in str(found.error)


def test_a_worker_that_lives_on_opens_data_that_have_changed(
    chest_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "run_trial", lambda study, trial, *_: trained(trial.seed))
    studies = [study_of(chest_folder)]
    assert attempt(studies[0], studies[0].trials[0]).error is None
    next((chest_folder / "test" / "NORMAL").iterdir()).unlink()
    studies.append(study_of(chest_folder))
    assert attempt(studies[1], studies[1].trials[0]).error is None


def test_an_unforeseen_error_tells_where_it_happened(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "run_trial", lambda *args: {}["oops"])
    found = attempt(study, study.trials[0])
    assert isinstance(found.error, KeyError)
    assert "test_jobs.py" in found.error.__notes__[0]


def test_a_cluster_worker_with_threads_is_refused(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    worker = SimpleNamespace(address="tcp://w:1", state=SimpleNamespace(nthreads=4))
    monkeypatch.setattr(distributed, "get_worker", lambda: worker)
    found = jobs._attempt_on_cluster(study.trials[0], (study.config, provenance(study), "cpu", 1, ()))
    assert "dask worker tcp://w:1" in str(found.error)
    assert "runs 4 tasks at once; start it with --nthreads 1" in str(found.error)


def test_a_full_disk_of_a_cluster_worker_names_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    worker = SimpleNamespace(address="tcp://w:1", state=SimpleNamespace(nthreads=1), get_current_task=lambda: "key")
    monkeypatch.setattr(distributed, "get_worker", lambda: worker)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/x")
    found = clusters.in_worker(lambda _: jobs.Attempt(None, full, []))
    assert isinstance(found.error, BalancerError)
    assert re.match(r"dask worker tcp://w:1 on \S+: /cache/x: No space left .* --resume", str(found.error))
    stopped = Interrupted(signal.SIGTERM, "stopped")
    assert clusters.in_worker(lambda _: jobs.Attempt(None, stopped, [])).error is stopped


def trained(seed: int) -> TrainedTrial:
    return TrainedTrial(Trial(REGIMES["baseline"], seed), fake_trial(), b"")


def test_after_a_failure_the_jobs_beside_it_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    first, second = BalancerError("first"), BalancerError("second")
    attempts = [
        jobs.Attempt("a", None, [(logging.WARNING, "odd")]),
        jobs.Attempt(None, first, []),
        jobs.Attempt("b", None, []),
        jobs.Attempt(None, second, []),
        jobs.Attempt("c", None, []),
    ]
    stopped: list[bool] = []

    def watched() -> Iterator[jobs.Attempt[str]]:
        for one in attempts:
            stopped.append(stop.is_set())
            yield one

    results: list[str] = []
    with pytest.raises(BalancerError) as caught:
        results.extend(result for result in jobs.collect(watched(), stop))
    assert caught.value is first
    assert results == ["a", "b", "c"]
    assert stopped == [False, False, True, True, True]
    assert caplog.messages == ["odd"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_a_trial_is_written(signum: int, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(jobs, "run_trial", lambda study, trial, *_: trained(trial.seed))

    def write(n: int) -> None:
        signal.raise_signal(signum)
        written.append(n)

    with pytest.raises(Interrupted) as caught:
        run_trials(study, study.trials, Workers("cpu"), Keeper(write), "hint")
    assert written == [1]
    assert caught.value.exit_code == 128 + signum


def test_a_signal_after_the_last_step_is_not_forgotten(study: Study) -> None:
    keeper = Keeper(lambda n: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted, match="SIGTERM: the hint"):
        run_trials(study, study.trials[:1], Workers("cpu"), keeper, "the hint")
    assert keeper.names == ["baseline-0"]


# ---------------------------------------------------------------- processes


def begin_and_fail(study: Study) -> list[Trial]:
    """Two good trials, one that cannot be run, and more than can be under way when that is noticed."""
    good = study.trials
    return [*good[:2], NEEDS_A_SET, *good[2:]]


@pytest.mark.slow
def test_processes_give_the_same_rows_and_stop_after_a_failure(
    template: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study, keeper = study_of(template, seeds=12), Keeper()
    caplog.clear()
    with pytest.raises(BalancerError, match="regime gan needs synthetic images"):
        run_trials(study, begin_and_fail(study), Workers("cpu", 2), keeper, "hint")
    assert {"baseline-0", "augment-0"} <= set(keeper.names)
    assert len(keeper.names) == len(set(keeper.names)) < len(study.trials)
    assert keeper.rows == rows_here(study, keeper.names)
    assert "validation holds" not in caplog.text, "a worker's warnings of the data are not to be repeated"


def worker_pids() -> list[int]:
    children = psutil.Process().children(recursive=True)
    return [p.pid for p in children if any("popen_loky" in part for part in p.cmdline())]


@pytest.mark.nightly
def test_a_process_that_is_killed_ends_the_command_clearly(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    study, threads = study_of(template, seeds=30, steps=100), []

    def kill(n: int) -> None:
        if n == 1:
            threads.extend(psutil.Process(pid).environ()["OMP_NUM_THREADS"] for pid in worker_pids())
            os.kill(worker_pids()[0], signal.SIGKILL)

    keeper = Keeper(kill)
    with pytest.raises(BalancerError, match="a worker process died"):
        run_trials(study, study.trials, Workers("cpu", 2, threads=3), keeper, "hint")
    assert 1 <= len(keeper.names) < 60
    assert threads == ["3"] * 2, "not a share of the processors, which depends on the number of jobs"
    assert {trained.result.threads for trained in keeper.results} == {3}
    assert worker_pids() == []


# ---------------------------------------------------------------- a cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The cluster that several tests share."""
    with started_cluster(tmp_path_factory.mktemp("cluster")) as there:
        yield there


@contextlib.contextmanager
def started_cluster(parent: Path) -> Iterator[SimpleNamespace]:
    """A scheduler and two workers, each a process of its own, on the loopback interface."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    started: list[subprocess.Popen] = []

    def start(kind: str, *options: str) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            f"distributed.cli.dask_{kind}",
            "--scheduler-file",
            str(folder / "at"),
            *options,
        ]
        with (folder / f"{kind}-{len(started)}.log").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
        started.append(process)
        return process

    scheduler = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    workers = [start("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard") for _ in range(2)]
    try:
        deadline = time.monotonic() + 240
        while not (folder / "at").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        address = json.loads((folder / "at").read_text())["address"]
        with _client(address) as client:
            client.wait_for_workers(2, timeout=240)
        yield SimpleNamespace(address=address, workers=workers, scheduler=scheduler)
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        yield client


@pytest.mark.nightly
def test_an_interrupted_cluster_stops_working(cluster: SimpleNamespace, template: Path) -> None:
    study, keeper = study_of(template, seeds=1, steps=1_000_000), Keeper()

    def when_under_way() -> None:
        deadline = time.monotonic() + 120
        with _client(cluster.address) as client:
            while sum(map(len, client.processing().values())) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=when_under_way)
    thread.start()
    with pytest.raises(Interrupted, match="the hint") as caught:
        run_trials(study, study.trials, Workers("cpu", 1, "dask", cluster.address), keeper, "the hint")
    thread.join()
    assert caught.value.exit_code == 130
    with _client(cluster.address) as client:
        busy: dict[str, int] = {}
        for _ in range(300):
            busy = client.run(lambda dask_worker: dask_worker.state.executing_count)
            if not any(busy.values()):
                break
            time.sleep(0.1)
        assert list(busy.values()) == [0, 0]


@pytest.mark.nightly
def test_workers_that_see_other_data_say_so(cluster: SimpleNamespace, chest_folder: Path) -> None:
    study = study_of(chest_folder)
    next((chest_folder / "test" / "NORMAL").iterdir()).unlink()
    with pytest.raises(BalancerError, match=r"dask worker tcp://127\.0\.0\.1:\d+ .*data_fingerprint"):
        run_trials(study, study.trials, Workers("cpu", 1, "dask", cluster.address), Keeper(), "hint")


@pytest.mark.nightly
def test_the_trial_of_a_killed_worker_is_run_by_another(cluster: SimpleNamespace, template: Path) -> None:
    """After all tests that need both workers: one ends here."""
    study = study_of(template, seeds=3, steps=60)
    workers = Workers("cpu", 1, "dask", cluster.address)
    assert workers.count() == 2

    def kill(n: int) -> None:
        if n == 2:
            cluster.workers[0].kill()

    keeper = Keeper(kill)
    run_trials(study, study.trials, workers, keeper, "hint")
    assert cluster.workers[0].wait() == -signal.SIGKILL
    assert sorted(keeper.names) == sorted(t.name for t in study.trials), "a trial was lost, or kept twice"
    assert keeper.rows == rows_here(study, keeper.names)


@pytest.mark.nightly
def test_a_scheduler_that_dies_ends_the_command_clearly(cluster: SimpleNamespace, template: Path) -> None:
    """Must be the last of the cluster's tests."""
    study = study_of(template, seeds=30, steps=60)
    keeper = Keeper(lambda n: cluster.scheduler.kill())
    with pytest.raises(BalancerError, match=r"dask gave \w+ .* continue with --resume") as caught:
        run_trials(study, study.trials, Workers("cpu", 1, "dask", cluster.address), keeper, "hint")
    assert "\n" not in str(caught.value)
    assert 1 <= len(keeper.names) < 60


@pytest.mark.nightly
def test_after_the_scheduler_died_a_new_one_does_what_is_left(template: Path, tmp_path: Path) -> None:
    """Every trial is kept once, with the row that one process gives."""
    study, request = study_of(template, seeds=8, steps=20), RunRequest(tmp_path / "run")
    results = tmp_path / "run" / "results.jsonl"

    def kill_when_some_are_kept(scheduler: subprocess.Popen) -> None:
        while not results.exists() or len(results.read_text().splitlines()) < 2:
            time.sleep(0.02)
        scheduler.kill()

    with started_cluster(tmp_path) as first, open_run("ablate", study.config, request) as run:
        killer = threading.Thread(target=kill_when_some_are_kept, args=(first.scheduler,))
        killer.start()
        with pytest.raises(BalancerError, match="dask gave"):
            ablation.ablate(study, run, Workers("cpu", 1, "dask", first.address))
        killer.join()
        write_json(run / "env.json", environment("ablate", "cpu"))
    kept = results.read_text().splitlines()
    assert 2 <= len(kept) < 16
    resumed = RunRequest(resume=str(tmp_path / "run"))
    with started_cluster(tmp_path) as second, open_run("ablate", study.config, resumed) as run:
        finished = ablation.ablate(study, run, Workers("cpu", 1, "dask", second.address))
    lines = results.read_text().splitlines()
    assert lines[: len(kept)] == kept
    assert len(lines) == len(finished.trials) == 16
    passing = {"seconds", "git_commit", "code_hash", "folder", "sha256"}
    rows = {f"{row['regime']}-{row['trial_seed']}": row for row in map(json.loads, lines)}
    for name, expected in json.loads(json.dumps(rows_here(study, [*rows]))).items():
        assert {k: v for k, v in rows[name].items() if k in expected.keys() - passing} == {
            k: v for k, v in expected.items() if k not in passing
        }


@pytest.mark.nightly
def test_a_worker_that_begins_after_its_parent_died_ends_too() -> None:
    """A parent may be killed while its worker still imports modules; the worker's parent is another from then on."""
    parent = subprocess.Popen([sys.executable, "-c", "pass"])
    parent.wait()
    work = (
        f"import time; from classifier.experiments import jobs; jobs._initialise_worker({parent.pid}); time.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", work], timeout=50, check=False).returncode == 1


def test_the_message_of_a_stop_names_no_file_that_is_not_there(tmp_path: Path) -> None:
    kept = jobs.Kept(tmp_path, tmp_path / "results.jsonl")
    assert "results.jsonl" not in str(kept)
    assert f"--resume {tmp_path}" in str(kept)
    kept.file.write_text("")
    assert "results.jsonl" in str(kept)


@dataclass(frozen=True)
class Card:
    """A card on which a step takes a gigabyte."""

    free: int

    def room(self) -> int:
        return self.free

    def peak(self, work: Callable[[], object]) -> int:
        work()
        return 10**9


def test_jobs_that_a_card_has_no_memory_for(study: Study) -> None:
    """A real step is made, with a network that is thrown away; on the CPU nothing is measured."""
    before = torch.get_rng_state()
    jobs.check_card(study, Workers("cpu", jobs=2), Card(10**10))
    with pytest.raises(BalancerError, match=r"--jobs 3 .*--jobs 2"):
        jobs.check_card(study, Workers("cpu", jobs=3), Card(4 * 10**9))
    jobs.check_card(study, Workers("cpu", jobs=1000))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("decay", "copies"), [(0.0, 1), (0.9, 2)])
def test_weights_that_a_training_keeps_aside_take_memory(
    study: Study, monkeypatch: pytest.MonkeyPatch, decay: float, copies: int
) -> None:
    made: list[object] = []
    monkeypatch.setattr("classifier.training.memory.copy.deepcopy", made.append)
    changed = study.config.model_copy(update={"ema_decay": decay})
    jobs.check_card(replace(study, config=changed), Workers("cpu", jobs=2), Card(10**10))
    assert len(made) == copies


def test_added_images_take_memory_of_a_card_too(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    images: list[int] = []
    monkeypatch.setattr(jobs, "check_room", lambda *arguments: images.append(arguments[3]))
    for names in (["baseline"], ["baseline", "duplicate"]):
        jobs.check_card(replace(study, regimes=[REGIMES[name] for name in names]), Workers("cpu", jobs=2), Card(0))
    without, added = (n // study.data.images[:1].nbytes for n in images)
    assert without == len(study.data.indices("train"))
    assert added - without == sum(study.duplicate_counts) > 0
