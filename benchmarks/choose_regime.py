"""Choose among regimes with synthetic images, inside train and validation; no test image is read.

One source of each class is held out, as if it were another hospital: the shifts of choose_classifier.py. In each shift
the minority class is thinned, by whole patients, to the imbalance of the full fold; else one shift would be balanced
and nothing to add. Each regime is trained on the rest with every synthetic set and scored by AUROC on the held-out
training images. The GANs have seen the held-out images of their class. So regimes with synthetic images compare with
one another, and less well with those that have none.

Finished trainings are kept in ``OUT/fits.jsonl`` and skipped at the next start.

    BALANCER_DATA=DIR python benchmarks/choose_regime.py --out OUT --regimes gan,gan_both --synthetic A --synthetic B
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from choose_classifier import parts

from balancer.core.device import limit_threads
from balancer.core.jsonl import append_jsonl, read_jsonl
from balancer.core.settings import AblateConfig
from balancer.data.dataset import Dataset
from classifier.evaluation.metrics import evaluate
from classifier.experiments.selections import with_selections
from classifier.experiments.study import Study, configure, open_study
from classifier.training import trainer


def shifts(data: Dataset) -> Iterator[tuple[str, Dataset]]:
    """Yield each shift with the imbalance of the full training fold."""
    full = data.counts("train")
    few = data.minority_class
    for name, part in parts(data, 0):
        counts = part.counts("train")
        wanted = round(full[few] * max(counts) / max(full))
        groups = np.array(part.groups)
        members = part.indices("train", few)
        patients = np.random.default_rng(0).permutation(np.unique(groups[members]))
        sizes = np.cumsum([(groups[members] == patient).sum() for patient in patients])
        folds = part.folds.copy()
        folds[members[~np.isin(groups[members], patients[: int((sizes <= wanted).sum())])]] = "unused"
        yield name, replace(part, folds=folds)


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--regimes", required=True, help="names, with commas between them")
    parser.add_argument("--synthetic", action="append", required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    limit_threads()
    args.out.mkdir(parents=True, exist_ok=True)
    log, device = args.out / "fits.jsonl", torch.device("cpu")
    values = {"regimes": args.regimes.split(","), "synthetic": args.synthetic, "seeds": args.seeds}
    full = open_study(configure(AblateConfig, values))
    done = {(r["shift"], r["trial"]) for r in read_jsonl(log)}
    for shift, data in shifts(full.data):
        folder = args.out / shift.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        study = with_selections(Study(full.config, data, full.synthetic, full.regimes), folder)
        val, held = data.indices("val"), data.indices("held")
        for trial in study.trials:
            if (shift, trial.name) in done:
                continue
            train = study.training_set(trial)
            val_set = data.images[val], data.labels[val]
            fitted = trainer.train(full.config, trial.regime, trial.seed, train, val_set, device)
            score = trainer.predict(fitted.model, data.images[held], full.config, device)
            metrics = evaluate(data.labels[held], score, fitted.threshold, fitted.temperature)
            row = {"shift": shift, "trial": trial.name, "regime": trial.regime.name, "counts": train.counts}
            append_jsonl(log, {**row, "auroc": metrics.auroc, "nll": metrics.nll, "seconds": fitted.seconds})
            print(f"{shift:<26} {trial.name:<28} AUROC {metrics.auroc:.4f} NLL {metrics.nll:.4f}", flush=True)
    table(read_jsonl(log))


def table(rows: list[dict]) -> None:
    """Print a line per regime: the mean AUROC (NLL) of each shift and the mean AUROC of both, the best first."""
    names = list(dict.fromkeys(r["shift"] for r in rows))
    print(f"| regime | {' | '.join(names)} | mean AUROC |\n| --- |{' ---: |' * (len(names) + 1)}")
    lines = []
    for regime in dict.fromkeys(r["regime"] for r in rows):
        means = [
            [
                np.mean([r[key] for r in rows if r["regime"] == regime and r["shift"] == name])
                for key in ("auroc", "nll")
            ]
            for name in names
        ]
        cells = [f"{auroc:.4f} ({nll:.3f})" for auroc, nll in means]
        mean = float(np.mean([auroc for auroc, _ in means]))
        lines.append((mean, f"| {regime} | {' | '.join(cells)} | {mean:.4f} |"))
    print("\n".join(line for _, line in sorted(lines, reverse=True)))


if __name__ == "__main__":
    main()
