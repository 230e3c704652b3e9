"""A finished study that nobody ran: its scores are drawn from a latent model."""

from pathlib import Path
from typing import Any

import numpy as np

from balancer.data.dataset import Dataset
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
        "val": evaluate(val_true, val_score, *choices),
        "test": evaluate(test_true, test_score, *choices),
        "folder": folder.relative_to(run).as_posix(),
    }
