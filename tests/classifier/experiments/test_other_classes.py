"""The whole way of three classes of any names: ablation with its page and card, predict, explain, serve, exports."""

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from commands import done, refused, sets
from layouts import as_splits, made
from matplotlib.figure import Figure
from PIL import Image

from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset

Run = Callable[..., Result]
CLASSES = ("COVID-19", "No finding", "Viral (other)")
COUNTS = {"train": (14, 40, 24), "val": (4, 6, 4), "test": (8, 10, 8)}
LACKING = ("COVID-19", "Viral (other)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits of classes, of noise; the upper part is brighter by class, so that there is something to learn."""
    images = made(COUNTS, CLASSES)
    for image in images:
        image.pixels[: 4 + 4 * CLASSES.index(image.cls)] //= 3
    return as_splits(images, tmp_path_factory.mktemp("lab") / "images")


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return load_dataset(DataConfig(path=str(folder), image_size=16))


@pytest.fixture(scope="module")
def synthesis(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of both classes that lack some, in one folder, with a report on each class."""
    root, rng, rows = tmp_path_factory.mktemp("synthesis") / "s", np.random.default_rng(5), []
    for name in LACKING:
        (root / "images" / name).mkdir(parents=True)
        (root / "reports" / name).mkdir(parents=True)
        (root / "reports" / name / "report.html").write_text(f"the report on {name}")
        for i in range(data.deficits[data.classes.index(name)]):
            file = f"images/{name}/{i}.png"
            Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(root / file)
            digest = hashlib.sha256((root / file).read_bytes()).hexdigest()
            rows.append((file, len(rows), len(rows), digest, name, data.split_hash))
    with (root / "manifest.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("file", "index", "seed", "sha256", "class", "split_hash"), *rows])
    return root


@pytest.fixture(scope="module")
def options(folder: Path) -> list[object]:
    short = sets(evaluations=2, bn_statistics="running")
    return ["--data", folder, "--image-size", 16, "--steps", 6, "--batch-size", 9, *short, "--device", "cpu", "-q"]


@pytest.fixture(scope="module")
def run(options: list[object], synthesis: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from classifier.cli import main

    out = tmp_path_factory.mktemp("ablation") / "run"
    more = ["--regimes", "baseline,gan,duplicate", "--seeds", 1, "--dose", 0.5, "--synthetic", synthesis, "--out", out]
    with pytest.MonkeyPatch.context() as patch:  # what takes longest: to paint the figures, which are made all the same
        patch.setattr("classifier.report.page.save_figure", painted)
        done(CliRunner().invoke(main, [str(a) for a in ("ablate", *options, *more)]))
    return out


def painted(figure: Figure, folder: Path, name: str) -> bytes:
    assert figure.axes
    for suffix in (".png", ".svg"):
        (folder / f"{name}{suffix}").write_bytes(b"")
    return b""


def texts(run: Path) -> str:
    return "".join((run / name).read_text() for name in ("report.md", "MODEL_CARD.md", "table.md", "report.html"))


def test_each_regime_fills_every_class(run: Path, data: Dataset) -> None:
    rows = {row["regime"] + f"@{row['dose']}": row for row in map(json.loads, (run / "results.jsonl").open())}
    real = dict(zip(CLASSES, data.counts("train"), strict=True))
    full = dict.fromkeys(CLASSES, max(real.values()))
    assert rows["baseline@None"]["n_train"] == real
    assert rows["gan@1.0"]["n_train"] == rows["duplicate@None"]["n_train"] == full
    half = {name: n + round(0.5 * (full[name] - n)) for name, n in real.items()}
    assert rows["gan@0.5"]["n_train"] == half


def test_page_and_card_speak_of_these_classes(run: Path) -> None:
    everything = texts(run)
    assert not {"PNEUMONIA", "NORMAL", "BACTERIAL"} & set(everything.replace("`", " ").split())
    assert "macro AUROC" in (run / "report.md").read_text()
    assert "COVID-19, No finding and Viral (other)" in (run / "MODEL_CARD.md").read_text()
    assert all(f"recall of {name}" in everything for name in CLASSES)
    drawn = {path.stem for path in (run / "figures").glob("*.png")}
    assert drawn >= {"forest", "roc", "recall", "confusion", "reliability", "synthetic"}
    assert not drawn & {"precision_recall", "thresholds"}
    copies = sorted((run / "synthetic").glob("*.html"))
    assert [path.read_text() for path in copies] == [f"the report on {name}" for name in LACKING]
    assert all(f"synthetic/{path.name}" in (run / "report.html").read_text() for path in copies)


def test_the_trials_of_a_run_decide_together(run: Path, folder: Path, classifier: Run, tmp_path: Path) -> None:
    images = sorted((folder / "test").glob("*/*"))[:4]
    alone = json.loads(done(classifier("predict", next(run.glob("trials/gan-*/model.pt")), *images, "--json")).stdout)
    assert [p["label"] in CLASSES for p in alone["predictions"]] == [True] * 4
    assert all(tuple(p["probabilities"]) == CLASSES for p in alone["predictions"])
    together = classifier("predict", run, "--regime", "gan", *images, "--out", tmp_path / "p.csv", "--json")
    for one, of_all in zip(alone["predictions"], json.loads(done(together).stdout)["predictions"], strict=True):
        assert of_all["probabilities"] == pytest.approx(one["probabilities"]), "the mean of one trial"
        assert sum(of_all["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    header = (tmp_path / "p.csv").read_text().splitlines()[0]
    assert all(name in header for name in CLASSES)


def test_heat_maps(run: Path, folder: Path, classifier: Run, tmp_path: Path) -> None:
    model = next(run.glob("trials/gan*/model.pt"))
    images = sorted((folder / "test").glob("*/*"))[:2]
    for more in ([], ["--class", "Viral (other)"]):
        out = tmp_path / f"maps{len(more)}"
        done(classifier("explain", model, *images, *more, "--out", out, "-q"))
        assert any(name in (out / "explain.html").read_text() for name in CLASSES)
    refused(classifier("explain", model, images[0], "--class", "PNEUMONIA", "-q"), 2, *CLASSES)
    done(classifier("explain", run, "--out", tmp_path / "of-run", "-q"))


@pytest.mark.parametrize("form", ["onnx", "safetensors"])
def test_exports_carry_the_names(form: str, run: Path, folder: Path, classifier: Run, tmp_path: Path) -> None:
    model = next(run.glob("trials/gan*/model.pt"))
    done(classifier("export", model, "--to", form, "--out", file := tmp_path / f"model.{form}", "-q"))
    image = next((folder / "test").glob("*/*"))
    shown, expected = (
        json.loads(done(classifier("predict", path, image, "--json")).stdout)["predictions"][0]
        for path in (file, model)
    )
    assert (shown["label"], list(shown["probabilities"])) == (expected["label"], list(CLASSES))
    assert shown["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)


def test_what_is_for_two_classes_says_so(
    run: Path, options: list[object], classifier: Run, tmp_path: Path, runs_cwd: Path
) -> None:
    for command in ("thresholds", "ensemble"):
        refused(classifier(command, run, "-q"), 1, "two classes")
    refused(classifier("crossvalidate", *options), 2, "two classes")
    assert not (runs_cwd / "runs").exists()
