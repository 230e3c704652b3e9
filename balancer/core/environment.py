"""What ran: versions, device, code and data, for a reader who wants to repeat a run."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

import balancer
from balancer.core.files import JsonObject
from balancer.core.threads import WAIT_POLICY
from balancer.core.torchrun import launched

TIME = "%Y-%m-%dT%H:%M:%S%z"
PACKAGES = ("torch", "torchvision", "torchmetrics", "albumentations", "numpy", "scipy", "scikit-learn", "pillow")


@dataclass(frozen=True)
class Environment:
    """What later commands read of env.json; the file holds more."""

    command: str
    started: str = ""
    balancer: str = ""
    git_commit: str | None = None
    python: str = ""
    platform: str = ""
    versions: dict[str, str | None] = field(default_factory=dict)
    device: str = ""
    threads: Annotated[int, Field(ge=1)] | None = None  # not in files of earlier versions
    data: JsonObject = field(default_factory=dict)  # what was read
    job: str | None = None  # the torchrun that started the command

    @property
    def threads_used(self) -> int | None:
        """Return how many threads computed; earlier versions said so in the words on the device of one process."""
        words = re.search(r"\((\d+) threads?\)\Z", self.device)
        return self.threads or (int(words[1]) if words else None)


def environment(command: str, device: str, **more: Any) -> JsonObject:
    """Return what a reader needs to repeat the run: versions, device, threads, code, data."""
    import torch

    return {
        "command": command,
        "argv": sys.argv[1:],
        "started": time.strftime(TIME),
        "balancer": balancer.__version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
        "device": device,
        "threads": torch.get_num_threads(),
        "wait_policy": os.environ.get(WAIT_POLICY),  # of threads; None: the library's own
        **({"ranks": launch.ranks, "job": launch.identity} if (launch := launched()) else {}),
        **more,
    }


def processor_name() -> str:
    """Return the name of the processor as the operating system gives it."""
    try:
        names = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        names = None
    return names[1] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Return the commit of the code that runs, with ``-dirty`` if it was changed; None outside a checkout.

    An installed copy may lie inside somebody else's repository, which does not track this file.
    """
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") or None
    except (OSError, subprocess.SubprocessError):
        return None
