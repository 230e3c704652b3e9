"""Images of more than 8 bits are as bright for a saved classifier as they were in its training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from dicoms import SECRETS, dicom, write
from PIL import Image

from balancer.core.sealed import load_tensors, tensor_bytes

Run = Callable[..., Result]
CPU = torch.device("cpu")


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def with_ranges(trained: Path, target: Path, ranges: dict[str, float] | None) -> Path:
    """The checkpoint as a training on images of these ranges writes it; None: as an older version does."""
    content = load_tensors(trained / "model.pt", CPU)
    content["data"].pop("ranges")
    content["data"] |= {} if ranges is None else {"ranges": ranges}
    target.write_bytes(tensor_bytes(content))
    return target


@pytest.mark.parametrize("ranges", [{"integer": 4095.0}, {"integer": 1023.0}, {}, None])
def test_deep_images_have_the_range_of_the_training(
    ranges: dict[str, float] | None,
    trained: Path,
    classifier: Run,
    tmp_path: Path,
) -> None:
    """Samples up to 800 and 4,000: each alone would have a range of its own. Those of 8 bits say what is right."""
    checkpoint, rng = with_ranges(trained, tmp_path / "model.pt", ranges), np.random.default_rng(0)
    deep, eight = tmp_path / "deep", tmp_path / "eight"
    white = (ranges or {}).get("integer", 4095.0)
    for folder in (deep, eight):
        folder.mkdir()
    for name, peak in (("a", 800), ("b", 4000)):
        samples = rng.integers(0, peak, (24, 24)).astype(np.uint16)
        Image.fromarray(samples).save(deep / f"{name}.png")
        Image.fromarray(np.clip(np.rint(samples * (255 / white)), 0, 255).astype(np.uint8)).save(eight / f"{name}.png")
    result = classifier("predict", checkpoint, deep, "--json")
    right = answer(classifier("predict", checkpoint, eight, "--json"))["predictions"]
    for one, other in zip(answer(result)["predictions"], right, strict=True):
        assert one["probability_pneumonia"] == pytest.approx(other["probability_pneumonia"], abs=0.02)
    assert ("(integer)" in result.stderr) == ("integer" not in (ranges or {}))
    assert ("b.png" in result.stderr) == (white == 1023)
    alone = answer(classifier("predict", checkpoint, deep / "a.png", "--json"))["predictions"][0]
    if ranges:
        assert alone["probability_pneumonia"] == pytest.approx(
            answer(result)["predictions"][0]["probability_pneumonia"], abs=1e-5
        )


def test_dicom_files_are_predicted_as_png_files_and_their_headers_stay_unsaid(
    trained: Path, classifier: Run, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    write(dicom(pixels, **SECRETS), tmp_path / "IM00001")
    write(dicom(pixels[::-1].copy(), **SECRETS, PhotometricInterpretation="MONOCHROME1"), tmp_path / "folder" / "IM2")
    one, other = (
        classifier("predict", trained / "model.pt", tmp_path / f, "-v", "--json") for f in ("x.png", "IM00001")
    )
    in_folder = classifier("predict", trained / "model.pt", tmp_path / "folder", "-v", "--json")
    assert answer(one)["predictions"][0] | {"file": 0} == answer(other)["predictions"][0] | {"file": 0}
    assert len(answer(in_folder)["predictions"]) == 1
    for word in SECRETS.values():
        assert word not in other.output + other.stderr + in_folder.output + in_folder.stderr


@pytest.mark.parametrize("ranges", [{"integer": 16383.0}, {"integer": 4095.0}, None])
def test_a_fold_has_the_range_of_the_training(
    ranges: dict[str, float] | None, trained: Path, chest_folder: Path, classifier: Run, tmp_path: Path
) -> None:
    """The fold alone would have 0 to 4095."""
    checkpoint = with_ranges(trained, tmp_path / "model.pt", ranges)
    eight, white = tmp_path / "eight", (ranges or {}).get("integer", 4095.0)
    for file in chest_folder.rglob("*.png"):
        with Image.open(file) as image:
            samples = np.asarray(image).astype(np.uint16) * 16
        Image.fromarray(samples).save(file)
        (eight / file.relative_to(chest_folder)).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.rint(samples * (255 / white)).astype(np.uint8)
        Image.fromarray(pixels).save(eight / file.relative_to(chest_folder))
    result = classifier("evaluate", checkpoint, "--data", chest_folder, "--json")
    right = answer(classifier("evaluate", checkpoint, "--data", eight, "--json"))
    assert answer(result)["nll"] == pytest.approx(right["nll"], rel=0.02)
    assert ("in the range of the training" in result.stderr) == (white == 16383)
    assert ("older checkpoint" in result.stderr) == (ranges is None)
