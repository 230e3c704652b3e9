"""`balancer gan-train` under torchrun: two processes that meet on the loopback interface."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from commands import TINY_GAN, balancer, done, sets
from test_ranks import assert_alike

pytestmark = [pytest.mark.nightly, pytest.mark.slow]
REPOSITORY = Path(__file__).resolve().parents[3]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
OFTEN = sets(precision="float32", snapshot_images=8, log_every=1, features="random", min_diversity=0)
QUICK = [*TINY_GAN, "--seed", "3", "--device", "cpu", *OFTEN]
LONG = [*QUICK, *sets(snapshot_every=20)]


def started(*words: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A torchrun of two ranks."""
    command = [*TORCHRUN, *launcher, "-m", *map(str, words)]
    here = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, env=here, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """The exit code, what was printed, and the lines of errors."""
    try:
        out, err = process.communicate(timeout=100)
    finally:
        process.kill()
    return process.returncode, out, [line for line in err.splitlines() if line.startswith("error: ")]


def ranks_of(process: subprocess.Popen[str], run: Path) -> list[psutil.Process]:
    """The ranks, by number, once the run has a checkpoint."""
    deadline = time.monotonic() + 60
    while not (run / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [p for p in psutil.Process(process.pid).children() if "RANK" in p.environ()]
    return sorted(workers, key=lambda worker: int(worker.environ()["RANK"]))


def test_two_ranks_log_the_losses_of_one_process(chest: Path, tmp_path: Path) -> None:
    command = ["gan-train", "--data", chest, *QUICK, "--steps", "6", *sets(snapshot_every=3)]
    done(balancer(*command, "--out", tmp_path / "alone"))
    code, out, errors = ended(started("balancer", *command, "--out", tmp_path / "together"))
    assert (code, errors) == (0, [])
    assert out.count("6 steps on") == 1
    assert_alike(tmp_path / "alone", tmp_path / "together")
    assert (tmp_path / "together" / "log.txt").read_text().count("step 6 of 6") == 1


def test_a_killed_rank_costs_the_steps_since_the_last_snapshot(chest: Path, tmp_path: Path) -> None:
    """The ranks start again by themselves and find the run, which lies among others."""
    command = ["gan-train", "--data", chest, *LONG, "--steps", "60"]
    done(balancer(*command, "--out", tmp_path / "alone"))
    together = tmp_path / "together"
    process = started("balancer", *command, "--out", together, launcher=("--max-restarts", "1"))
    ranks_of(process, together)[1].send_signal(signal.SIGKILL)
    code, _, errors = ended(process)
    assert code == 0
    assert len(errors) <= 1
    (resumed,) = re.findall(r"resumed at step (\d+) of 60", (together / "log.txt").read_text())
    assert int(resumed) in (20, 40)
    assert_alike(tmp_path / "alone", together, 1e-3)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_ranks_and_is_told_once(signum: signal.Signals, chest: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = started("balancer", "gan-train", "--data", chest, *LONG, "--steps", "100000", "--out", run)
    workers = ranks_of(process, run)
    process.send_signal(signum)
    _, out, errors = ended(process)
    assert out == ""
    assert len(errors) == 1
    assert f"--resume {run}" in errors[0]
    assert signum.name in errors[0]
    assert not any(worker.is_running() for worker in workers)
    assert not (run / "done").exists()


@pytest.mark.parametrize(
    ("words", "phrase", "exit_code"),
    [
        (("balancer", "gan-train", "--batch-size", "5"), "batch_size is 5", 2),
        (("balancer", "gan-train", "--stepps", "5"), "--stepps", 2),
        (("balancer", "gan-train", "--data", "nowhere"), "nowhere", 1),
        (("classifier", "ablate"), "torchrun", 2),
    ],
)
def test_what_is_wrong_is_told_once(words: tuple[str, ...], phrase: str, exit_code: int, runs_cwd: Path) -> None:
    process = started(*words)
    out, err = process.communicate(timeout=100)
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert phrase in error
    assert f"exitcode  : {exit_code} " in err
    assert out == ""
    assert not [*runs_cwd.glob("runs/gan-train/*")]
