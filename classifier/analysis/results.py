"""Finished trials of one run or of several, read back: what each said of validation and of test."""

from __future__ import annotations

import csv
import json
import logging
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import read_jsonl
from balancer.data.split import merge_groups
from balancer.reporting.numbers import plural
from classifier.evaluation.fold_metrics import BinaryMetrics, MulticlassMetrics, Validation, fold_metrics
from classifier.evaluation.thresholds import with_temperature
from classifier.training.regimes import REGIMES, select_regimes

log = logging.getLogger("balancer")
Array = np.ndarray
Row = dict[str, Any]
FOLDS = ("val", "test")
SHARED = ("data_fingerprint", "split_hash")  # what trials must have in common to be put together


@dataclass(frozen=True)
class TrialPredictions:
    """What a trial predicted for the images of one fold, in the order of the data set."""

    y_true: Array  # (n,) in {0, 1}, or in 0 to C - 1
    y_score: Array  # (n,) probabilities of class 1, or (n, C) of each class; uncalibrated, float64
    threshold: float  # chosen on validation, on y_score; unused if there are more than two classes
    temperature: float  # chosen on validation; changes no decision
    index: Array  # (n,) positions in the data set

    @property
    def calibrated(self) -> Array:
        """Return the probabilities with the temperature, in the shape of ``y_score``."""
        return with_temperature(self.y_score, self.temperature)

    @property
    def decisions(self) -> Array:
        """Return whether each image is called PNEUMONIA: (n,) bool."""
        decisions: Array = self.y_score >= self.threshold
        return decisions

    def same_images(self, other: TrialPredictions) -> bool:
        """Return whether both are of the same images with the same labels."""
        return np.array_equal(self.index, other.index) and np.array_equal(self.y_true, other.y_true)


Predictions = TrialPredictions


@dataclass(frozen=True)
class TrialResult:
    """One trial: its line of ``results.jsonl`` and, once they are read, its predictions."""

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
    val: BinaryMetrics | MulticlassMetrics
    test: BinaryMetrics | MulticlassMetrics
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
    folder: str = ""  # of predictions.npz and model.pt, relative to the run
    fold: int | None = None  # of a cross-validation
    predictions: Mapping[str, TrialPredictions] = field(default_factory=dict, repr=False, compare=False)  # by fold

    @property
    def key(self) -> tuple[str, int, str | None, float | None]:
        """Return what names the trial within its study."""
        return self.regime, self.trial_seed, self.synthetic_set, self.dose

    @property
    def is_main(self) -> bool:
        """Return whether the trial belongs to the study proper, not to the dose response alone."""
        return self.dose in (None, 1.0)

    @property
    def arm(self) -> str:
        """Return ``gan``, or ``gan@0.5`` if the dose is not the deficit."""
        return self.regime if self.is_main else f"{self.regime}@{self.dose:g}"

    def metric(self, path: str) -> float:
        """Return one metric, such as ``test.auroc`` or ``val.at_threshold.f1``."""
        return float(attrgetter(path)(self))

    def binary(self, fold: str) -> BinaryMetrics:
        """Return the metrics of a fold.

        Raises:
            BalancerError: the trial is of a multiclass task.
        """
        metrics: BinaryMetrics | MulticlassMetrics = getattr(self, fold)
        if isinstance(metrics, MulticlassMetrics):
            raise BalancerError(
                f"trial {self.folder} decides between several classes, without a threshold; give runs with task binary"
            )
        return metrics

    def to_json(self) -> dict[str, Any]:
        """Return the trial as a line of ``results.jsonl`` holds it."""
        values = asdict(replace(self, predictions={}))
        del values["predictions"]
        return {key: value for key, value in values.items() if key != "fold" or value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrialResult:
        """Return the trial that a line of ``results.jsonl`` holds.

        Raises:
            BalancerError: a value is missing or has another name.
        """
        try:
            optional = {"synthetic_set": None, "dose": None}
            history = tuple(Validation(**entry) for entry in values["history"])
            folds = {fold: fold_metrics(values[fold]) for fold in FOLDS}
            return cls(**{**optional, **values, **folds, "history": history})
        except (KeyError, TypeError, ValueError) as error:
            raise BalancerError(
                f"trial {values.get('folder')} was written by another version ({error}); start a new run"
            ) from error


@dataclass(frozen=True)
class Member:
    """One trial, with the scores it gave validation and test, without its temperature."""

    row: Row
    val: Predictions
    test: Predictions


@dataclass(frozen=True)
class Arm:
    """The trials of one regime of one run; those with another dose than the deficit are left out."""

    name: str  # the regime, with the run before it where there are several
    members: list[Member]

    def cells(self) -> list[list[Member]]:
        """Trial seeds by synthetic sets; a trial seed that lacks a set is left out."""
        by_seed: dict[int, list[Member]] = {}
        for member in sorted(self.members, key=lambda m: str(m.row.get("synthetic_set"))):
            by_seed.setdefault(member.row["trial_seed"], []).append(member)
        whole = max(map(len, by_seed.values()))
        return [by_seed[seed] for seed in sorted(by_seed) if len(by_seed[seed]) == whole]


@dataclass(frozen=True)
class Finished:
    """The arms of runs on the same images, with the patients of these."""

    arms: list[Arm]
    val_groups: list[str]  # patient of each validation image
    test_groups: list[str]
    source: str  # what the images are
    notes: list[str]  # what a report must say of the data

    def groups(self, fold: str) -> list[str]:
        return {"val": self.val_groups, "test": self.test_groups}[fold]

    def counts(self) -> str:
        """What figures rest on, in words."""
        sizes = (f"{fold} n = {len(g)} images of {plural(len(set(g)), 'patient')}" for fold, g in self._folds())
        return f"{self.source}; {', '.join(sizes)}"

    def _folds(self) -> list[tuple[str, list[str]]]:
        return [("validation", self.val_groups), ("test", self.test_groups)]


def output_folder(out: Path | None, runs: Sequence[Path], name: str) -> Path:
    """Where to write what was made of runs: ``out``, or a folder of that name in the only run.

    Raises:
        UsageError: several runs and no ``out``.
        BalancerError: it is a file.
    """
    if out is None and len(runs) > 1:
        raise UsageError(f"{len(runs)} runs are named, so none of them is the place to write to; give --out DIR")
    folder = out or runs[0] / name
    if folder.exists() and not folder.is_dir():
        raise BalancerError(f"--out {folder} is a file; give a folder")
    return folder


def read_runs(runs: Sequence[Path], regimes: Sequence[str] = ()) -> Finished:
    """Read the trials of finished (or interrupted) ablations and trainings.

    Args:
        runs: directories of `classifier ablate` or `classifier train`, each once.
        regimes: names or groups of those to read; none: all that are there.

    Raises:
        BalancerError: a run holds no trial, cannot be read or is a smoke run, a regime is in none of them, the runs are of
            different data or splits, or of more than two classes.
        UsageError: an unknown regime.
    """
    if len({run.resolve() for run in runs}) < len(runs):
        raise BalancerError(f"{plural(len(runs), 'run')} named, some of them the same; give each once")
    wanted = [r.name for r in select_regimes(regimes)] if regimes else None
    rows = {run: _rows(run) for run in runs}
    environments = [_environment(run) for run in runs]
    if missing := [name for name in wanted or [] if not any(name in regimes_in(found) for found in rows.values())]:
        there = sorted({name for found in rows.values() for name in regimes_in(found)})
        raise BalancerError(f"no trial of regime {', '.join(missing)}; there are {', '.join(there)}")
    arms = []
    for run, label in zip(runs, _labels(runs), strict=True):
        for name in (n for n in regimes_in(rows[run]) if wanted is None or n in wanted):
            members = _members(run, [row for row in rows[run] if row["regime"] == name])
            arms.append(Arm(f"{label} {name}".strip(), members))
    _check_same_images([m for arm in arms for m in arm.members], runs)
    groups, first = read_groups(runs[0]), arms[0].members[0]
    return Finished(
        arms,
        [groups[i] for i in first.val.index],
        [groups[i] for i in first.test.index],
        str(environments[0]["source"]),
        list(dict.fromkeys(note for data in environments for note in data["notes"])),
    )


def _rows(run: Path) -> list[Row]:
    """The trials of a run, each once."""
    rows = read_jsonl(run / "results.jsonl")
    if not rows and (run / "result.json").exists():
        try:
            rows = [json.loads((run / "result.json").read_text(encoding="utf-8"))]
        except (OSError, ValueError) as error:
            raise BalancerError(f"{run / 'result.json'} cannot be read ({error}); train again") from error
    rows = main_rows({row["folder"]: row for row in rows}.values())
    if not rows:
        raise BalancerError(
            f"{run} holds no finished trial (no results.jsonl and no result.json); "
            "give the folder of a `classifier ablate` or `classifier train`"
        )
    if not (run / "done").exists():
        log.warning("%s is not finished: only the %s there so far", run, plural(len(rows), "trial"))
    return rows


def _members(run: Path, rows: list[Row]) -> list[Member]:
    if any("threshold" not in row[fold] for row in rows for fold in FOLDS):
        raise BalancerError(f"{run} decides between several classes, without a threshold; give runs with task binary")
    val, test = (read_predictions(rows, run, fold) for fold in FOLDS)
    return [Member(row, val[row["folder"]], test[row["folder"]]) for row in rows]


def _labels(runs: Sequence[Path]) -> list[str]:
    """What tells the runs apart: nothing for one, else the folders' names, or the paths where two are named alike."""
    names = [run.resolve().name for run in runs]
    if len(runs) == 1:
        return [""]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _check_same_images(members: Sequence[Member], runs: Sequence[Path]) -> None:
    """Refuse trials that did not validate and test on the same images."""
    first, where = members[0], " and ".join(map(str, runs))
    for other in members[1:]:
        for key in SHARED:
            if (a := first.row.get(key)) != (b := other.row.get(key)):
                raise BalancerError(f"{where}: trials of {key} {a} and of {b}; give runs on the same data and split")
        for fold in FOLDS:
            a, b = getattr(first, fold), getattr(other, fold)
            if not a.same_images(b):
                raise BalancerError(
                    f"{where}: trials with different {fold} images; give runs on the same data and split"
                )


def _environment(run: Path) -> dict[str, Any]:
    """What env.json tells of the data.

    Raises:
        BalancerError: it cannot be read, or says that this is a smoke run.
    """
    try:
        env: dict[str, Any] = json.loads((run / "env.json").read_text(encoding="utf-8"))
        found = {"source": env["data"]["source"], "notes": env["data"]["notes"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BalancerError(
            f"{run / 'env.json'} cannot be read ({error}); give a run directory as it was made"
        ) from error
    if env.get("smoke"):
        raise BalancerError(
            f"{run} is a smoke run, a few steps on drawings; expected results: give a run made without --smoke"
        )
    return found


def read_predictions(rows: Iterable[Row], run: Path, fold: str = "test") -> dict[str, Predictions]:
    """The predictions of every trial on ``test`` or ``val``, by its folder.

    Raises:
        BalancerError: a trial's ``predictions.npz`` is missing or damaged.
    """
    found = {}
    for row in rows:
        path = run / row["folder"] / "predictions.npz"
        try:
            with np.load(path) as saved:
                y_true, y_score, index = (saved[f"{fold}_{name}"] for name in ("true", "score", "index"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BalancerError(
                f"{path} cannot be read ({error}); remove its line from results.jsonl and resume, or start a new run"
            ) from error
        chosen = row[fold]
        found[row["folder"]] = Predictions(
            y_true, y_score.astype(np.float64), chosen["threshold"], chosen["temperature"], index
        )
    return found


def read_groups(run: Path) -> list[str]:
    """The patient of every image of the data set, in its order, from ``split.csv``; merged where files are identical.

    Raises:
        BalancerError: the file is missing or has other columns.
    """
    path = run / "split.csv"
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        return merge_groups([r["patient"] for r in rows], [r["sha256"] for r in rows])
    except (OSError, KeyError) as error:
        raise BalancerError(
            f"{path} cannot be read ({error}); expected columns name, fold, label, patient, sha256"
        ) from error


def main_rows(rows: Iterable[Row]) -> list[Row]:
    """The trials of the study proper; those with another dose than the deficit belong to the dose-response alone."""
    return [row for row in rows if row.get("dose") in (None, 1.0)]


def regimes_in(rows: Iterable[Row]) -> list[str]:
    """Names of the regimes that have a trial, in the registry's order."""
    present = {row["regime"] for row in rows}
    return [name for name in REGIMES if name in present]


def lookup(row: Row, path: Sequence[str]) -> float:
    """One figure of a trial."""
    value: Any = row
    for part in path:
        value = value[part]
    return float(value)


def values(rows: Iterable[Row], regime: str, path: Sequence[str]) -> dict[int, float]:
    """One figure of a regime by trial seed, averaged over its synthetic sets."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["regime"] == regime:
            found.setdefault(int(row["trial_seed"]), []).append(lookup(row, path))
    return {seed: float(np.mean(of_sets)) for seed, of_sets in found.items()}


def sets_of(rows: Iterable[Row], regime: str) -> list[str]:
    """The synthetic sets that a regime was tried with, none for one that uses none."""
    found = {row.get("synthetic_set") for row in rows if row["regime"] == regime}
    return sorted((name for name in found if name is not None), key=lambda name: (len(name), name))


def mean_sd(sample: Sequence[float]) -> tuple[float, float | None]:
    """Mean and SD over seeds (n - 1); one seed has no SD."""
    return float(np.mean(sample)), float(np.std(sample, ddof=1)) if len(sample) > 1 else None
