"""Faults of the machine: the disk, memory, the user's home, names of files."""

import errno
import os

import pytest
from fault import GAN, SYNTHESIZE, TRAIN, Fault, Place, raising, refusing

FULL = "No space left"
COMPARE = "classifier compare {trained} --repeats 1 --batch-size 1 --out {here}/t.csv"
PREDICT = "classifier predict {trained} {chest}/test/NORMAL/IM-0003-0001.png"
SAVE = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
CPU_MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")
CUDA_MEMORY = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB")


def rename_to_latin_1(place: Place, _patch: pytest.MonkeyPatch) -> None:
    """Give an image a name in Latin-1, as archives made on old Windows hold them."""
    file = min((place["chest"] / "train" / "NORMAL").iterdir())
    file.rename(file.with_name(os.fsdecode(b"IM-0003-0001 M\xfcller.png")))


def without_home(_place: Place, patch: pytest.MonkeyPatch) -> None:
    """Leave the user without HOME and without an entry that names one."""
    patch.delenv("BALANCER_CACHE")
    patch.setattr(os.path, "expanduser", lambda path: path)


def file_for_cache(place: Place, patch: pytest.MonkeyPatch) -> None:
    """Put a file where the cache's folder should be."""
    (place.root / "cache").touch()
    patch.setenv("BALANCER_CACHE", str(place.root / "cache"))


MACHINE = [
    # The disk
    Fault("full at the settings", GAN, refusing(errno.ENOSPC, "config.yaml"), 1, (FULL, "run/config.yaml")),
    Fault("full at the environment", GAN, refusing(errno.ENOSPC, "env.json"), 1, (FULL, "run/env.json")),
    Fault("full at a snapshot", GAN, refusing(errno.ENOSPC, "checkpoint"), 1, (FULL, "--resume"), ("run",)),
    Fault("full at a metric", GAN, refusing(errno.ENOSPC, "metrics.jsonl"), 1, (FULL, "metrics.jsonl"), ("run",)),
    Fault("quota at an image", SYNTHESIZE, refusing(errno.EDQUOT, "manifest"), 1, ("quota", "manifest"), ("run",)),
    Fault("read-only at the result", TRAIN, refusing(errno.EROFS, "model.pt"), 1, ("Read-only", "model.pt"), ("run",)),
    Fault("input/output error", TRAIN, refusing(errno.EIO, "config.yaml"), 1, ("Input/output", "config.yaml")),
    Fault("long name", GAN.replace("run", "r" * 300), lambda *_: None, 1, ("name too long", "rrr")),
    Fault("file in the way", GAN + "/sub", lambda place, _: (place["here"] / "run").touch(), 1, ("run",), ("run",)),
    Fault("torch hides a full disk", GAN, raising("balancer.gan.trainer.train", SAVE), 1, ("disk", "space")),
    Fault("no home folder", "balancer gan-train --data {chest} --dry-run", without_home, 1, ("BALANCER_CACHE",)),
    Fault("full at the scores", TRAIN, refusing(errno.ENOSPC, "predictions.npz"), 1, (FULL, "predictions.npz")),
    Fault("full at a table", COMPARE, refusing(errno.ENOSPC, "t.csv"), 1, (FULL, "t.csv")),
    Fault("a folder for a table", COMPARE.replace("/t.csv", ""), exit_code=1, words=("Is a directory", "here")),
    Fault("cache is a file", f"{GAN} --dry-run", file_for_cache, 1, ("BALANCER_CACHE",)),
    # Memory
    Fault("memory of numpy", TRAIN, raising("classifier.training.trainer.train", MemoryError()), 1, ("memory",)),
    Fault("memory of torch", TRAIN, raising("classifier.training.trainer.train", CPU_MEMORY), 1, ("batch_size",)),
    Fault("memory of a GPU", GAN, raising("balancer.gan.trainer.train_step", CUDA_MEMORY), 1, ("batch_size",)),
    Fault("memory of a synthesis", SYNTHESIZE, raising("balancer.synthesis.generate", MemoryError()), 1, ("memory",)),
    Fault(
        "memory of a prediction",
        PREDICT,
        raising("classifier.training.checkpoint.load_classifier", MemoryError()),
        1,
        ("memory",),
    ),
    # Names
    Fault("Latin-1 name", GAN, rename_to_latin_1, 0, (), ("run",)),
]
