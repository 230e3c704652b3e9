"""`classifier export`: a saved classifier as a file for other programs, compared with the network before it counts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from balancer.core import exported, onnx_file
from balancer.core.device import limit_threads
from balancer.core.errors import BalancerError, UsageError
from balancer.core.exported import FACTS, PARITY
from balancer.core.files import JsonObject, write_bytes
from balancer.core.pixels import LEVELS, from_planes
from balancer.core.sealed import sealed_zip
from balancer.data.dataset import Dataset
from classifier.evaluation.thresholds import with_temperature
from classifier.export import integers
from classifier.export.graph import to_program
from classifier.export.integers import Integers
from classifier.export.signature import INPUT, OUTPUTS
from classifier.training.checkpoint import CHECKPOINT, SavedClassifier, load_classifier, parse_classifier
from classifier.training.prediction import predict
from classifier.training.record import EXPORT, REMEDY

if TYPE_CHECKING:
    import onnx

Array = np.ndarray
CPU = torch.device("cpu")
CHECKED = 8  # images that an exported file is compared with the network on


@dataclass(frozen=True)
class Export:
    """An exported classifier."""

    file: Path
    to: str  # format
    megabytes: float
    difference: float  # of the probabilities from the network's: the largest on images of noise
    classes: tuple[str, ...]
    integers: Integers | None = None  # the same in 8-bit integers

    def to_json(self) -> JsonObject:
        """Return the export as values that JSON has."""
        values = {**asdict(self), "file": str(self.file), "classes": list(self.classes)}
        return {**values, "integers": self.integers and self.integers.to_json()}

    def describe(self) -> str:
        """Return the export as text."""
        head = f"{self.file}: {self.megabytes:.2f} MB; probabilities differ from the network's by {self.difference:.1g}"
        return "\n".join([head, *([self.integers.describe()] if self.integers else [])])


def export(
    model: Path,
    to: str,
    out: Path | None = None,
    int8: bool = False,
    data: str | None = None,
    force: bool = False,
    threads: int | None = None,
) -> Export:
    """Write a saved classifier as a file for other programs, as `classifier export` does.

    Args:
        model: a model.pt, or the folder that holds one.
        to: a format of :data:`balancer.core.exported.FORMATS`.
        out: the file; None for one beside the model.
        int8: whether to write an 8-bit variant of the ONNX file too, with a report on both.
        data: of the training, for the 8-bit variant; None: where they were.
        force: whether to replace files that are there.
        threads: that compute; None for OMP_NUM_THREADS, or one.

    Raises:
        UsageError: the format is unknown, or options exclude each other.
        BalancerError: the model cannot be read or exported, a file is there already, or a package is missing.
    """
    saved, path, dataset = open_export(model, to, out, int8, data, force, threads)
    content, probabilities = WRITERS[to](saved, path)
    difference = compare(saved, probabilities)
    write_bytes(path, content)
    threads = torch.get_num_threads()
    made = integers.write(saved, path, dataset, facts_of(saved), threads) if dataset is not None else None
    return Export(path, to, len(content) / 1e6, difference, saved.classes, made)


def open_export(
    model: Path,
    to: str,
    out: Path | None,
    int8: bool,
    data: str | None,
    force: bool,
    threads: int | None,
    decode: bool = True,
) -> tuple[SavedClassifier, Path, Dataset | None]:
    """Return the classifier, the file to write and, for 8-bit integers, the data of the training.

    Arguments and errors are those of :func:`export`; ``decode`` is False for a dry run.
    """
    if int8 and to != "onnx":
        raise UsageError(f"--int8 is for --to onnx; --to is {to!r}")
    if data is not None and not int8:
        raise UsageError("--data is for --int8, which calibrates on training images; leave out --data")
    model = model / CHECKPOINT if model.is_dir() else model
    path = exported.target(model, to, out)
    if to == "onnx":
        exported.require("onnx", "onnxscript", "onnxruntime")
    limit_threads(threads)
    saved = load_classifier(model, CPU)
    exported.refuse_existing([path, *(integers.files(path) if int8 else ())], force)
    return saved, path, integers.open_data(saved, data, decode) if int8 else None


Probabilities = Callable[[Array], Array]  # images (n, 1 or 3, H, W) uint8 -> calibrated probabilities (n, C)
Written = tuple[bytes, Probabilities]  # the content of the file, and what its probabilities are


def _onnx(saved: SavedClassifier, _path: Path) -> Written:
    content = onnx_file.sealed_bytes(onnx_model(saved), facts_of(saved))
    session = onnx_file.session_of(content, torch.get_num_threads())
    return content, lambda images: session.run(["probabilities"], {INPUT: images})[0]


def onnx_model(saved: SavedClassifier) -> onnx.ModelProto:
    """Return the classifier as an ONNX model, without facts."""
    onnx_file.refuse_large(saved.model, saved.config.model)
    return onnx_file.model_of(to_program(saved), [INPUT], OUTPUTS)


def _pt2(saved: SavedClassifier, _path: Path) -> Written:
    buffer = io.BytesIO()
    text = json.dumps(facts_of(saved), allow_nan=False)
    torch.export.save(to_program(saved), buffer, extra_files={FACTS: text})
    content = sealed_zip(buffer.getvalue())
    program = torch.export.load(io.BytesIO(content)).module()
    return content, lambda images: program(torch.from_numpy(images))[1].numpy()


def _safetensors(saved: SavedClassifier, path: Path) -> Written:
    """Return weights and settings, without a graph and without the features of training images."""
    content = exported.safetensors_bytes(saved.model.state_dict(), facts_of(saved))
    facts, tensors = exported.parse_tensors(path, content, REMEDY)
    again = parse_classifier({**facts, "state": tensors}, path, CPU)
    return content, lambda images: _probabilities(again, images)


WRITERS: dict[str, Callable[[SavedClassifier, Path], Written]] = {
    "onnx": _onnx,
    "torch-export": _pt2,
    "safetensors": _safetensors,
}


def facts_of(saved: SavedClassifier) -> JsonObject:
    """Return what an exported file says of itself."""
    side = saved.config.data.image_size
    shape = f"[{onnx_file.BATCH}, {saved.channels}, {side}, {side}]"
    reading = f"{LEVELS[saved.channels]} uint8 {shape}: 0 black to 255 white, resized antialiased"
    return {**saved.portable(), "input": reading, "use": "for research; not a medical device", "made_by": EXPORT}


def compare(saved: SavedClassifier, probabilities: Probabilities) -> float:
    """Return the largest difference of an exported file's probabilities from the network's, on noise.

    Args:
        saved: the classifier.
        probabilities: of the exported file.

    Raises:
        BalancerError: the difference is above :data:`PARITY`, or a probability is not finite.
    """
    images = noise(saved.config.data.image_size, saved.channels)
    expected = _probabilities(saved, images)
    got = np.concatenate([probabilities(images[:1]), probabilities(images[1:])])
    difference = float(np.abs(got - expected).max())
    if not difference <= PARITY:  # true of nan too
        raise BalancerError(
            f"the exported {saved.config.model} gives other probabilities than the network (difference"
            f" {difference:.2g}, at most {PARITY:g} expected), so it was not written; give another format, and report"
            " this network"
        )
    return difference


def noise(side: int, channels: int = 1) -> Array:
    """Return images (CHECKED, C, H, W) uint8 of coarse noise from dark to bright; the last two are black and white."""
    rng, coarse = np.random.default_rng(0), -(-side // 8)
    blocks = rng.integers(0, 256, (CHECKED - 2, channels, coarse, coarse)).repeat(8, 2).repeat(8, 3)[:, :, :side, :side]
    bright = blocks * np.linspace(0.25, 1, CHECKED - 2)[:, None, None, None] + rng.normal(0, 8, blocks.shape)
    flat = np.stack([np.zeros((channels, side, side)), np.full((channels, side, side), 255)])
    return np.concatenate([bright, flat]).clip(0, 255).astype(np.uint8)


def _probabilities(saved: SavedClassifier, images: Array) -> Array:
    """Return the calibrated probabilities (n, C) of images (n, 1 or 3, H, W) uint8."""
    scores = with_temperature(predict(saved.model, from_planes(images), saved.config, CPU), saved.temperature)
    return np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores
