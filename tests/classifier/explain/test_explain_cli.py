"""`classifier explain`: what it writes of images and of a run, and what it refuses."""

import errno
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from commands import Unreported, refused, words
from PIL import Image

from balancer.core.sealed import load_tensors, read_json, save_tensors
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset
from classifier.explain import explain, faithfulness
from classifier.explain.checks import UNCHECKED, check
from classifier.explain.folder import CONTENT, replaced
from classifier.explain.heatmaps import shown
from classifier.explain.methods import METHODS
from classifier.training.checkpoint import load_classifier
from classifier.training.prediction import to_input

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def study(small_args: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two regimes, two seeds."""
    from classifier.cli import main

    run = tmp_path_factory.mktemp("explain") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("classifier.experiments.ablation.write_data_audit", lambda *_: None)
        patch.setattr("classifier.experiments.ablation.write_ablation", lambda *_: Unreported())
        words = ["ablate", *small_args, "--regimes", "baseline,augment", "--seeds", "2", "--out", str(run)]
        result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return run


@pytest.fixture(scope="module")
def model(study: Path) -> Path:
    return study / "trials" / "baseline-0" / "model.pt"


@pytest.fixture
def images(template: Path) -> Path:
    return template / "test" / "NORMAL"


def words_of(page: Path) -> str:
    return " ".join(re.sub(r"</?(span|code)[^>]*>", "", page.read_text()).split())


def test_images_of_a_folder(classifier: Command, model: Path, images: Path, tmp_path: Path) -> None:
    result = classifier("explain", model, images, "--out", tmp_path / "out", "--device", "cpu", "-q", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    files = sorted(images.iterdir())
    assert [Path(image["file"]).name for image in answer["images"]] == [file.name for file in files]
    assert answer["layer"] == "features.23"
    assert answer["checks"]["pixels"]["n"] == len(files)
    assert answer["verdict"]
    out = tmp_path / "out"
    for image in answer["images"]:
        heat, overlay = (np.asarray(Image.open(out / image[key])) for key in ("heat", "overlay"))
        assert heat.shape == (16, 16)
        assert bool(heat.max() == 255) != image["empty"]
        assert overlay.ndim == 3
    files_made = "explain.html explain.md explain.json contact_sheet.png maps overlays pictures"
    assert {p.name for p in out.iterdir()} == words(files_made)
    page = words_of(out / "explain.html")
    assert all(file.name in page for file in files)
    assert answer["verdict"] in page
    predicted = json.loads(classifier("predict", model, images, "--device", "cpu", "-q", "--json").stdout)[
        "predictions"
    ]
    assert [p["label"] for p in predicted] == [image["label"] for image in answer["images"]]
    probabilities = [image["probability"] for image in answer["images"]]
    assert [p["probability_pneumonia"] for p in predicted] == pytest.approx(probabilities)


def test_a_class_a_method_and_the_answer_in_words(
    classifier: Command, model: Path, images: Path, tmp_path: Path
) -> None:
    words = "--class", "PNEUMONIA", "--method", "occlusion", "--no-check", "--out", tmp_path / "out", "-q"
    result = classifier("explain", model, images / "IM-0003-0001.png", *words)
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "out" / "explain.html") in result.stdout
    content = read_json(tmp_path / "out" / "explain.json")
    assert [image["explained"] for image in content["images"]] == ["PNEUMONIA"]
    assert content["checks"] is None
    assert content["layer"] is None
    again = classifier("explain", model, images / "IM-0003-0001.png", *words)  # takes the place of the first
    assert again.exit_code == 0, again.output


def test_a_run(classifier: Command, study: Path) -> None:
    result = classifier("explain", study, "--device", "cpu", "-q")
    assert result.exit_code == 0, result.output
    out = study / "explain"
    content = read_json(out / "explain.json")
    assert [(c["regime"], c["reference"], c["seeds"], c["verdict"]) for c in content["comparisons"]] == [
        ("augment", "baseline", 2, "too few")
    ]
    assert content["comparisons"][0]["n"] == 26
    assert set(content["regimes"]) == {"baseline", "augment"}
    for view in content["regimes"].values():
        assert {example["truth"] for example in view["examples"]} == {"NORMAL", "PNEUMONIA"}
        assert view["checks"]["weights"]["verdict"] in ("depend", "do not depend", "not settled")
    page = words_of(out / "explain.html")
    assert content["verdict"] in page
    assert "baseline: right and wrong" in page
    assert not (out / "explain.html").read_text().count("http")  # nothing is fetched


def test_examples_are_what_the_trial_predicted(
    classifier: Command, study: Path, template: Path, tmp_path: Path
) -> None:
    words = "--regimes", "baseline", "--no-check", "--out", tmp_path / "out", "-q", "--json"
    content = json.loads(classifier("explain", study, *words).stdout)
    assert content["verdict"] == UNCHECKED  # of a single regime, the verdict is on its maps
    view = content["regimes"]["baseline"]
    model = study / "trials" / "baseline-0"
    assert len(view["examples"]) > 8
    for example in view["examples"][::4]:
        predicted = json.loads(classifier("predict", model, template / example["file"], "-q", "--json").stdout)
        assert predicted["predictions"][0]["label"] == example["called"]
        assert predicted["predictions"][0]["probability_pneumonia"] == pytest.approx(example["probability"], abs=1e-5)
        assert example["file"].split("/")[1] == example["truth"]


def broken_image(kind: str, path: Path) -> Path:
    if kind == "one pixel":
        Image.new("L", (1, 1)).save(path)
    else:
        path.write_bytes({"text": b"no picture\n" * 9, "empty": b""}[kind])
    return path


@pytest.mark.parametrize("kind", ["text", "empty", "one pixel"])
def test_files_that_are_no_image(kind: str, classifier: Command, model: Path, tmp_path: Path) -> None:
    image = broken_image(kind, tmp_path / "scan.png")
    refused(classifier("explain", model, image, "--out", tmp_path / "out", "-q"), 1, "scan.png")
    assert not (tmp_path / "out").exists()


def flipped(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
    )


def not_finite(path: Path) -> None:
    content = load_tensors(path, torch.device("cpu"))
    content["state"]["head.1.weight"][0, 0] = float("nan")
    save_tensors(path, content)


def of_a_gan(path: Path) -> None:
    save_tensors(path, {**load_tensors(path, torch.device("cpu")), "kind": "gan"})


@pytest.mark.parametrize("damage", [flipped, not_finite, of_a_gan])
def test_models_that_cannot_be_used(
    damage: Callable[[Path], None], classifier: Command, model: Path, images: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(model, tmp_path / "model.pt"))
    damage(copy)
    refused(classifier("explain", copy, images, "-q"), 1, "model.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("--method", "gradcan"), 2, "gradcam"),
        (("--layer", "features.99"), 2, "features.23"),
        (("--method", "occlusion", "--layer", "features.23"), 2, "--layer"),
        (("--class", "VIRAL"), 2, "NORMAL, PNEUMONIA"),
        (("--regimes", "gan"), 2, "--regimes"),
    ],
)
def test_options_that_cannot_be_used(
    words: tuple[str, ...], code: int, named: str, classifier: Command, model: Path, images: Path, tmp_path: Path
) -> None:
    refused(classifier("explain", model, images, *words, "--out", tmp_path / "out", "-q"), code, named)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(
    classifier: Command, model: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused(classifier("explain", model, images, "--out", tmp_path, "-q"), 1, str(tmp_path))
    refused(classifier("explain", model, images, "--out", tmp_path / "notes.txt", "-q"), 1, "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    refused(classifier("explain", model, images, "--out", images / "out", "-q"), 1, str(images))


def test_a_full_disk_leaves_the_earlier_explanation(
    classifier: Command, model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "explain", model, images / "IM-0003-0001.png", "--out", tmp_path / "out", "-q"
    assert classifier(*words).exit_code == 0
    before = sorted((p, p.is_file() and p.read_bytes()) for p in (tmp_path / "out").rglob("*"))

    def fail(path: Path, _content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("classifier.explain.report.write_json", fail)
    refused(classifier(*words), 1, "explain.json")
    assert sorted((p, p.is_file() and p.read_bytes()) for p in (tmp_path / "out").rglob("*")) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_runs_that_cannot_be_explained(classifier: Command, study: Path, model: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(study, tmp_path / "run"))
    refused(classifier("explain", run, "--regimes", "gan", "-q"), 2, "gan", "augment, baseline")
    refused(classifier("explain", run, "--class", "NORMAL", "-q"), 2, "--class")
    refused(classifier("explain", run, "--layer", "features.99", "-q"), 2, "features.23")
    (run / "trials" / "augment-1" / "model.pt").unlink()
    refused(classifier("explain", run, "-q"), 1, "augment-1/model.pt")
    flipped(run / "trials" / "baseline-0" / "model.pt")
    refused(classifier("explain", run, "--regimes", "baseline", "-q"), 1, "baseline-0/model.pt")
    refused(classifier("explain", tmp_path / "none", "-q"), 1, "none")
    refused(classifier("explain", model, "-q"), 1, "model.pt")
    assert not list(tmp_path.rglob("*.tmp"))


def test_data_that_have_changed_are_refused(
    classifier: Command, chest_folder: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from classifier.explain import regimes

    (chest_folder / "train" / "NORMAL" / "IM-0001-0001.png").unlink()
    real = regimes.load_dataset

    def moved(config: DataConfig, **more: Any) -> Dataset:
        return real(config.model_copy(update={"path": str(chest_folder)}), **more)

    monkeypatch.setattr(regimes, "load_dataset", moved)
    refused(classifier("explain", study, "--out", tmp_path / "out", "-q"), 1, str(chest_folder))


@pytest.mark.nightly
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [("--task", "multiclass"), ("--model", "resnet18")])
def test_every_method_of_other_networks(
    method: str,
    options: tuple[str, ...],
    classifier: Command,
    small_args: tuple[str, ...],
    images: Path,
    tmp_path: Path,
) -> None:
    trained = classifier("train", *small_args, *options, "--out", tmp_path / "run")
    assert trained.exit_code == 0, trained.output
    result = classifier("explain", tmp_path / "run", images, "--method", method, "-q", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["method"] == method
    of_run = classifier("explain", tmp_path / "run", "--method", method, "--out", tmp_path / "of_run", "-q")
    assert of_run.exit_code == 0, of_run.output


def test_an_explanation_takes_the_place_of_another_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the old one begins to go, the new one is there: a kill meanwhile leaves no half of either."""
    folder, seen = tmp_path / "out", []
    folder.mkdir()
    (folder / CONTENT).write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: seen.append((folder / CONTENT).read_text()))
        with replaced(folder) as place:
            (place / CONTENT).write_text("new")
    assert seen == ["new"]


def test_maps_without_evidence_are_not_held_against_the_weights(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty map has a rank correlation of 0 with every other map, so it would seem to depend on the weights."""
    monkeypatch.setattr(faithfulness, "DRAWS", 2)
    saved, rng = load_classifier(model, torch.device("cpu")), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (14, 16, 16), dtype=np.uint8)
    inputs = to_input(pixels, saved.config, torch.device("cpu"))
    relevance = rng.random((14, 16, 16)).astype(np.float32)
    relevance[:3] = 0
    heat = replace(explain(saved, pixels), relevance=relevance, maps=shown(relevance))
    some = check(saved, inputs, heat)
    assert (some.pixels.n, some.weights.n) == (14, 11)
    none = check(saved, inputs, replace(heat, relevance=0 * relevance, maps=0 * relevance))
    assert (none.weights.n, none.weights.verdict) == (0, "too few")
    assert none.pixels.verdict == "no better"
