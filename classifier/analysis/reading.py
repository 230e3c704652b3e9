"""Read the files of a study: its trials, their predictions, the patients, and what env.json says of the data.

Each kind of file has one reader. It checks the seal (:mod:`balancer.core.sealed`), the shape, and whether the file
belongs to its run (:mod:`balancer.core.marker`). A finished run must be undamaged. Of an interrupted run a line that a
kill has torn is left out with a warning.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from balancer.core.jsonl import drop_lines, scan_jsonl
from balancer.core.marker import MARKER, check_stated
from balancer.core.sealed import DamagedFile, array_bytes, check_archive, load_arrays, read_json, read_with_sum
from balancer.core.shapes import parse
from balancer.data.split import merge_groups, split_hash
from classifier.analysis.results import FOLDS, PREDICTIONS, RESULTS, TrialPredictions, TrialResult
from classifier.evaluation.fold_metrics import AnyMetrics, MulticlassMetrics
from classifier.evaluation.metrics import aurocs_of_classes, nll
from classifier.evaluation.shortcut import MeterScores

log = logging.getLogger("balancer")
Array = np.ndarray
RESULT = "result.json"  # of a single training
SPLIT = "split.csv"
COMMANDS = ("ablate", "train")  # whose runs are read here
SAME_NLL = 1e-5  # nats: what single precision leaves; the NLL of two trials differs in the second digit


@dataclass(frozen=True)
class DataFacts:
    """What ``env.json`` says of the data."""

    source: str
    notes: list[str]
    split_hash: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class RunEnvironment:
    """What ``env.json`` says of a run."""

    data: DataFacts
    command: str = COMMANDS[0]
    device: str = ""
    smoke: bool = False


def read_trials(path: Path) -> list[TrialResult]:
    """Return the trials of a ``results.jsonl`` without their predictions, each once; none if there is no such file.

    Raises:
        DamagedFile: a value is missing or of another type; or the run is finished, and a line is damaged or missing.
    """
    lines, remedy = scan_jsonl(path), _remedy(path.parent)
    for number, problem in lines.damaged.items():
        if (path.parent / MARKER).exists():
            raise DamagedFile(path, f"line {number} is {problem}", remedy)
        log.warning("%s: line %d is %s and was left out", path, number, problem)
    trials = [TrialResult.from_json(row, path, f"line {number}", remedy) for number, row in lines.rows.items()]
    check_stated(path)
    return list({(trial.fold, trial.site, trial.key): trial for trial in trials}.values())


def recover_trials(path: Path, check: Callable[[list[TrialResult]], None]) -> list[TrialResult]:
    """Return the undamaged trials of a run to resume, with their predictions, each once.

    The line of any other trial is dropped, with a warning, so that the trial is run again. So is the line of a trial
    whose predictions or network cannot be read. ``check`` may refuse the trials before that.

    Raises:
        BalancerError: as ``check`` does.
    """
    lines = scan_jsonl(path)
    damaged = {number: f"{path}: line {number} is {problem}" for number, problem in lines.damaged.items()}
    trials: dict[int, TrialResult] = {}
    for number, row in lines.rows.items():
        try:
            trials[number] = TrialResult.from_json(row, path, f"line {number}")
        except DamagedFile as error:
            damaged[number] = str(error)
    check(list(trials.values()))
    complete = {}
    for number, trial in trials.items():
        try:
            with_them = with_predictions(trial, path.parent)
            _check_network(trial, path.parent)
            complete[trial.fold, trial.site, trial.key] = with_them
        except DamagedFile as error:
            damaged[number] = str(error)
    for problem in damaged.values():
        log.warning("%s: the trial is run again", problem.partition("; run that trial")[0])
    if damaged or not _is_stated(path):
        (path.parent / MARKER).unlink(missing_ok=True)  # first: what is left must not pass for a finished run
        drop_lines(path, damaged)
    return list(complete.values())


def drop_replaced(path: Path) -> None:
    """Drop the lines of trials that stand again further down."""
    trials = {n: TrialResult.from_json(row, path, f"line {n}") for n, row in scan_jsonl(path).rows.items()}
    last = {(trial.fold, trial.site, trial.key): number for number, trial in trials.items()}
    if replaced := trials.keys() - set(last.values()):
        drop_lines(path, replaced)


def _is_stated(path: Path) -> bool:
    """Return whether a file is the one that a finished run ended with; if not, say so."""
    try:
        check_stated(path)
    except DamagedFile as error:
        log.warning("%s is damaged: %s: trials that are missing are run again", path, error.problem)
        return False
    return True


def _check_network(trial: TrialResult, run: Path) -> None:
    """Refuse a trial whose network cannot be loaded.

    Raises:
        DamagedFile: ``model.pt`` is missing or damaged.
    """
    from classifier.training.checkpoint import CHECKPOINT  # imports torch, which other commands here do without

    path = run / trial.folder / CHECKPOINT
    try:
        check_archive(path, _remedy(run))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedFile(path, "it is missing", _remedy(run)) from error


def read_result(run: Path) -> TrialResult:
    """Return the trial of a `classifier train`, without its predictions.

    Raises:
        DamagedFile: the file is damaged.
    """
    trial = TrialResult.from_json(read_json(run / RESULT, "train again"), run / RESULT, remedy="train again")
    check_stated(run / RESULT)
    return trial


def read_run(run: Path) -> list[TrialResult]:
    """Return the trials of an ablation or of a training, without their predictions; none if none has ended.

    Raises:
        DamagedFile: a file is damaged.
    """
    trials = read_trials(run / RESULTS)
    return [read_result(run)] if not trials and (run / RESULT).exists() else trials


def predictions_file(predictions: Mapping[str, TrialPredictions], meter: Sequence[MeterScores] = ()) -> bytes:
    """Return the content of a trial's ``predictions.npz``: of each fold, and of the readings of the shortcut meter."""
    arrays: dict[str, Array] = {}
    for fold, p in predictions.items():
        arrays |= {f"{fold}_index": p.index, f"{fold}_true": p.y_true, f"{fold}_score": p.y_score}
    for i, scores in enumerate(meter):
        arrays |= scores.arrays(_meter_prefix(i))
    return array_bytes(arrays)


def _meter_prefix(reading: int) -> str:
    """Return what the names of the arrays of a reading begin with."""
    return f"meter{reading}_"


def with_predictions(trial: TrialResult, run: Path) -> TrialResult:
    """Return the trial with the predictions that its folder holds.

    Raises:
        DamagedFile: the file is missing or damaged, or does not fit the trial.
    """
    path, remedy = run / trial.folder / PREDICTIONS, _remedy(run)
    try:
        arrays = load_arrays(path, remedy)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedFile(path, "it is missing", remedy) from error
    predictions = {}
    for fold in FOLDS:
        index, true, score = _checked_arrays(trial, fold, arrays, path, remedy)
        metrics = getattr(trial, fold)
        threshold = getattr(metrics, "uncalibrated_threshold", 0.5)
        predictions[fold] = TrialPredictions(true, score.astype(np.float64), threshold, metrics.temperature, index)
    val, test = (_completed(getattr(trial, fold), predictions[fold]) for fold in FOLDS)
    try:
        meter = tuple(MeterScores.of(arrays, _meter_prefix(i), len(r.traces)) for i, r in enumerate(trial.meter))
    except KeyError as error:
        raise DamagedFile(path, f"{error.args[0]} is missing", remedy) from error
    except ValueError as error:
        raise DamagedFile(path, str(error), remedy) from error
    return replace(trial, val=val, test=test, predictions=predictions, meter_scores=meter)


def _completed(metrics: AnyMetrics, predictions: TrialPredictions) -> AnyMetrics:
    """Return the metrics of a fold with the AUROC of each class, which earlier versions did not store."""
    if not isinstance(metrics, MulticlassMetrics) or metrics.auroc_of_class:
        return metrics
    return replace(metrics, auroc_of_class=aurocs_of_classes(predictions.y_true, predictions.y_score))


def _checked_arrays(
    trial: TrialResult, fold: str, arrays: Mapping[str, Array], path: Path, remedy: str
) -> tuple[Array, Array, Array]:
    """Return index, true labels and scores of a fold, which must be those of the trial's number of images."""
    metrics = getattr(trial, fold)
    n, several = metrics.n, isinstance(metrics, MulticlassMetrics)
    classes = len(metrics.most_likely.sensitivity) if several else 2
    expected: dict[str, tuple[tuple[int, ...], str, float]] = {  # shape, kinds of numbers, the largest
        "index": ((n,), "iu", np.inf),
        "true": ((n,), "iu", classes - 1),
        "score": ((n, classes) if several else (n,), "f", 1),
    }
    for part, (shape, kinds, most) in expected.items():
        array, name = arrays.get(f"{fold}_{part}"), f"{fold}_{part}"
        if array is None:
            raise DamagedFile(path, f"{name} is missing", remedy)
        if array.shape != shape or array.dtype.kind not in kinds:
            raise DamagedFile(path, f"{name} is {array.dtype} of shape {array.shape}, expected shape {shape}", remedy)
        if not bool(((array >= 0) & (array <= most)).all()):  # NaN is neither
            raise DamagedFile(path, f"{name} holds a number outside 0 to {most:g}", remedy)
    index, true, score = (arrays[f"{fold}_{part}"] for part in expected)
    if abs(nll(true, score.astype(np.float64)) - metrics.uncalibrated.nll) > SAME_NLL:
        raise DamagedFile(path, f"{fold}_score is of another trial: its NLL is not that of the trial's line", remedy)
    return index, true, score


def read_patients(run: Path, trials: Iterable[TrialResult] = ()) -> list[str]:
    """Return the patient of every image of the data set, from ``split.csv``; merged where files are identical.

    ``trials`` have predictions, whose images must be listed.

    Raises:
        DamagedFile: the file is missing or damaged, has other columns, lists fewer images, or is of another split than
            a trial.
    """
    path, remedy = run / SPLIT, f"--resume {run} writes the file again"
    try:
        rows = list(csv.DictReader(io.StringIO(read_with_sum(path, remedy))))
        columns = {name: [row[name] for row in rows] for name in ("name", "fold", "patient", "sha256")}
        if any(None in cells for cells in columns.values()):
            raise DamagedFile(path, "a row has too few cells", remedy)
        patients = merge_groups(columns["patient"], columns["sha256"])
    except FileNotFoundError as error:
        raise DamagedFile(path, "it is missing", remedy) from error
    except KeyError as error:
        raise DamagedFile(path, f"it has no column {error}", remedy) from error
    except csv.Error as error:
        raise DamagedFile(path, str(error), remedy) from error
    trials = list(trials)
    check_stated(path)
    if not any("\\udc" in name for name in columns["name"]):  # the file holds bytes that are no UTF-8 as escapes
        split = split_hash(columns["name"], columns["fold"], columns["sha256"])
        if others := {trial.split_hash for trial in trials} - {None, split}:
            raise DamagedFile(path, f"it is of split {split}, the trials are of {others.pop()}", remedy)
    last = max((int(p.index.max(initial=-1)) for trial in trials for p in trial.predictions.values()), default=-1)
    last = max([last, *(scores.largest_position() for trial in trials for scores in trial.meter_scores)])
    if last >= len(patients):
        raise DamagedFile(path, f"it lists {len(patients)} images, a trial predicted image {last + 1}", remedy)
    return patients


def read_environment(run: Path, trials: Iterable[TrialResult]) -> RunEnvironment:
    """Return what ``env.json`` says of the run that holds the trials.

    Raises:
        DamagedFile: the file is missing or damaged, or of another run.
    """
    path, remedy = run / "env.json", "give a run directory as it was made"
    try:
        environment = parse(RunEnvironment, read_json(path, remedy), path, remedy)
    except FileNotFoundError as error:
        raise DamagedFile(path, "it is missing", remedy) from error
    check_stated(path)
    if environment.command not in COMMANDS:
        raise DamagedFile(path, f"command: it is of a {environment.command} run", remedy)
    for trial in trials:
        for key, of_trial in (("split_hash", trial.split_hash), ("fingerprint", trial.data_fingerprint)):
            stated = getattr(environment.data, key)
            if stated and of_trial and stated != of_trial:  # an earlier version may lack either
                raise DamagedFile(path, f"data.{key}: {stated}, the trials are of {of_trial}", remedy)
    return environment


def _remedy(run: Path) -> str:
    """Return how the user gets an undamaged trial."""
    return "train again" if (run / RESULT).exists() else f"run that trial again with --resume {run}"
