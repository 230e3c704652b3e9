"""Classifier checkpoints: all that prediction needs, as tensors and plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import nn

from balancer.core.config import validate
from balancer.core.device import memory_format
from balancer.core.errors import BalancerError, UsageError
from balancer.core.sealed import DamagedFile, load_tensors, tensor_bytes
from balancer.core.settings import ClassifierConfig
from balancer.core.shapes import check_format, check_tensors, parse
from balancer.data.dataset import Dataset
from balancer.data.folder import TASKS
from classifier.evaluation.thresholds import calibrated_threshold
from classifier.models import build_model
from classifier.novelty import Reference, from_tensors
from classifier.training.regimes import Regime

if TYPE_CHECKING:  # a reader of checkpoints does without the seconds that training's packages take
    from classifier.training.trainer import TrainResult

CHECKPOINT = "model.pt"
FORMAT = 3  # to be raised when the content changes
REMEDY = "train again, or give another model.pt"


@dataclass(frozen=True)
class SavedClassifier:
    """A classifier read from disk, with the origin of its training data."""

    model: nn.Module
    config: ClassifierConfig
    temperature: float
    uncalibrated_threshold: float  # on probabilities without the temperature
    regime: str
    trial_seed: int
    data_source: str
    split_hash: str
    fingerprint: str  # of the data
    ranges: dict[str, float] | None  # of the data's samples of more than 8 bits; None: an older version wrote it
    reference: Reference | None = None  # the training data as features; None: an older version wrote the checkpoint

    @property
    def threshold(self) -> float:
        """Return the threshold chosen on validation, on the calibrated probabilities."""
        return calibrated_threshold(self.uncalibrated_threshold, self.temperature)


@dataclass(frozen=True)
class _Origin:
    """What a checkpoint says of its training data."""

    source: str
    split_hash: str
    fingerprint: str
    ranges: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None


@dataclass(frozen=True)
class _Content:
    """The content of a checkpoint but for the weights, as it must be."""

    config: dict[str, Any]
    regime: str
    trial_seed: int
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)]  # above 1: nothing is called positive
    data: _Origin
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
        "kind": "classifier",
        "config": config.model_dump(mode="json", include=set(ClassifierConfig.model_fields)),
        "regime": regime.name,
        "trial_seed": trial_seed,
        "classes": list(data.classes),
        "temperature": result.temperature,
        "threshold": result.threshold,  # on probabilities without the temperature, as in every earlier version
        "step": result.selected_step,
        "data": data.describe(),
        "state": result.model.state_dict(),
        **({} if reference is None else {"reference": reference.to_tensors()}),
    }
    return tensor_bytes(content)


def load_classifier(path: Path, device: torch.device) -> SavedClassifier:
    """Read a checkpoint, ``path`` or its ``model.pt``, as tensors and plain values only.

    Raises:
        BalancerError: if it is missing, damaged or no classifier checkpoint.
    """
    path = path / CHECKPOINT if path.is_dir() else path
    try:
        values = load_tensors(path, device, REMEDY)
    except FileNotFoundError as error:
        raise BalancerError(
            f"{path} does not exist; give a model.pt made by `classifier train` or `classifier ablate`"
        ) from error
    kind = values.get("kind")
    is_classifier = isinstance(kind, str) and kind == "classifier"  # a tensor cannot be compared
    version = values.get("format") if is_classifier else None
    check_format(path, version, FORMAT, "classifier checkpoint", "give a model.pt of this program")
    content = parse(_Content, values, path, REMEDY)
    try:
        config = validate(ClassifierConfig, content.config)
        # The weights file may be gone; its normalisation stays.
        standalone = {"weights": "none", "normalisation": config.input_normalisation}
        model = build_model(config.model_copy(update=standalone)).to(device)
    except UsageError as error:
        raise DamagedFile(path, f"config: {error}", REMEDY) from error
    model.load_state_dict(check_tensors(path, "state", content.state, model.state_dict(), REMEDY))
    model = model.to(memory_format=memory_format(device)).eval()
    stored = content.reference
    reference = None if stored is None else from_tensors(stored, len(TASKS[config.data.task]), path, REMEDY)
    return SavedClassifier(
        model,
        config,
        content.temperature,
        content.threshold,
        content.regime,
        content.trial_seed,
        content.data.source,
        content.data.split_hash,
        content.data.fingerprint,
        content.data.ranges,
        reference,
    )
