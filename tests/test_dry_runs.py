"""`--dry-run`: every command that works has it, refuses what the run would refuse, and writes nothing."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from commands import TINY_GAN, balancer, done, refused
from test_help import COMMANDS, leaves

from balancer.core.preview import Preview, Undecoded, duration, together
from balancer.core.run import RunDir
from balancer.core.settings import DataConfig
from balancer.core.speed import seconds_each
from balancer.data.dataset import load_dataset
from classifier.cli import main as classifier

# They read and answer within a second; `runs remove` asks first, and says what would go.
WITHOUT = {"settings", "systems", "inspect", "runs list", "runs show", "runs open", "runs remove", "runs index"}
TRAIN = ("gan-train", "--data", "chest", "--steps", 2, *TINY_GAN)


@pytest.mark.parametrize(("main", "name"), COMMANDS, ids=[name for _, name in COMMANDS])
def test_every_command_that_works_has_it(main: click.Group, name: str) -> None:
    flags = {flag for option in leaves(main)[name].params for flag in option.opts}
    assert ("--dry-run" in flags) == (name not in WITHOUT)


@pytest.fixture
def run(runs_cwd: Path, chest_folder: Path) -> Path:
    """A finished run in the working folder, beside the data."""
    assert chest_folder == runs_cwd / "chest"
    done(balancer(*TRAIN, "--out", "run"))
    return runs_cwd / "run"


def test_the_folder_is_refused_as_a_run_refuses_it(run: Path) -> None:
    Path("file").write_text("mine")
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    for words, phrase in (
        ((*TRAIN, "--out", "file"), "--out file"),
        ((*TRAIN, "--out", "mine", "--force"), "--out mine"),
        ((*TRAIN, "--out", "run"), "--out run"),
        ((*TRAIN, "--out", "file/below"), "file"),
        ((*TRAIN, "--out", "chest/train/out"), "--out chest/train/out"),
        (("audit", "--data", "chest", "--image-size", 16, "--out", "run", "--force"), "run"),
        (("gan-train", "--resume", "nowhere"), "nowhere"),
    ):
        refused(balancer(*words), 1, phrase)
        refused(balancer(*words, "--dry-run"), 1, phrase)
    before = sorted((p, p.stat().st_mtime_ns) for p in run.parent.rglob("*"))
    assert "finished already" in done(balancer("gan-train", "--resume", "run", "--dry-run")).stdout
    done(balancer(*TRAIN, "--out", "run", "--force", "--dry-run"))
    done(balancer(*TRAIN, "--out", "new/er", "--dry-run"))
    with RunDir(run, resumed=True):
        refused(balancer(*TRAIN, "--out", "run", "--force", "--dry-run"), 1, "in use by another process")
    assert sorted((p, p.stat().st_mtime_ns) for p in run.parent.rglob("*")) == before


def test_an_empty_cache_leaves_the_pixels_to_the_run(chest_folder: Path, runs_cwd: Path, monkeypatch) -> None:
    monkeypatch.setenv("BALANCER_CACHE", str(runs_cwd / "cache"))
    words = ("gan-train", "--data", chest_folder, "--steps", 2, *TINY_GAN)
    result = json.loads(done(balancer(*words, "--dry-run", "--json")).stdout)
    assert result["undecoded"] == 114
    assert "not checked: the pixels of 114 images" in done(balancer(*words, "--dry-run")).stdout
    load_dataset(DataConfig(path=str(chest_folder), image_size=16))
    assert json.loads(done(balancer(*words, "--dry-run", "--json")).stdout)["undecoded"] == 0


def preview_of(result: Result) -> dict[str, object]:
    """What a dry run says as JSON: what is read, what is written, and how long it would take."""
    said = json.loads(done(result).stdout)
    assert set(said) == {"reads", "writes", "settings", "estimated_seconds", "unchecked"}
    return said


def test_a_generator_is_not_exported(run: Path) -> None:
    said = preview_of(balancer("export", "run", "--to", "safetensors", "--dry-run", "--json"))
    assert said["writes"] == "run/generator.safetensors"
    assert said["estimated_seconds"] > 0
    assert not (run / "generator.safetensors").exists()
    refused(balancer("export", "run", "--to", "onnx", "--out", "x.pt", "--dry-run"), 2, ".onnx")
    (run / "generator.safetensors").write_text("mine")
    refused(balancer("export", "run", "--to", "safetensors", "--dry-run"), 1, "--force")


def test_a_download_is_only_announced(runs_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network is used: a dry run must end where there is none."""
    monkeypatch.setattr("balancer.data.fetch.download", lambda *_: pytest.fail("downloaded"))
    said = preview_of(balancer("fetch", "pneumoniamnist", "--size", 64, "--dry-run", "--json"))
    assert said["writes"] == "data/pneumoniamnist_64.npz"
    assert said["estimated_seconds"] is None
    assert "8f4eceb4ccffa70c672198ea285246c6" in str(said["unchecked"])
    refused(balancer("fetch", "pneumoniamnist", "--size", 65, "--dry-run"), 2, "--size")
    assert not list(runs_cwd.iterdir())


def test_networks_are_built_but_not_timed_at_length(runs_cwd: Path) -> None:
    def compare(*words: str) -> Result:
        return CliRunner().invoke(classifier, ["compare", *words, "--dry-run", "--json"])

    said = preview_of(compare("small_cnn", "--image-size", "16", "--out", "table.csv"))
    assert said["writes"] == "table.csv"
    assert said["estimated_seconds"] > 0
    refused(compare("small_cnm"), 2, "small_cnm")
    refused(compare("small_cnn", "--out", "nowhere/table.csv"), 2, "nowhere")
    assert not list(runs_cwd.iterdir())


def test_a_preview_says_what_is_left() -> None:
    left = together([Undecoded(10, 4.0), None, Undecoded(20, 8.0)])
    assert left == Undecoded(30, 12.0)
    assert together([None]) is None
    lines = Preview("a", "b", None, {"shown": 1, "hidden": None}, left.describe()).describe().splitlines()
    assert lines[:3] == ["would read a", "would write b", "shown: 1"]
    assert "30 images" in lines[3]
    assert [duration(s) for s in (0, 119, 120, 7199, 7200)] == ["1 s", "119 s", "2 minutes", "120 minutes", "2.0 hours"]


def test_more_is_tried_while_the_time_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item takes a second, and the first try ten more: the last try counts."""
    clock, tries = [0.0], []
    monkeypatch.setattr("balancer.core.speed.time.perf_counter", lambda: clock[0])

    def work(n: int) -> None:
        clock[0] += n + 10 * (not tries)
        tries.append(n)

    assert seconds_each(work, 100, 1000) == 1
    assert tries == [2, 8, 32, 100]
    tries.clear()
    assert seconds_each(work, 100, 5) == 6
    assert tries == [2]
