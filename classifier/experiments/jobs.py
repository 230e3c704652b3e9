"""Trials as independent jobs: in this process, in several processes of this machine, or on the workers of a cluster.

A trial's result follows from its settings and seeds, not from who runs it. Only the process that was started by the user
writes: a worker sends its row and the content of its files back, so nothing needs to be shared but the data.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm import tqdm

from balancer.core import progress
from balancer.core.device import describe_device, limit_threads, resolve_device
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.run import deferred_signals
from balancer.core.settings import ClassifierConfig
from classifier.experiments.study import Study, TrainedTrial, Trial, open_study, provenance, run_trial

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger("balancer")
Kept = Callable[[Trial, TrainedTrial], None]
PATIENCE = 10  # seconds to wait for a scheduler and for its first worker


@dataclass(frozen=True)
class Workers:
    """Who runs the trials.

    Raises:
        UsageError: the parts do not go together.
    """

    device: str = "auto"  # a name; on a cluster each worker resolves it for itself
    jobs: int = 1  # processes of this machine; the device is theirs together
    backend: Literal["local", "dask"] = "local"
    scheduler: str | None = None  # address of a dask scheduler

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UsageError(f"--jobs is {self.jobs}; expected 1 or more")
        if self.backend == "local" and self.scheduler is not None:
            raise UsageError("--scheduler is for a cluster; add --backend dask")
        if self.backend == "dask" and self.scheduler is None:
            raise UsageError("--backend dask needs --scheduler ADDRESS, such as tcp://10.0.0.1:8786")
        if self.backend == "dask" and self.jobs > 1:
            raise UsageError("--jobs is for this machine; with --backend dask, start as many workers as you want")

    @property
    def here(self) -> torch.device:
        """The device of this machine: where the trials run, or what the time of a cluster's trials is guessed on."""
        return resolve_device(self.device if self.backend == "local" else "auto")

    def describe(self) -> str:
        """The devices in words."""
        if self.backend == "dask":
            return f"dask workers of {self.scheduler}, device {self.device}"
        return describe_device(self.here) + (f", {self.jobs} jobs" if self.jobs > 1 else "")

    def at_once(self) -> int:
        """How many trials run at the same time.

        Raises:
            BalancerError: the cluster cannot be reached or has no worker.
        """
        if self.backend == "local":
            return self.jobs
        with _client(self.scheduler) as client:
            return len(client.nthreads())


@dataclass(frozen=True)
class _Attempt:
    """What a worker sends back."""

    trial: Trial
    result: TrainedTrial | None
    error: Exception | None  # a value, so that an error in one trial loses none of those that ended before it
    said: list[tuple[int, str]]  # level and text of each warning


def run_trials(study: Study, trials: list[Trial], workers: Workers, kept: Kept, hint: str) -> None:
    """Run the trials, in whatever order they end.

    Args:
        kept: called in this process with every finished trial, one at a time; no signal interrupts it.
        hint: how to go on, for who interrupts the trials or loses a worker.

    Raises:
        Interrupted: SIGINT or SIGTERM came. A trial in this process ends after its step, other workers are stopped at once.
        BalancerError: a trial failed, once those that ran beside it are kept; or a worker died or is of no use.
    """
    if not trials:
        return
    if workers.backend == "local" and workers.jobs == 1:
        _run_here(study, trials, workers.here, kept, hint)
        return
    attempts_of = _in_processes if workers.backend == "local" else _on_cluster
    enough = threading.Event()
    with as_one_line(hint), contextlib.closing(attempts_of(study, trials, workers, enough)) as attempts:
        _collect(attempts, len(trials), kept, enough)


@contextlib.contextmanager
def as_one_line(hint: str) -> Iterator[None]:
    """What may end trials from outside, as an error that says how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(signal.SIGINT, hint) from stop
    except Interrupted as stop:
        raise Interrupted(stop.signum, hint) from stop
    except BrokenProcessPool as error:
        raise BalancerError(f"a worker process died, perhaps for want of memory; {hint} and fewer --jobs") from error


def _run_here(study: Study, trials: list[Trial], device: torch.device, kept: Kept, hint: str) -> None:
    with deferred_signals() as signalled:
        for trial in trials:
            try:
                result = run_trial(study, trial, device, signalled)
            except Interrupted as stop:
                raise Interrupted(stop.signum, hint) from stop
            kept(trial, result)
            if (signum := signalled()) is not None:  # came after the last step
                raise Interrupted(signum, hint)


def _collect(attempts: Iterator[_Attempt], total: int, kept: Kept, enough: threading.Event) -> None:
    """Keep what succeeds; after a failure no further trial is begun, and the first error is raised at the end."""
    error: Exception | None = None
    with progress.bar(total, "trials", "trial") as bar:
        for attempt in attempts:
            for level, text in attempt.said:
                log.log(level, "%s", text)
            if attempt.result is None:
                error = error or attempt.error
                enough.set()
                continue
            with deferred_signals() as signalled:
                kept(attempt.trial, attempt.result)
            bar.update()
            if (signum := signalled()) is not None:
                raise Interrupted(signum, "stopped")
    if error is not None:
        raise error


def _in_processes(
    study: Study, trials: list[Trial], workers: Workers, enough: threading.Event
) -> Generator[_Attempt, None, None]:
    """Attempts of processes of this machine."""
    context = study.config, provenance(study), workers.device
    # One trial at a time is taken from this generator, so that none is begun after a failure.
    calls = (delayed(_attempt)(trial, *context) for trial in trials if not enough.is_set())
    return in_processes(calls, workers.jobs)


def in_processes(calls: Iterable[Any], jobs: int) -> Generator[Any, None, None]:
    """What joblib's delayed ``calls`` return, as they end; the next is taken when a process of ``jobs`` is free, and closing
    the generator ends those that run. joblib gives each process its share of the cores, or what OMP_NUM_THREADS says."""
    pool = Parallel(
        jobs,
        backend="loky",
        return_as="generator_unordered",
        batch_size=1,
        pre_dispatch="n_jobs",
        initializer=_begin_worker,
    )
    results = pool(calls)
    try:
        yield from results
    finally:
        with warnings.catch_warnings(action="ignore"):  # joblib's, of the trials that this ends
            results.close()
        get_reusable_executor(reuse=True).shutdown(kill_workers=True)


def _begin_worker() -> None:
    """Ctrl-C reaches all processes of a terminal, but only the one that asked for the trials is to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # its own, between processes, would be left behind by a worker that is stopped
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process once the one that began it has been killed outright: it would stay for minutes."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _on_cluster(
    study: Study, trials: list[Trial], workers: Workers, enough: threading.Event
) -> Generator[_Attempt, None, None]:
    """Attempts of dask workers. dask itself runs the trial of a worker that has died again elsewhere."""
    from distributed import KilledWorker, as_completed

    context = study.config, provenance(study), workers.device
    with _client(workers.scheduler) as client:
        futures = {client.submit(_cluster_attempt, trial, *context, pure=False): trial for trial in trials}
        for future in as_completed(list(futures), loop=client.loop):
            trial = futures.pop(future)
            if future.cancelled() and enough.is_set():
                continue
            try:
                attempt = future.result()
            except KilledWorker as error:
                raise BalancerError(
                    f"{trial.name}: one worker after another died of it; see the workers' logs, then continue with --resume"
                ) from error
            except Exception as error:  # dask's own: the scheduler is gone, or the worker cannot import this package
                raise BalancerError(
                    f"{trial.name}: dask gave {type(error).__name__} ({' '.join(str(error).split())}); "
                    "see that the scheduler runs and that the workers have this package installed, then continue with --resume"
                ) from error
            yield attempt
            if enough.is_set():
                client.cancel([other for other in futures if not other.done()])


@contextlib.contextmanager
def _client(address: str | None) -> Iterator[Client]:
    """A client of the scheduler, whose tasks end when it closes."""
    try:
        from distributed import Client
    except ImportError as error:
        raise BalancerError("--backend dask needs dask; run pip install 'xray-balancer[cluster]'") from error
    # What it tells in tracebacks, errors here tell in a line.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:  # ValueError: not an address
        raise BalancerError(
            f"no dask scheduler answers at {address} ({str(error).splitlines()[0]}); start `dask scheduler`, or mend --scheduler"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise BalancerError(
                f"the dask scheduler at {address} has no worker; start some: dask worker {address} --nthreads 1"
            ) from error
        yield client


class Listener(logging.Handler):
    """Keeps what a worker says, for the process that asked."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append((record.levelno, record.getMessage()))


def listening() -> Listener:
    """In a worker: warnings are kept for the process that asked, and no bar is drawn."""
    listener = Listener()
    log.handlers, log.propagate = [listener], False
    log.setLevel(logging.WARNING)
    return listener


def _attempt(
    trial: Trial,
    config: ClassifierConfig,
    expected: dict[str, str],
    device: str,
    signalled: Callable[[], int | None] = lambda: None,
) -> _Attempt:
    """Run a trial in a worker, whatever comes of it."""
    listener = listening()
    try:
        study = _opened(config)
        listener.said.clear()  # the process that asked has said so itself
        if differ := [f"{k} {v}, expected {expected[k]}" for k, v in provenance(study).items() if v != expected[k]]:
            raise BalancerError(
                f"the data in {config.data.path} are not those of the process that asks ({'; '.join(differ)}); copy them there"
            )
        return _Attempt(trial, run_trial(study, trial, resolve_device(device), signalled), None, listener.said)
    except BalancerError as error:
        return _Attempt(trial, None, error, listener.said)
    except Exception as error:
        error.add_note(f"In a worker:\n{traceback.format_exc()}")  # pickling drops the traceback, but not this
        return _Attempt(trial, None, error, listener.said)


@lru_cache(maxsize=1)
def _opened(config: ClassifierConfig) -> Study:
    """The study, opened once per worker."""
    limit_threads()
    return open_study(config)


def _cluster_attempt(trial: Trial, config: ClassifierConfig, expected: dict[str, str], device: str) -> _Attempt:
    """As :func:`_attempt`, in a dask worker: ends early when nobody waits for the result any more."""
    from distributed import get_worker

    worker: Any = get_worker()
    here = f"dask worker {worker.address} on {platform.node()}"
    if worker.state.nthreads > 1:  # torch has one random stream per process: two trials would share it
        error: Exception = BalancerError(
            f"{here} runs {worker.state.nthreads} tasks at once; start it with --nthreads 1"
        )
        return _Attempt(trial, None, error, [])
    key = worker.get_current_task()

    def signalled() -> int | None:
        task = worker.state.tasks.get(key)
        return signal.SIGTERM if task is None or task.state == "cancelled" else None

    attempt = _attempt(trial, config, expected, device, signalled)
    if isinstance(attempt.error, BalancerError):
        return _Attempt(trial, None, BalancerError(f"{here}: {attempt.error}"), attempt.said)
    return attempt
