"""`classifier crossvalidate`: stratified grouped k-fold over train and validation; the test set is not looked at.

Each fold in turn is evaluated once. The other folds give the training fold and a validation fold carved out of it by patient, as
everywhere here, on which the temperature, the threshold and what is kept are chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import append_jsonl, write_json, write_text
from balancer.core.run import RunDir, deferred_signals
from balancer.core.seeding import derive_seed
from balancer.core.settings import CrossvalidateConfig
from balancer.data.dataset import DEFAULT_VAL_FRACTION, Dataset, load_dataset
from balancer.data.split import carve_validation, split_hash
from balancer.metrics.resampling import (
    FEWER_RESAMPLES,
    patient_weights,
    patients_per_class,
    stratified_folds,
)
from balancer.reporting.document import Document, Section, Table, csv_text, to_markdown
from balancer.reporting.numbers import bounds, mean_sd, short
from classifier.analysis.results import TrialPredictions, TrialResult, read_trials, summarise_seeds, with_predictions
from classifier.analysis.statistics import (
    crossed_estimate,
    metric_interval,
)
from classifier.evaluation.metrics import weighted_metrics
from classifier.experiments.jobs import with_resume_note
from classifier.experiments.plan import Trial, regimes_of
from classifier.experiments.study import Study, check_provenance, refuse_multiclass
from classifier.experiments.trial import run_trial, save_trial
from classifier.report.tables import COLUMNS
from classifier.training import trainer
from classifier.training.regimes import Regime

log = logging.getLogger("balancer")
Array = np.ndarray
RESULTS = "folds.jsonl"
UNUSED = "unused"  # the fold that the test set is put into: no code asks for it
FIGURES = (
    "auroc",
    "auprc",
    "balanced_accuracy_val_threshold",
    "sensitivity_val_threshold",
    "specificity_val_threshold",
    "accuracy",
    "balanced_accuracy",
    "nll",
    "brier",
    "ece",
)
METHOD = (
    "Every image outside the test set was evaluated once, by the classifier that had seen neither it nor another image of its patient. "
    "Mean ± SD is over folds. Pooled figures are of all those images at once, each with the temperature and the threshold (@val) of its "
    "fold's inner validation; in brackets their 95 % interval over patients, the trained classifiers taken as they are.",
    "The SD over folds is no standard error: folds share most of their training images, and no unbiased estimate of the variance of "
    "cross-validation exists (Bengio & Grandvalet 2004, JMLR 5). The pooled AUROC also ranks scores of different classifiers against one "
    "another and may lie below the mean over folds (Forman & Scholz 2010, SIGKDD Explorations 12).",
    "The folds come from the same source as the training images. An official test set that differs from that source, as here, is "
    "harder: these figures are for choosing, and do not stand in for it.",
)


@dataclass(frozen=True)
class Folds:
    """The data of a cross-validation, once with the folds apart and once per turn."""

    data: Dataset
    number: Array  # (n,) the fold of each image, -1 for the test set's
    turns: list[Study]

    def write(self, run: RunDir) -> None:
        """``folds.csv``: as split.csv, with ``fold-0`` and so on for train and val."""
        names = np.array([UNUSED if k < 0 else f"fold-{k}" for k in self.number])
        replace(self.data, folds=names).write_split(run / "folds.csv")


@dataclass(frozen=True)
class Crossvalidation:
    """What a cross-validation found."""

    figures: dict[str, Any]
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return self.figures

    def describe(self) -> str:
        """Return the tables for a terminal."""
        return self.text


def open_folds(config: CrossvalidateConfig) -> Folds:
    """Read the data and make the folds, refusing before anything is written what does not fit.

    Raises:
        UsageError: more than two classes, a regime with synthetic images, no inner validation, or settings that do not fit.
        BalancerError: a class has too few patients for so many folds.
    """
    refuse_multiclass(config, "classifier crossvalidate")
    (regime,) = regimes_of(config)
    if regime.synthetic or config.synthetic:
        named = f"regime {regime.name}" if regime.synthetic else "synthetic"
        raise UsageError(
            f"{named} brings synthetic images, whose GAN has seen patients that are evaluated here; cross-validate a regime without, "
            "such as baseline, augment or duplicate, and compare GANs with `classifier ablate`"
        )
    fraction = DEFAULT_VAL_FRACTION if config.data.val_fraction is None else config.data.val_fraction
    if fraction == 0:
        raise UsageError(
            "val_fraction is 0; the threshold is chosen on a validation fold inside the others, so give one above 0"
        )
    trainer.check(config)
    data = load_dataset(config.data)
    number = fold_numbers(data, config.folds, config.data.split_seed)
    turns = [turn(data, number, k, fraction, config.data.split_seed) for k in range(config.folds)]
    return Folds(data, number, [Study(config, of_turn, [], [regime]) for of_turn in turns])


def fold_numbers(data: Dataset, folds: int, seed: int) -> Array:
    """The fold of each image outside the test set: patients whole, classes in equal shares as far as that allows.

    Returns:
        (n,) int: 0 to ``folds`` - 1, or -1 for the images of the test set.

    Raises:
        BalancerError: a class has fewer patients than there are folds, or a fold would hold none of it.
    """
    pool = np.flatnonzero(data.folds != "test")
    labels, groups = data.labels[pool], np.array([data.groups[i] for i in pool])
    patients = patients_per_class(labels, groups, len(data.classes))
    number = np.full(len(data.labels), -1)
    if min(patients) >= folds:
        number[pool] = stratified_folds(labels, groups, folds, derive_seed(seed, "folds"))
    held = [len(np.unique(number[pool][labels == label])) for label in range(len(data.classes))]
    if min(patients) < folds or min(held) < folds:
        counted = " and ".join(f"{n} {name}" for n, name in zip(patients, data.classes, strict=True))
        raise BalancerError(
            f"{folds} folds of both classes cannot be made of the patients outside the test set ({counted}); give fewer --folds"
        )
    return number


def turn(data: Dataset, number: Array, k: int, fraction: float, seed: int) -> Dataset:
    """The data with fold ``k`` in the place of the test set, and validation carved out of the other folds.

    Raises:
        BalancerError: training or validation would lack a class.
    """
    rest = np.flatnonzero((number >= 0) & (number != k))
    chosen = carve_validation(data.labels[rest].tolist(), [data.groups[i] for i in rest], fraction, seed)
    folds = np.where(number == k, "test", np.full(len(number), UNUSED))
    folds[rest] = np.where(chosen, "val", "train")
    used = np.flatnonzero(number >= 0)
    names, digests = ([of[i] for i in used] for of in ([r.name for r in data.records], data.digests))
    made = replace(data, folds=folds, split_hash=split_hash(names, folds[used].tolist(), digests))
    for fold in ("train", "val"):
        if not all(counts := made.counts(fold)):
            raise BalancerError(
                f"fold {k}: {fold} would hold {counts[0]} {data.classes[0]} and {counts[1]} {data.classes[1]} images; "
                "give fewer --folds or another --val-fraction"
            )
    return made


def crossvalidate(folds: Folds, run: RunDir, device: torch.device) -> list[TrialResult]:
    """Train and evaluate on the folds that ``folds.jsonl`` does not hold yet; returns all trials.

    Fold k trains with the trial seed ``seed`` + k.

    Raises:
        Interrupted: a signal came; finished folds are kept.
        BalancerError: the finished folds of a resumed run are of other data or settings.
    """
    done = _finished(folds, run)
    hint = f"finished folds are kept in {run / RESULTS}; continue with --resume {run.path}"
    with with_resume_note(hint), deferred_signals() as interrupt:
        for k, study in enumerate(folds.turns):
            if k in done:
                log.info("fold %d was done before", k)
                continue
            trial = Trial(study.regimes[0], study.config.seed + k)
            result = run_trial(study, trial, device, interrupt)
            done[k] = replace(save_trial(result, run.path, run / "folds" / str(k)), fold=k)
            append_jsonl(run / RESULTS, done[k].to_json())
            test = done[k].test
            log.info("fold %d of %d: AUROC %.4f, NLL %.4f", k + 1, len(folds.turns), test.auroc, test.nll)
    return [done[k] for k in range(len(folds.turns))]


def _finished(folds: Folds, run: RunDir) -> dict[int, TrialResult]:
    """Return the trials that an earlier command finished, by fold, with their predictions."""
    by_fold = {trial.fold: trial for trial in read_trials(run / RESULTS) if trial.fold is not None}
    for k, trial in by_fold.items():
        check_provenance([trial], folds.turns[k], f"{run / RESULTS}, fold {k}")
    return {k: with_predictions(trial, run.path) for k, trial in by_fold.items()}


def summarise(trials: Sequence[TrialResult], folds: Folds) -> dict[str, Any]:
    """Mean and SD over folds, and pooled out-of-fold figures with intervals, ready for JSON.

    Args:
        trials: of all folds.
        folds: the data.
    """
    own = [trial.predictions["test"] for trial in trials]
    index, y_true = (np.concatenate([getattr(p, name) for p in own]) for name in ("index", "y_true"))
    groups = [folds.data.groups[i] for i in index]
    weights = patient_weights(y_true, groups, FEWER_RESAMPLES, seed=0)
    fewest = min(patients_per_class(y_true, groups))
    pooled = pool(own, weights)
    regime: Regime = folds.turns[0].regimes[0]
    found: dict[str, Any] = {
        "regime": regime.name,
        "folds": len(trials),
        "n": len(y_true),
        "patients": len(set(groups)),
        "figures": {},
    }
    for key in FIGURES:
        e = crossed_estimate(pooled[key][:, None, None], fewest)
        low, high = metric_interval(key, e, fewest)
        of_folds = [trial.metric(COLUMNS[key].path) for trial in trials]
        over = summarise_seeds(of_folds)
        found["figures"][key] = {
            "mean": over.mean,
            "sd": over.sd,
            "pooled": e.value,
            "low": low,
            "high": high,
            "folds": of_folds,
        }
    return found


def pool(own: Sequence[TrialPredictions], weights: Array) -> dict[str, Array]:
    """Figures of the folds' predictions put together, by the keys of :data:`FIGURES`, under each row of ``weights`` (b, n).

    Probabilities are each fold's with its own temperature, decisions those at its own threshold.
    """
    y_true = np.concatenate([p.y_true for p in own])
    stated = np.concatenate([p.calibrated for p in own])
    called = np.concatenate([p.decisions for p in own]).astype(float)
    at_own = weighted_metrics(y_true, called, called, 0.5, weights)  # a decision is a score of 0 or 1
    figures = weighted_metrics(y_true, stated, stated, 0.5, weights)
    return {key: (at_own if key.endswith("_val_threshold") else figures)[key] for key in FIGURES}


def write_outputs(trials: Sequence[TrialResult], folds: Folds, run: RunDir) -> Crossvalidation:
    """Write table.{md,csv,json}."""
    result = summarise(trials, folds)
    source = f"{folds.data.source}, test set left out"
    counts = f"{source}; {result['n']} images of {result['patients']} patients in {len(trials)} folds; regime {result['regime']}"
    header = ["figure", "mean ± SD over folds", "pooled [95 %]"]
    table = [
        [COLUMNS[key].title, mean_sd(f["mean"], f["sd"]), f"{short(f['pooled'])} {bounds(f['low'], f['high'])}"]
        for key, f in result["figures"].items()
    ]
    each, figures = fold_table(trials), Table(header, table)
    document = Document(
        f"Cross-validation of {result['regime']}, {len(trials)} folds",
        folds.data.notes,
        f"AUROC {table[0][1]} over folds, {table[0][2]} pooled.",
        [counts],
        [
            Section("Figures", list(METHOD), figures),
            Section("Folds", [], each),
        ],
    )
    write_text(run / "table.md", to_markdown(document))
    keys = ["mean", "sd", "pooled", "low", "high"]
    write_text(
        run / "table.csv",
        csv_text(["figure", *keys], [[key, *(f[k] for k in keys)] for key, f in result["figures"].items()]),
    )
    write_json(run / "table.json", {**result, "notes": folds.data.notes, "source": source})
    lines = [*folds.data.notes, counts, "", each.to_text(), "", figures.to_text(), "", METHOD[1]]
    return Crossvalidation(result, "\n".join([*lines, str(run / "table.md")]))


def fold_table(trials: Sequence[TrialResult]) -> Table:
    """Return what each fold was trained on, and its metrics."""
    header = ["fold", "train", "val", "evaluated", "AUROC", "bal.acc @val", "sens @val", "spec @val", "NLL"]
    cells = []
    for trial in trials:
        test = trial.binary("test")
        at = test.at_threshold
        sizes = [trial.fold, sum(trial.n_train.values()), trial.val.n, test.n]
        metrics = [test.auroc, at.balanced_accuracy, at.sensitivity, at.specificity, test.nll, test.threshold]
        cells.append([*map(str, sizes), *map(short, metrics), f"{test.temperature:.2f}"])
    return Table([*header, "threshold", "temperature"], cells)
