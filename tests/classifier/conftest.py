"""Shared by the classifier's tests: data sets in memory, hand-made manifests, a command line in this process."""

import csv
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from commands import done
from memory_data import COLUMNS, SIZE, in_memory
from PIL import Image

from balancer.core.settings import DataConfig
from balancer.data.chest import CLASSES
from balancer.data.dataset import Dataset, load_dataset


@pytest.fixture(scope="session")
def make_data() -> Callable[..., Dataset]:
    return in_memory


def png(seed: int, size: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def manifest(folder: Path, n: int, split_hash: str, label: int = 0, first: int = 0) -> Path:
    """A synthesis of another generator: images and a manifest, nothing else. Rows are written last to first."""
    cls = CLASSES[label]
    (folder / "images" / cls).mkdir(parents=True)
    rows = []
    for i in range(n):
        content, file = png(first + i), f"images/{cls}/s{i}.png"
        (folder / file).write_bytes(content)
        rows.append((file, i, 1000 + i, hashlib.sha256(content).hexdigest(), cls, split_hash))
    with (folder / "manifest.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([COLUMNS, *reversed(rows)])
    return folder


@pytest.fixture
def make_manifest() -> Callable[..., Path]:
    return manifest


@pytest.fixture
def classifier() -> Callable[..., Result]:
    """Run the command line in this process; the result has ``stdout`` and ``stderr`` apart."""
    from classifier.cli import main

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=True)

    return run


@pytest.fixture(scope="session")
def trained(small_args: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of one small training. Not to be changed."""
    from classifier.cli import main

    out = tmp_path_factory.mktemp("trained") / "run"
    done(CliRunner().invoke(main, ["train", *small_args, "--out", str(out)]))
    return out


@pytest.fixture
def no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the throw-away trainings by which a dry run estimates its time: this test is about settings."""
    for name in ("estimate_seconds", "training_seconds"):
        monkeypatch.setattr(f"classifier.api.{name}", lambda study, device: 120.0)
    monkeypatch.setattr("classifier.experiments.ablation.report_seconds", lambda study: 0.0)


@pytest.fixture(scope="session")
def template(_chest_template: Path) -> Path:
    """The folder of noise that all tests share. Not to be changed."""
    return _chest_template


@pytest.fixture(scope="session")
def small_data(_chest_template: Path) -> Dataset:
    """The session's folder of noise, as the commands below see it. Not to be changed."""
    return load_dataset(DataConfig(path=str(_chest_template), image_size=SIZE), require=("train", "val", "test"))


@pytest.fixture(scope="session")
def small_synthesis(small_data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest that fits :func:`small_data`, with three images more than the deficit."""
    return manifest(tmp_path_factory.mktemp("synthesis") / "s", small_data.deficit + 3, small_data.split_hash)


@pytest.fixture(scope="session")
def small_args(_chest_template: Path) -> tuple[str, ...]:
    """Options that make a run of the classifier take half a second.

    BatchNorm keeps its running statistics: re-estimating them takes 256 batches, ten times as long as the rest.
    The end-to-end test and the tests of training use the default.
    """
    options = "--steps 6 --batch-size 8 --set evaluations=3 --set bn_statistics=running --device cpu -q"
    return ("--data", str(_chest_template), "--image-size", str(SIZE), *options.split())
