"""The commands start where the standard library lacks what Unix alone has, as on Windows."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = sorted(p for package in ("balancer", "classifier") for p in (REPOSITORY / package).rglob("*.py"))
# "Availability: Unix" (or "not Windows") in the library reference of Python.
MODULES = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "posix", "crypt", "syslog"}
NAMES = {
    module: set(names.split())
    for module, names in {
        "os": "sched_getaffinity sched_setaffinity posix_fallocate posix_fadvise fork forkpty killpg getpgid getpgrp "
        "setsid getuid geteuid getgid getegid setuid chown lchown fchown fchmod mkfifo mknod statvfs fstatvfs "
        "getloadavg uname nice wait wait3 wait4 WNOHANG pread pwrite sysconf O_DIRECTORY O_NOFOLLOW O_CLOEXEC "
        "O_NONBLOCK O_SYNC",
        "signal": "SIGKILL SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGPIPE SIGCHLD SIGSTOP SIGCONT alarm setitimer "
        "pause pthread_sigmask sigwait siginterrupt pthread_kill",
        "time": "tzset clock_settime pthread_getcpuclockid",
    }.items()
}


def test_what_unix_alone_has_is_asked_for_first() -> None:
    """A module of Unix is imported inside ``try``; a file that uses a name of Unix asks ``hasattr`` for it."""
    faults = [f"{path.relative_to(REPOSITORY)}:{fault}" for path in SOURCES for fault in unguarded(path.read_text())]
    assert not faults


def unguarded(text: str) -> list[str]:
    """The lines that need Unix."""
    tree, faults = ast.parse(text), []
    guarded = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    for node in ast.walk(tree):
        names: set[str] = set()
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {str(a.name) for a in node.names} if isinstance(node, ast.Import) else {str(node.module)}
            names &= MODULES
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            asked = f'hasattr({node.value.id}, "{node.attr}")' in text
            names = set() if asked else {node.attr} & NAMES.get(node.value.id, set())
        if names and id(node) not in guarded:
            faults.append(f"{getattr(node, 'lineno', 0)}: {' '.join(names)}")
    return faults


def test_the_search_finds_them() -> None:
    text = (
        "import resource\nimport os\ntry:\n    import fcntl\nexcept ImportError:\n    pass\nos.getuid()\nos.getpid()\n"
    )
    assert unguarded(text) == ["1: resource", "7: getuid"]
    assert unguarded(text + 'hasattr(os, "getuid")') == ["1: resource"]


@pytest.mark.nightly
def test_a_command_runs_without_them(tmp_path: Path) -> None:
    """The libraries are imported first, as their own builds for Windows do without these names.

    filelock uses one of them when it locks, in the class that it chose for Unix. The library's subprocess does so as
    well, so git is not there.
    """
    code = f"""
import os, signal, sys, time
import torch, click, numpy, scipy.stats, sklearn.linear_model, filelock, PIL.Image, pydantic, tqdm, matplotlib.pyplot
import torchvision, platformdirs, pooch, torchmetrics, yaml
for name in {MODULES!r}: sys.modules[name] = None
for module, names in {NAMES!r}.items():
    for name in names - {{"O_NONBLOCK"}}: vars(sys.modules[module]).pop(name, None)
import subprocess
def no_git(*_, **__): raise FileNotFoundError("git")
subprocess.run = no_git
from balancer.cli import main
main(["gan-train", "--data", "phantom", "--image-size", "16", "--steps", "2", "--batch-size", "4", "--out", "run",
      "--set", "generator_width=4", "--set", "discriminator_width=4", "--set", "snapshot_images=4"])
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "BALANCER_CACHE": os.environ["BALANCER_CACHE"]}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "done").exists()
