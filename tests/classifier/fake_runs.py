"""Finished runs that nobody ran, as an ablation leaves them: scores are drawn, two images to a patient."""

import csv
import json
from pathlib import Path

import numpy as np

from classifier.evaluation.metrics import evaluate
from classifier.evaluation.thresholds import balanced_accuracy, fit_temperature

FOLDS = ("train",) * 8 + ("val",) * 60 + ("test",) * 80
LABELS = np.array([0, 0, 1, 1] * (len(FOLDS) // 4))  # a patient's two images alike
INDEX = {fold: np.flatnonzero(np.array(FOLDS) == fold) for fold in ("val", "test")}


def fake_run(
    path: Path,
    regimes: tuple[str, ...] = ("baseline",),
    seeds: int = 3,
    sets: int = 1,
    shift: float = 0.0,
    apart: float = 2.0,
    fingerprint: str = "f" * 16,
    single: bool = False,
) -> Path:
    """Write a run.

    Args:
        shift: added to every logit on test, which moves the best threshold away from validation's.
        apart: how far the classes are.
        single: as `classifier train` leaves it: one trial, in the folder itself.
    """
    rng = np.random.default_rng(len(path.name) * 100 + seeds)
    hard, rows = rng.normal(size=len(FOLDS)), []
    for regime in regimes:
        for seed in range(seeds):
            for of_set in map(str, range(sets)) if regime in ("gan", "combined") else (None,):
                folder = path if single else path / "trials" / f"{regime}-{of_set}-{seed}"
                folder.mkdir(parents=True, exist_ok=True)
                logits = apart * (LABELS - 0.5) + hard + 0.7 * rng.normal(size=len(FOLDS))
                logits[INDEX["test"]] += shift
                score = 1 / (1 + np.exp(-logits))
                val, test = (LABELS[i] for i in INDEX.values())
                val_score, test_score = (score[i] for i in INDEX.values())
                chosen = balanced_accuracy(val, val_score), fit_temperature(val, val_score)
                arrays = {f"{f}_{n}": a[i] for f, i in INDEX.items() for n, a in (("true", LABELS), ("score", score))}
                np.savez(folder / "predictions.npz", **arrays, **{f"{f}_index": i for f, i in INDEX.items()})
                row = {"regime": regime, "trial_seed": seed, "synthetic_set": of_set, "dose": 1.0 if of_set else None}
                row |= {"folder": folder.relative_to(path).as_posix(), "data_fingerprint": fingerprint}
                row |= {"split_hash": "5" * 16, "val": evaluate(val, val_score, *chosen).to_json()}
                rows.append(row | {"test": evaluate(test, test_score, *chosen).to_json()})
    if single:
        (path / "result.json").write_text(json.dumps(rows[0]))
    else:
        (path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (path / "split.csv").open("w", newline="") as handle:
        columns = ["name", "fold", "label", "patient", "sha256"]
        listed = [[f"{i}.png", fold, LABELS[i], f"p{i // 2}", f"{i:064x}"] for i, fold in enumerate(FOLDS)]
        csv.writer(handle).writerows([columns, *listed])
    (path / "env.json").write_text(json.dumps({"data": {"source": "nowhere", "notes": ["DRAWN SCORES"]}}))
    (path / "done").write_text("")
    return path


def scores(path: Path, folder: str, fold: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that a trial's file holds."""
    with np.load(path / folder / "predictions.npz") as saved:
        return saved[f"{fold}_true"], saved[f"{fold}_score"]
