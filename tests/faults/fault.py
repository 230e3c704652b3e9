"""A row of the table of faults, what a row works on, and the ways to damage it."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from balancer.core.jsonl import append_jsonl, read_jsonl
from balancer.core.sealed import load_arrays, load_tensors, read_json, save_arrays, save_tensors, write_json

TINY_GAN = "--image-size 16 --steps 2 --batch-size 4 --set generator_width=2 --set discriminator_width=2 --set z_dim=5"
TINY_TRAINING = "--image-size 16 --steps 2 --batch-size 4 --set bn_statistics=running --device cpu"
QUICK_REPORT = "--inception-weights off --set kid_subsets=2 --set kid_subset_size=2 --set two_sample=false"
GAN = f"balancer gan-train --data {{chest}} {TINY_GAN} --out {{here}}/run"
TRAIN = f"classifier train --data {{chest}} {TINY_TRAINING} --out {{here}}/run"
WITH_SYNTHETIC = f"{TRAIN} --regime gan --synthetic {{synthesis}} --synthetic-count 4"
ABLATE = f"classifier ablate --data {{chest}} {TINY_TRAINING} --regimes baseline --seeds 2 --out {{here}}/run"
SYNTHESIZE = f"balancer synthesize --gan-run {{gan}} --n 4 {QUICK_REPORT} --out {{here}}/run"


class Place(dict[str, Path]):
    """Where a row does its damage: copies of what all rows share, each made when a row first names it.

    ``here`` is an empty folder. The other names are fixtures of conftest.py, such as ``gan``.
    """

    def __init__(self, root: Path, shared: Callable[[str], Path]) -> None:
        super().__init__(here=root / "here")
        self["here"].mkdir()
        self.root, self.shared = root, shared

    def __missing__(self, name: str) -> Path:
        self[name] = Path(shutil.copytree(self.shared(name), self.root / name))
        return self[name]


Arrange = Callable[[Place, pytest.MonkeyPatch], object]


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    name: str
    command: str
    arrange: Arrange = lambda _place, _patch: None
    exit_code: int = 1
    words: tuple[str, ...] = ()  # of the error, or of the warnings of a command that goes on
    leaves: tuple[str, ...] = ()  # what lies in {here} afterwards; a run that came to nothing is gone


def together(*arranges: Arrange) -> Arrange:
    """Return several faults as one."""
    return lambda place, patch: [arrange(place, patch) for arrange in arranges]


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


def flip(content: bytes) -> bytes:
    """Change one bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def cut(content: bytes) -> bytes:
    """Lose the second half."""
    return content[: len(content) // 2]


def empty(_content: bytes) -> bytes:
    """Lose everything."""
    return b""


def changed(room: str, file: str, change: Callable[[bytes], bytes]) -> Arrange:
    """Return a fault: the bytes of a file are others. ``file`` may be a pattern, of which the first fit is changed."""

    def arrange(place: Place, _patch: pytest.MonkeyPatch) -> None:
        path = min(place[room].glob(file))
        path.write_bytes(change(path.read_bytes()))

    return arrange


def removed(room: str, file: str) -> Arrange:
    """Return a fault: a file is gone."""
    return lambda place, _patch: (place[room] / file).unlink()


def _write_rows(path: Path, rows: list[Any]) -> None:
    path.unlink()
    for row in rows:
        append_jsonl(path, row)


READ_AND_WRITE: dict[str, tuple[Callable[[Path], Any], Callable[[Path, Any], object]]] = {
    ".pt": (lambda path: load_tensors(path, torch.device("cpu")), save_tensors),
    ".json": (read_json, write_json),
    ".npz": (load_arrays, save_arrays),
    ".jsonl": (read_jsonl, _write_rows),
}


def resaved(room: str, file: str, change: Callable[[Any], object]) -> Arrange:
    """Return a fault: the file holds other content under a seal that fits, as a faulty program would write it."""

    def arrange(place: Place, _patch: pytest.MonkeyPatch) -> None:
        path = min(place[room].glob(file))
        read, write = READ_AND_WRITE[path.suffix]
        content = read(path)
        change(content)
        write(path, content)

    return arrange
