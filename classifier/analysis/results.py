"""Finished studies: trials with their metrics and predictions, the patients, and the grid of trials.

A study's folder holds ``results.jsonl`` (a line per trial), ``predictions.npz`` in the folder of each trial, and
``split.csv``. A single training leaves ``result.json`` in place of ``results.jsonl``. :mod:`.reading` reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict

from balancer.core.errors import BalancerError
from balancer.core.files import JsonObject
from balancer.core.shapes import parse
from balancer.data.records import count_units, sampling_unit
from classifier.evaluation.fold_metrics import AnyMetrics, BinaryMetrics, MulticlassMetrics, Validation
from classifier.evaluation.shortcut import MeterScores, Reading
from classifier.evaluation.thresholds import with_temperature
from classifier.training.record import Pretraining
from classifier.training.regimes import REGIMES

log = logging.getLogger("balancer")
Array = np.ndarray
FOLDS = ("val", "test")
RESULTS = "results.jsonl"
PREDICTIONS = "predictions.npz"
_LEFT_OUT = {
    "fold": None,
    "site": None,
    "meter": (),
    "step_mode": "plain",
    "augmented_on": None,
    "pretraining": None,
}  # values that a line of results.jsonl is silent about
SAME_SPLIT = ("data_fingerprint", "split_hash")  # equal in all trials that are compared


@dataclass(frozen=True)
class TrialPredictions:
    """What a trial predicted for the images of one fold, in the order of the data set."""

    y_true: Array  # (n,) in {0, 1}, or in 0 to C - 1
    y_score: Array  # (n,) probabilities of class 1, or (n, C) of each class; uncalibrated, float64
    threshold: float  # chosen on validation, on y_score as it is; unused if there are more than two classes
    temperature: float  # chosen on validation; changes no decision
    index: Array  # (n,) positions in the data set

    @property
    def calibrated(self) -> Array:
        """Return the probabilities with the temperature, in the shape of ``y_score``."""
        return with_temperature(self.y_score, self.temperature)

    @property
    def decisions(self) -> Array:
        """Return whether each image is called class 1, (n,) bool; of more than two classes the most likely, (n,)."""
        decisions: Array = self.y_score.argmax(axis=1) if self.y_score.ndim == 2 else self.y_score >= self.threshold
        return decisions

    def same_images(self, other: TrialPredictions) -> bool:
        """Return whether both are of the same images with the same labels."""
        return np.array_equal(self.index, other.index) and np.array_equal(self.y_true, other.y_true)


@dataclass(frozen=True)
class TrialResult:
    """One trial: its line of ``results.jsonl`` and, once they are read, its predictions."""

    # How a file is read: no other key, no number that is none.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )
    regime: str
    trial_seed: int
    synthetic_set: str | None  # position of the set in the study's list; None if the regime uses no synthetic images
    dose: float | None  # synthetic images in deficits; None if the regime uses none, or the settings gave a number
    n_train: dict[str, int]  # training images by class
    added: int  # synthetic images or duplicates among them
    steps: int
    passes_over_real: float
    selected_step: int
    history: tuple[Validation, ...]
    val: AnyMetrics
    test: AnyMetrics
    seconds: float
    # What made the trial. A run of an older version may lack a hash.
    split_hash: str | None = None
    data_fingerprint: str | None = None
    config_hash: str | None = None
    weights_hash: str | None = None
    synthetic_sets_hash: str | None = None
    recipe_hash: str | None = None
    synthetic_hash: str | None = None  # None if the regime uses no synthetic images
    code_hash: str | None = None
    git_commit: str | None = None
    threads: int | None = None  # that computed; other numbers give other last digits
    folder: str = ""  # of predictions.npz and model.pt, relative to the run
    fold: int | None = None  # of a cross-validation
    step_mode: str = "plain"  # how steps ran, where not plainly: another way gives other last digits
    augmented_on: str | None = None  # device, where images were augmented there, by other draws than the CPU's
    site: int | None = None  # of a federation
    meter: tuple[Reading, ...] = ()  # of the shortcut meter; nothing in a run of an earlier version, or without it
    pretraining: Pretraining | None = None  # without labels, before the training
    predictions: Mapping[str, TrialPredictions] = field(default_factory=dict, repr=False, compare=False)  # by fold
    meter_scores: tuple[MeterScores, ...] = field(default=(), repr=False, compare=False)  # of each reading

    @property
    def key(self) -> tuple[str, int, str | None, float | None]:
        """Return what names the trial within its study."""
        return self.regime, self.trial_seed, self.synthetic_set, self.dose

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of the labels; of two the second is the positive one."""
        return tuple(self.n_train)

    @property
    def is_main(self) -> bool:
        """Return whether the trial belongs to the study proper, not to the dose response alone."""
        return self.dose in (None, 1.0)

    @property
    def arm(self) -> str:
        """Return ``gan``, or ``gan@0.5`` if the dose is not the deficit."""
        return self.regime if self.is_main else f"{self.regime}@{self.dose:g}"

    def metric(self, path: str) -> float:
        """Return one metric, such as ``test.auroc`` or, of class 2, ``test.auroc_of_class.2``."""
        value: Any = self
        for part in path.split("."):
            value = value[int(part)] if part.isdecimal() else getattr(value, part)
        return float(value)

    def binary(self, fold: str) -> BinaryMetrics:
        """Return the metrics of a fold.

        Raises:
            BalancerError: the trial is of a multiclass task.
        """
        metrics: BinaryMetrics | MulticlassMetrics = getattr(self, fold)
        if isinstance(metrics, MulticlassMetrics):
            raise BalancerError(
                f"trial {self.folder} decides between several classes, without a threshold; give a run of two classes"
            )
        return metrics

    def to_json(self) -> JsonObject:
        """Return the trial as a line of ``results.jsonl`` holds it."""
        values = asdict(replace(self, predictions={}, meter_scores=()))
        del values["predictions"], values["meter_scores"]
        return {key: value for key, value in values.items() if value != _LEFT_OUT.get(key, NotImplemented)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], path: Path, where: str = "", remedy: str = "") -> TrialResult:
        """Return the trial that :meth:`to_json` gave; file and place are for the message.

        Raises:
            DamagedFile: a value is missing, of another type or unknown.
        """
        optional = {"synthetic_set": None, "dose": None}  # older versions left them out
        return parse(cls, {**optional, **values}, path, remedy, where)


@dataclass(frozen=True)
class MetricSummary:
    """A metric over trial seeds, with its 95 % interval if there is one."""

    mean: float
    sd: float | None  # over trial seeds, n - 1; None for one seed
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval, or None if the metric has none (validation metrics)."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def summarise_seeds(sample: Sequence[float]) -> MetricSummary:
    """Return mean and SD of one metric, given by trial seed."""
    return MetricSummary(float(np.mean(sample)), float(np.std(sample, ddof=1)) if len(sample) > 1 else None)


@dataclass(frozen=True)
class StudyResults:
    """The trials of a study, or of several on the same images, by arm.

    An arm holds the trials that differ in nothing but seed and synthetic set. An arm is named ``gan``, or ``gan@0.5``
    for another dose than the deficit. If several runs are compared, the run's name stands before the regime.
    """

    arms: dict[str, list[TrialResult]]
    patients: list[str]  # patient of every image of the data set; TrialPredictions.index points here
    source: str = ""  # what the images are
    notes: list[str] = field(default_factory=list)  # what a report must say about the data

    @classmethod
    def of(cls, trials: Iterable[TrialResult], patients: list[str]) -> StudyResults:
        """Group the trials of one study by arm."""
        arms: dict[str, list[TrialResult]] = {}
        for trial in trials:
            arms.setdefault(trial.arm, []).append(trial)
        return cls(arms, patients)

    @property
    def trials(self) -> list[TrialResult]:
        """Return every trial, arm by arm."""
        return [trial for trials in self.arms.values() for trial in trials]

    @property
    def regimes(self) -> list[str]:
        """Return the regimes of the study proper, in the registry's order."""
        return [name for name in REGIMES if name in self.arms]

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of the labels."""
        return self.trials[0].classes

    @property
    def main(self) -> StudyResults:
        """Return the study proper: other doses than the deficit belong to the dose response alone."""
        return replace(self, arms={arm: trials for arm, trials in self.arms.items() if trials[0].is_main})

    def y_true(self, fold: str) -> Array:
        """Return the labels of a fold: (n,), indices into :attr:`classes`."""
        return self.trials[0].predictions[fold].y_true

    def groups(self, fold: str) -> list[str]:
        """Return the patient of each image of a fold: (n,)."""
        return [self.patients[i] for i in self.trials[0].predictions[fold].index]

    @property
    def unit(self) -> str:
        """Return the word for what intervals resample: patients, or images where no patient is known."""
        return sampling_unit(self.patients)

    @property
    def test_patients(self) -> int | None:
        """Return the number of patients of the test set; None where no patient is known."""
        return len(set(self.groups("test"))) if self.unit == "patient" else None

    def counts(self) -> str:
        """Return the numbers of images and patients, in words."""
        names = {"validation": self.groups("val"), "test": self.groups("test")}
        sizes = (f"{name} n = {count_units(g)}" for name, g in names.items())
        return f"{self.source}; {', '.join(sizes)}"

    def sets(self, *arms: str) -> list[str]:
        """Return the synthetic sets that some arm was trained with; none if no arm uses synthetic images."""
        names = {trial.synthetic_set for arm in arms for trial in self.arms[arm]}
        return sorted((name for name in names if name is not None), key=lambda name: (len(name), name))

    def values(self, arm: str, metric: str) -> dict[int, float]:
        """Return one metric of an arm by trial seed, averaged over the synthetic sets."""
        by_seed: dict[int, list[float]] = {}
        for trial in self.arms[arm]:
            by_seed.setdefault(trial.trial_seed, []).append(trial.metric(metric))
        return {seed: float(np.mean(values)) for seed, values in by_seed.items()}

    def cells(self, *arms: str) -> list[dict[str, list[TrialResult]]]:
        """Return the trials by trial seed, then by arm, then by synthetic set.

        A seed is left out unless every arm has a trial under every set of :meth:`sets`. An arm without synthetic images
        has one trial per seed, which stands beside every set.
        """
        sets: Sequence[str | None] = self.sets(*arms) or [None]
        by_key = {arm: {(t.trial_seed, t.synthetic_set): t for t in self.arms[arm]} for arm in arms}
        cells = []
        for seed in sorted({seed for keys in by_key.values() for seed, _ in keys}):
            of_seed = {
                arm: [trial for s in sets if (trial := keys.get((seed, s)) or keys.get((seed, None)))]
                for arm, keys in by_key.items()
            }
            if all(len(trials) == len(sets) for trials in of_seed.values()):
                cells.append(of_seed)
        return cells

    def grid(self, arm: str) -> list[list[TrialResult]]:
        """Return the trials of one arm: trial seeds x synthetic sets.

        Raises:
            BalancerError: no trial seed has all synthetic sets.
        """
        grid = [cell[arm] for cell in self.cells(arm)]
        if not grid:
            raise BalancerError(f"no trial seed of {arm} is complete over the synthetic sets; resume the run")
        return grid


def check_same_images(
    studies: Mapping[str, Sequence[TrialResult]],
    keys: Sequence[str] = SAME_SPLIT,
    folds: Sequence[str] = FOLDS,
    advice: str = "give runs on the same data and split",
) -> None:
    """Refuse to compare trials of different images.

    Args:
        studies: trials by what the message calls them.
        keys: hashes that must be equal in all trials.
        folds: folds whose images and labels must be equal.
        advice: what to do.

    Raises:
        BalancerError: two trials differ in a hash, or in the images of a fold.
    """
    named = [(name, trial) for name, trials in studies.items() for trial in trials]
    first_name, first = named[0]
    for name, trial in named[1:]:
        for key in keys:
            if (value := getattr(trial, key)) != (expected := getattr(first, key)):
                raise BalancerError(f"{name} has {key} {value}, {first_name} has {expected}; {advice}")
        for fold in folds:
            if not trial.predictions[fold].same_images(first.predictions[fold]):
                raise BalancerError(f"{name} and {first_name} have different {fold} images; {advice}")
