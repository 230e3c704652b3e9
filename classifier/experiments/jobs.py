"""Run trials as independent jobs: in this process, in several processes of this machine, or on a dask cluster.

A trial's result follows from its settings and seeds, not from the worker that runs it. Only the process that the user
started writes files. A worker sends back the trial's row and the content of its files, so workers need only the data.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm import tqdm

from balancer.core import progress
from balancer.core.card_memory import Card, card_of, check_room
from balancer.core.device import describe_device, named_device, resolve_device
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.settings import ClassifierConfig
from balancer.core.signals import deferred_signals
from balancer.core.stepping import choose_mode
from balancer.core.threads import choose_threads
from classifier.experiments.attempts import Attempt, attempt, collect
from classifier.experiments.cluster import at_scheduler, check_slurm, checked, directives, in_worker, on_slurm
from classifier.experiments.plan import Trial
from classifier.experiments.study import Study, open_study, provenance
from classifier.experiments.trial import Interrupt, TrainedTrial, run_trial
from classifier.training.filtering import Selection
from classifier.training.memory import try_batch

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger("balancer")
T = TypeVar("T")
MOST_JOBS = 1024  # processes of one machine


@dataclass(frozen=True)
class Workers:
    """What runs the trials.

    Raises:
        UsageError: if the options exclude each other.
    """

    device: str = "auto"  # a name; on a cluster each worker resolves it for itself
    jobs: int = 1  # processes of this machine, which share the device
    backend: Literal["local", "dask", "slurm"] = "local"
    scheduler: str | None = None  # address of a dask scheduler
    sbatch: tuple[str, ...] = ()  # options of the jobs of SLURM, of which there are ``jobs``
    threads: int = field(default_factory=choose_threads)  # of each trial, whatever ``jobs`` is

    def __post_init__(self) -> None:
        named_device(self.device)
        if not 1 <= self.jobs <= MOST_JOBS:
            raise UsageError(f"--jobs is {self.jobs}; expected 1 to {MOST_JOBS}")
        if self.backend != "dask" and self.scheduler is not None:
            raise UsageError("--scheduler is for a cluster; add --backend dask")
        if self.backend != "slurm" and self.sbatch:
            raise UsageError("--sbatch is for SLURM; add --backend slurm")
        directives(self.sbatch)
        if self.backend == "dask" and self.scheduler is None:
            raise UsageError("--backend dask needs --scheduler ADDRESS, such as tcp://10.0.0.1:8786")
        if self.backend == "dask" and self.jobs > 1:
            raise UsageError("--jobs is for this machine; with --backend dask, start as many workers as you want")

    @property
    def local_device(self) -> torch.device:
        """Return the device of this machine, which runs the trials or estimates the time of a cluster's."""
        return resolve_device(self.device if self.backend == "local" else "auto")

    def describe(self) -> str:
        """Return the devices in words."""
        if self.backend == "dask":
            return f"dask workers of {self.scheduler}, device {self.device}"
        if self.backend == "slurm":
            return f"{self.jobs} dask workers in jobs of SLURM, device {self.device}"
        return describe_device(self.local_device) + (f", {self.jobs} jobs" if self.jobs > 1 else "")

    def count(self) -> int:
        """Return the number of trials that run at the same time.

        Raises:
            BalancerError: if the cluster cannot be reached or has no worker.
        """
        if self.backend == "slurm":
            check_slurm(self.sbatch, self.threads)
        if self.backend != "dask":
            return self.jobs
        with at_scheduler(self.scheduler) as client:
            return len(client.nthreads())

    def check_steps(self, config: ClassifierConfig) -> None:
        """Refuse steps that the device of this machine cannot make. Of a cluster's devices nothing is known here.

        Raises:
            UsageError: naming the setting.
        """
        if self.backend == "local":
            choose_mode(config.step_mode, self.local_device)

    def connect(self) -> contextlib.AbstractContextManager[Client]:
        """Return a client of the cluster's scheduler, as a context; raises as :meth:`count`."""
        if self.backend == "slurm":
            return on_slurm(self.sbatch, self.jobs, self.threads)
        return at_scheduler(self.scheduler)


@dataclass(frozen=True)
class Kept:
    """How to continue a run that is stopped, and where its finished trials lie; in words when somebody asks."""

    run: Path
    file: Path
    what: str = "trial"

    def __str__(self) -> str:
        kept = f"finished {self.what}s are kept in {self.file}" if self.file.exists() else f"no {self.what} is finished"
        return f"{kept}; continue with --resume {self.run}"


def run_trials(
    study: Study,
    trials: list[Trial],
    workers: Workers,
    on_result: Callable[[TrainedTrial], None],
    resume_note: str | Kept,
) -> None:
    """Run the trials; they end in any order.

    Args:
        study: the study of the trials.
        trials: the trials to run.
        workers: what runs them.
        on_result: called in this process with every finished trial, one at a time. No signal interrupts the call.
        resume_note: how to continue, for the message after an interruption or a dead worker.

    Raises:
        Interrupted: if SIGINT or SIGTERM came. A trial in this process ends after its step; other workers stop at once.
        BalancerError: if a trial failed, or if a worker died or cannot be used. The trials beside one that failed are
            kept when they end; on a cluster they are stopped.
    """
    if not trials:
        return
    stop = threading.Event()
    results: Generator[TrainedTrial, None, None]
    if workers.backend != "local":
        results = collect(_on_cluster(study, trials, workers, stop), stop)
    elif workers.jobs > 1:
        check_card(study, workers)
        context = study.config, provenance(study), workers.device, workers.threads, study.selections
        results = run_in_processes((delayed(_attempt_trial)(trial, *context) for trial in trials), workers)
    else:
        device = workers.local_device
        results = run_in_this_process(lambda trial, interrupt: run_trial(study, trial, device, interrupt), trials)
    several = workers.backend != "local" or workers.jobs > 1  # else each trial has a bar of its own
    bar = progress.bar(len(trials), "trials", "trial", show=several, lines=True)
    with with_resume_note(resume_note), bar, contextlib.closing(results):
        for trained in results:
            with deferred_signals():
                on_result(trained)
            bar.update()


def check_card(study: Study, workers: Workers, card: Card | None = None) -> None:
    """Refuse more trials at once than the card has memory for; ``card`` stands in for the device's in tests.

    Raises:
        BalancerError: naming the number of jobs that fits.
    """
    config, data, device = study.config, study.data, workers.local_device
    if not (measured := card or card_of(device)):
        return
    work = partial(try_batch, config, len(data.classes), data.channels, device, config.batch_size)
    arms = {(t.regime.name, t.synthetic_set, t.dose): t for t in study.trials}  # seeds train on equally many images
    most = max(len(study.training_set(trial, rehearsal=True).images) for trial in arms.values())
    check_room(workers.jobs, device, work, most * data.images[:1].nbytes, measured)


@contextlib.contextmanager
def with_resume_note(resume_note: str | Kept) -> Iterator[None]:
    """Turn whatever stops trials from outside into an error that says how to continue."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(signal.SIGINT, str(resume_note)) from stop
    except Interrupted as stop:
        raise Interrupted(stop.signum, str(resume_note)) from stop
    except BrokenProcessPool as error:
        raise BalancerError(
            f"a worker process died, perhaps for want of memory; {resume_note} and fewer --jobs"
        ) from error


def run_in_this_process(job: Callable[[Any, Interrupt], T], arguments: Iterable[Any]) -> Generator[T, None, None]:
    """Yield the result of ``job`` for each argument. A signal that comes between two jobs stops them too."""
    with deferred_signals() as interrupt:
        for argument in arguments:
            yield job(argument, interrupt)
            if (signum := interrupt()) is not None:
                raise Interrupted(signum, "stopped")


def run_in_processes(calls: Iterable[Any], workers: Workers) -> Generator[Any, None, None]:
    """Yield the results of joblib's delayed ``calls``, each of which returns an :class:`Attempt`, as they end.

    The next call is taken when a process is free, so none begins after a failure. Closing the generator ends the calls
    that run. Each process computes with the threads of ``workers``: a share of the cores would give other figures for
    another number of jobs.
    """
    stop = threading.Event()
    with parallel_config("loky", inner_max_num_threads=workers.threads):
        pool = Parallel(
            workers.jobs,
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch="n_jobs",
            initializer=_initialise_worker,
            initargs=(os.getpid(),),
        )
    attempts = pool(call for call in calls if not stop.is_set())
    try:
        yield from collect(attempts, stop)
    finally:
        with warnings.catch_warnings(action="ignore"):  # joblib warns of the calls that this ends
            attempts.close()
        get_reusable_executor(reuse=True).shutdown(kill_workers=True)


def _initialise_worker(parent: int) -> None:
    """Leave Ctrl-C to the process that the user started, and end with that process.

    Ctrl-C reaches all processes of a terminal. A killed parent tells its workers nothing. The parent gives its own
    number, because a worker may still import modules, and have another parent already, when the first one dies.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # tqdm's own lock, between processes, would be left behind by a stopped worker
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()


def _exit_with(parent: int) -> None:
    """End this process once its parent was killed outright; otherwise the process would stay for minutes."""
    if sys.platform == "win32":  # there, a parent keeps its number when it has ended, but loky passes a handle on
        if (starter := multiprocessing.parent_process()) is not None:
            starter.join()
    else:
        while os.getppid() == parent:
            time.sleep(1)
    os._exit(1)


def _attempt_trial(
    trial: Trial,
    config: ClassifierConfig,
    expected: dict[str, str],
    device: str,
    threads: int,
    selections: tuple[Selection, ...] = (),
    interrupt: Interrupt = lambda: None,
) -> Attempt[TrainedTrial]:
    """Run a trial in a worker, on data that must be those of the main process, and with what its filter chose."""

    def job(study: Study) -> TrainedTrial:
        refuse_other_data(study, expected)
        return run_trial(study, trial, resolve_device(device), interrupt)

    return attempt(threads, lambda: _open_once(config, selections, tuple(expected.items())), job)


def refuse_other_data(study: Study, expected: dict[str, str]) -> None:
    """Refuse, in a worker, a study that is not that of the main process, whose facts are given.

    Raises:
        BalancerError: naming what differs.
    """
    here = provenance(study)
    if differ := [f"{key} {here[key]}, expected {value}" for key, value in expected.items() if here[key] != value]:
        raise BalancerError(
            f"the data in {study.config.data.path} are not those of the process that runs the command "
            f"({'; '.join(differ)}); copy them there"
        )


@lru_cache(maxsize=1)
def _open_once(
    config: ClassifierConfig, selections: tuple[Selection, ...], _expected: tuple[tuple[str, str], ...]
) -> Study:
    """Return the study, opened once per worker, with what its filter chose.

    Workers of a cluster outlive a command: when the next one expects other data, these are opened again.
    """
    return replace(open_study(config), selections=selections)


def _context(context: tuple[Any, ...]) -> tuple[Any, ...]:
    return context


def _attempt_on_cluster(trial: Trial, context: tuple[Any, ...]) -> Attempt[TrainedTrial]:
    """Run a trial in a dask worker; ``context`` holds the arguments of :func:`_attempt_trial` that all trials share."""
    config, expected, device, threads, selections = context
    return in_worker(lambda interrupt: _attempt_trial(trial, config, expected, device, threads, selections, interrupt))


def _on_cluster(
    study: Study, trials: list[Trial], workers: Workers, stop: threading.Event
) -> Generator[Attempt[TrainedTrial], None, None]:
    """Yield the attempts of dask workers. If a worker dies, dask runs its trial again elsewhere."""
    from distributed import as_completed

    context = study.config, provenance(study), workers.device, workers.threads, study.selections
    with workers.connect() as client:
        # One task hands the context to all others, so that a trial that is sent is small.
        shared = client.submit(_context, context, pure=False)
        sent = client.map(_attempt_on_cluster, trials, context=shared, pure=False)
        futures = dict(zip(sent, trials, strict=True))
        del sent
        for future, result in as_completed(list(futures), loop=client.loop, with_results=True, raise_errors=False):
            trial = futures.pop(future)
            if future.cancelled() and stop.is_set():
                continue
            yield checked(future, result, trial.name)
            if stop.is_set():
                client.cancel([other for other in futures if not other.done()])


def run_on_cluster(job: Callable[[T], Attempt[Any]], arguments: Iterator[T], workers: Workers) -> Generator[Any]:
    """Yield the results of ``job`` for each argument as they end. The next argument is taken when a worker is free."""
    stop = threading.Event()

    def attempts() -> Generator[Attempt[Any]]:
        from distributed import as_completed

        with workers.connect() as client:
            free = max(len(client.nthreads()), workers.jobs)
            first = [client.submit(job, argument, pure=False) for argument in islice(arguments, free)]
            ended = as_completed(first, loop=client.loop, with_results=True, raise_errors=False)
            for future, result in ended:
                yield checked(future, result, "a trial")
                for argument in islice(arguments, 0 if stop.is_set() else 1):
                    ended.add(client.submit(job, argument, pure=False))

    return collect(attempts(), stop)
