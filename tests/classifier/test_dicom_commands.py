"""Commands of a trained classifier take DICOM files, by the rules of its training, and say nothing of a header."""

import base64
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from commands import refused
from dicoms import SECRETS, dicom, write
from PIL import Image

from balancer.core.sealed import load_tensors, tensor_bytes
from balancer.data.chest import parse_name
from classifier.export.writing import export
from classifier.serving.engine import HeatMapRequest, answer
from classifier.serving.limits import Limits
from classifier.serving.models import load_models

Run = Callable[..., Result]
CPU = torch.device("cpu")
RNG = np.random.default_rng(4)
SAMPLES = RNG.integers(0, 4096, (16, 16)).astype(np.uint16)  # at the working size nothing is resized
# What a header says beside the samples; only rules that ask for a window look at this one.
ELEMENTS = {**SECRETS, "WindowCenter": 3000, "WindowWidth": 500}
SHOWN: dict[str, tuple[dict[str, str], Callable[[np.ndarray], np.ndarray]]] = {
    "full": ({"window": "full"}, lambda values: values / 4095),
    "one window": ({"window": "1800/1600"}, lambda values: np.clip((values - 1800) / 1600 + 0.5, 0, 1)),
    "of the file": ({}, lambda values: np.clip((values - 2999.5) / 499 + 0.5, 0, 1)),
    "first frame": ({"frame": "first", "window": "full"}, lambda values: values / 4095),
}


def printed(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert not [word for word in SECRETS.values() if word in result.output + result.stderr]
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def trained_on(rules: dict[str, str], trained: Path, folder: Path) -> Path:
    """The checkpoint as a training on DICOM files of 12 bits by these rules writes it."""
    content = load_tensors(trained / "model.pt", CPU)
    content["config"]["data"] |= rules
    content["data"] |= {"ranges": {"integer:12": 4095.0}}
    folder.mkdir()
    (folder / "model.pt").write_bytes(tensor_bytes(content))
    return folder / "model.pt"


def picture(name: str, folder: Path) -> tuple[Path, Path]:
    """A DICOM file, and what the rules make of it as PNG of 8 bits."""
    rules, share = SHOWN[name]
    several = "frame" in rules
    samples = np.stack([SAMPLES, SAMPLES[::-1]]) if several else SAMPLES
    file = write(dicom(samples, 12, **ELEMENTS, **({"NumberOfFrames": 2} if several else {})), folder / "IM000001")
    Image.fromarray(np.rint(255 * share(SAMPLES.astype(float))).astype(np.uint8)).save(folder / "x.png")
    return file, folder / "x.png"


def probability(result: Result) -> float:
    return float(printed(result)["predictions"][0]["probability_pneumonia"])


@pytest.mark.parametrize("name", SHOWN)
def test_files_are_read_by_the_rules_of_the_training(name: str, trained: Path, classifier: Run, tmp_path: Path) -> None:
    """By predict and by serve, as PNG files of what the rules make of the samples."""
    model = trained_on(SHOWN[name][0], trained, tmp_path / "model")
    file, png = picture(name, tmp_path)
    of_file, of_png = (probability(classifier("predict", model, one, "-v", "--json")) for one in (file, png))
    assert of_file == pytest.approx(of_png, abs=1e-6)
    served = answer(file.read_bytes(), load_models([model], CPU), Limits(), HeatMapRequest())
    assert served.predictions[0].probabilities[1].calibrated == pytest.approx(of_file, abs=1e-5)
    shown = io.BytesIO(base64.b64decode(served.pictures["squash"].picture.partition(",")[2]))
    assert np.abs(np.asarray(Image.open(shown), dtype=int) - np.asarray(Image.open(png))).max() <= 1


def test_the_rules_differ_on_these_samples(tmp_path: Path) -> None:
    pictures = [
        np.asarray(Image.open(picture(name, tmp_path)[1]), dtype=float)
        for name in ("full", "one window", "of the file")
    ]
    assert min(np.abs(a - b).mean() for a, b in itertools.combinations(pictures, 2)) > 20


def test_a_model_without_the_rule_refuses_several_frames(trained: Path, classifier: Run, tmp_path: Path) -> None:
    model = trained_on({}, trained, tmp_path / "model")
    refused(classifier("predict", model, picture("first frame", tmp_path)[0]), 1, "IM000001", "2 frames")


@pytest.mark.nightly
def test_an_export_reads_them_by_these_rules(trained: Path, classifier: Run, tmp_path: Path) -> None:
    model = trained_on(SHOWN["one window"][0], trained, tmp_path / "model")
    exported, (file, _) = export(model, "onnx").file, picture("one window", tmp_path)
    assert probability(classifier("predict", exported, file, "--json")) == pytest.approx(
        probability(classifier("predict", model, file, "--json")), abs=1e-5
    )


def test_heat_maps_are_those_of_the_same_picture_in_png(trained: Path, classifier: Run, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    files = {"a": tmp_path / "x.png", "b": write(dicom(pixels, **SECRETS), tmp_path / "IM000001")}
    answers = {
        name: printed(classifier("explain", trained / "model.pt", file, "--out", tmp_path / name, "-v", "--json"))
        for name, file in files.items()
    }
    for kind in ("heat", "overlay"):
        of_png, of_dicom = (
            (tmp_path / name / found["images"][0][kind]).read_bytes() for name, found in answers.items()
        )
        assert of_png == of_dicom
    made = [file.read_bytes() for file in (tmp_path / "b").rglob("*") if file.is_file()]
    assert not [word for word in SECRETS.values() if any(word.encode() in content for content in made)]


def test_a_fold_of_dicom_files_gives_the_figures_of_png_files(
    trained: Path, chest_folder: Path, classifier: Run, tmp_path: Path
) -> None:
    """Figures and intervals: patients by the headers are those that the names of the PNG files tell."""
    for file in sorted(chest_folder.glob("train/*/*"))[8:-8]:  # 16 are enough where the test fold counts
        file.unlink()
    for file in sorted(chest_folder.rglob("*.png")):
        patient, _ = parse_name(file.stem, int(file.parent.name == "PNEUMONIA"))
        place = tmp_path / "pacs" / file.parent.relative_to(chest_folder) / file.stem.replace("person", "IM")
        with Image.open(file) as image:
            write(dicom(np.asarray(image), PatientID=f"{patient}-{file.parent.parent.name}"), place)
    of_png, of_dicom = (
        printed(classifier("evaluate", trained / "model.pt", "--data", folder, "--json"))
        for folder in (chest_folder, tmp_path / "pacs")
    )
    assert of_png.pop("data") != of_dicom.pop("data")
    assert of_png == of_dicom
