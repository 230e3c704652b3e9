"""SIGKILL at random moments of every command that writes; tests/faults/kills.py does more of them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).with_name("kills.py")


@pytest.mark.nightly
def test_killed_and_resumed_runs_are_as_undisturbed_ones() -> None:
    """In a process of its own: the commands run in forks, and a fork of pytest would be one with its threads."""
    environment = {**os.environ, "PYTHONPATH": str(KILLS.parents[2])}
    made = subprocess.run(
        [sys.executable, KILLS, "--kills", "9"], env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert "0 of 9 went wrong" in made.stdout, made.stdout


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.nightly)]
)
def test_a_signal_during_the_imports(signum: int, code: int) -> None:
    """The console scripts begin in a module that imports nothing. The signal comes while pydantic is imported."""
    script = (
        "import sys, importlib.abc, os\n"
        "class Signal(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == 'pydantic': os.kill(os.getpid(), {int(signum)})\n"
        "sys.meta_path.insert(0, Signal())\n"
        "from balancer.core.start import balancer\n"
        "balancer()\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", script, "--help"], cwd=KILLS.parents[2], capture_output=True, text=True, check=False
    )
    assert (made.returncode, made.stdout, made.stderr) == (code, "", "")
