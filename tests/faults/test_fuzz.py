"""Fuzzed files: whatever the bytes, a reader returns a sound value, or names the file and the fault in one line."""

import csv
import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from commands import TINY_GAN, balancer, done, sets
from dicoms import as_jpeg, dicom, recoded, write
from dicoms import content as dicom_content
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from balancer.core.config import read_config_file, resolve
from balancer.core.errors import BalancerError
from balancer.core.exported import ONNX_MARK, SAFETENSORS_MARK, seal
from balancer.core.saved_runs import saved_config
from balancer.core.sealed import read_json, sealed_json, tensor_bytes
from balancer.core.settings import DataConfig, GanTrainConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.images import read_image
from balancer.data.npz import read_npz
from balancer.data.spreadsheet import read_spreadsheet
from balancer.gan.checkpoint import BEST, CHECKPOINT, load_checkpoint, read_checkpoint
from balancer.gan.step import build_state
from classifier.analysis.reading import read_trials
from classifier.cli import main as classifier_main
from classifier.export.runtime import open_onnx
from classifier.export.writing import export
from classifier.training.checkpoint import load_classifier
from classifier.training.synthetic import load_synthetic

pytestmark = [pytest.mark.nightly, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
INPUTS = 2000  # a reader
CPU = torch.device("cpu")
# Shrinking a failing input takes minutes where a reader is slow.
MANY = settings(max_examples=INPUTS, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "repeat", "swap", "insert"]),
        st.floats(0, 1, exclude_max=True),  # where, as a share of the length
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=4,
)
# In place of a value of a checkpoint or of a row.
ODD = [None, -1, 0, 3, 10**30, 0.5, float("nan"), float("inf"), "", "x", True, [], [1, [2]], {}, {"a": 1}]
ODD_TENSORS = [torch.zeros(0), torch.full((3,), torch.nan), torch.ones(2, 2, dtype=torch.int64)]


def edited(content: bytes, edits: list[tuple[str, float, int]]) -> bytes:
    """Return the bytes after flips, other bytes, cuts, repeats, swaps and insertions."""
    data = bytearray(content)
    for what, where, value in edits:
        at, size = int(where * len(data)), 1 + value % 64
        if not data:
            break
        match what:
            case "flip":
                data[at] ^= 1 << value % 8
            case "set":
                data[at] = value
            case "cut":
                del data[at : at + (size if value % 2 else len(data))]
            case "repeat":
                data[at:at] = data[at : at + size]
            case "swap":
                data[at : at + 2] = data[at : at + 2][::-1]
            case "insert":
                data[at:at] = bytes([value]) * size
    return bytes(data)


def altered(value: Any, choice: st.DataObject, odd: list[Any], depth: int = 3) -> Any:
    """Return nested dictionaries with one key dropped, renamed, or given another value."""
    keys = list(value)
    key = keys[choice.draw(st.integers(0, len(keys) - 1))]
    inner = isinstance(value[key], dict) and bool(value[key]) and depth > 0
    how = choice.draw(st.sampled_from(["drop", "rename", "odd", *(["inside"] * 3 if inner else [])]))
    rest = {k: v for k, v in value.items() if k != key}
    if how == "drop":
        return rest
    if how == "rename":
        return {**rest, f"{key}_": value[key]}
    other = altered(value[key], choice, odd, depth - 1) if how == "inside" else choice.draw(st.sampled_from(odd))
    return {**rest, key: other}


@dataclass(frozen=True)
class Made:
    """Files that the commands wrote."""

    data: Dataset
    gan: Path
    model: Path
    synthetic: Path


@pytest.fixture(scope="module")
def made(_chest_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A tiny GAN run and a tiny classifier on noise, and a synthesis by hand."""
    root = tmp_path_factory.mktemp("fuzz")
    data = ["--data", _chest_template, "--device", "cpu", "-q"]
    done(balancer("gan-train", *data, *TINY_GAN, "--steps", "2", "--out", root / "gan"))
    small = ["--image-size", "16", "--steps", "2", "--batch-size", "8", *sets(evaluations=1, bn_statistics="running")]
    arguments = [str(a) for a in ("train", *data, *small, "--out", root / "model")]
    classifier_main(arguments, standalone_mode=False)
    dataset = load_dataset(DataConfig(path=str(_chest_template), image_size=16))
    folder = root / "synthetic"
    folder.mkdir()
    rows = []
    for i in range(40):
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8)).save(buffer, "PNG")
        (folder / f"{i}.png").write_bytes(buffer.getvalue())
        sha = hashlib.sha256(buffer.getvalue()).hexdigest()
        rows.append((f"{i}.png", i, 1000 + i, sha, "NORMAL", dataset.split_hash))
    with (folder / "manifest.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("file", "index", "seed", "sha256", "class", "split_hash"), *rows])
    return Made(dataset, root / "gan", root / "model", folder)


def check(read: Callable[[], Any], path: Path, kinds: type[Exception] | tuple[type[Exception], ...]) -> Any:
    """Read; an error must be of the kinds, one line long, and name the file (an image reader's caller does)."""
    try:
        return read()
    except kinds as error:
        message, by_caller = str(error), isinstance(error, OSError)
    assert message
    assert "\n" not in message
    assert by_caller or path.name in message or str(path.parent) in message
    return None


PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 20), dtype=np.uint8))


def picture(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(np.arange(480, dtype=np.uint16).reshape(24, 20) * 100) if kind == "PNG16" else PICTURE
    image.save(buffer, kind.removesuffix("16"), **options)
    return buffer.getvalue()


def dicoms() -> list[bytes]:
    """A DICOM file of each coding."""
    with tempfile.TemporaryDirectory() as folder:
        file, pixels = Path(folder) / "x", np.tile(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 4, (2, 2))
        codings = (RLELossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless)
        coded = [recoded(write(dicom(pixels, 12), file), uid).read_bytes() for uid in codings]
        return [
            *coded,
            as_jpeg((pixels >> 4).astype(np.uint8), file).read_bytes(),
            dicom_content(dicom(pixels, 12, WindowCenter=2000, WindowWidth=900, RescaleSlope=2, RescaleIntercept=-1)),
        ]


EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x011A] = 6, 72.0
PICTURES = [
    *(picture(kind) for kind in ("PNG", "PNG16", "JPEG", "GIF", "BMP", "WEBP", "TIFF")),
    picture("JPEG", exif=EXIF),
    picture("TIFF", compression="tiff_lzw"),
    *dicoms(),
]


@MANY
@given(content=st.sampled_from(PICTURES), edits=EDITS)
def test_images(content: bytes, edits: list[tuple[str, float, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed-image"
    path.write_bytes(edited(content, edits))
    pixels = check(lambda: read_image(path, 16, "squash"), path, OSError)
    assert pixels is None or (pixels.shape == (16, 16) and pixels.dtype == np.uint8)


def archive(save: Callable[..., None]) -> bytes:
    buffer, rng = io.BytesIO(), np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, n in (("train", 6), ("val", 4), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2).astype(np.uint8)[:, None]
    save(buffer, **arrays)
    return buffer.getvalue()


@MANY
@given(content=st.sampled_from([archive(np.savez), archive(np.savez_compressed)]), edits=EDITS)
def test_archives(
    content: bytes, edits: list[tuple[str, float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "pneumoniamnist.npz"
    path.write_bytes(edited(content, edits))
    result = check(lambda: read_npz(path), path, BalancerError)
    assert result is None or {r.label for r in result[0]} <= {0, 1}


def table(kind: str) -> bytes:
    rows = {"file": ["a.png", "b.png"] * 6, "label": ["x", "y"] * 6, "patient": [f"{i:03d}" for i in range(12)]}
    if kind == "csv":
        return "\r\n".join(
            ";".join(row) for row in zip(*([name, *of] for name, of in rows.items()), strict=True)
        ).encode()
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(rows), buffer)
    return buffer.getvalue()


@MANY
@given(kind=st.sampled_from(["csv", "parquet"]), edits=EDITS)
def test_tables(kind: str, edits: list[tuple[str, float, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"table.{kind}"
    path.write_bytes(edited(table(kind), edits))

    def read() -> list[list[str]]:
        opened = read_spreadsheet(path)
        return [opened.header, *opened.rows]

    result = check(read, path, BalancerError)
    assert result is None or all(len(row) == len(result[0]) for row in result)


CONFIG = b"""data:
  path: /data
  image_size: 64
  resize: pad
gan_train:
  steps: 200
  lr_G: 2.0e-4
  preset: default
"""


@MANY
@given(edits=EDITS)
def test_config_files(edits: list[tuple[str, float, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "settings.yaml"
    path.write_bytes(edited(CONFIG, edits))
    section = check(lambda: read_config_file(path, "gan_train"), path, BalancerError)
    if section is not None:
        config = check(lambda: resolve(GanTrainConfig, section), Path(), BalancerError)
        assert config is None or np.isfinite([config.steps, config.data.image_size]).all()


@MANY
@given(edits=EDITS)
def test_manifests(made: Made, edits: list[tuple[str, float, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed-set"
    if not folder.exists():
        shutil.copytree(made.synthetic, folder)
    manifest = (made.synthetic / "manifest.csv").read_bytes()
    (folder / "manifest.csv").write_bytes(edited(manifest, edits))
    config = DataConfig(image_size=16)
    found = check(lambda: load_synthetic(folder, made.data, config, "all"), folder, BalancerError)
    if found is not None:
        assert len(set(found.hashes)) == len(found.hashes)
        originals = {hashlib.sha256((folder / f"{i}.png").read_bytes()).hexdigest() for i in range(40)}
        assert set(found.hashes) <= originals


def sound(state: dict[str, Any]) -> bool:
    return all(v.isfinite().all() for v in state.values() if isinstance(v, torch.Tensor))


@MANY
@given(choice=st.data(), edits=EDITS)
def test_gan_checkpoints(
    made: Made, choice: st.DataObject, edits: list[tuple[str, float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Half of the files have other bytes and no seal; half have a seal that fits and other values."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    source = made.gan / choice.draw(st.sampled_from([BEST, CHECKPOINT]))
    content = torch.load(source, weights_only=True)
    if choice.draw(st.booleans()):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        path.write_bytes(edited(buffer.getvalue(), edits))
    else:
        path.write_bytes(tensor_bytes(altered(content, choice, ODD + ODD_TENSORS)))
    config = GanTrainConfig.model_validate(content["config"])
    check(lambda: read_checkpoint(path, CPU, config), path, BalancerError)
    state = build_state(config, CPU)

    def load() -> bool:
        load_checkpoint(path, config, state, made.data, CPU)
        return True

    assert not check(load, path, BalancerError) or all(sound(m.state_dict()) for m in (state.G, state.D))


@MANY
@given(choice=st.data(), edits=EDITS)
def test_classifier_checkpoints(
    made: Made, choice: st.DataObject, edits: list[tuple[str, float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed-model.pt"
    content = torch.load(made.model / "model.pt", weights_only=True)
    if choice.draw(st.booleans()):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        path.write_bytes(edited(buffer.getvalue(), edits))
    else:
        path.write_bytes(tensor_bytes(altered(content, choice, ODD + ODD_TENSORS)))
    saved = check(lambda: load_classifier(path, CPU), path, BalancerError)
    if saved is not None:
        assert np.isfinite([saved.temperature, saved.threshold]).all()
        assert saved.temperature > 0
        assert sound(saved.model.state_dict())


@pytest.fixture(scope="module")
def exported_files(made: Made) -> tuple[Path, Path]:
    return export(made.model, "onnx").file, export(made.model, "safetensors").file


@MANY
@given(choice=st.data(), edits=EDITS)
def test_exported_classifiers(
    exported_files: tuple[Path, Path],
    choice: st.DataObject,
    edits: list[tuple[str, float, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Half of the files have other bytes under a seal that fits; half have other bytes and an old seal."""
    source = choice.draw(st.sampled_from(exported_files))
    mark = ONNX_MARK if source.suffix == ".onnx" else SAFETENSORS_MARK
    path, content = tmp_path_factory.getbasetemp() / f"fuzzed{source.suffix}", edited(source.read_bytes(), edits)
    at = content.rfind(mark) + len(mark)
    if at >= len(mark) and choice.draw(st.booleans()):
        content = seal(content[:at] + b"0" * 64 + content[at + 64 :], mark)
    path.write_bytes(content)
    pixels = np.zeros((2, 16, 16), dtype=np.uint8)
    if source.suffix == ".onnx":
        scores = check(lambda: open_onnx(path, "cpu", 1)[1](pixels), path, BalancerError)
        assert scores is None or np.isfinite(scores).all()
    else:
        saved = check(lambda: load_classifier(path, CPU), path, BalancerError)
        assert saved is None or sound(saved.model.state_dict())


@MANY
@given(file=st.sampled_from(["config.yaml", "env.json"]), edits=EDITS)
def test_saved_settings(
    made: Made, file: str, edits: list[tuple[str, float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed-run"
    folder.mkdir(exist_ok=True)
    for name in ("config.yaml", "env.json"):
        shutil.copy(made.gan / name, folder / name)
    content = (made.gan / file).read_bytes()
    (folder / file).write_bytes(edited(content, edits))
    values = check(lambda: saved_config("gan-train", folder), folder / file, BalancerError)
    assert values is None or isinstance(values, dict)


@MANY
@given(choice=st.data(), edits=EDITS)
def test_rows_of_results(
    made: Made, choice: st.DataObject, edits: list[tuple[str, float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "results.jsonl"
    row = read_json(made.model / "result.json")
    line = sealed_json(row, indent=None).encode() + b"\n"
    if choice.draw(st.booleans()):
        other = edited(line, edits)
    else:
        finite = [o for o in ODD if o == o and o != float("inf")]
        other = sealed_json(altered(row, choice, finite), indent=None).encode() + b"\n"
    path.write_bytes(line + other)
    rows = check(lambda: read_trials(path), path, BalancerError)
    assert rows is None or all(np.isfinite(r.val.temperature) for r in rows)
