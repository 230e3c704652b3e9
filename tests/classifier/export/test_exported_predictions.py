"""An exported classifier predicts what its checkpoint predicts, and ONNX does so without torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from commands import refused
from PIL import Image

from balancer.core.sealed import load_tensors, tensor_bytes
from classifier.export.writing import export
from classifier.training.checkpoint import load_classifier

Run = Callable[..., Result]
REPOSITORY = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Images of 8 and of 16 bits, and a file that is none."""
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    for i, suffix in enumerate(("png", "jpg", "bmp")):
        Image.fromarray(rng.integers(0, 256, (30 + i, 25), dtype=np.uint8)).save(folder / f"{i}.{suffix}")
    Image.fromarray(rng.integers(0, 4000, (24, 24)).astype(np.uint16)).save(folder / "deep.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output + repr(result.exception)
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two answers of predict, but for the checkpoint's name and the last digits of probabilities.

    An export does not hold the features of training images, so it cannot tell an image unlike them.
    """
    for a, b in zip(one.pop("predictions"), other.pop("predictions"), strict=True):
        assert a.pop("probability_pneumonia") == pytest.approx(b.pop("probability_pneumonia"), abs=1e-5)
        assert a.pop("probabilities", {}) == pytest.approx(b.pop("probabilities", {}), abs=1e-5)
        assert len([p for p in (a, b) if p.pop("novelty", None) is not None]) == 1
        assert a == b
    assert one.pop("checkpoint") != other.pop("checkpoint")
    assert one == other


@pytest.mark.parametrize("threshold", [(), ("--threshold", "0.5"), ("--threshold", "1")])
def test_onnx_answers_as_the_checkpoint_does(
    threshold: tuple[str, ...], trained: Path, onnx_file: Path, pictures: Path, classifier: Run
) -> None:
    one, other = (classifier("predict", model, pictures, *threshold, "--json") for model in (trained, onnx_file))
    assert one.stderr == other.stderr, "the same warnings: deep images, files left out"
    assert "deep" in other.stderr or "(integer)" in other.stderr
    same(answer(one), answer(other))
    texts = [classifier("predict", model, pictures / "0.png", *threshold).stdout for model in (trained, onnx_file)]
    assert texts[0] == texts[1]


def test_onnx_refuses_as_the_checkpoint_does(trained: Path, onnx_file: Path, pictures: Path, classifier: Run) -> None:
    for options in ((pictures / "absent.png",), (pictures / "notes.txt",), (pictures, "--threshold", "2")):
        one, other = (classifier("predict", model, *options) for model in (trained, onnx_file))
        refused(other, one.exit_code, one.stderr.splitlines()[-1])
    refused(classifier("predict", onnx_file, pictures, "--device", "cuda"), 2, "--device")


def test_onnx_predicts_without_torch(onnx_file: Path, pictures: Path, trained: Path, classifier: Run) -> None:
    """In a process in which torch cannot be imported, as on a machine without torch."""
    code = (
        "import sys\nsys.modules.update(dict.fromkeys(('torch', 'torchvision', 'onnx', 'sklearn')))\n"
        "from classifier.cli import main\n"
        f"sys.argv = ['classifier', 'predict', {str(onnx_file)!r}, {str(pictures)!r}, '--json', '-q']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print([name for name, m in sys.modules.items() if name.startswith('torch') and m], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert done.stderr.splitlines()[-1] == "[]", done.stderr
    same(json.loads(done.stdout), answer(classifier("predict", trained, pictures, "--json", "-q")))


def test_deep_images_keep_the_range_of_the_training(
    trained: Path, pictures: Path, classifier: Run, tmp_path: Path
) -> None:
    content = load_tensors(trained / "model.pt", CPU)
    content["data"]["ranges"] = {"integer": 8000.0}
    (tmp_path / "ranged.pt").write_bytes(tensor_bytes(content))
    exported = export(tmp_path / "ranged.pt", "safetensors").file
    one, other = (
        classifier("predict", model, pictures / "deep.png", "--json") for model in (tmp_path / "ranged.pt", exported)
    )
    assert one.stderr == other.stderr == ""
    same(answer(one), answer(other))
    assert load_classifier(exported, CPU).ranges == {"integer": 8000.0}


def test_safetensors_is_the_checkpoint_without_paths(trained: Path, template: Path, tmp_path: Path) -> None:
    file = export(trained, "safetensors", tmp_path / "model.safetensors").file
    again, before = load_classifier(file, CPU), load_classifier(trained, CPU)
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)
    assert (again.temperature, again.threshold, again.regime) == (before.temperature, before.threshold, before.regime)
    assert (again.reference, before.reference is None) == (None, False), "no features of training images leave"
    assert again.data_source == template.name
    assert str(template).encode() not in file.read_bytes()
    data = before.config.data.model_copy(update={"path": None})
    assert again.config == before.config.model_copy(update={"data": data, "normalisation": "per_image"})
    assert export(trained, "safetensors", tmp_path / "again.safetensors").file.read_bytes() == file.read_bytes()


def test_safetensors_evaluates_with_the_data_named(
    trained: Path, template: Path, classifier: Run, tmp_path: Path
) -> None:
    file = export(trained, "safetensors", tmp_path / "model.safetensors").file
    refused(classifier("evaluate", file), 2, "--data")
    one = answer(classifier("evaluate", file, "--data", template, "--json", "-q"))
    other = answer(classifier("evaluate", trained, "--json", "-q"))
    assert {k: v for k, v in one.items() if k != "checkpoint"} == {k: v for k, v in other.items() if k != "checkpoint"}


@pytest.mark.nightly
def test_three_classes(small_args: tuple[str, ...], pictures: Path, classifier: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert classifier("train", *small_args, "--task", "multiclass", "--out", run).exit_code == 0
    assert classifier("export", run, "--to", "onnx", "-q").exit_code == 0
    one, other = (answer(classifier("predict", m, pictures, "--json")) for m in (run, run / "model.onnx"))
    assert set(other["predictions"][0]["probabilities"]) == {"NORMAL", "BACTERIAL", "VIRAL"}
    same(one, other)
    refused(classifier("predict", run / "model.onnx", pictures, "--threshold", "0.5"), 2, "--threshold")


@pytest.mark.nightly
def test_a_program_reloads_and_agrees(trained: Path, classifier: Run, pictures: Path, tmp_path: Path) -> None:
    """As docs/export.md shows it. `predict` does not take it: its reader can run code."""
    file = export(trained, "torch-export", tmp_path / "model.pt2").file
    facts = {"facts.json": ""}
    program = torch.export.load(file, extra_files=facts).module()
    saved = load_classifier(trained, CPU)
    images = torch.randint(0, 256, (5, 1, 16, 16), dtype=torch.uint8)
    pixels = images.float()
    per_image = (pixels - pixels.mean((2, 3), keepdim=True)) / (pixels.std((2, 3), keepdim=True) + 1e-3)
    with torch.no_grad():
        expected = saved.model(per_image)
    logits, probabilities, label = program(images)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(probabilities[:, 1], (expected / saved.temperature).sigmoid())
    assert label.tolist() == (probabilities[:, 1] >= saved.threshold).long().tolist()
    assert json.loads(facts["facts.json"])["classes"] == ["NORMAL", "PNEUMONIA"]
    refused(classifier("predict", file, pictures), 1, "model.pt2")
