"""Classifier checkpoints: all that prediction needs, as tensors and plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import nn

from balancer.core.config import validate
from balancer.core.device import memory_format
from balancer.core.errors import BalancerError, UsageError
from balancer.core.settings import ClassifierConfig
from balancer.data.dataset import Dataset
from classifier.evaluation.thresholds import calibrated_threshold
from classifier.models import build_model
from classifier.training.regimes import Regime
from classifier.training.trainer import TrainResult

FORMAT = 3  # to be raised when the content changes


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

    @property
    def threshold(self) -> float:
        """Return the threshold chosen on validation, on the calibrated probabilities."""
        return calibrated_threshold(self.uncalibrated_threshold, self.temperature)


def save_classifier(
    handle: IO[bytes], config: ClassifierConfig, regime: Regime, trial_seed: int, data: Dataset, result: TrainResult
) -> None:
    """Write a checkpoint."""
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
    torch.save(content, handle)


def load_classifier(path: Path, device: torch.device) -> SavedClassifier:
    """Read a checkpoint, ``path`` or its ``model.pt``, as tensors and plain values only.

    Raises:
        BalancerError: if it is missing, damaged or no classifier checkpoint.
    """
    path = path / "model.pt" if path.is_dir() else path
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise BalancerError(
            f"{path} does not exist; give a model.pt made by `classifier train` or `classifier ablate`"
        ) from error
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise BalancerError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); train again or give another model.pt"
        ) from error
    if not isinstance(content, dict) or content.get("kind") != "classifier" or content.get("format") != FORMAT:
        raise BalancerError(
            f"{path} is not a classifier checkpoint of format {FORMAT}; give a model.pt of this program"
        )
    try:
        config = validate(ClassifierConfig, content["config"])
        # The weights file may be gone; its normalisation stays.
        standalone = {"weights": "none", "normalisation": config.input_normalisation}
        model = build_model(config.model_copy(update=standalone)).to(device)
        model.load_state_dict(content["state"])
    except (UsageError, RuntimeError) as error:
        raise BalancerError(f"{path} does not fit its own settings ({str(error).splitlines()[0]})") from error
    data = content["data"]
    model = model.to(memory_format=memory_format(device)).eval()
    figures = float(content["temperature"]), float(content["threshold"])
    origin = content["regime"], content["trial_seed"], data["source"], data["split_hash"], data["fingerprint"]
    return SavedClassifier(model, config, *figures, *origin)
