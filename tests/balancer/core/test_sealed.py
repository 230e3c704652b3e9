"""Sealed files: a flipped bit anywhere is noticed, and any other program still reads the file."""

import csv
import hashlib
import json
import logging
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from balancer.core import sealed, shapes
from balancer.core.jsonl import append_jsonl, read_jsonl
from balancer.core.sealed import DamagedFile

TENSORS = {"step": 3, "name": "é", "w": torch.arange(12.0).reshape(3, 4), "h": torch.ones(2, dtype=torch.bfloat16)}
ARRAYS = {"scores": np.linspace(0, 1, 7), "labels": np.arange(3)}
VALUES = {"a": 1, "b": [0.1, None, "ü"], "c": {"sha256": "inner"}}
KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "x.json": (lambda p: sealed.write_json(p, VALUES), sealed.read_json),
    "x.jsonl": (lambda p: append_jsonl(p, VALUES), read_jsonl),
    "x.yaml": (lambda p: sealed.write_yaml(p, "a: 1\nb: [x, y]"), sealed.read_yaml_text),
    "x.pt": (lambda p: sealed.save_tensors(p, TENSORS), lambda p: sealed.load_tensors(p, torch.device("cpu"))),
    "x.npz": (lambda p: sealed.save_arrays(p, ARRAYS), sealed.load_arrays),
    "x.csv": (lambda p: sealed.write_with_sum(p, "file,index\nä.png,1\n"), sealed.read_with_sum),
}


@pytest.mark.parametrize("most", [150, pytest.param(10_000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_is_never_used_in_silence(
    name: str, most: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    content = path.read_bytes()
    read(path)
    assert not caplog.records
    for bit in np.random.default_rng(0).permutation(8 * len(content))[:most].tolist():
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        sealed.warn_of_no_seal.cache_clear()
        caplog.clear()
        message = ""
        try:
            read(path)
        except DamagedFile as error:
            message = str(error)
        else:
            assert [r.levelno for r in caplog.records] == [logging.WARNING], f"bit {bit} was used in silence"
            message = caplog.messages[0]
        assert str(path) in message
        assert "\n" not in message


@pytest.mark.parametrize("name", KINDS)
def test_a_shorter_file_is_noticed(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    content = path.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:length])
        sealed.warn_of_no_seal.cache_clear()
        caplog.clear()
        try:
            value = read(path)
        except DamagedFile:
            continue
        assert caplog.records or value == [], f"{length} of {len(content)} bytes were used in silence"


def test_other_programs_read_the_files(tmp_path: Path) -> None:
    for name, (write, _) in KINDS.items():
        write(tmp_path / name)
    value = json.loads((tmp_path / "x.json").read_text())
    assert {k: v for k, v in value.items() if k != "sha256"} == VALUES == sealed.read_json(tmp_path / "x.json")
    assert json.loads((tmp_path / "x.jsonl").read_text())["b"] == VALUES["b"]
    assert yaml.safe_load((tmp_path / "x.yaml").read_text()) == {"a": 1, "b": ["x", "y"]}
    assert torch.load(tmp_path / "x.pt", weights_only=True)["w"].equal(TENSORS["w"])
    with np.load(tmp_path / "x.npz") as arrays:
        np.testing.assert_array_equal(arrays["scores"], ARRAYS["scores"])
    assert list(csv.DictReader((tmp_path / "x.csv").open(encoding="utf-8"))) == [{"file": "ä.png", "index": "1"}]
    subprocess.run(["sha256sum", "--check", "x.csv.sha256"], cwd=tmp_path, check=True, capture_output=True)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    sealed.save_tensors(tmp_path / "x.pt", TENSORS)
    read = sealed.load_tensors(tmp_path / "x.pt", torch.device("cpu"))
    assert all(torch.equal(read[k], v) if isinstance(v, torch.Tensor) else read[k] == v for k, v in TENSORS.items())
    sealed.save_arrays(tmp_path / "x.npz", ARRAYS)
    assert {k: v.tolist() for k, v in sealed.load_arrays(tmp_path / "x.npz").items()} == {
        k: v.tolist() for k, v in ARRAYS.items()
    }
    sealed.write_json(tmp_path / "x.json", {})
    assert sealed.read_json(tmp_path / "x.json") == {}


def test_the_seal_is_the_sum_of_all_before_it(tmp_path: Path) -> None:
    sealed.write_json(tmp_path / "x.json", VALUES)
    content = (tmp_path / "x.json").read_bytes()
    head, seal = content[: content.rindex(b',\n  "sha256"')], json.loads(content)["sha256"]
    assert hashlib.sha256(head).hexdigest() == seal


@pytest.mark.parametrize("name", ["x.json", "x.yaml", "x.pt", "x.npz", "x.csv"])
def test_a_file_without_a_seal_is_read_with_one_warning(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / name
    plain: dict[str, Callable[[], object]] = {
        "x.json": lambda: path.write_text('{"a": 1}'),
        "x.yaml": lambda: path.write_text("a: 1\n"),
        "x.pt": lambda: torch.save({"a": 1}, path),
        "x.npz": lambda: np.savez(path, a=np.ones(1)),
        "x.csv": lambda: path.write_bytes(b"\xef\xbb\xbfa,b\n1,2\n"),  # as Excel writes it
    }
    plain[name]()
    for _ in range(2):
        value = KINDS[name][1](path)
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    assert not str(value).startswith("\ufeff")


@pytest.mark.parametrize("library", ["torch.load", "numpy.load"])
def test_full_memory_is_no_damage(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed.save_tensors(tmp_path / "torch.load", {"a": 1})
    sealed.save_arrays(tmp_path / "numpy.load", {"a": np.ones(1)})

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(library, full)
    with pytest.raises(MemoryError):
        KINDS[{"torch.load": "x.pt", "numpy.load": "x.npz"}[library]][1](tmp_path / library)


def test_settings_cut_anywhere_are_refused(tmp_path: Path) -> None:
    """Also exactly at the end of a line, where the rest looks like the file of a version that wrote no seal."""
    path = tmp_path / "x.yaml"
    sealed.write_yaml(path, "a: 1\nb: 200\n")
    content = path.read_bytes()
    for end in (i for i in range(1, len(content)) if i > len(sealed.YAML_HEAD) - 2):
        path.write_bytes(content[:end])
        with pytest.raises(sealed.DamagedFile, match=r"x\.yaml"):
            sealed.read_yaml_text(path)
    path.write_text("a: 1\nb: 2")
    with pytest.raises(sealed.DamagedFile, match=r"x\.yaml.*cut"):
        sealed.read_yaml_text(path)


def test_settings_sealed_without_the_first_line_are_read(tmp_path: Path) -> None:
    """As versions before the first line wrote them."""
    text = "a: 1\n"
    (tmp_path / "x.yaml").write_text(f"{text}# sha256 {hashlib.sha256(text.encode()).hexdigest()}\n")
    assert yaml.safe_load(sealed.read_yaml_text(tmp_path / "x.yaml")) == {"a": 1}


@dataclass(frozen=True)
class Row:
    """A value of a file."""

    step: int
    loss: float
    name: str = ""


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"loss": 0.5}, "step"),
        ({"step": "x", "loss": 0.5}, "step"),
        ({"step": 1, "loss": None}, "loss"),
        ({"step": 1, "loss": 1, "name": 3}, "name"),
        ([1, 2], "content"),
    ],
)
def test_a_value_of_another_shape_is_named(value: object, key: str, tmp_path: Path) -> None:
    assert shapes.parse(Row, {"step": 1, "loss": 2}, tmp_path) == Row(1, 2.0)
    with pytest.raises(DamagedFile, match=f"x.json.*{key}"):
        shapes.parse(Row, value, tmp_path / "x.json")


@pytest.mark.parametrize("read", [sealed.read_json, sealed.load_arrays, sealed.read_with_sum])
def test_a_pipe_is_refused_and_not_waited_for(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedFile, match="pipe is damaged: it is no regular file"):
        read(tmp_path / "pipe")
