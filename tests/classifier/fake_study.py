"""Finished studies that nobody ran: scores are drawn from a latent model. In memory, or in a folder."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from balancer.core.sealed import array_bytes
from balancer.data.split import split_hash
from classifier.analysis.reading import predictions_file
from classifier.analysis.results import FOLDS, StudyResults, TrialPredictions, TrialResult
from classifier.evaluation.fold_metrics import Validation
from classifier.evaluation.metrics import evaluate
from classifier.evaluation.thresholds import balanced_accuracy, fit_temperature
from classifier.training.regimes import REGIMES

Array = np.ndarray
FOUR = ["baseline", "augment", "gan", "combined"]
# The images of a study by default: two of each patient, both with the same label.
IMAGE_FOLDS = np.array(["train"] * 8 + ["val"] * 60 + ["test"] * 80)
LABELS = np.array([0, 0, 1, 1] * (len(IMAGE_FOLDS) // 4))
PATIENTS = [f"p{i // 2}" for i in range(len(LABELS))]


def fake_trial(regime: str = "baseline", seed: int = 0, **changes: Any) -> TrialResult:
    """Return a trial; ``predictions`` by fold give its metrics, by default four images in each fold."""
    four = TrialPredictions(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9]), 0.45, 1.3, np.arange(4))
    predictions: Mapping[str, TrialPredictions] = {"val": four, "test": four} | changes.get("predictions", {})
    metrics = {fold: evaluate(p.y_true, p.y_score, p.threshold, p.temperature) for fold, p in predictions.items()}
    synthetic = REGIMES[regime].synthetic if regime in REGIMES else False
    values: dict[str, Any] = {
        "synthetic_set": "0" if synthetic else None,
        "dose": 1.0 if synthetic else None,
        "n_train": {"NORMAL": 1139 + 2154 * synthetic, "PNEUMONIA": 3293},
        "added": 2154 * synthetic,
        "steps": 40,
        "passes_over_real": 10.1,
        "selected_step": 40,
        "history": (Validation(20, 0.7, 0.6), Validation(40, 0.5, 0.4)),
        "seconds": 1.0,
        "split_hash": split_hash([], [], []),  # of the split.csv of write_run, which has neither train nor validation
        "data_fingerprint": "f" * 16,
        "code_hash": "c" * 16,
        **metrics,
        **changes,
        "predictions": predictions,
    }
    trial = TrialResult(regime=regime, trial_seed=seed, **values)
    return trial if trial.folder else TrialResult(**{**vars(trial), "folder": f"trials/{name_of(trial)}"})


def name_of(trial: TrialResult) -> str:
    """Return ``gan@0.5-1-0``: arm, synthetic set, trial seed."""
    return f"{trial.arm}-{trial.synthetic_set}-{trial.trial_seed}"


def separation(arm: str) -> float:
    """Return how far the classes lie apart under an arm."""
    regime = REGIMES[arm.split("@")[0]]
    return 0.0 if regime.permuted else 2 + 0.35 * regime.augment - 0.9 * regime.replace - 1.2 * bool(regime.flipped)


def fake_study(
    arms: Iterable[str] | Mapping[str, float],
    seeds: int = 3,
    sets: int = 1,
    labels: Array = LABELS,
    folds: Array = IMAGE_FOLDS,
    patients: list[str] = PATIENTS,
    noise: float = 0.5,
    shift: float = 0.0,
    random: int = 7,
    **changes: Any,
) -> StudyResults:
    """Return a study of these arms, such as ``gan`` or ``gan@0.5``.

    Args:
        arms: names, or names with the separation of the classes.
        seeds: trial seeds.
        sets: synthetic sets of each arm that uses synthetic images.
        labels: (n,) of every image.
        folds: (n,) of every image.
        patients: (n,) of every image.
        noise: SD of a logit between trials; what makes an image hard for every trial has an SD of 1.
        shift: added to every logit on test, which moves the best threshold away from validation's.
        random: seed of the scores.
        changes: of every trial.
    """
    separations = arms if isinstance(arms, Mapping) else {arm: separation(arm) for arm in arms}
    rng = np.random.default_rng(random)
    hard, trials = rng.normal(size=len(labels)), []
    for seed in range(seeds):
        for arm, apart in separations.items():
            regime, _, dose = arm.partition("@")
            for synthetic_set in map(str, range(sets)) if REGIMES[regime].synthetic else (None,):
                logits = (
                    apart * (labels - 0.5) + hard + noise * rng.normal(size=len(labels)) + shift * (folds == "test")
                )
                key = {"synthetic_set": synthetic_set, "dose": float(dose or 1) if synthetic_set else None}
                predictions = fake_predictions(labels, folds, 1 / (1 + np.exp(-logits)))
                trials.append(fake_trial(regime, seed, predictions=predictions, **key, **changes))
    return StudyResults.of(trials, patients)


def fake_predictions(labels: Array, folds: Array, score: Array) -> dict[str, TrialPredictions]:
    """Return what a trial predicted, with its threshold and temperature chosen on validation."""
    val = folds == "val"
    chosen = balanced_accuracy(labels[val], score[val]), fit_temperature(labels[val], score[val])
    index = {fold: np.flatnonzero(folds == fold) for fold in FOLDS}
    return {fold: TrialPredictions(labels[i], score[i], *chosen, i) for fold, i in index.items()}


def write_run(
    path: Path, trials: Sequence[TrialResult], patients: Sequence[str] = PATIENTS, single: bool = False
) -> Path:
    """Write a finished run; ``single``: one trial in the folder itself, as `classifier train` leaves it."""
    path.mkdir(parents=True, exist_ok=True)
    rows = []
    for trial in trials:
        folder = path if single else path / trial.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "predictions.npz").write_bytes(predictions_file(trial.predictions))
        (folder / "model.pt").write_bytes(array_bytes({"weight": np.zeros(1)}))
        rows.append(trial.to_json() | {"folder": folder.relative_to(path).as_posix()})
    if single:
        (path / "result.json").write_text(json.dumps(rows[0]))
    else:
        (path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (path / "split.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["name", "fold", "label", "patient", "sha256"])
        writer.writerows([f"{i}.png", "test", "NORMAL", patient, f"{i:064x}"] for i, patient in enumerate(patients))
    (path / "env.json").write_text(json.dumps({"data": {"source": "nowhere", "notes": ["DRAWN SCORES"]}}))
    (path / "done").write_text("")
    return path


def fake_run(
    path: Path, arms: Iterable[str] | Mapping[str, float] = ("baseline",), single: bool = False, **more: Any
) -> Path:
    """Write a finished run of :func:`fake_study`, with other scores for every name of a folder."""
    study = fake_study(arms, random=len(path.name), **more)
    return write_run(path, study.trials, study.patients, single)


def scores(path: Path, folder: str, fold: str) -> tuple[Array, Array]:
    """Return labels and probabilities that a trial's file holds."""
    with np.load(path / folder / "predictions.npz") as saved:
        return saved[f"{fold}_true"], saved[f"{fold}_score"]
