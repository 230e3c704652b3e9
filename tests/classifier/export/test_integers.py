"""The 8-bit variant: made on training images, chosen on validation, compared with float32."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import Result
from commands import refused
from sklearn.metrics import roc_auc_score

from balancer.core.sealed import read_json
from balancer.data.dataset import Dataset
from classifier.export import integers
from classifier.export.quantise import network_nodes
from classifier.export.runtime import open_onnx

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def variant(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from classifier.export.writing import export

    folder = tmp_path_factory.mktemp("int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integers, "REPEATS", 1)
        made = export(trained, "onnx", folder / "model.onnx", int8=True)
    assert made.integers is not None
    return made.integers.file


@pytest.mark.nightly
def test_what_is_written(variant: Path) -> None:
    names = {"model.onnx", "model.int8.onnx", "model.int8.json", "model.int8.md"}
    assert {p.name for p in variant.parent.iterdir()} == names
    report = read_json(variant.with_suffix(".json"))
    assert [row["name"] for row in report["variants"]] == ["float32", "static", "dynamic"]
    assert report["variants"][0]["largest_change"] == 0 == report["variants"][0]["changed_labels"]
    rows = {row["name"]: row["test_change"] for row in report["variants"]}
    assert all(rows[name]["low"] <= rows[name]["value"] <= rows[name]["high"] for name in ("static", "dynamic"))
    assert "less float32" in variant.with_suffix(".md").read_text()
    assert "| static |" in variant.with_suffix(".md").read_text()
    assert variant.stat().st_size < 0.5 * (variant.parent / "model.onnx").stat().st_size


@pytest.mark.nightly
def test_figures_are_those_of_the_files(variant: Path, small_data: Dataset) -> None:
    report = read_json(variant.with_suffix(".json"))
    rows = {row["name"]: row for row in report["variants"]}
    for file, name in ((variant.parent / "model.onnx", "float32"), (variant, report["chosen"])):
        predict = open_onnx(file, "cpu")[1]
        for fold in ("val", "test"):
            index = small_data.indices(fold)
            expected = roc_auc_score(small_data.labels[index], predict(small_data.images[index]))
            assert rows[name][f"{fold}_auroc"] == pytest.approx(expected)


@pytest.mark.nightly
def test_first_and_last_layer(variant: Path) -> None:
    """The normalisation stays exact, and so does the last layer, whose 256 levels would tie scores."""
    model = onnx.load(variant)
    last = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")][-1]
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert stored[last.input[1]] == onnx.TensorProto.FLOAT
    plain = onnx.load(variant.parent / "model.onnx")
    inside = network_nodes(plain)
    kinds = [node.op_type for node in plain.graph.node if node.name in inside]
    assert kinds[0] == "Conv"
    assert {"Sigmoid", "Cast", "Gemm"} & set(kinds) == set()


def test_calibration_images_are_of_the_training_fold(small_data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    train = {image.tobytes() for image in small_data.images[small_data.indices("train")]}
    assert len(integers.calibration_images(small_data)) == len(small_data.indices("train"))
    monkeypatch.setattr(integers, "CALIBRATION", 10)
    chosen = integers.calibration_images(small_data)
    assert {image.tobytes() for image in chosen} <= train
    assert len(np.unique(chosen.reshape(10, -1), axis=0)) == 10


def test_the_choice_looks_at_validation_alone() -> None:
    static = integers.Variant(
        "static", 1, 1, 1, 0.98, test_auroc=0.9, test_change=None, largest_change=0, changed_labels=0
    )
    dynamic = replace(static, name="dynamic", test_auroc=0.99)
    assert integers.better(static, replace(dynamic, val_auroc=0.9805)) is static
    assert integers.better(static, replace(dynamic, val_auroc=0.982)).name == "dynamic"


@pytest.mark.parametrize("classes", [2, 3])
def test_the_change_of_the_auroc_has_an_interval_over_patients(classes: int) -> None:
    """Beside a bootstrap by hand: whole patients are drawn, and both scores are judged on the same draw."""
    rng = np.random.default_rng(0)
    labels, groups = np.repeat(np.arange(120) % classes, 3), np.repeat([f"p{i}" for i in range(120)], 3)
    strength = rng.normal(size=(360, classes)) + 1.5 * np.eye(classes)[labels]
    worse = strength + np.repeat(rng.normal(size=(120, classes)), 3, axis=0)
    scores = [s[:, 1] - s[:, 0] if classes == 2 else s for s in (worse, strength)]
    made = integers.auroc_change(labels, list(groups), *scores)

    def by_pairs(index: np.ndarray) -> float:
        """The mean over classes of the shares of pairs in the right order, less the same of the other scores."""
        aurocs = []
        for score in scores:
            for k in [1] if classes == 2 else range(classes):
                values, of_class = score[index] if classes == 2 else score[index, k], labels[index] == k
                aurocs.append((values[of_class][:, None] > values[~of_class]).mean())
        return float(np.mean(aurocs[: len(aurocs) // 2]) - np.mean(aurocs[len(aurocs) // 2 :]))

    assert made is not None
    assert made.value == pytest.approx(by_pairs(np.arange(360)))
    patients = [rng.integers(0, 120, 120) for _ in range(200)]
    draws = [by_pairs((3 * p[:, None] + np.arange(3)).ravel()) for p in patients]
    assert (made.high - made.low) / 4 == pytest.approx(np.std(draws), rel=0.2)
    assert made.low < made.value < made.high < 0
    assert integers.auroc_change(labels[:6], list(groups[:6]), *(s[:6] for s in scores)) is None
    same = integers.auroc_change(labels, list(groups), scores[1], scores[1])
    assert same is not None
    assert (same.value, same.low, same.high, same.text) == (0, 0, 0, "+.0000")


def test_other_data_are_refused(trained: Path, chest_folder: Path, classifier: Run, tmp_path: Path) -> None:
    for file in list((chest_folder / "train" / "NORMAL").iterdir())[:3]:
        file.unlink()
    options = ("--to", "onnx", "--int8", "--out", tmp_path / "model.onnx")
    refused(classifier("export", trained, *options, "--data", chest_folder, "-q"), 1, "--int8", "split")
    assert not list(tmp_path.glob("model*"))


def test_an_older_file_of_the_set_is_in_the_way(trained: Path, classifier: Run, tmp_path: Path) -> None:
    (tmp_path / "model.int8.md").write_text("mine")
    refused(classifier("export", trained, "--to", "onnx", "--int8", "--out", tmp_path / "model.onnx"), 1, "int8.md")


@pytest.mark.nightly
def test_the_variant_says_how_it_was_made(variant: Path) -> None:
    facts = {entry.key: entry.value for entry in onnx.load(variant).metadata_props}
    assert json.loads(facts["precision"])["quantisation"] in ("static", "dynamic")
