"""Choose the classifier's recipe inside the training fold: no validation label decides between recipes, no test image is read.

Each recipe is trained on parts of the training fold and scored by likelihood on the part held out:

- ``fold``: grouped cross-validation (patients stay whole);
- ``shift``: one source of each class held out, ``IM-`` and virus, or ``NORMAL2-IM-`` and bacteria, as the held-out
  hospital of the test set might be; numbers that occur on both sides are left out of training.

Within each, everything goes as in a trial: step, temperature and threshold come from validation images (of the sources
trained on). Finished fits are kept in ``OUT/fits.jsonl`` and skipped when it is started again.

    BALANCER_DATA=DIR python benchmarks/choose_classifier.py --out OUT [--only NAME,...] [--folds 2]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from balancer.core.config import resolve
from balancer.core.device import limit_threads
from balancer.core.files import append_jsonl, read_jsonl
from balancer.core.settings import TrainConfig
from balancer.data.dataset import Dataset, load_dataset
from classifier.evaluation.metrics import RANKING, evaluate
from classifier.training import trainer
from classifier.training.regimes import REGIMES
from classifier.training.training_set import training_set

LAST = {"selection": "last", "evaluations": 1}
EMA = {"ema_decay": 0.99, **LAST}
CLEAN = {"bn_statistics": "reestimated", **EMA}
# The defaults before the choice; each recipe says what it changes.
OLD = {
    "augmentation": "mild",
    "normalisation": "per_image",
    "selection": "best_val_nll",
    "evaluations": 10,
    "ema_decay": 0.0,
    "bn_statistics": "running",
}
RECIPES = {  # name -> regime, changes
    "old": ("augment", {}),
    "ema": ("augment", EMA),
    "ema, best": ("augment", {"ema_decay": 0.99}),
    "ema, clean": ("augment", CLEAN),
    "ema, clean, strong": ("augment", {**CLEAN, "augmentation": "strong"}),
    "ema, clean, s2": ("augment", {**CLEAN, "augmentation": "s2"}),
    "ema, clean, unit": ("augment", {**CLEAN, "normalisation": "unit"}),
    "ema, clean, lr 3e-3": ("augment", {**CLEAN, "lr": 3e-3}),
    "ema, clean, smoothing .05": ("augment", {**CLEAN, "label_smoothing": 0.05}),
    "ema, clean, weight decay .1": ("augment", {**CLEAN, "weight_decay": 0.1}),
    "ema, clean, 2,800 steps": ("augment", {**CLEAN, "steps": 2800}),
    "baseline old": ("baseline", {}),
    "baseline ema, clean": ("baseline", CLEAN),
    "baseline ema, clean, unit": ("baseline", {**CLEAN, "normalisation": "unit"}),
}
SHIFTS = {"IM + virus": ("IM", "virus"), "NORMAL2-IM + bacteria": ("NORMAL2-IM", "bacteria")}


def parts(data: Dataset, folds: int) -> Iterator[tuple[str, Dataset]]:
    """The data with part of the training fold moved to a fold named ``held``."""
    train = data.indices("train")
    groups = np.array(data.groups)
    split = StratifiedGroupKFold(3, shuffle=True, random_state=0).split(train, data.labels[train], groups[train])
    for number, (_, held) in zip(range(folds), split, strict=False):
        marked = data.folds.astype("<U8")
        marked[train[held]] = "held"
        yield f"fold {number}", replace(data, folds=marked)
    kinds = np.array([r.kind for r in data.records])
    for name, held_kinds in SHIFTS.items():
        marked = data.folds.astype("<U8")
        away = np.isin(kinds, held_kinds)
        marked[away & (data.folds == "train")] = "held"
        marked[away & (data.folds == "val")] = "unused"
        on_both_sides = np.isin(groups, groups[marked == "held"])
        marked[on_both_sides & (marked == "train")] = "unused"
        yield f"shift {name}", replace(data, folds=marked)


def main() -> None:
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
        config = resolve(TrainConfig, {**path, **OLD, **changes})
        assert isinstance(config, TrainConfig)
        for part, data in parts(load_dataset(config.data), args.folds):
            if any((r["recipe"], r["part"], r["seed"]) == (name, part, args.seed) for r in read_jsonl(log)):
                continue
            train = training_set(data, REGIMES[regime], None, args.seed, 0)
            val, held = data.indices("val"), data.indices("held")
            fitted = trainer.train(
                config, REGIMES[regime], args.seed, train, (data.images[val], data.labels[val]), device
            )
            score = trainer.predict(fitted.model, data.images[held], config, device)
            found = evaluate(data.labels[held], score, fitted.threshold, fitted.temperature)
            found = {key: getattr(found, key) for key in RANKING}
            row = {"recipe": name, "part": part, "seed": args.seed, "n_train": len(train.images), "n_held": len(held)}
            append_jsonl(log, {**row, **found, "temperature": fitted.temperature, "seconds": fitted.seconds})
            print(f"{name:<26} {part:<28} NLL {found['nll']:.4f} AUROC {found['auroc']:.4f}", flush=True)
    table(read_jsonl(log))


def table(rows: list[dict]) -> None:
    """A line a recipe: NLL and AUROC by part, then the mean NLL of the folds and of the shifts."""
    names = list(dict.fromkeys(r["part"] for r in rows))
    print(f"| recipe | {' | '.join(names)} | folds | shifts |\n| --- |{' ---: |' * (len(names) + 2)}")
    for recipe in dict.fromkeys(r["recipe"] for r in rows):
        mine = {part: [r for r in rows if r["recipe"] == recipe and r["part"] == part] for part in names}
        cells = [
            " ".join(f"{r['nll']:.3f} ({r['auroc']:.3f})" for r in sorted(found, key=lambda r: r["seed"]))
            for found in mine.values()
        ]
        means = [
            np.mean([r["nll"] for part, found in mine.items() if part.startswith(kind) for r in found])
            for kind in ("fold", "shift")
        ]
        print(f"| {recipe} | {' | '.join(cells)} | {means[0]:.3f} | {means[1]:.3f} |")


if __name__ == "__main__":
    main()
