"""One flipped bit anywhere in a file that a later command reads: refused, or warned of, never used in silence."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from balancer.audit.report import read_audit
from balancer.core import sealed
from balancer.core.config import read_config_file
from balancer.core.errors import BalancerError
from balancer.core.saved_runs import saved_config
from balancer.core.sealed import write_json, write_with_sum
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset
from classifier.analysis.runs import read_runs
from classifier.experiments.substudies import read_substudy
from classifier.report.model_card import about
from classifier.training.checkpoint import load_classifier
from classifier.training.synthetic import load_sets
from classifier.tuning import storage

Args = tuple[str, ...]
CPU = torch.device("cpu")
# Files that no command reads: for people, or of which the name alone says something.
UNREAD = (
    *(
        "log.txt",
        "analysis.json",
        "report.html",
        "report.md",
        "MODEL_CARD.md",
        "table.*",
        "figures/*",
        "audit/*.html",
        "audit/*.md",
        "audit/*.png",
        "audit/*.svg",
    ),
    *("*.lock", "metrics.jsonl", "tune.json", "trials.csv"),  # metrics of a classifier's training
)
# What stands for the commands: the file's reader, which each of them calls.
READERS: dict[str, Callable[[Path], object]] = {
    "ablate": lambda run: (read_substudy(run), read_audit(run / "audit"), about(min(run.glob("trials/*")))),
    "train": lambda run: (saved_config("train", run), read_runs([run]), about(run)),
    "tune": lambda run: (saved_config("tune", run), storage.recover(run), read_config_file(run / "best.yaml", "train")),
}


@pytest.fixture(scope="module")
def made(
    small_args: Args, small_synthesis: Path, small_data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Dataset]:
    """An ablation, a training, a search and a synthesis with sum and report."""
    from classifier.cli import main

    root = tmp_path_factory.mktemp("flips")
    shutil.copytree(small_synthesis, root / "synthesis")
    write_with_sum(root / "synthesis" / "manifest.csv", (small_synthesis / "manifest.csv").read_text())
    write_json(root / "synthesis" / "report.json", {"gan_config": {"seed": 0}})
    synthetic = ("--synthetic", str(root / "synthesis"))
    commands: dict[str, Args] = {
        "ablate": (*synthetic, "--regimes", "baseline,gan", "--seeds", "2"),
        "train": ("--regime", "baseline"),
        "tune": ("--trials", "2"),
    }
    at = small_args.index("--batch-size")
    searched = small_args[at : at + 2]  # which the space of a search holds
    for command, options in commands.items():
        shared = [a for a in small_args if command != "tune" or a not in searched]
        result = CliRunner().invoke(main, [command, *shared, *options, "--out", str(root / command)])
        assert result.exit_code == 0, result.output
    return root, small_data


def read_files(root: Path) -> list[Path]:
    """Return the files that some command reads."""
    return sorted(p for p in root.rglob("*") if p.is_file() and not any(p.match(pattern) for pattern in UNREAD))


def read(file: Path, root: Path, data: Dataset) -> object:
    """Read a file as the commands do that need it."""
    room = file.relative_to(root).parts[0]
    if file.name == "model.pt":
        return load_classifier(file, CPU)
    if room == "synthesis":
        return load_sets([str(root / room)], data, DataConfig(image_size=16), "all")
    return READERS[room](root / room)


def silent_flips(
    root: Path, data: Dataset, count: int, seed: int, caplog: pytest.LogCaptureFixture
) -> tuple[list[str], int, int]:
    """Return the flips that were used in silence, and the numbers of those refused and those warned of."""
    files, random, silent, refused, warned = read_files(root), np.random.default_rng(seed), list[str](), 0, 0
    for _ in range(count):
        file = files[int(random.integers(len(files)))]
        content = file.read_bytes()
        place = int(random.integers(8 * len(content)))
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        keep = {p: p.read_bytes() for p in (root / "tune").glob("journal.log*")}
        file.write_bytes(changed)
        sealed.warn_of_no_seal.cache_clear()  # which warns once a file
        caplog.clear()
        try:
            with caplog.at_level(logging.WARNING, "balancer"):
                read(file, root, data)
        except BalancerError:
            refused += 1
        else:
            warned += bool(caplog.records)
            silent += [] if caplog.records else [f"{file.relative_to(root)} bit {place}"]
        file.write_bytes(content)
        for path, before in keep.items():
            path.write_bytes(before)
    return silent, refused, warned


def test_unchanged_files_are_read_without_a_word(made: tuple[Path, Dataset], caplog: pytest.LogCaptureFixture) -> None:
    files = read_files(made[0])
    names = {file.name for file in files}
    assert {"config.yaml", "env.json", "results.jsonl", "predictions.npz", "model.pt", "split.csv"} <= names
    assert {"result.json", "journal.log", "manifest.csv", "report.json", "audit.json", "s0.png"} <= names
    with caplog.at_level(logging.WARNING, "balancer"):
        for file in files:
            read(file, *made)
    assert not caplog.records


def test_no_flipped_bit_is_used_in_silence(made: tuple[Path, Dataset], caplog: pytest.LogCaptureFixture) -> None:
    assert silent_flips(*made, 30, 0, caplog)[0] == []


@pytest.mark.nightly
def test_none_of_500_flipped_bits_is_used_in_silence(
    made: tuple[Path, Dataset], caplog: pytest.LogCaptureFixture, record_property: Callable[[str, Any], None]
) -> None:
    silent, refused, warned = silent_flips(*made, 500, 1, caplog)
    record_property("refused", refused)
    record_property("warned", warned)
    print(f"500 flips: {refused} refused, {warned} warned, {len(silent)} in silence {silent}")
    assert silent == []
