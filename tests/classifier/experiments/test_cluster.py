"""Jobs of SLURM say what the options say; a stand-in for SLURM runs them on this machine."""

import csv
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from commands import done, refused, sets
from test_jobs import Keeper, rows_here, started_cluster, study_of

from balancer.core.errors import BalancerError, UsageError
from classifier.experiments import cluster
from classifier.experiments.cluster import job_script, slurm_options
from classifier.experiments.jobs import Workers, run_trials

# Runs a job at once, in the background, and prints what SLURM prints. `--test-only` runs nothing.
SBATCH = """#!/bin/bash
[ "$1" = --test-only ] && { echo "sbatch: Job 1 to start now" >&2; exit 0; }
cp "$1" {folder}/submitted-$$.sh
setsid bash {folder}/submitted-$$.sh > {folder}/job-$$.log 2>&1 < /dev/null &
echo Submitted batch job $!
"""
SCANCEL = """#!/bin/bash
echo "$1" >> {folder}/cancelled
kill -KILL -- "-$1"
"""


def program(folder: Path, name: str, text: str) -> None:
    """A program of that name in a folder."""
    (folder / name).write_text(text.replace("{folder}", str(folder)))
    (folder / name).chmod(stat.S_IRWXU)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the PATH with sbatch and scancel, where submitted scripts and logs lie."""
    program(tmp_path, "sbatch", SBATCH)
    program(tmp_path, "scancel", SCANCEL)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_job_says_what_the_options_say() -> None:
    options = ("partition=gpu", "account=lab", "time=4:00:00", "mem=16G", "--gres=gpu:a100:1", "exclusive")
    options = (*options, 'comment=two "words"')
    lines = job_script(options, 3).splitlines()
    directives = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    wanted = {"-p gpu", "-A lab", "-t 4:00:00", "--mem=16G", "--gres=gpu:a100:1", "--exclusive", "--cpus-per-task=3"}
    assert wanted | {r'--comment="two \"words\""'} <= directives  # as sbatch reads quotes in a script
    assert "export OMP_NUM_THREADS=3" in lines
    (worker,) = [line for line in lines if line.startswith(sys.executable)]
    for words in ("--nthreads 1", "--memory-limit 0", "--no-nanny"):
        assert words in worker


def test_a_job_asks_for_memory_only_if_somebody_said_how_much() -> None:
    import dask

    assert "--mem" not in job_script((), 1).replace("--memory-limit", "")
    with dask.config.set({"jobqueue.slurm.memory": "8 GB", "jobqueue.slurm.job-script-prologue": ["module load x"]}):
        script = job_script((), 1)
    assert "#SBATCH --mem=8G" in script
    assert script.index("module load x") < script.index("OMP_NUM_THREADS")


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"backend": "slurm", "sbatch": ("time",) * 2}, "time is given twice"),
        ({"backend": "slurm", "sbatch": ("Time=1",)}, "'Time=1'; expected a long option"),
        ({"backend": "slurm", "sbatch": ("-t=1",)}, "expected a long option"),
        ({"backend": "slurm", "sbatch": ("mem=1G\nrm -rf x",)}, "expected a long option"),
        ({"backend": "slurm", "sbatch": ("ntasks=2",)}, "give --jobs"),
        ({"backend": "slurm", "sbatch": ("cpus-per-task=2",)}, "give --threads"),
        ({"backend": "slurm", "scheduler": "tcp://127.0.0.1:1"}, "add --backend dask"),
        ({"sbatch": ("time=1",)}, "add --backend slurm"),
    ],
)
def test_options_that_no_job_can_have(options: dict[str, Any], phrase: str) -> None:
    with pytest.raises(UsageError, match=phrase):
        Workers(**options)


def test_slurm_refuses_before_anything_is_submitted(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers("cpu", 2, "slurm")
    assert workers.count() == 2
    program(slurm, "sbatch", "#!/bin/bash\necho 'sbatch: error: invalid partition' >&2\necho twice >&2\nexit 1\n")
    with pytest.raises(BalancerError, match=r"invalid partition twice.*--sbatch") as caught:
        workers.count()
    assert "\n" not in str(caught.value)
    assert not [*slurm.glob("submitted-*")]
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BalancerError, match="sbatch, which is not on the PATH"):
        workers.count()
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(BalancerError, match=r"\[cluster\]'"):
        workers.count()


@pytest.mark.nightly
def test_trials_in_jobs_of_slurm(slurm: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows; jobs are cancelled at the end; and only a holder of the certificate could have connected."""
    monkeypatch.setattr(cluster, "RENEW_SECONDS", 2)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    study, keeper = study_of(template), Keeper()
    run_trials(study, study.trials, Workers("cpu", 2, "slurm", sbatch=("time=5",)), keeper, "hint")
    scripts = [script.read_text() for script in slurm.glob("submitted-*")]
    assert len(scripts) == 2
    assert all("tls://" in script and "#SBATCH -t 5\n" in script for script in scripts)
    assert len((slurm / "cancelled").read_text().split()) == 2
    assert sorted(keeper.names) == sorted(trial.name for trial in study.trials)
    assert keeper.rows == rows_here(study, keeper.names)
    assert not [*slurm.glob(".slurm-*")], "certificates are left behind"


@pytest.mark.parametrize(("workers", "warnings"), [({}, 2), ({"a": 1}, 0)])
def test_a_long_time_without_a_worker_is_told(
    workers: dict[str, int], warnings: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that ends before its worker connects is no loss that dask sees."""
    monkeypatch.setattr(cluster, "RENEW_SECONDS", 60)
    monkeypatch.setattr(cluster, "SILENT_SECONDS", 120)
    looks = iter([False] * 5 + [True])
    scaled: list[int] = []
    fake = SimpleNamespace(scheduler_info={"workers": workers}, scale=lambda jobs: scaled.append(jobs))
    ended: Any = SimpleNamespace(wait=lambda _seconds: next(looks))
    cluster._renew(fake, 3, ended)
    assert scaled == [3] * 5
    assert len(caplog.messages) == warnings
    assert all("for 2 min" in message and "squeue --me" in message for message in caplog.messages)


@pytest.mark.nightly
def test_a_search_on_a_cluster_finds_the_points_of_one_process(
    classifier: Callable[..., Result], template: Path, tmp_path: Path
) -> None:
    size = ["--data", template, "--image-size", 16, "--steps", 6, *sets(evaluations=2, precision="float32")]
    command = ["tune", *size, "--sampler", "random", "--pruner", "none", "--trials", 4, "--seeds", 1, "--device", "cpu"]
    with started_cluster(tmp_path) as there:
        address = ("--backend", "dask", "--scheduler", there.address)
        done(classifier(*command, *address, "--out", tmp_path / "there"))
    done(classifier(*command, "--out", tmp_path / "here"))
    passing = {"trial", "seconds", "started", "best"}
    points = []
    for name in ("here", "there"):
        with (tmp_path / name / "trials.csv").open() as file:
            points.append(sorted(tuple(v for k, v in row.items() if k not in passing) for row in csv.DictReader(file)))
    assert points[0] == points[1]
    assert len(points[0]) == 4
    refused(classifier(*command, *address, "--out", tmp_path / "gone"), 1, "no dask scheduler answers")
    assert not (tmp_path / "gone").exists()


def test_the_import_of_dask_jobqueue_leaves_ctrl_c_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "dask_jobqueue"]:
        monkeypatch.delitem(sys.modules, name)
    before = signal.getsignal(signal.SIGINT)
    try:
        slurm_options((), 1)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)
