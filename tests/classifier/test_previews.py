"""`--dry-run` of the commands that use a saved classifier: all is checked, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from commands import done, refused

from classifier.export import writing

Classifier = Callable[..., Result]


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy of a small training."""
    return Path(shutil.copytree(trained, tmp_path / "model"))


def files_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def dry(result: Result) -> dict[str, object]:
    said = json.loads(done(result).stdout)
    assert set(said) == {"reads", "writes", "settings", "estimated_seconds", "unchecked"}
    assert said["estimated_seconds"] >= 0
    return said


def test_nothing_is_explained(classifier: Classifier, model: Path, template: Path) -> None:
    before = files_below(model)
    images = template / "test" / "NORMAL"
    said = dry(classifier("explain", model, images, "--dry-run", "--json"))
    assert said["writes"] == str(model / "explain")
    assert said["settings"]["method"] == "gradcam"
    assert "10 images" in said["reads"]
    quick = dry(classifier("explain", model, images, "--no-check", "--dry-run", "--json"))
    assert quick["estimated_seconds"] < said["estimated_seconds"]
    of_run = dry(classifier("explain", model, "--dry-run", "--json"))
    assert of_run["settings"]["regimes"] == "baseline"
    refused(classifier("explain", model, images, "--method", "gradcamp", "--dry-run"), 2, "--method")
    refused(classifier("explain", model, images, "--layer", "net.none", "--dry-run"), 2, "net.none")
    refused(classifier("explain", model, images, "--class", "FLU", "--dry-run"), 2, "--class")
    refused(classifier("explain", model, images, "--out", model, "--dry-run"), 1, "--out")
    refused(classifier("explain", model, model / "none.png", "--dry-run"), 1, "none.png")
    assert files_below(model) == before


def test_nothing_is_exported(
    classifier: Classifier, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path / "cache"))
    before = files_below(model)
    said = dry(classifier("export", model, "--to", "safetensors", "--dry-run", "--json"))
    assert said["writes"] == str(model / "model.safetensors")
    of_onnx = dry(classifier("export", model, "--to", "onnx", "--dry-run", "--json"))
    with_integers = dry(classifier("export", model, "--to", "onnx", "--int8", "--dry-run", "--json"))
    assert with_integers["estimated_seconds"] > of_onnx["estimated_seconds"]
    assert "model.int8.onnx" in with_integers["writes"]
    assert "the pixels of" in with_integers["unchecked"], "the cache is empty"
    assert files_below(model) == before
    (model / "model.onnx").write_text("mine")
    refused(classifier("export", model, "--to", "onnx", "--dry-run"), 1, "--force")
    (model / "model.pt").write_bytes((model / "model.pt").read_bytes()[:-100])
    refused(classifier("export", model, "--to", "torch-export", "--dry-run"), 1, "model.pt")


def test_nothing_is_served(classifier: Classifier, model: Path) -> None:
    said = dry(classifier("serve", model, "--port", 0, "--dry-run", "--json"))
    assert said["writes"] == "nothing"
    assert said["settings"]["models"] == "baseline"
    assert str(said["settings"]["address"]).startswith("http://127.0.0.1:")
    refused(classifier("serve", model, "--host", "0.0.0.0", "--dry-run"), 2, "--token")
    refused(classifier("serve", model / "none.pt", "--port", 0, "--dry-run"), 1, "none.pt")


def test_a_missing_image_is_refused_wherever_it_stands(classifier: Classifier, model: Path, template: Path) -> None:
    folder = template / "test" / "NORMAL"
    refused(classifier("predict", model, folder, folder / "none.png", "--dry-run"), 1, "none.png")
    said = dry(classifier("predict", model, folder, template / "test/PNEUMONIA", "--dry-run", "--json"))
    assert said["unchecked"] == "the pixels of 10 images"


def test_a_damaged_image_does_not_make_the_split_another(
    classifier: Classifier, small_args: tuple[str, ...], template: Path, tmp_path: Path, monkeypatch
) -> None:
    """An image without its end has a header. Its training left the image out, and a dry run of today must agree."""
    data = Path(shutil.copytree(template, tmp_path / "data"))
    file = sorted((data / "train/PNEUMONIA").iterdir())[0]
    file.write_bytes(file.read_bytes()[:200])
    words = ("--data", data, *small_args[2:], "--max-bad", ".1")
    done(classifier("train", *words, "--out", tmp_path / "run"))
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path / "cache"))
    result = done(classifier("evaluate", tmp_path / "run/model.pt", "--fold", "val", "--dry-run"))
    assert "are not those of the training" not in result.stderr
    done(classifier("export", tmp_path / "run", "--to", "onnx", "--int8", "--dry-run"))


def test_the_parts_of_an_export_are_those_that_are_checked(model: Path) -> None:
    saved, path, data = writing.open_export(model, "safetensors", None, False, None, False, 1)
    assert (path, data) == (model / "model.safetensors", None)
    assert np.isfinite(saved.threshold)
