"""A finished study that nobody ran: its scores are drawn from a latent model."""

from pathlib import Path
from typing import Any

import numpy as np

from balancer.data.dataset import Dataset
from classifier.analysis.results import TrialPredictions, TrialResult
from classifier.evaluation.fold_metrics import Validation
from classifier.evaluation.metrics import evaluate
from classifier.evaluation.thresholds import balanced_accuracy, fit_temperature
from classifier.training.regimes import REGIMES

Row = dict[str, Any]
FOUR = ["baseline", "augment", "gan", "combined"]


def run_study(
    run: Path,
    data: Dataset,
    regimes: list[str],
    seeds: int,
    sets: int = 1,
    doses: tuple[float, ...] = (),
    looks: int = 4,
) -> list[Row]:
    """Rows of ``results.jsonl``, with ``predictions.npz`` in each trial's folder, as an ablation leaves them."""
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 1.0, len(data.labels))  # what makes an image hard, for every classifier alike
    rows = []
    for seed in range(seeds):
        for regime in (REGIMES[name] for name in regimes):
            for dose in (1.0, *(() if regime.replace else doses)) if regime.synthetic else (None,):
                for of_set in map(str, range(sets)) if regime.synthetic else (None,):
                    row = {"regime": regime.name, "trial_seed": seed, "synthetic_set": of_set, "dose": dose}
                    rows.append(row | _trial(run, data, row, hard, rng, looks))
    return rows


def _trial(run: Path, data: Dataset, key: Row, hard: np.ndarray, rng: np.random.Generator, looks: int) -> Row:
    regime, apart = REGIMES[key["regime"]], rng.normal(2, 0.1)
    if regime.permuted:
        apart = 0.0
    apart += 0.35 * regime.augment - 0.9 * regime.replace - 1.2 * bool(regime.flipped)

    def scores(index: np.ndarray, apart: float) -> np.ndarray:
        noise = hard[index] + rng.normal(0, 0.5, len(index))
        return 1 / (1 + np.exp(-3 * (apart * (data.labels[index] - 0.4) + noise)))

    val, test = data.indices("val"), data.indices("test")
    val_true, test_true = data.labels[val], data.labels[test]
    val_score, test_score = scores(val, 1.7 * apart), scores(test, apart)
    choices = balanced_accuracy(val_true, val_score), fit_temperature(val_true, val_score)
    folder = run / "trials" / "-".join(map(str, key.values()))
    folder.mkdir(parents=True)
    np.savez(folder / "predictions.npz", test_index=test, test_true=test_true, test_score=test_score)
    history = [
        {"step": 10 * i, "train_loss": 0.7 / i**0.9, "val_nll": (0.5 + 0.1 * rng.random()) / i**0.4}
        for i in range(1, looks + 1)
    ]
    return {
        "n_train": {"NORMAL": 1139 + 2154 * regime.synthetic, "PNEUMONIA": 3293},
        "added": 2154 * regime.synthetic,
        "passes_over_real": 10.1,
        "history": history,
        "selected_step": min(history, key=lambda h: h["val_nll"])["step"],
        "val": evaluate(val_true, val_score, *choices).to_json(),
        "test": evaluate(test_true, test_score, *choices).to_json(),
        "folder": folder.relative_to(run).as_posix(),
    }


def fake_predictions(y_true: np.ndarray, y_score: np.ndarray) -> TrialPredictions:
    """Predictions for images in a row, at the threshold .45 and the temperature 1.3."""
    return TrialPredictions(y_true, y_score, 0.45, 1.3, np.arange(len(y_true)))


def trial_result(regime: str = "baseline", trial_seed: int = 0, **more: Any) -> TrialResult:
    """A trial with four validation and four test images, or with the ``predictions`` given by fold."""
    scores = fake_predictions(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9]))
    predictions = more.pop("predictions", {})
    folds = {
        fold: evaluate(p.y_true, p.y_score, p.threshold, p.temperature)
        for fold in ("val", "test")
        for p in [predictions.get(fold, scores)]
    }
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
        "folder": f"trials/{regime}-{trial_seed}",
        **folds,
    }
    return TrialResult(regime=regime, trial_seed=trial_seed, predictions=predictions, **{**values, **more})
