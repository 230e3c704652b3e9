"""What a saved classifier says of itself beside its weights, whatever file holds it. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from balancer.core.config import validate
from balancer.core.errors import BalancerError, UsageError
from balancer.core.sealed import DamagedFile
from balancer.core.settings import PHANTOM, ClassifierConfig, DataConfig
from balancer.core.shapes import check_format, parse
from balancer.data.chest import earlier_classes
from classifier.evaluation.thresholds import calibrated_threshold

Array = np.ndarray
CHECKPOINT = "model.pt"
KIND = "classifier"
FORMAT = 3  # to be raised when the content changes
REMEDY = "train again, or give another model.pt"
COLLAPSED = 0.2  # a smaller spread of a pretraining's outputs: they are nearly alike
EXPORT = "classifier export"  # writes the other files that hold a classifier


@dataclass(frozen=True)
class Pretraining:
    """How a network was pretrained without labels before it was trained."""

    method: str
    steps: int
    batch_size: int
    images: int  # real images of the training fold
    spread: float  # of the outputs at the end: about 1 if they vary as they should, 0 if all are alike
    weights: str  # the first digits of their SHA-256
    seconds: float

    @property
    def collapsed(self) -> bool:
        """Return whether the outputs are nearly alike, so that little was learnt."""
        return self.spread < COLLAPSED


@dataclass(frozen=True)
class ClassifierRecord:
    """The settings of a saved classifier, what was chosen on validation, and the origin of its training data."""

    config: ClassifierConfig
    classes: tuple[str, ...]  # names, in the order of the labels; of two the second is the positive one
    temperature: float
    uncalibrated_threshold: float  # on probabilities without the temperature
    regime: str
    trial_seed: int
    data_source: str
    split_hash: str
    fingerprint: str  # of the data
    ranges: dict[str, float] | None  # of the data's samples of more than 8 bits; None: an older version wrote it
    channels: int = field(default=1, kw_only=True)  # of the images: 1 grey, 3 colour

    @property
    def threshold(self) -> float:
        """Return the threshold chosen on validation, on the calibrated probabilities."""
        return calibrated_threshold(self.uncalibrated_threshold, self.temperature)

    @property
    def trained_on_drawings(self) -> bool:
        """Return whether the training data were the built-in drawings."""
        return self.data_source == PHANTOM

    @property
    def standalone(self) -> ClassifierConfig:
        """Return the settings that build the network without a file of weights, whose normalisation stays."""
        return self.config.model_copy(update={"weights": "none", "normalisation": self.config.input_normalisation})

    @property
    def data_config(self) -> DataConfig:
        """Return the settings of the data, by which other images are read in the channels of the training."""
        return self.config.data.model_copy(update={"channels": self.channels})

    def portable(self) -> dict[str, Any]:
        """Return the record as plain values for a file that leaves this machine: no path of a folder is among them.

        :func:`parse_record` reads them.
        """
        data = self.config.data.without_paths()
        config = self.standalone.model_copy(update={"synthetic": None, "data": data})
        source = self.data_source if self.trained_on_drawings else Path(self.data_source).name
        return {
            "kind": KIND,
            "format": FORMAT,
            "classes": list(self.classes),
            "channels": self.channels,
            "temperature": self.temperature,
            "threshold": self.uncalibrated_threshold,
            "calibrated_threshold": self.threshold,
            "regime": self.regime,
            "trial_seed": self.trial_seed,
            "data": {
                "source": source,
                "split_hash": self.split_hash,
                "fingerprint": self.fingerprint,
                **({} if self.ranges is None else {"ranges": self.ranges}),
            },
            "config": config.model_dump(mode="json", include=set(ClassifierConfig.model_fields)),
        }


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
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None  # None: an earlier version wrote the file
    channels: Literal[1, 3] = 1  # files of earlier versions have none


def parse_record(values: Mapping[str, Any], path: Path, remedy: str = REMEDY) -> ClassifierRecord:
    """Return the record that plain values hold, each value checked.

    Raises:
        BalancerError: the values are not those of a classifier of this format.
        DamagedFile: a value is missing or of another kind; the message names the key.
    """
    kind = values.get("kind")
    is_classifier = isinstance(kind, str) and kind == KIND  # a tensor cannot be compared
    version = values.get("format") if is_classifier else None
    check_format(path, version, FORMAT, "classifier checkpoint", "give a model.pt of this program")
    content = parse(_Content, values, path, remedy)
    try:
        config = validate(ClassifierConfig, content.config)
    except UsageError as error:
        raise DamagedFile(path, f"config: {error}", remedy) from error
    return ClassifierRecord(
        config,
        content.classes or earlier_classes(config.data.task),
        content.temperature,
        content.threshold,
        content.regime,
        content.trial_seed,
        content.data.source,
        content.data.split_hash,
        content.data.fingerprint,
        content.data.ranges,
        channels=content.channels,
    )


def check_scores(scores: Array) -> Array:
    """Return probabilities (n,) or (n, C) once all are finite.

    Raises:
        BalancerError: a probability is not finite.
    """
    broken = int((~np.isfinite(scores)).reshape(len(scores), -1).any(axis=1).sum())
    if broken:
        raise BalancerError(
            f"the classifier gives {broken} of {len(scores)} images a probability that is not finite, so its weights "
            "are damaged; train again, or give another model.pt"
        )
    return scores
