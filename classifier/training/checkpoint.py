"""Classifier checkpoints: all that prediction needs, as tensors and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from balancer.core.config import validate
from balancer.core.device import memory_format
from balancer.core.errors import BalancerError, UsageError
from balancer.core.sealed import DamagedFile, load_tensors, parse, tensor_bytes
from balancer.core.settings import ClassifierConfig
from balancer.data.dataset import Dataset
from classifier.evaluation.thresholds import calibrated_threshold
from classifier.models import build_model
from classifier.training.regimes import Regime
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


def classifier_bytes(
    config: ClassifierConfig, regime: Regime, trial_seed: int, data: Dataset, result: TrainResult
) -> bytes:
    """Return the content of a checkpoint."""
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
    kind, version = values.get("kind"), values.get("format")
    known = isinstance(kind, str) and isinstance(version, int) and (kind, version) == ("classifier", FORMAT)
    if not known:  # a tensor cannot be compared
        raise BalancerError(
            f"{path} is not a classifier checkpoint of format {FORMAT}; give a model.pt of this program"
        )
    content = parse(_Content, values, path, REMEDY)
    try:
        config = validate(ClassifierConfig, content.config)
        # The weights file may be gone; its normalisation stays.
        standalone = {"weights": "none", "normalisation": config.input_normalisation}
        model = build_model(config.model_copy(update=standalone)).to(device)
    except UsageError as error:
        raise DamagedFile(path, f"config: {error}", REMEDY) from error
    _check_weights(model.state_dict(), content.state, path)
    model.load_state_dict(content.state)
    model = model.to(memory_format=memory_format(device)).eval()
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
    )


def _check_weights(expected: Mapping[str, Tensor], state: Mapping[str, Any], path: Path) -> None:
    """Refuse weights that do not fit the network, or are not finite.

    Raises:
        DamagedFile: the message names the first tensor that is wrong.
    """
    for key in [*expected, *(key for key in state if key not in expected)]:
        needed, tensor = expected.get(key), state.get(key)
        if needed is None:
            problem = "the network of its settings has no such tensor"
        elif not isinstance(tensor, Tensor):
            problem = "it is missing" if key not in state else f"it is a {type(tensor).__name__}, expected a tensor"
        elif tensor.shape != needed.shape or tensor.dtype != needed.dtype:
            got, wanted = (f"{t.dtype} of shape {tuple(t.shape)}" for t in (tensor, needed))
            problem = f"it is {got}, the network of its settings needs {wanted}"
        elif not bool(torch.isfinite(tensor).all()):
            problem = "it holds a number that is not finite"
        else:
            continue
        raise DamagedFile(path, f"state.{key}: {problem}", REMEDY)
