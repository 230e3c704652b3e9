"""The matrix of faults: what was done to a command, and how the command must end.

To add a fault, add a row. A row names the command line, a function that arranges the fault, the exit code, and words
of the message: a file, a setting, a kind of error, not the sentence. In the command line and the words, {chest} is a
copy of a small data set, {gan} a finished GAN run of that data, {here} an empty folder. All three may be changed.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TINY_GAN = "--image-size 16 --steps 2 --batch-size 4 --set generator_width=2 --set discriminator_width=2 --set z_dim=5"
GAN = f"balancer gan-train --data {{chest}} {TINY_GAN} --out {{here}}/run"
TRAIN = "classifier train --data {chest} --image-size 16 --steps 2 --batch-size 4 --out {here}/run"
SYNTHESIZE = (
    "balancer synthesize --gan-run {gan} --n 4 --inception-weights off --set kid_subsets=2 --set kid_subset_size=2"
    " --set two_sample=false --out {here}/run"
)


@dataclass(frozen=True)
class Place:
    """Where a row does its damage."""

    chest: Path
    gan: Path
    here: Path


Arrange = Callable[[Place, pytest.MonkeyPatch], object]


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    name: str
    command: str
    arrange: Arrange = lambda _place, _patch: None
    exit_code: int = 1
    words: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()  # what lies in {here} afterwards; a run that came to nothing is gone


def refusing(number: int, name: str, owner: Any = os, call: str = "fsync") -> Arrange:
    """Return a fault: the operating system refuses to write any file once ``name`` is being written."""

    def arrange(_place: Place, patch: pytest.MonkeyPatch) -> None:
        real = getattr(owner, call)

        def refuse(handle: int, *more: Any) -> Any:
            if name in str(Path(f"/proc/self/fd/{handle}").readlink()):
                raise OSError(number, os.strerror(number))
            return real(handle, *more)

        patch.setattr(owner, call, refuse)

    return arrange


def raising(where: str, error: BaseException) -> Arrange:
    """Return a fault: a function, named by its dotted path, raises an error."""

    def arrange(_place: Place, patch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise error

        patch.setattr(where, fail)

    return arrange


FULL = "No space left"
SAVE = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
CPU_MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")
CUDA_MEMORY = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB")


def rename_to_latin_1(place: Place, _patch: pytest.MonkeyPatch) -> None:
    """Give an image a name in Latin-1, as archives made on old Windows hold them."""
    file = min((place.chest / "train" / "NORMAL").iterdir())
    os.rename(file, os.path.join(os.fsencode(file.parent), b"IM-0003-0001 M\xfcller.png"))  # noqa: PTH104, PTH118


def without_home(_place: Place, patch: pytest.MonkeyPatch) -> None:
    """Leave the user without HOME and without an entry that names one."""
    patch.delenv("BALANCER_CACHE")
    patch.setattr(os.path, "expanduser", lambda path: path)


FAULTS = [
    # The disk
    Fault("full at the settings", GAN, refusing(errno.ENOSPC, "config.yaml"), 1, (FULL, "run/config.yaml")),
    Fault("full at the environment", GAN, refusing(errno.ENOSPC, "env.json"), 1, (FULL, "run/env.json")),
    Fault("full at a snapshot", GAN, refusing(errno.ENOSPC, "checkpoint"), 1, (FULL, "--resume"), ("run",)),
    Fault("full at a metric", GAN, refusing(errno.ENOSPC, "metrics.jsonl"), 1, (FULL, "metrics.jsonl"), ("run",)),
    Fault("quota at an image", SYNTHESIZE, refusing(errno.EDQUOT, "manifest"), 1, ("quota", "manifest"), ("run",)),
    Fault("read-only at the result", TRAIN, refusing(errno.EROFS, "model.pt"), 1, ("Read-only", "model.pt"), ("run",)),
    Fault("input/output error", TRAIN, refusing(errno.EIO, "config.yaml"), 1, ("Input/output", "config.yaml")),
    Fault("long name", GAN.replace("run", "r" * 300), lambda *_: None, 1, ("name too long", "rrr")),
    Fault("file in the way", GAN + "/sub", lambda place, _: (place.here / "run").touch(), 1, ("run",), ("run",)),
    Fault("torch hides a full disk", GAN, raising("balancer.gan.trainer.train", SAVE), 1, ("disk", "space")),
    Fault("no home folder", "balancer gan-train --data {chest} --dry-run", without_home, 1, ("BALANCER_CACHE",)),
    # Memory
    Fault("memory of numpy", TRAIN, raising("classifier.training.trainer.train", MemoryError()), 1, ("memory",)),
    Fault("memory of torch", TRAIN, raising("classifier.training.trainer.train", CPU_MEMORY), 1, ("batch_size",)),
    Fault("memory of a GPU", GAN, raising("balancer.gan.trainer.train_step", CUDA_MEMORY), 1, ("batch_size",)),
    # Names
    Fault("Latin-1 name", GAN, rename_to_latin_1, 0, (), ("run",)),
    # Refused before a run is made
    Fault(
        "nothing lacks",
        SYNTHESIZE.replace("--n 4", "") + " --set data.task=binary",
        lambda place, patch: patch.setattr("balancer.data.dataset.Dataset.deficits", property(lambda _: [0, 0])),
        1,
        ("--n",),
    ),
]
