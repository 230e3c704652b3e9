"""`classifier crossvalidate`: stratified grouped k-fold over train and validation. The test set is not used.

Each fold is evaluated once. The other folds give a training fold and, carved from it by patient, a validation fold that
chooses the temperature, the threshold and the checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import JsonObject, write_text
from balancer.core.jsonl import append_jsonl
from balancer.core.run import RunDir
from balancer.core.sealed import write_json
from balancer.core.seeding import derive_seed
from balancer.core.settings import CrossvalidateConfig
from balancer.core.signals import deferred_signals
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.folds import DEFAULT_VAL_FRACTION
from balancer.data.records import sampling_unit
from balancer.data.split import DEVELOPMENT, carve_validation, split_hash
from balancer.data.thinning import UNUSED
from balancer.metrics.resampling import FEWER_RESAMPLES, patient_weights, patients_per_class, stratified_folds
from balancer.reporting.document import Document, Section, Table, csv_text, part_notes
from balancer.reporting.numbers import bounds, mean_sd, plural, short
from balancer.reporting.pages import write_document
from classifier.analysis.reading import recover_trials
from classifier.analysis.results import TrialPredictions, TrialResult, summarise_seeds
from classifier.analysis.statistics import crossed_estimate, metric_interval
from classifier.evaluation.metrics import weighted_metrics
from classifier.experiments.jobs import Kept, with_resume_note
from classifier.experiments.plan import Trial, regimes_of
from classifier.experiments.study import (
    Study,
    check_channels,
    check_provenance,
    computing_notes,
    refuse_several_classes,
)
from classifier.experiments.trial import run_trial, save_trial
from classifier.report.tables import COLUMNS
from classifier.training import pretraining, trainer

log = logging.getLogger("balancer")
Array = np.ndarray
RESULTS = "folds.jsonl"
AT_VAL = tuple(f"{metric}_val_threshold" for metric in ("balanced_accuracy", "sensitivity", "specificity"))
METRICS = ("auroc", "auprc", *AT_VAL, "accuracy", "balanced_accuracy", "nll", "brier", "ece")
METHOD = (
    "Every image outside the test set was evaluated once, by a classifier that had {seen}. Mean ± SD is over "
    "folds. Pooled metrics are of all these images at once, each with the temperature and "
    "the threshold (@val) of its fold. In brackets: their 95 % interval over {unit}s, for these classifiers as they "
    "are.",
    "The SD over folds is no standard error: folds share most of their training images, and no unbiased estimate of "
    "the variance of cross-validation exists (Bengio & Grandvalet 2004, JMLR 5). The pooled AUROC also ranks scores of "
    "different classifiers against one another and may lie below the mean over folds (Forman & Scholz 2010, SIGKDD "
    "Explorations 12).",
    "The folds come from the same source as the training images. A test set from elsewhere is often harder: "
    "these metrics serve to choose, and do not replace the test set.",
)


@dataclass(frozen=True)
class Folds:
    """The data of a cross-validation, with the number of each image's fold, and the study of each rotation."""

    data: Dataset
    number: Array  # (n,) the fold of each image, -1 for the test set's
    rotations: list[Study]

    def write(self, run: RunDir) -> None:
        """Write ``folds.csv``: as split.csv, with ``fold-0`` and so on for train and val."""
        names = np.array([UNUSED if k < 0 else f"fold-{k}" for k in self.number])
        replace(self.data, folds=names).write_split(run / "folds.csv")


@dataclass(frozen=True)
class PooledMetric:
    """A metric over folds, and of the folds' images pooled."""

    mean: float  # over folds
    sd: float | None
    pooled: float
    low: float  # 95 % interval of the pooled metric
    high: float
    folds: list[float]


@dataclass(frozen=True)
class Crossvalidation:
    """The result of a cross-validation: a trial per fold, and the metrics over folds."""

    regime: str
    n: int  # images
    patients: int | None  # None where no patient is known
    figures: dict[str, PooledMetric]  # by the keys of METRICS
    trials: Sequence[TrialResult]
    source: str
    notes: list[str]
    table: Path

    def to_json(self) -> JsonObject:
        """Return the counts and the metrics."""
        figures = {key: asdict(metric) for key, metric in self.figures.items()}
        counts = {"regime": self.regime, "folds": len(self.trials), "n": self.n, "patients": self.patients}
        return {**counts, "figures": figures}

    def describe(self) -> str:
        """Return the tables, then the notes, for a terminal."""
        tables = [metric_table(self).to_text(), "", fold_table(self.trials).to_text()]
        return "\n".join([*tables, "", METHOD[1], self.counts, *self.notes])

    @property
    def counts(self) -> str:
        """Return the numbers of images, patients and folds, in words."""
        of = "" if self.patients is None else f" of {plural(self.patients, 'patient')}"
        return f"{self.source}; {self.n:,} images{of} in {len(self.trials)} folds; regime {self.regime}"


def method(result: Crossvalidation) -> str:
    """Return how the images were evaluated, and over what the intervals are."""
    if result.patients is None:
        return METHOD[0].format(seen="not seen it", unit="image")
    return METHOD[0].format(seen="seen neither the image nor its patient", unit="patient")


def open_folds(config: CrossvalidateConfig, decode: bool = True) -> Folds:
    """Read the data, make the folds, and check that they fit, before anything is written.

    ``decode`` is False for a dry run, as for :func:`~balancer.data.dataset.load_dataset`.

    Raises:
        UsageError: if there are more than two classes, synthetic images or no inner validation, or settings do not fit.
        BalancerError: if a class has too few patients for the number of folds.
    """
    (regime,) = regimes_of(config)
    if regime.synthetic or config.synthetic:
        named = f"regime {regime.name}" if regime.synthetic else "synthetic"
        raise UsageError(
            f"{named} brings synthetic images, whose GAN has seen images that are evaluated here; cross-validate a "
            "regime without, such as baseline, augment or duplicate, and compare GANs with `classifier ablate`"
        )
    fraction = DEFAULT_VAL_FRACTION if config.data.val_fraction is None else config.data.val_fraction
    if fraction == 0:
        raise UsageError(
            "val_fraction is 0; the threshold is chosen on a validation fold inside the others, so give one above 0"
        )
    trainer.check(config)
    data = load_dataset(config.data, decode=decode)
    refuse_several_classes(data, "classifier crossvalidate")
    number = fold_numbers(data, config.folds, config.data.split_seed)
    rotations = [rotation(data, number, k, fraction, config.data.split_seed) for k in range(config.folds)]
    for rotated in rotations:
        pretraining.check(config, rotated)
    studies = [Study(config, rotated, [], [regime]) for rotated in rotations]
    for study in studies:
        trainer.stages(config, study.training_set(study.trials[0], rehearsal=True))  # refuses a batch above the fold
    return Folds(data, number, studies)


def fold_numbers(data: Dataset, folds: int, seed: int) -> Array:
    """Return the fold of each image: (n,) int, 0 to ``folds`` - 1, or -1 for the images of the test set.

    A patient's images share a fold, and classes are as evenly spread as that allows.

    Raises:
        BalancerError: if a class has fewer patients than there are folds, or a fold would lack a class.
    """
    pool = np.flatnonzero(np.isin(data.folds, DEVELOPMENT))
    labels, groups = data.labels[pool], np.array([data.groups[i] for i in pool])
    patients = patients_per_class(labels, groups, len(data.classes))
    number = np.full(len(data.labels), -1)
    if min(patients) >= folds:
        number[pool] = stratified_folds(labels, groups, folds, derive_seed(seed, "folds"))
    held = [len(np.unique(number[pool][labels == label])) for label in range(len(data.classes))]
    if min(patients) < folds or min(held) < folds:
        counted = " and ".join(f"{n} {name}" for n, name in zip(patients, data.classes, strict=True))
        raise BalancerError(
            f"{folds} folds of both classes cannot be made of the {sampling_unit(data.groups)}s outside the test set "
            f"({counted}); give fewer --folds"
        )
    return number


def rotation(data: Dataset, number: Array, k: int, fraction: float, seed: int) -> Dataset:
    """Return the data with fold ``k`` as the test set, and validation carved out of the other folds.

    Raises:
        BalancerError: if training or validation would lack a class.
    """
    rest = np.flatnonzero((number >= 0) & (number != k))
    chosen = carve_validation(data.labels[rest].tolist(), [data.groups[i] for i in rest], fraction, seed)
    folds = np.where(number == k, "test", np.full(len(number), UNUSED))
    folds[rest] = np.where(chosen, "val", "train")
    used = np.flatnonzero(number >= 0).tolist()
    names, digests = [data.records[i].name for i in used], [data.digests[i] for i in used]
    rotated = replace(data, folds=folds, split_hash=split_hash(names, folds[used].tolist(), digests))
    for fold in ("train", "val"):
        if not all(counts := rotated.counts(fold)):
            raise BalancerError(
                f"fold {k}: {fold} would hold {counts[0]} {data.classes[0]} and {counts[1]} {data.classes[1]} images; "
                "give fewer --folds or another --val-fraction"
            )
    return rotated


def crossvalidate(folds: Folds, run: RunDir, device: torch.device) -> list[TrialResult]:
    """Train and evaluate on the folds that ``folds.jsonl`` does not hold yet; return the trials of all folds.

    Fold k trains with the trial seed ``seed`` + k.

    Raises:
        Interrupted: if a signal came; finished folds are kept.
        BalancerError: if the finished folds of a resumed run are of other data or settings.
    """

    def check(trials: Sequence[TrialResult]) -> None:
        for trial in trials:
            check_provenance([trial], folds.rotations[trial.fold or 0], f"{run / RESULTS}, fold {trial.fold}")
        if trials and run.resumed:
            check_channels(run.path, folds.rotations[0].data)

    done = {trial.fold: trial for trial in recover_trials(run / RESULTS, check)}
    results = []
    with with_resume_note(Kept(run.path, run / RESULTS, "fold")), deferred_signals() as interrupt:
        for k, study in enumerate(folds.rotations):
            if k in done:
                log.info("fold %d was done before", k)
                results.append(done[k])
                continue
            trained = run_trial(study, Trial(study.regimes[0], study.config.seed + k), device, interrupt)
            result = replace(save_trial(trained, run.path, run / "folds" / str(k)), fold=k)
            append_jsonl(run / RESULTS, result.to_json())
            results.append(result)
            test = result.binary("test")
            log.info("fold %d of %d: AUROC %.4f, NLL %.4f", k + 1, len(folds.rotations), test.auroc, test.nll)
    return results


def summarise(trials: Sequence[TrialResult], data: Dataset, table: Path) -> Crossvalidation:
    """Return mean and SD over folds, and pooled out-of-fold metrics with intervals.

    ``data`` are the images of the folds, which the predictions index, and ``table`` is the file of the table.
    """
    by_fold = [trial.predictions["test"] for trial in trials]
    y_true = np.concatenate([p.y_true for p in by_fold])
    groups = [data.groups[i] for p in by_fold for i in p.index]
    weights = patient_weights(y_true, groups, FEWER_RESAMPLES, seed=0)
    fewest = min(patients_per_class(y_true, groups))
    pooled = pool(by_fold, weights)
    metrics = {}
    for key in METRICS:
        estimate = crossed_estimate(pooled[key][:, None, None], fewest)
        values = [trial.metric(COLUMNS[key].path) for trial in trials]
        over_folds = summarise_seeds(values)
        metrics[key] = PooledMetric(
            over_folds.mean, over_folds.sd, estimate.value, *metric_interval(key, estimate, fewest), values
        )
    source = f"{data.source}, test set left out"
    patients = len(set(groups)) if data.patients_known else None
    notes = [*data.notes, *computing_notes(trials)]
    return Crossvalidation(trials[0].regime, len(y_true), patients, metrics, trials, source, notes, table)


def pool(by_fold: Sequence[TrialPredictions], weights: Array) -> dict[str, Array]:
    """Return the pooled metrics of the folds, by the keys of :data:`METRICS`, under each row of ``weights`` (b, n).

    Each fold keeps its own temperature for probabilities, and its own threshold for decisions.
    """
    y_true = np.concatenate([p.y_true for p in by_fold])
    calibrated = np.concatenate([p.calibrated for p in by_fold])
    called = np.concatenate([p.decisions for p in by_fold]).astype(float)
    at_threshold = weighted_metrics(y_true, called, called, 0.5, weights)  # a decision is a score of 0 or 1
    metrics = weighted_metrics(y_true, calibrated, calibrated, 0.5, weights)
    return {key: (at_threshold if key.endswith("_val_threshold") else metrics)[key] for key in METRICS}


def write_crossvalidation(trials: Sequence[TrialResult], folds: Folds, run: RunDir) -> Crossvalidation:
    """Write table.{md,csv,json}."""
    result = summarise(trials, folds.data, run / "table.md")
    table = metric_table(result)
    _, over_folds, pooled = table.rows[0]
    warnings, caveats = part_notes(result.notes)
    page = Document(
        f"Cross-validation of {result.regime}, {len(trials)} folds",
        warnings,
        f"AUROC {over_folds} over folds, {pooled} pooled.",
        [result.counts],
        [Section("Metrics", [method(result), *METHOD[1:]], table), Section("Folds", table=fold_table(trials))],
        caveats=caveats,
    )
    rows = [[key, m.mean, m.sd, m.pooled, m.low, m.high] for key, m in result.figures.items()]
    write_document(page, run.path, result.table.stem, {})
    write_text(run / "table.csv", csv_text(["figure", "mean", "sd", "pooled", "low", "high"], rows))
    write_json(run / "table.json", {**result.to_json(), "notes": result.notes, "source": result.source})
    return result


def metric_table(result: Crossvalidation) -> Table:
    """Return a row per metric."""
    rows = [
        [COLUMNS[key].title, mean_sd(m.mean, m.sd), f"{short(m.pooled)} {bounds(m.low, m.high)}"]
        for key, m in result.figures.items()
    ]
    return Table(["metric", "mean ± SD over folds", "pooled [95 %]"], rows)


def fold_table(trials: Sequence[TrialResult]) -> Table:
    """Return a row per fold: what the trial was trained on, and its metrics."""
    header = ["fold", "train", "val", "evaluated", "AUROC", "bal.acc @val"]
    header += ["sens @val", "spec @val", "NLL", "threshold", "temperature"]
    rows = []
    for trial in trials:
        test, at = trial.binary("test"), trial.binary("test").at_threshold
        sizes = [str(trial.fold), str(sum(trial.n_train.values())), str(trial.val.n), str(test.n)]
        values = [test.auroc, at.balanced_accuracy, at.sensitivity, at.specificity, test.nll, test.threshold]
        rows.append([*sizes, *map(short, values), f"{test.temperature:.2f}"])
    return Table(header, rows)
