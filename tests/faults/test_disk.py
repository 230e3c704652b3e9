"""The disk for real, in processes of their own: limits on the size of files, other users' folders, a broken stdout."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import TINY_GAN, balancer, done

GAN = ["gan-train", "--steps", "2", *TINY_GAN]
# Root may write everywhere, until it gives its capabilities away.
PLAIN_USER = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


@pytest.fixture
def place(chest: Path) -> Iterator[Path]:
    """A folder that every user may read, with the data in it; pytest's own folders are closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    shutil.copytree(chest, folder / "data")
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def command(place: Path, *words: object, program: str = "balancer", **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as a user without special rights and with a home that takes nothing."""
    code = f"import sys; from {program}.cli import main; main()"
    environment = {k: v for k, v in os.environ.items() if k != "BALANCER_CACHE"}
    environment |= {"HOME": "/proc", "PYTHONPATH": str(Path(__file__).parents[2]), **more.pop("env", {})}
    output = {"stdout": subprocess.PIPE, **more}
    arguments = [*PLAIN_USER, sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(
        arguments, cwd=place, env=environment, text=True, stderr=subprocess.PIPE, check=False, **output
    )


def refused(made: subprocess.CompletedProcess[str], *words: str) -> None:
    assert made.returncode == 1, made.stderr
    lines = made.stderr.splitlines()
    assert lines[-1].startswith("error: "), made.stderr
    assert not [line for line in lines if "Traceback" in line or "Exception ignored" in line]
    for word in words:
        assert word in lines[-1]


def open_folder(path: Path, mode: int = 0o777) -> Path:
    path.mkdir(exist_ok=True)
    path.chmod(mode)
    return path


def files_of_at_most(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("limit", "size", "words"), [(100_000, 64, ["BALANCER_CACHE"]), (20_000, 16, ["run/", "large"])]
)
def test_a_file_that_the_disk_does_not_take(place: Path, limit: int, size: int, words: list[str]) -> None:
    """The first file too large is the decode cache, or a checkpoint. A sparse cache would end in SIGBUS."""
    out = open_folder(place / "out")
    cache = {"BALANCER_CACHE": str(open_folder(place / "cache"))}
    other = {"16": str(size), "generator_width=2": "generator_width=16"}
    wide = [other.get(word, word) for word in GAN]
    if size == 16:
        assert command(place, *GAN, "--data", "data", "--out", out / "first", env=cache).returncode == 0
    made = command(place, *wide, "--data", "data", "--out", out / "run", env=cache, preexec_fn=files_of_at_most(limit))
    refused(made, *words)
    assert not [p for p in place.rglob("*") if p.name.endswith((".tmp", ".lock"))]


@pytest.mark.nightly
def test_folders_of_another_user(place: Path) -> None:
    cache = {"BALANCER_CACHE": str(open_folder(place / "cache"))}
    done(balancer(*GAN, "--data", place / "data", "--out", place / "finished"))
    shutil.copytree(place / "finished", place / "stopped")
    (place / "stopped" / "done").unlink()
    for closed in (place / "stopped", place / "finished"):
        closed.chmod(0o555)
    place.chmod(0o555)
    before = sorted(p.name for p in (place / "finished").iterdir())
    training = [*GAN, "--data", "data"]
    refused(command(place, *training, "--out", "new", env=cache), "new: Permission denied")
    refused(command(place, "gan-train", "--resume", "stopped", env=cache), "stopped: Permission denied")
    refused(command(place, *training, "--out", "finished", "--force", env=cache), "finished", "Permission denied")
    assert sorted(p.name for p in (place / "finished").iterdir()) == before
    refused(command(place, *training, "--dry-run"), "/proc", "BALANCER_CACHE")
    other = {"BALANCER_CACHE": str(open_folder(place / "closed", 0o555))}
    refused(command(place, *training, "--dry-run", env=other), "BALANCER_CACHE", "Permission denied")
    (place / "data" / "train" / "NORMAL").chmod(0)
    refused(command(place, *training, "--dry-run", env=cache), "NORMAL", "Permission denied")


@pytest.mark.nightly
@pytest.mark.parametrize("words", [["systems"], ["systems", "--json"], ["--help"], ["train", "--help"]])
def test_a_stdout_that_takes_nothing(place: Path, words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        refused(command(place, *words, program="classifier", stdout=full), "standard output", "No space left")
    reader, writer = os.pipe()
    os.close(reader)
    made = command(place, *words, program="classifier", stdout=writer)
    os.close(writer)
    assert made.returncode == 1
    assert "Traceback" not in made.stderr
    assert "Exception ignored" not in made.stderr
