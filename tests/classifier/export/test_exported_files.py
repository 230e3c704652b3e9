"""Exported files that are damaged, foreign or in the way: one line, and nothing half-written."""

import builtins
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result
from commands import refused
from onnx import TensorProto, helper
from PIL import Image

from balancer.core import exported
from balancer.core.onnx_file import sealed_bytes
from balancer.core.sealed import KEY

Run = Callable[..., Result]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)).save(path)
    return path


def foreign() -> onnx.ModelProto:
    """A model of another program, which doubles its input."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", ports[:1], ports[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def facts_of(file: Path) -> dict[str, Any]:
    return {entry.key: json.loads(entry.value) for entry in onnx.load(file).metadata_props if entry.key != KEY}


def resealed(file: Path, change: Callable[[onnx.ModelProto, dict[str, Any]], object]) -> bytes:
    """The file with other content, under a seal that fits."""
    model, facts = onnx.load(file), facts_of(file)
    change(model, facts)
    return sealed_bytes(model, facts)


def wider(model: onnx.ModelProto, _facts: dict[str, Any]) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 32


def with_floats(model: onnx.ModelProto, _facts: dict[str, Any]) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def other_output(model: onnx.ModelProto, _facts: dict[str, Any]) -> None:
    del model.graph.output[2]


def not_a_number(model: onnx.ModelProto, _facts: dict[str, Any]) -> None:
    bias = next(t for t in model.graph.initializer if t.name.endswith("head.1.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([np.nan], dtype=np.float32), bias.name))


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("empty", lambda file: b"", "SHA-256"),
        ("text", lambda file: b"no model", "SHA-256"),
        ("other program", lambda file: foreign().SerializeToString(), "classifier export"),
        ("cut", lambda file: file.read_bytes()[:-100], "SHA-256"),
        ("bit", lambda file: file.read_bytes()[:5000] + b"\x7f" + file.read_bytes()[5001:], "SHA-256"),
        ("longer", lambda file: file.read_bytes() + b"\0", "SHA-256"),
        ("other program, sealed", lambda file: sealed_bytes(foreign(), {}), "not a classifier"),
        ("other graph", lambda file: sealed_bytes(foreign(), facts_of(file)), "input image"),
        ("other side", lambda file: resealed(file, wider), "damaged"),
        ("floats", lambda file: resealed(file, with_floats), "damaged"),
        ("fewer outputs", lambda file: resealed(file, other_output), "label"),
        ("other kind", lambda file: resealed(file, lambda _, f: f.update(kind="generator")), "not a classifier"),
        ("no temperature", lambda file: resealed(file, lambda _, f: f.pop("temperature")), "temperature"),
        ("negative temperature", lambda file: resealed(file, lambda _, f: f.update(temperature=-1)), "temperature"),
        ("other size", lambda file: resealed(file, lambda _, f: f["config"]["data"].update(image_size=32)), "image"),
        (
            "other classes",
            lambda file: resealed(file, lambda _, f: f.update(classes=["A", "B", "C"])),
            "logits",
        ),
        ("NaN", lambda file: resealed(file, not_a_number), "not finite"),
    ],
)
def test_a_bad_onnx_file(
    name: str, content: Callable[[Path], bytes], word: str, onnx_file: Path, picture: Path, classifier: Run
) -> None:
    path = picture.with_name("bad.onnx")
    path.write_bytes(content(onnx_file))
    result = classifier("predict", path, picture)
    refused(result, 1, word)
    assert ("bad.onnx" in result.stderr) == (name != "NaN")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (lambda c: b"", "SHA-256"),
        (lambda c: c[:-10], "SHA-256"),
        (lambda c: c[:-9] + bytes([c[-9] ^ 1]) + c[-8:], "SHA-256"),
        (lambda c: c.replace(b'"kind', b'"king').replace(b"sha256", b"sha512"), "classifier export"),
    ],
)
def test_a_bad_safetensors_file(
    content: Callable[[bytes], bytes], word: str, trained: Path, picture: Path, classifier: Run
) -> None:
    path = picture.with_name("bad.safetensors")
    assert classifier("export", trained, "--to", "safetensors", "--out", path, "-q").exit_code == 0
    path.write_bytes(content(path.read_bytes()))
    refused(classifier("predict", path, picture), 1, word, "bad.safetensors")


def test_other_commands_name_what_they_take(onnx_file: Path, picture: Path, classifier: Run) -> None:
    refused(classifier("evaluate", onnx_file), 1, "model.onnx", "predict")
    refused(classifier("compare", onnx_file), 1, "model.onnx", "predict")
    refused(classifier("export", onnx_file, "--to", "safetensors"), 1, "model.onnx", "predict")
    refused(classifier("predict", picture.with_name("absent.onnx"), picture), 1, "absent.onnx does not exist")


def test_a_file_is_replaced_by_force_alone(trained: Path, classifier: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    options = ("export", trained, "--to", "safetensors", "--out", path, "-q")
    path.write_text("mine")
    refused(classifier(*options), 1, "--force")
    assert path.read_text() == "mine"
    assert classifier(*options, "--force").exit_code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    (tmp_path / "folder.safetensors").mkdir()
    refused(classifier(*options[:-2], tmp_path / "folder.safetensors", "--force"), 1, "folder.safetensors")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--to", "onnx", "--out", "model.pt"), ".onnx"),
        (("--to", "safetensors", "--int8"), "--int8"),
        (("--to", "onnx", "--data", "phantom"), "--data"),
        (("--to", "onnx", "--out", "absent/model.onnx"), "absent"),
    ],
)
def test_options_that_do_not_fit(options: tuple[str, ...], word: str, trained: Path, classifier: Run) -> None:
    refused(classifier("export", trained, *options), 2, word)


@pytest.mark.parametrize(("package", "command"), [("onnxscript", "export"), ("onnxruntime", "predict")])
def test_a_missing_package_is_named_with_its_extra(
    package: str, command: str, trained: Path, onnx_file: Path, picture: Path, classifier: Run, monkeypatch
) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {name!r}")
        return real(name, *more)

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(builtins, "__import__", without)
    options = (
        (onnx_file, picture)
        if command == "predict"
        else (trained, "--to", "onnx", "--out", picture.with_suffix(".onnx"))
    )
    refused(classifier(command, *options), 1, package, "[export]")


@pytest.mark.nightly
def test_a_graph_that_differs_is_not_written(trained: Path, classifier: Run, tmp_path: Path, monkeypatch) -> None:
    """The network's own probabilities are moved: every file is compared with them before it is written."""
    from classifier.export import writing

    real = writing.predict
    monkeypatch.setattr(writing, "predict", lambda *a: real(*a) * 0.999)
    refused(classifier("export", trained, "--to", "torch-export", "--out", tmp_path / "model.pt2"), 1, "difference")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "to",
    [
        "safetensors",
        pytest.param("onnx", marks=pytest.mark.nightly),
        pytest.param("torch-export", marks=pytest.mark.nightly),
    ],
)
def test_a_file_that_differs_replaces_none(
    to: str, trained: Path, classifier: Run, tmp_path: Path, monkeypatch
) -> None:
    """No difference is small enough here."""
    monkeypatch.setattr("classifier.export.writing.PARITY", -1.0)
    path = tmp_path / f"model{exported.SUFFIXES[to]}"
    path.write_text("mine")
    refused(classifier("export", trained, "--to", to, "--out", path, "--force"), 1, "difference")
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_more_than_an_onnx_file_holds(trained: Path, classifier: Run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("balancer.core.onnx_file.LARGEST", 1000)
    refused(classifier("export", trained, "--to", "onnx", "--out", tmp_path / "a.onnx"), 1, "2 GB", "safetensors")


def test_a_seal_covers_every_byte() -> None:
    mark = exported.SAFETENSORS_MARK
    content = exported.seal(b"head " + mark + b"0" * 64 + b" tail", mark)
    assert len(content) == len(b"head " + mark + b" tail") + 64
    with pytest.raises(ValueError, match="no place"):
        exported.seal(content, mark)
