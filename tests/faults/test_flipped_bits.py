"""One flipped bit anywhere in a GAN run, a cache or a synthesis: refused, or said, or in a file that nobody reads."""

import functools
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from commands import QUICK_REPORT, TINY_GAN, balancer, done, sets

from balancer import synthesis
from balancer.core.errors import BalancerError
from balancer.core.saved_runs import resumed_config
from balancer.core.sealed import warn_of_no_seal
from balancer.core.settings import DataConfig, GanTrainConfig
from balancer.data import phantom
from balancer.data.dataset import load_dataset
from balancer.gan.checkpoint import load_state
from balancer.gan.snapshot import read_history
from balancer.gan.step import build_state
from classifier.cli import main as classifier_main
from classifier.training.synthetic import load_synthetic

CPU = torch.device("cpu")
# What later commands read, by the folder's part; everything else is for people.
READ = {
    "gan": ("config.yaml", "env.json", "metrics.jsonl", "done", "best.pt", "checkpoint.pt"),
    "synthetic": ("images/*",),
    "cache": ("stat/*", "images/*", "phantom-*", "features/*"),
}
ELSEWHERE = {"manifest.csv", "manifest.csv.sha256", "report.json"}  # the classifier's tests have them
NOT_READ = {
    "gan": (
        *("log.txt", "summary.json", "grids/*", "events/*"),
        *("split.csv", "split.csv.sha256"),  # the split is carved again, and its hash compared
        "*.previous.pt",  # unless the file that replaced it is damaged
    ),
    "synthetic": ("config.yaml", "env.json", "log.txt", "done", "report.md", "report.html", "*.png", "DATASHEET.md"),
    "cache": (),
}


@dataclass(frozen=True)
class Made:
    """What the commands left behind. The tests damage copies."""

    root: Path
    chest: Path

    def files(self, part: str, patterns: tuple[str, ...]) -> list[str]:
        """Return the files of a part that match, relative to it."""
        folder = self.root / part
        names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
        return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


@pytest.fixture(scope="module")
def made(_chest_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    root = tmp_path_factory.mktemp("flips")
    spec = phantom.PhantomSpec(size=16, train=(6, 9), val=(1, 1), test=(3, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BALANCER_CACHE", str(root / "cache"))
        patch.setattr(phantom, "PhantomSpec", lambda: spec)
        load_dataset(DataConfig(path="phantom", image_size=16, val_fraction=0.3))
        data = ("--data", _chest_template)
        done(
            balancer(
                "gan-train",
                *data,
                *TINY_GAN,
                "--steps",
                4,
                *sets(snapshot_every=2, min_diversity=0),
                "--out",
                root / "gan",
            )
        )
        made = ("--gan-run", root / "gan", "--n", 40, *QUICK_REPORT)
        done(balancer("synthesize", *made, "--out", root / "synthetic"))
        yield Made(root, _chest_template)


def opened_gan(folder: Path, made: Made) -> None:
    """Do what `synthesize` does with a GAN run, and what `gan-train --resume` does."""
    config = synthesis.configure({"gan_run": str(folder)})
    source = synthesis.open_source(config, CPU)
    read_history(folder / "metrics.jsonl")
    gan = resumed_config("gan-train", GanTrainConfig, folder, {})
    load_state(folder, gan, build_state(gan, CPU), source.data, source.label, CPU)


def opened_synthesis(folder: Path, made: Made) -> None:
    config = DataConfig(path=str(made.chest), image_size=16)
    load_synthetic(folder, load_dataset(config), config, "all")


def opened_cache(folder: Path, made: Made) -> None:
    load_dataset(DataConfig(path=str(made.chest), image_size=16))
    load_dataset(DataConfig(path="phantom", image_size=16, val_fraction=0.3))


OPEN: dict[str, Callable[[Path, Made], None]] = {
    "gan": opened_gan,
    "synthetic": opened_synthesis,
    "cache": opened_cache,
}


def flipped(path: Path, rng: np.random.Generator) -> int:
    content = bytearray(path.read_bytes())
    bit = int(rng.integers(8 * len(content)))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return bit


def copied(part: str, made: Made, at: Path, patch: pytest.MonkeyPatch) -> Path:
    """Return a fresh copy of a part. The cache in use is a copy too."""
    for name in {part, "cache"}:
        shutil.rmtree(at / name, ignore_errors=True)
        shutil.copytree(made.root / name, at / name)
    patch.setenv("BALANCER_CACHE", str(at / "cache"))
    return at / part


@pytest.mark.parametrize("flips", [10, pytest.param(200, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("part", READ)
def test_a_flipped_bit_is_refused_or_said(
    part: str, flips: int, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In every file that is read, at random places; every kind of file has its turn."""
    rng, silent = np.random.default_rng(flips), []
    kinds = [made.files(part, (pattern,)) for pattern in READ[part]]
    assert all(kinds)
    for turn in range(flips):
        kind = kinds[turn % len(kinds)]
        name = kind[int(rng.integers(len(kind)))]
        if part != "cache" or turn == 0:  # the cache mends itself
            folder = copied(part, made, tmp_path, monkeypatch)
        with caplog.at_level(logging.WARNING, "balancer"):
            if part == "cache":
                OPEN[part](folder, made)  # stamps of the copied drawings are others
                with opens() as paths:
                    OPEN[part](folder, made)
                read = {p for p in map(Path, paths) if p.is_relative_to(folder) and p.is_file() and p.suffix != ".lock"}
                read |= {p for p in folder.rglob("phantom-*/**/*") if p.is_file()}
                name = sorted(p.relative_to(folder).as_posix() for p in read)[int(rng.integers(len(read)))]
            elif turn < len(kinds):  # the copy as it is: nothing to say
                caplog.clear()
                OPEN[part](folder, made)
                assert not [text for text in caplog.messages if str(tmp_path) in text]
            bit = flipped(folder / name, rng)
            caplog.clear()
            warn_of_no_seal.cache_clear()
            try:
                OPEN[part](folder, made)
                lines = caplog.messages
            except BalancerError as error:
                lines = [str(error)]
        if not any(str(folder) in line for line in lines):
            silent.append(f"{name} bit {bit}: {lines}")
        assert all("\n" not in line for line in lines)
    assert not silent, f"{len(silent)} of {flips} used in silence: {silent[:5]}"


@pytest.mark.parametrize("part", NOT_READ)
def test_every_file_is_read_and_checked_or_not_read(
    part: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file that a command leaves stands in one of the lists; Python's own audit shows what is opened."""
    listed = {*made.files(part, READ[part]), *made.files(part, NOT_READ[part])}
    assert set(made.files(part, ("*",))) - listed - ELSEWHERE == set()
    folder = copied(part, made, tmp_path, monkeypatch)
    with opens() as paths:
        OPEN[part](folder, made)
    opened = {Path(p).relative_to(folder).as_posix() for p in paths if Path(p).is_relative_to(folder)}
    read = set(made.files(part, READ[part]))
    assert {name for name in opened & listed if name not in read and "previous" not in name} == set()


LISTS: list[list[str]] = []  # of paths, while somebody collects


@functools.cache
def hook() -> None:
    """An audit hook stays for good, so there is one for all."""

    def note(event: str, args: tuple[object, ...]) -> None:
        for paths in LISTS if event == "open" else ():
            paths.append(str(args[0]))

    sys.addaudithook(note)


@contextmanager
def opens() -> Iterator[list[str]]:
    """Collect the paths that this process opens."""
    hook()
    LISTS.append([])
    try:
        yield LISTS[-1]
    finally:
        LISTS.pop()


def classifier(*args: object) -> Result:
    return CliRunner().invoke(classifier_main, [str(a) for a in args])


COMMANDS: dict[str, Callable[[Path, Made], Result]] = {
    "gan": lambda folder, made: balancer("synthesize", "--gan-run", folder, "--n", 4, *QUICK_REPORT, "--out", "s"),
    "synthetic": lambda folder, made: classifier(
        *("train", "--data", made.chest, "--regime", "gan", "--synthetic", folder, "--image-size", 16, "--out", "t"),
        *("--steps", 2, "--batch-size", 8, *sets(evaluations=1, bn_statistics="running")),
    ),
}


@pytest.mark.nightly
@pytest.mark.parametrize("part", COMMANDS)
def test_commands_refuse_or_say(part: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same by the commands themselves: one flip in every file, an error of one line or a warning, no traceback."""
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    for name in made.files(part, READ[part]):
        if "checkpoint" in name:
            continue
        folder = copied(part, made, tmp_path / "copy", monkeypatch)
        flipped(folder / name, rng)
        warn_of_no_seal.cache_clear()
        for out in ("s", "t"):
            shutil.rmtree(out, ignore_errors=True)
        result = COMMANDS[part](folder, made)
        assert result.exit_code in (0, 1), name
        assert result.exception is None or isinstance(result.exception, SystemExit), name
        places = Path(name).name, Path(name).parent.name or name
        assert any(place in result.stderr for place in places), name
