"""Clusters that run trials: a dask scheduler that is there, or workers that are submitted to SLURM by dask-jobqueue.

A worker runs one trial at a time. torch has one random stream a process, which two trials would share.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from balancer.core.errors import BalancerError, UsageError
from balancer.core.extras import install
from balancer.core.system_errors import explain
from classifier.experiments.attempts import Attempt
from classifier.experiments.trial import Interrupt

if TYPE_CHECKING:
    from distributed import Client, Future

T = TypeVar("T")
log = logging.getLogger("balancer")
CONNECT_SECONDS = 10  # to wait for a scheduler, and for its first worker
RENEW_SECONDS = 60  # between looks for jobs of SLURM that have ended, such as by their time limit
SILENT_SECONDS = 600  # without any worker of SLURM, after which a warning says so
SUBMIT_SECONDS = 60  # to wait for sbatch to judge a job
ELSEWHERE = {"ntasks": "--jobs", "nodes": "--jobs", "array": "--jobs", "cpus-per-task": "--threads"}  # a job: a worker
_DIRECTIVE = re.compile(r"(?:--)?([a-z][a-z-]*)(?:=(.+))?")


def in_worker(job: Callable[[Interrupt], Attempt[T]]) -> Attempt[T]:
    """Run a job in a dask worker, by whose address errors are known. It is interrupted if nobody waits for it."""
    from distributed import get_worker

    worker: Any = get_worker()
    where = f"dask worker {worker.address} on {platform.node()}"
    if worker.state.nthreads > 1:
        several = f"{where} runs {worker.state.nthreads} tasks at once; start it with --nthreads 1"
        return Attempt(None, BalancerError(several), [])
    key = worker.get_current_task()

    def interrupt() -> int | None:
        task = worker.state.tasks.get(key)
        return signal.SIGTERM if task is None or task.state == "cancelled" else None

    made = job(interrupt)
    error = made.error
    if isinstance(error, BalancerError):
        return Attempt(None, BalancerError(f"{where}: {error}"), made.warnings)
    if error is not None and (line := explain(error)) is not None:  # which machine's disk is full, or memory
        return Attempt(None, BalancerError(f"{where}: {line}; then continue with --resume"), made.warnings)
    return made


def checked(future: Future, result: object, what: str) -> Attempt[Any]:
    """Return what a task sent back.

    Raises:
        BalancerError: dask's own error: workers that die, no scheduler, or a worker without this package.
    """
    if isinstance(result, Attempt):
        return result
    error = future.exception() if future.status == "error" else BalancerError("the task was cancelled")
    raise BalancerError(
        f"{what}: dask gave {type(error).__name__} ({' '.join(str(error).split())}); see the workers' logs, check that"
        " the scheduler runs and that the workers have this package installed, then continue with --resume"
    ) from error


@contextlib.contextmanager
def at_scheduler(address: str | None) -> Iterator[Client]:
    """Open a client of a dask scheduler; its tasks end when the client closes.

    Raises:
        BalancerError: dask is not installed, nobody answers at the address, or the scheduler has no worker.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise BalancerError(f"--backend dask needs dask; run {install('cluster')}") from error
    # dask reports in tracebacks what the errors here say in a line.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TypeError, ValueError) as error:  # not an address; TypeError: dask has no certificates for tls://
        raise BalancerError(
            f"no dask scheduler answers at {address} ({str(error).splitlines()[0]}); start `dask scheduler`, or "
            "correct --scheduler"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise BalancerError(
                f"the dask scheduler at {address} has no worker; start some: dask worker {address} --nthreads 1"
                " --memory-limit 0"
            ) from error
        yield client


def directives(sbatch: tuple[str, ...]) -> dict[str, str | None]:
    """Return options of sbatch by their long names, such as ``time: 2:00:00``; None for one without a value.

    Raises:
        UsageError: an option is not KEY=VALUE, is there twice, or is not a worker's to choose.
    """
    read: dict[str, str | None] = {}
    for text in sbatch:
        match = _DIRECTIVE.fullmatch(text.strip())
        if match is None or "\n" in text:
            raise UsageError(f"--sbatch is {text!r}; expected a long option of sbatch, such as time=2:00:00")
        if match[1] in ELSEWHERE:
            raise UsageError(f"--sbatch {match[1]}: every job holds one worker; give {ELSEWHERE[match[1]]} instead")
        if match[1] in read:
            raise UsageError(f"--sbatch {match[1]} is given twice; give it once")
        read[match[1]] = match[2]
    return read


def slurm_options(sbatch: tuple[str, ...], threads: int) -> dict[str, Any]:
    """Return the arguments of dask-jobqueue's SLURMCluster: a job is one worker that computes with so many threads.

    What ``sbatch`` leaves open is as in the user's configuration of dask-jobqueue, whose time limit is 30 minutes.
    """
    import dask

    _jobqueue()  # reads its configuration

    def configured(name: str) -> Any:
        return dask.config.get(f"jobqueue.slurm.{name}", None)

    chosen = directives(sbatch)
    own = {"queue": "partition", "account": "account", "walltime": "time", "job_mem": "mem"}
    named = {argument: chosen.pop(name) for argument, name in own.items() if name in chosen}
    memory = configured("memory")
    states_memory = "job_mem" in named or configured("job-mem") or memory
    extra = [f"--{name}" + ("" if value is None else f"={_quoted(value)}") for name, value in chosen.items()]
    return {
        **named,
        "cores": 1,  # dask's word for threads that run tasks
        "processes": 1,
        "nanny": False,
        "memory": memory or "1 GB",  # which dask-jobqueue needs, and nothing here uses: SLURM limits memory
        "job_cpu": threads,
        "job_directives_skip": [*(configured("job-directives-skip") or ()), *([] if states_memory else ["--mem="])],
        "job_extra_directives": [*(configured("job-extra-directives") or ()), *extra],
        "job_script_prologue": [*(configured("job-script-prologue") or ()), f"export OMP_NUM_THREADS={threads}"],
        "worker_extra_args": [*(configured("worker-extra-args") or ()), "--memory-limit", "0", "--no-dashboard"],
    }


def _quoted(value: str) -> str:
    """Return a value for a line of a job's script, where sbatch reads quotes and backslashes, and ends at a space."""
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"' if re.search(r"[\s\"'\\]", value) else value


@contextlib.contextmanager
def on_slurm(sbatch: tuple[str, ...], jobs: int, threads: int) -> Iterator[Client]:
    """Submit workers to SLURM, and open a client of their scheduler, which runs in this process.

    A job that ends before its time, or at its time limit, is submitted again. All end with the context.

    Raises:
        BalancerError: dask-jobqueue or sbatch is not there, or SLURM refuses such a job.
    """
    check_slurm(sbatch, threads)
    from distributed import Client

    for name in ("distributed.client", "distributed.scheduler", "distributed.deploy", "dask_jobqueue"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        try:
            # What dask sends is executed, so only those who can read this study's certificates may connect.
            certificates = stack.enter_context(tempfile.TemporaryDirectory(prefix=".slurm-", dir=Path.cwd()))
            cluster = _jobqueue().SLURMCluster(
                **slurm_options(sbatch, threads),
                security=True,
                shared_temp_directory=certificates,
                scheduler_options={"dashboard": False, "dashboard_address": None},
            )
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise BalancerError(f"no dask scheduler starts here ({' '.join(str(error).split())})") from error
        stack.callback(_close_certificates, cluster)
        client = stack.enter_context(Client(stack.enter_context(cluster), set_as_default=False))
        cluster.scale(jobs=jobs)
        log.info("submitted %d job%s to SLURM; trials begin when the first one starts", jobs, "" if jobs == 1 else "s")
        keeper = threading.Thread(target=_renew, args=(cluster, jobs, ended), daemon=True)
        keeper.start()
        try:
            yield client
        finally:
            ended.set()


def _close_certificates(cluster: Any) -> None:
    """Remove the files of a cluster's certificates, which dask-jobqueue would leave to the garbage collector."""
    for name in ("_job_ca_file", "_job_cert", "_job_key"):
        if (file := getattr(cluster, name, None)) is not None:
            file.close()


def _jobqueue() -> Any:
    """Import dask-jobqueue, and let Ctrl-C do what it did: the import sets a handler that ends the process at once."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    finally:
        signal.signal(signal.SIGINT, handler)
    return dask_jobqueue


def check_slurm(sbatch: tuple[str, ...], threads: int) -> None:
    """Refuse a machine that cannot submit workers, and workers that SLURM would not take. Nothing is submitted.

    Raises:
        BalancerError: naming what is missing, or what sbatch says.
    """
    try:
        import cryptography  # noqa: F401  # for the certificates

        _jobqueue()
    except ImportError as error:
        raise BalancerError(f"--backend slurm needs dask-jobqueue; run {install('cluster')}") from error
    if shutil.which("sbatch") is None:
        raise BalancerError("--backend slurm needs sbatch, which is not on the PATH; start the command where SLURM is")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "worker.sh"
        file.write_text(job_script(sbatch, threads))
        command = ["sbatch", "--test-only", str(file)]
        try:
            judged = subprocess.run(command, capture_output=True, text=True, timeout=SUBMIT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BalancerError(f"sbatch does not answer ({error}); see `sinfo`") from error
    if judged.returncode:
        said = " ".join((judged.stderr or judged.stdout).split()) or f"exit code {judged.returncode}"
        raise BalancerError(f"SLURM refuses the job of a worker ({said}); correct --sbatch KEY=VALUE")


def job_script(sbatch: tuple[str, ...], threads: int) -> str:
    """Return the script of a worker's job, but for the address of the scheduler."""
    script: str = (
        _jobqueue().slurm.SLURMJob("tcp://scheduler:8786", name="worker", **slurm_options(sbatch, threads)).job_script()
    )
    return script


def _renew(cluster: Any, jobs: int, ended: threading.Event) -> None:
    """Submit lost workers again until the study has ended; dask gives their trials to others.

    A job that ends before its worker connects is never missed by dask, so a long silence is told.
    """
    silent = 0
    while not ended.wait(RENEW_SECONDS):
        with contextlib.suppress(RuntimeError, OSError):  # the cluster is closing
            cluster.scale(jobs=jobs)
        silent = 0 if cluster.scheduler_info["workers"] else silent + RENEW_SECONDS
        if silent >= SILENT_SECONDS:
            log.warning(
                "no job of SLURM has been at work for %d min: `squeue --me` shows jobs that wait; a job that has failed"
                " says why in slurm-<number>.out, and then stop with Ctrl-C and use --resume",
                silent // 60,
            )
            silent = 0
