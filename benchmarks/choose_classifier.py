"""Choose the classifier's recipe inside the training fold, without validation labels and test images.

Every recipe is trained on a part of the training fold and scored by likelihood on the rest:

- ``fold``: cross-validation with each patient in one fold;
- ``shift``: one source of each class is held out, ``IM-`` and virus, or ``NORMAL2-IM-`` and bacteria, as if it were
  another hospital; patient numbers that occur on both sides are left out of training.

Step, temperature and threshold come from validation images of the training sources, as in a trial. Finished trainings
are kept in ``OUT/fits.jsonl`` and skipped at the next start.

    BALANCER_DATA=DIR python benchmarks/choose_classifier.py --out OUT [--only NAME,...] [--folds 2]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from balancer.core.config import merge, resolve
from balancer.core.device import limit_threads
from balancer.core.jsonl import append_jsonl, read_jsonl
from balancer.core.settings import TrainConfig
from balancer.data.dataset import Dataset, load_dataset
from classifier.evaluation.metrics import RANKING, evaluate
from classifier.training import trainer
from classifier.training.regimes import REGIMES
from classifier.training.training_set import training_set

LAST = {"selection": "last", "evaluations": 1}
EMA = {"ema_decay": 0.99, **LAST}
REESTIMATED = {"bn_statistics": "reestimated", **EMA}
# The defaults before the choice; each recipe says what it changes.
OLD = {
    "augmentation": "mild",
    "normalisation": "per_image",
    "selection": "best_val_nll",
    "evaluations": 10,
    "ema_decay": 0.0,
    "bn_statistics": "running",
}
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {  # name -> regime, changes
    "old": ("augment", {}),
    "ema": ("augment", EMA),
    "ema, best": ("augment", {"ema_decay": 0.99}),
    "ema, reestimated": ("augment", REESTIMATED),
    "ema, reestimated, strong": ("augment", {**REESTIMATED, "augmentation": "strong"}),
    "ema, reestimated, s2": ("augment", {**REESTIMATED, "augmentation": "s2"}),
    "ema, reestimated, unit": ("augment", {**REESTIMATED, "normalisation": "unit"}),
    "ema, reestimated, lr 3e-3": ("augment", {**REESTIMATED, "lr": 3e-3}),
    "ema, reestimated, smoothing .05": ("augment", {**REESTIMATED, "label_smoothing": 0.05}),
    "ema, reestimated, weight decay .1": ("augment", {**REESTIMATED, "weight_decay": 0.1}),
    "ema, reestimated, 2,800 steps": ("augment", {**REESTIMATED, "steps": 2800}),
    "small_resnet": ("augment", {**REESTIMATED, "model": "small_resnet"}),
    "small_resnet, strong, 2,800 steps": (
        "augment",
        {**REESTIMATED, "model": "small_resnet", "augmentation": "strong", "steps": 2800},
    ),
    "strong, 2,800 steps": ("augment", {**REESTIMATED, "augmentation": "strong", "steps": 2800}),
    "strong, 5,600 steps, ema .995": (
        "augment",
        {**REESTIMATED, "augmentation": "strong", "steps": 5600, "ema_decay": 0.995},
    ),
    "96 px": ("augment", {**REESTIMATED, "data": {"image_size": 96}}),
    "96 px, strong, 2,800 steps": (
        "augment",
        {**REESTIMATED, "data": {"image_size": 96}, "augmentation": "strong", "steps": 2800},
    ),
    "128 px, strong, 2,800 steps": (
        "augment",
        {**REESTIMATED, "data": {"image_size": 128}, "augmentation": "strong", "steps": 2800},
    ),
    "baseline old": ("baseline", {}),
    "baseline ema, reestimated": ("baseline", REESTIMATED),
    "baseline ema, reestimated, unit": ("baseline", {**REESTIMATED, "normalisation": "unit"}),
}
SHIFTS = {"IM + virus": ("IM", "virus"), "NORMAL2-IM + bacteria": ("NORMAL2-IM", "bacteria")}


def parts(data: Dataset, folds: int) -> Iterator[tuple[str, Dataset]]:
    """Yield each split's name and the data, with a part of the training fold moved to a fold named ``held``."""
    train = data.indices("train")
    groups = np.array(data.groups)
    split = StratifiedGroupKFold(3, shuffle=True, random_state=0).split(train, data.labels[train], groups[train])
    for number, (_, held) in zip(range(folds), split, strict=False):
        marked = data.folds.astype("<U8")
        marked[train[held]] = "held"
        yield f"fold {number}", replace(data, folds=marked)
    sources = np.array([r.source for r in data.records])
    for name, held_sources in SHIFTS.items():
        marked = data.folds.astype("<U8")
        away = np.isin(sources, held_sources)
        marked[away & (data.folds == "train")] = "held"
        marked[away & (data.folds == "val")] = "unused"
        on_both_sides = np.isin(groups, groups[marked == "held"])
        marked[on_both_sides & (marked == "train")] = "unused"
        yield f"shift {name}", replace(data, folds=marked)


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="recipes by name, with ; between them")
    parser.add_argument("--folds", type=int, default=2, help="of three")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    limit_threads()
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "fits.jsonl"
    chosen = [n.strip() for n in args.only.split(";")] if args.only else list(RECIPES)
    device = torch.device("cpu")
    for name in chosen:
        regime, changes = RECIPES[name]
        path = {"data": {"path": os.environ.get("BALANCER_DATA")}}
        config = resolve(TrainConfig, merge(path, OLD, changes))
        for part, data in parts(load_dataset(config.data), args.folds):
            if any((r["recipe"], r["part"], r["seed"]) == (name, part, args.seed) for r in read_jsonl(log)):
                continue
            train = training_set(data, REGIMES[regime], None, args.seed, 0)
            val, held = data.indices("val"), data.indices("held")
            val_set = data.images[val], data.labels[val]
            result = trainer.train(config, REGIMES[regime], args.seed, train, val_set, device)
            score = trainer.predict(result.model, data.images[held], config, device)
            metrics = evaluate(data.labels[held], score, result.threshold, result.temperature)
            figures = {key: getattr(metrics, key) for key in RANKING}
            row = {"recipe": name, "part": part, "seed": args.seed, "n_train": len(train.images), "n_held": len(held)}
            append_jsonl(log, {**row, **figures, "temperature": result.temperature, "seconds": result.seconds})
            print(f"{name:<26} {part:<28} NLL {metrics.nll:.4f} AUROC {metrics.auroc:.4f}", flush=True)
    table(read_jsonl(log))


def table(rows: list[dict]) -> None:
    """Print a line per recipe: NLL and AUROC of every part, then the mean NLL of the folds and of the shifts."""
    names = list(dict.fromkeys(r["part"] for r in rows))
    print(f"| recipe | {' | '.join(names)} | folds | shifts |\n| --- |{' ---: |' * (len(names) + 2)}")
    for recipe in dict.fromkeys(r["recipe"] for r in rows):
        mine = {part: [r for r in rows if r["recipe"] == recipe and r["part"] == part] for part in names}
        cells = [
            " ".join(f"{r['nll']:.3f} ({r['auroc']:.3f})" for r in sorted(part, key=lambda r: r["seed"]))
            for part in mine.values()
        ]
        means = [
            np.mean([r["nll"] for part, of_part in mine.items() if part.startswith(kind) for r in of_part])
            for kind in ("fold", "shift")
        ]
        print(f"| {recipe} | {' | '.join(cells)} | {means[0]:.3f} | {means[1]:.3f} |")


if __name__ == "__main__":
    main()
