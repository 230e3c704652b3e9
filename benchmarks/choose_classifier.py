"""Choose the classifier's recipe inside the training fold, without validation labels and test images.

Every recipe is trained on a part of the training fold and scored by likelihood on the rest:

- ``fold``: cross-validation with each patient in one fold;
- ``shift``: one source of each class is held out, ``IM-`` and virus, or ``NORMAL2-IM-`` and bacteria, as if it were
  another hospital; patient numbers that occur on both sides are left out of training.

Step, temperature and threshold come from validation images of the training sources, as in a trial. A self-supervised
pretraining sees what the recipe trains on, and nothing of the rest. Finished trainings are kept in ``OUT/fits.jsonl``
with their scores and skipped at the next start, and so are pretrainings, in the cache.

The first table has each fit. The second has means over trial seeds and the difference from the default of the same
regime, both with 95 % intervals over held-out patients and seeds.

    BALANCER_DATA=DIR python benchmarks/choose_classifier.py --out OUT [--only NAME;...] [--folds 2] [--seeds 3]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from balancer.core.config import merge, resolve
from balancer.core.device import limit_threads
from balancer.core.files import JsonObject
from balancer.core.jsonl import append_jsonl, read_jsonl
from balancer.core.settings import TrainConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.metrics.classification import weighted_auroc, weighted_calibration
from balancer.metrics.resampling import FEWER_RESAMPLES as RESAMPLES
from balancer.metrics.resampling import patient_weights, patients_per_class
from balancer.reporting.document import Table
from balancer.reporting.numbers import bounds, short, signed
from classifier.analysis.statistics import crossed_estimate, metric_interval
from classifier.evaluation.metrics import RANKING, evaluate
from classifier.evaluation.thresholds import with_temperature
from classifier.experiments.study import recipe_hash
from classifier.training import trainer
from classifier.training.pretraining import pretrained
from classifier.training.regimes import REGIMES
from classifier.training.training_set import training_set

Array = np.ndarray
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
    "ema, reestimated, independent": ("augment", {**REESTIMATED, "augmentation": "mild_independent"}),
    "strong, independent, 2,800 steps": (
        "augment",
        {**REESTIMATED, "augmentation": "strong_independent", "steps": 2800},
    ),
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
    "simsiam": ("augment", {**REESTIMATED, "pretrain": {"method": "simsiam"}}),
    "vicreg": ("augment", {**REESTIMATED, "pretrain": {"method": "vicreg"}}),
    "simsiam, 8,000 steps": ("augment", {**REESTIMATED, "pretrain": {"method": "simsiam", "steps": 8000}}),
    "vicreg, 8,000 steps": ("augment", {**REESTIMATED, "pretrain": {"method": "vicreg", "steps": 8000}}),
    "small_resnet, simsiam": (
        "augment",
        {**REESTIMATED, "model": "small_resnet", "pretrain": {"method": "simsiam"}},
    ),
    "small_resnet, vicreg": (
        "augment",
        {**REESTIMATED, "model": "small_resnet", "pretrain": {"method": "vicreg"}},
    ),
    "simsiam, strong, 2,800 steps": (
        "augment",
        {**REESTIMATED, "augmentation": "strong", "steps": 2800, "pretrain": {"method": "simsiam"}},
    ),
    "vicreg, strong, 2,800 steps": (
        "augment",
        {**REESTIMATED, "augmentation": "strong", "steps": 2800, "pretrain": {"method": "vicreg"}},
    ),
    "vicreg, 96 px, strong, 2,800 steps": (
        "augment",
        {
            **REESTIMATED,
            "data": {"image_size": 96},
            "augmentation": "strong",
            "steps": 2800,
            "pretrain": {"method": "vicreg"},
        },
    ),
    "baseline simsiam": ("baseline", {**REESTIMATED, "pretrain": {"method": "simsiam"}}),
    "baseline vicreg": ("baseline", {**REESTIMATED, "pretrain": {"method": "vicreg"}}),
    "baseline old": ("baseline", {}),
    "baseline ema, reestimated": ("baseline", REESTIMATED),
    "baseline ema, reestimated, unit": ("baseline", {**REESTIMATED, "normalisation": "unit"}),
}
DEFAULTS = {"augment": "ema, reestimated", "baseline": "baseline ema, reestimated"}  # what others are compared with
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


@dataclass(frozen=True)
class Fit:
    """A finished training, on the images that it did not see."""

    recipe: str
    part: str
    seed: int
    recipe_hash: str
    nll: float
    auroc: float
    scores: Array  # (n,) calibrated probabilities of the held-out images, in the order of the data

    @property
    def key(self) -> tuple[str, str, int, str]:
        """Return what names the training."""
        return self.recipe, self.part, self.seed, self.recipe_hash


def settings(name: str) -> TrainConfig:
    """Return the settings of a recipe."""
    return resolve(TrainConfig, merge({"data": {"path": os.environ.get("BALANCER_DATA")}}, OLD, RECIPES[name][1]))


def read(log: Path) -> dict[tuple[str, str, int, str], Fit]:
    """Return the finished trainings of recipes as they are now."""
    hashes = {name: recipe_hash(settings(name)) for name in RECIPES}
    names = [field.name for field in fields(Fit)]
    rows = [row for row in read_jsonl(log) if set(names) <= row.keys()]  # rows of earlier versions have no scores
    fits = [Fit(**{key: row[key] for key in names} | {"scores": np.array(row["scores"])}) for row in rows]
    return {fit.key: fit for fit in fits if hashes.get(fit.recipe) == fit.recipe_hash}


def fit(name: str, part: str, data: Dataset, seed: int) -> JsonObject:
    """Train a recipe on a part of the training fold; return the row of the log."""
    config, regime, device = settings(name), REGIMES[RECIPES[name][0]], torch.device("cpu")
    train = training_set(data, regime, None, seed, 0)
    val, held = data.indices("val"), data.indices("held")
    weights = pretrained(config, data, seed, device)
    fitted = trainer.train(
        config, regime, seed, train, (data.images[val], data.labels[val]), device, pretrained=weights
    )
    score = trainer.predict(fitted.model, data.images[held], config, device)
    metrics = evaluate(data.labels[held], score, fitted.threshold, fitted.temperature)
    return {
        "recipe": name,
        "part": part,
        "seed": seed,
        "recipe_hash": recipe_hash(config),
        "n_train": len(train.images),
        "n_held": len(held),
        **{key: getattr(metrics, key) for key in RANKING},
        "temperature": fitted.temperature,
        "seconds": fitted.seconds,
        "pretraining": None if weights is None else asdict(weights.facts),
        "scores": with_temperature(score, fitted.temperature).tolist(),
    }


def main() -> None:
    """Train what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="recipes by name, with ; between them")
    parser.add_argument("--folds", type=int, default=2, help="of three")
    parser.add_argument("--seed", type=int, default=0, help="the first trial seed")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    limit_threads()
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "fits.jsonl"
    chosen = [n.strip() for n in args.only.split(";")] if args.only else list(RECIPES)
    done = read(log)
    for seed in range(args.seed, args.seed + args.seeds):  # seed by seed, so that pairs are complete early
        for name in chosen:
            config = settings(name)
            for part, data in parts(load_dataset(config.data), args.folds):
                if (name, part, seed, recipe_hash(config)) in done:
                    continue
                row = fit(name, part, data, seed)
                append_jsonl(log, row)
                text = f"NLL {row['nll']:.4f} AUROC {row['auroc']:.4f}"
                print(f"{name:<26} {part:<28} seed {seed} {text}", flush=True)
    fits = list(read(log).values())
    print(table(fits).to_text())
    print(compared(fits, dict(parts(load_dataset(settings(chosen[0]).data), args.folds))).to_text())


def table(fits: Sequence[Fit]) -> Table:
    """Return a row per recipe: NLL and AUROC of every part and seed."""
    names = list(dict.fromkeys(f.part for f in fits))
    rows = []
    for recipe in dict.fromkeys(f.recipe for f in fits):
        of_part = [sorted((f for f in fits if (f.recipe, f.part) == (recipe, n)), key=lambda f: f.seed) for n in names]
        rows.append([recipe, *(" ".join(f"{f.nll:.3f} ({f.auroc:.4f})" for f in part) for part in of_part)])
    return Table(["recipe", *names], rows)


def compared(fits: Sequence[Fit], data: dict[str, Dataset]) -> Table:
    """Return a row per recipe and kind of parts: the metrics, and their differences from the default, with intervals.

    Only seeds count that have every part, of the default too.
    """
    of = {(f.recipe, f.part, f.seed): f for f in fits}
    rows = []
    for recipe in dict.fromkeys(f.recipe for f in fits):
        default = DEFAULTS[RECIPES[recipe][0]]
        for kind in ("fold", "shift"):
            names = [part for part in data if part.startswith(kind)]
            seeds = [
                s
                for s in sorted({f.seed for f in fits})
                if names and all((r, part, s) in of for r in (recipe, default) for part in names)
            ]
            if seeds:
                mine, theirs = ([[of[r, part, s] for s in seeds] for part in names] for r in (recipe, default))
                rows.append([recipe, f"{kind}s", str(len(seeds)), *cells(mine, theirs, [data[p] for p in names])])
    return Table(
        ["recipe", "held out", "seeds", *(f"{m}{d}" for m in ("NLL", "AUROC") for d in ("", " - default"))], rows
    )


def cells(mine: list[list[Fit]], default: list[list[Fit]], data: list[Dataset]) -> list[str]:
    """Return NLL, its difference, AUROC and its difference of fits by part and seed; each is a mean over the parts."""
    values, few = [], []
    for number, part in enumerate(data):
        held = part.indices("held")
        y_true, groups = part.labels[held], [part.groups[i] for i in held]
        weights = patient_weights(y_true, groups, RESAMPLES, seed=number)
        few.append(min(patients_per_class(y_true, groups)))
        values.append([[resampled(y_true, f.scores, weights) for f in of[number]] for of in (mine, default)])
    means = np.array(values).mean(axis=0)  # recipe and default, seeds, NLL and AUROC, resamples
    said = []
    for k, metric in enumerate(("nll", "auroc")):
        ours, theirs = (of[:, k].T[:, :, None] for of in means)
        own, difference = (crossed_estimate(shown, sum(few)) for shown in (ours, ours - theirs))
        said.append(f"{short(own.value, 4)} {bounds(*metric_interval(metric, own, sum(few)), 4)}")
        said.append(f"{signed(difference.value, 4)} {bounds(difference.low, difference.high, 4)}")
    return said


def resampled(y_true: Array, scores: Array, weights: Array) -> tuple[Array, Array]:
    """Return NLL and AUROC under each row of the weights."""
    return weighted_calibration(y_true, scores, weights)["nll"], weighted_auroc(y_true, scores, weights)


if __name__ == "__main__":
    main()
