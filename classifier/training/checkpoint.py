"""Classifier checkpoints: all that prediction needs, as tensors and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from balancer.core.device import memory_format
from balancer.core.errors import BalancerError, UsageError
from balancer.core.exported import SUFFIXES, read_tensors
from balancer.core.saved_runs import inner_runs
from balancer.core.sealed import DamagedFile, load_tensors, tensor_bytes
from balancer.core.settings import ClassifierConfig
from balancer.core.shapes import check_tensors, parse
from balancer.data.dataset import Dataset
from classifier.models import build_model
from classifier.novelty import Reference, from_tensors
from classifier.training.record import CHECKPOINT, EXPORT, FORMAT, KIND, REMEDY, ClassifierRecord, parse_record
from classifier.training.regimes import Regime

if TYPE_CHECKING:  # a reader of checkpoints does without the seconds that training's packages take
    from classifier.training.trainer import TrainResult


@dataclass(frozen=True)
class SavedClassifier(ClassifierRecord):
    """A classifier read from disk, with the origin of its training data."""

    model: nn.Module
    reference: Reference | None = None  # the training data as features; None: an older version, or an exported file


@dataclass(frozen=True)
class _Weights:
    """The weights of a checkpoint, not checked yet."""

    state: dict[str, Any]
    reference: dict[str, Any] | None = None


def classifier_bytes(
    config: ClassifierConfig,
    regime: Regime,
    trial_seed: int,
    data: Dataset,
    result: TrainResult,
    reference: Reference | None = None,
) -> bytes:
    """Return the content of a checkpoint; an earlier version reads it as well, without the reference."""
    content = {
        "format": FORMAT,
        "kind": KIND,
        "config": config.model_dump(mode="json", include=set(ClassifierConfig.model_fields)),
        "regime": regime.name,
        "trial_seed": trial_seed,
        "classes": list(data.classes),
        "channels": data.channels,
        "temperature": result.temperature,
        "threshold": result.threshold,  # on probabilities without the temperature, as in every earlier version
        "step": result.selected_step,
        "data": data.describe(),
        "state": result.model.state_dict(),
        **({} if reference is None else {"reference": reference.to_tensors()}),
    }
    return tensor_bytes(content)


def load_classifier(path: Path, device: torch.device) -> SavedClassifier:
    """Read a checkpoint, ``path`` or its ``model.pt``, or an exported safetensors file; code is never executed.

    Raises:
        BalancerError: if it is missing, damaged or no classifier checkpoint.
    """
    folder, path = path, path / CHECKPOINT if path.is_dir() else path
    try:
        values = _read(path, device)
    except FileNotFoundError as error:
        raise BalancerError(
            f"{path} does not exist; give a model.pt made by `classifier train` or `classifier ablate`"
            f"{inner_runs(folder, 'ablate', 'train')}"
        ) from error
    return parse_classifier(values, path, device)


def parse_classifier(values: Mapping[str, Any], path: Path, device: torch.device) -> SavedClassifier:
    """Return the classifier that the content of a file describes.

    Raises:
        BalancerError: the content is damaged, or of no classifier.
    """
    record = parse_record(values, path)
    content = parse(_Weights, values, path, REMEDY)
    try:
        model = build_model(record.standalone, len(record.classes), record.channels).to(device)
    except UsageError as error:
        raise DamagedFile(path, f"config: {error}", REMEDY) from error
    model.load_state_dict(check_tensors(path, "state", content.state, model.state_dict(), REMEDY))
    model = model.to(memory_format=memory_format(device)).eval()
    stored = content.reference
    reference = None if stored is None else from_tensors(stored, len(record.classes), path, REMEDY)
    return SavedClassifier(**vars(record), model=model, reference=reference)


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    """Return the content of a checkpoint or of an exported safetensors file."""
    if path.suffix == SUFFIXES["safetensors"]:
        facts, tensors = read_tensors(path, EXPORT, REMEDY)
        return {**facts, "state": {name: tensor.to(device) for name, tensor in tensors.items()}}
    if path.suffix in (SUFFIXES["onnx"], SUFFIXES["torch-export"]) and path.exists():
        taken = "which only `classifier predict` takes" if path.suffix == SUFFIXES["onnx"] else "which can hold code"
        raise BalancerError(f"{path} is a graph, {taken}; give the model.pt, or its export to safetensors")
    return load_tensors(path, device, REMEDY)
