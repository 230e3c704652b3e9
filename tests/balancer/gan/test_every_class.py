"""`gan-train --class all` and what follows from it: each class as if trained alone, resumed where it stopped."""

import csv
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from commands import QUICK_REPORT, TINY_GAN, balancer, done, refused, sets
from PIL import Image

from balancer.core.errors import BalancerError, Interrupted
from balancer.core.files import folder_name
from balancer.core.sealed import DamagedFile, read_json
from balancer.core.settings import DataConfig, GanTrainConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.gan import every_class, trainer
from balancer.gan.checkpoint import read_checkpoint
from balancer.gan.snapshot import read_history

COUNTS = {"COVID-19": 12, "No finding": 40, "Viral (other)": 20}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of noise, without splits; two classes lack images."""
    root, rng = tmp_path_factory.mktemp("lab") / "images", np.random.default_rng(0)
    for name, n in COUNTS.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return load_dataset(DataConfig(path=str(folder), image_size=16))


@pytest.fixture(scope="module")
def options(folder: Path) -> list[object]:
    return ["--data", folder, "--steps", 2, *TINY_GAN, *sets(lr_generator=0.05, min_diversity=0), "-q"]


@pytest.fixture(scope="module")
def run(options: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("every") / "run"
    done(balancer("gan-train", *options, "--class", "all", "--out", path))
    return path


def part(run: Path, name: str) -> Path:
    return run / "classes" / folder_name(name)


def test_every_class_that_lacks_images_has_its_gan(run: Path, data: Dataset) -> None:
    assert [p.name for p in sorted((run / "classes").iterdir())] == ["COVID-19", "Viral (other)"]
    summaries = read_json(run / "summary.json")["classes"]
    assert [(s["class"], s["n_train"], s["steps"]) for s in summaries] == [
        ("COVID-19", data.counts("train")[0], 2),
        ("Viral (other)", data.counts("train")[2], 2),
    ]
    for summary in summaries:
        own = part(run, summary["class"])
        assert {p.name for p in own.iterdir()} >= {
            "best.pt",
            "checkpoint.pt",
            "config.yaml",
            "env.json",
            "done",
            "grids",
        }
        assert read_json(own / "summary.json") == summary
        assert every_class.GanSummary.from_json(summary, run).to_json() == summary


def test_each_gan_is_the_one_that_its_class_alone_would_give(run: Path, options: list[object], tmp_path: Path) -> None:
    done(balancer("gan-train", *options, "--class", "Viral (other)", "--out", tmp_path / "alone"))
    both = [read_checkpoint(path / "best.pt", CPU) for path in (part(run, "Viral (other)"), tmp_path / "alone")]
    assert both[0].class_name == both[1].class_name == "Viral (other)"
    weights = [saved.state["G_ema"] for saved in both]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])
    losses = [
        [{k: v for k, v in row.items() if k not in ("images_per_s", "eta_s", "memory_mb")} for row in history.losses]
        for history in (read_history(p / "metrics.jsonl") for p in (part(run, "Viral (other)"), tmp_path / "alone"))
    ]
    assert losses[0] == losses[1] != []


def test_synthesis_fills_every_deficit(run: Path, data: Dataset, tmp_path: Path) -> None:
    gan = Path(shutil.copytree(run, tmp_path / "gan"))
    done(balancer("synthesize", "--gan-run", gan, *QUICK_REPORT, "-q", "--out", tmp_path / "s"))
    with (tmp_path / "s" / "manifest.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    lacking = {name: n for name, n in zip(data.classes, data.deficits, strict=True) if n}
    assert {name: sum(r["class"] == name for r in rows) for name in lacking} == lacking
    assert [int(r["index"]) for r in rows] == list(range(sum(lacking.values())))
    report = read_json(tmp_path / "s" / "report.json")
    assert {name: of["n"] for name, of in report["classes"].items()} == lacking
    for name, of in report["classes"].items():
        own = read_json(tmp_path / "s" / of["report"])
        assert (own["class"], own["n"], own["quality"]["verdict"]) == (name, lacking[name], of["verdict"])
        for file in ("report.html", "DATASHEET.md", "grid.png"):
            assert (tmp_path / "s" / of["report"]).with_name(file).is_file()
        assert f'href="{of["report"].replace(".json", ".html").replace(" ", "%20")}"' in (
            (tmp_path / "s" / "report.html").read_text().replace("reports/Viral (other)", "reports/Viral%20(other)")
        )
    # Links on the page of a class lead from its folder, not from that of the run.
    for page in (tmp_path / "s").rglob("report.html"):
        assert "GAN run" in page.read_text()
        for target in re.findall(r'href="((?!#|https?:)[^"]+)"', page.read_text()):
            assert (page.parent / unquote(target)).exists(), (page, target)
    # An image depends on the seed and its number within the class: as of a synthesis of the class alone.
    alone = ["--gan-run", part(run, "Viral (other)"), "--n", 3, *QUICK_REPORT, "-q", "--out", tmp_path / "alone"]
    done(balancer("synthesize", *alone))
    for i in range(3):
        file = f"images/Viral (other)/synthetic_{i:05d}.png"
        assert (tmp_path / "alone" / file).read_bytes() == (tmp_path / "s" / file).read_bytes()


def test_a_stopped_run_goes_on_with_the_class_that_it_was_at(
    options: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    original = trainer.train

    def train(config: GanTrainConfig, *rest: Any) -> trainer.GanSummary:
        trained.append(str(config.target_class))
        if trained == ["COVID-19", "Viral (other)"]:
            raise Interrupted(15, "saved at step 1 of 2; continue with --resume elsewhere")
        return original(config, *rest)

    monkeypatch.setattr(trainer, "train", train)
    stopped = balancer("gan-train", *options, "--class", "all", "--out", tmp_path / "run")
    assert stopped.exit_code == 143
    assert f"Viral (other): saved at step 1 of 2; continue with --resume {tmp_path / 'run'}" in stopped.stderr
    assert not (tmp_path / "run" / "done").exists()
    done(balancer("gan-train", "--resume", tmp_path / "run", "-q"))
    assert trained == ["COVID-19", "Viral (other)", "Viral (other)"]
    assert len(read_json(tmp_path / "run" / "summary.json")["classes"]) == 2
    assert (tmp_path / "run" / "done").exists()


def test_a_damaged_file_of_a_class_is_one_line_with_the_class() -> None:
    with (
        pytest.raises(BalancerError, match=r"^COVID-19: checkpoint\.pt is damaged: it is cut"),
        every_class._of_class("COVID-19", Path("run")),
    ):
        raise DamagedFile(Path("checkpoint.pt"), "it is cut")


def test_what_cannot_be_done(run: Path, folder: Path, options: list[object], tmp_path: Path) -> None:
    refused(balancer("export", run, "--to", "safetensors"), 1, str(part(run, "COVID-19")), "of each class")
    even = tmp_path / "even"
    for name in ("a", "b"):
        (even / name).mkdir(parents=True)
        for i in range(10):
            (even / name / f"{i}.png").write_bytes(
                (folder / "No finding" / f"{i + 10 * (name == 'b')}.png").read_bytes()
            )
    out = ("--class", "all", "--out", tmp_path / "r")
    result = balancer(
        "gan-train", "--data", even, *options[2:], *out, *sets(**{"data.val_fraction": 0, "data.test_fraction": 0})
    )
    refused(result, 1, "no class of", "lacks images", "name one of")
    assert not (tmp_path / "r").exists()


def test_the_runs_are_listed_as_one(run: Path) -> None:
    listed = done(balancer("runs", "list", run.parent)).stdout
    assert listed.count("finished") == 1
    assert "COVID-19: " in listed
    assert "Viral (other): " in listed


@pytest.mark.parametrize("flips", [False, True])
def test_images_are_mirrored_where_the_data_allow_it(data: Dataset, flips: bool) -> None:
    """Half of them, others in each step, the same ones at the same step; without the setting none."""
    config = GanTrainConfig(data=DataConfig(image_size=16, flips=flips), batch_size=32)
    images = trainer.training_images(data, 1, CPU)
    plain = GanTrainConfig(data=DataConfig(image_size=16), batch_size=32)
    steps = []
    for step in (0, 1):
        batch, straight = (trainer.next_batch(c, images, step, CPU) for c in (config, plain))
        mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(batch, straight, strict=True)]
        assert all(torch.equal(a, b) != m for a, b, m in zip(batch, straight, mirrored, strict=True))
        steps.append(mirrored)
        assert torch.equal(batch, trainer.next_batch(config, images, step, CPU))
    assert (8 <= sum(steps[0]) <= 24) if flips else not any(steps[0])
    assert not flips or steps[0] != steps[1]


@pytest.mark.parametrize("name", ["a/b", "..", "", "x" * 300, "two\nlines", "C:\\x", "é ü"])
def test_names_of_folders(name: str, tmp_path: Path) -> None:
    made = folder_name(name)
    (tmp_path / made).mkdir()
    assert [p.name for p in tmp_path.iterdir()] == [made]
    assert made == name or "%" in made or made[-9:-8] == "-"
    assert len({folder_name(n) for n in ("a/b", "a-b", "a:b")}) == 3
