"""What it costs to schedule a trial on a dask cluster: 1,000 trials that take no time, on two workers of this machine.

The trials go the way of every trial (:func:`classifier.experiments.jobs.run_trials`). Only the training itself is left
out: each worker trains once, and gives that result for every seed. The same trials in this process are the comparison.

    python benchmarks/cluster.py
    python benchmarks/cluster.py --trials 200 --workers 1
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from balancer.core.settings import AblateConfig, DataConfig
from classifier.experiments import jobs
from classifier.experiments.jobs import Workers, run_trials
from classifier.experiments.plan import Trial
from classifier.experiments.study import Study, open_study
from classifier.experiments.trial import Interrupt, TrainedTrial, run_trial

START_SECONDS = 240  # to wait for a scheduler and its workers on a busy machine


_trained: list[TrainedTrial] = []  # of this process


def _without_training(
    study: Study, trial: Trial, device: torch.device, interrupt: Interrupt = lambda: None
) -> TrainedTrial:
    """Return the result of the study's first trial under another seed, with its predictions and without its model."""
    if not _trained:
        _trained.append(run_trial(study, study.trials[0], device, interrupt))
    return TrainedTrial(trial, replace(_trained[0].result, trial_seed=trial.seed), b"")


def dask_setup(_worker: Any) -> None:
    """Leave out the training of a worker that was started with ``--preload`` of this file."""
    jobs.run_trial = _without_training


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[str]:
    """Start a scheduler and its workers on the loopback interface; yield the address."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        file = Path(folder) / "scheduler.json"

        def start(kind: str, *options: str) -> None:
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(file), *options]
            with (Path(folder) / "log.txt").open("ab") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log)
            processes.callback(process.wait)
            processes.callback(process.kill)

        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        for _ in range(workers):
            start("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", "--preload", __file__)
        deadline = time.monotonic() + START_SECONDS
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        address: str = json.loads(file.read_text())["address"]
        from distributed import Client

        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=START_SECONDS)
        yield address


def seconds(study: Study, trials: list[Trial], workers: Workers) -> float:
    """Return how long the trials take, each of which comes back once."""
    names: list[str] = []
    begin = time.perf_counter()
    run_trials(study, trials, workers, lambda trained: names.append(trained.trial.name), "")
    taken = time.perf_counter() - begin
    assert sorted(names) == sorted(trial.name for trial in trials)
    return taken


def main() -> None:
    """Print milliseconds per trial in this process and on the cluster, and their difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    jobs.run_trial = _without_training
    data = DataConfig(path="phantom", image_size=16)
    study = open_study(AblateConfig(data=data, regimes=("baseline",), seeds=options.trials, steps=4, batch_size=8))
    here = Workers("cpu", threads=1)
    seconds(study, study.trials[:1], here)  # trains once
    alone = seconds(study, study.trials, here) / options.trials
    with cluster(options.workers) as address:
        there = Workers("cpu", 1, "dask", address, threads=1)
        seconds(study, study.trials[: 4 * options.workers], there)  # each worker opens the data and trains once
        spread = seconds(study, study.trials, there) / options.trials
    print(f"in this process {1e3 * alone:7.2f} ms a trial")
    print(f"on {options.workers} workers    {1e3 * spread:7.2f} ms a trial")
    print(f"scheduling      {1e3 * (spread - alone):7.2f} ms a trial, of {options.trials} trials")


if __name__ == "__main__":
    main()
