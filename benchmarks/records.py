"""Keep what every trial of a published study predicted, and make the study's tables from these records again.

A later rule for intervals can then be applied to figures that took days. A record is one ``npz`` of an ablation: the
lines of ``results.jsonl`` without the readings of the shortcut meter, the predictions on validation and test, and the
patients, under numbers of their own. A record holds no image and no weights.

    python benchmarks/records.py keep STUDY/size-50/ablation benchmarks/records/chest-50.npz
    python benchmarks/records.py show benchmarks/records/chest-*.npz
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from balancer.core.settings import AblateConfig
from classifier.analysis.results import FOLDS, StudyResults, TrialPredictions, TrialResult
from classifier.experiments.substudies import Substudy, read_substudy
from classifier.learning_curve.comparison import Curve, compare
from classifier.learning_curve.page import contrast_table, regime_table
from classifier.learning_curve.plan import ALL, Point
from classifier.learning_curve.steps import FinishedPoint


def keep(study: Substudy, file: Path) -> None:
    """Write the record of a finished ablation."""
    trials = study.results.trials
    numbers = {patient: i for i, patient in enumerate(sorted(set(study.results.patients)))}
    size = study.config.data.minority
    arrays: dict[str, Any] = {
        "size": ALL if size is None else str(size),
        "source": Path(study.results.source).name,
        "unit": study.results.unit,
        "trials": [json.dumps(replace(trial, meter=(), meter_scores=()).to_json()) for trial in trials],
        "patients": np.array([numbers[patient] for patient in study.results.patients], np.int32),
    }
    for fold in FOLDS:
        first = trials[0].predictions[fold]
        if not all(first.same_images(trial.predictions[fold]) for trial in trials):
            raise SystemExit(f"{study.folder}: the trials were not all scored on the same images")
        arrays |= {f"{fold}_index": first.index.astype(np.int32), f"{fold}_true": first.y_true.astype(np.int8)}
        arrays[f"{fold}_score"] = np.array([trial.predictions[fold].y_score for trial in trials])
    np.savez_compressed(file, **arrays)


def read(file: Path) -> FinishedPoint:
    """Return the ablation of a record, as far as its analysis needs it."""
    with np.load(file) as arrays:
        content = dict(arrays)
    trials = []
    for i, line in enumerate(content["trials"]):
        trial = TrialResult.from_json(json.loads(str(line)), file)
        predictions = {}
        for fold in FOLDS:
            index, true, score = (content[f"{fold}_{name}"] for name in ("index", "true", "score"))
            metrics = getattr(trial, fold)
            threshold = getattr(metrics, "uncalibrated_threshold", 0.5)
            predictions[fold] = TrialPredictions(
                true.astype(np.int64), score[i], threshold, metrics.temperature, index.astype(np.int64)
            )
        trials.append(replace(trial, predictions=predictions))
    patients = [f"{content['unit']}-{number:06d}" for number in content["patients"]]
    results = replace(StudyResults.of(trials, patients), source=str(content["source"]))
    size = str(content["size"])
    ablation = Substudy(file, AblateConfig(), "", str(trials[0].split_hash), results)
    counts = next(tuple(trial.n_train.values()) for trial in trials if not trial.added)
    return FinishedPoint(Point(None if size == ALL else int(size)), [], [], ablation, [], counts)


def show(curve: Curve) -> None:
    """Print the answer, the tables and what images are worth, as Markdown."""
    names = [name for family in ("confirmatory", "shortcut", "exploratory") for name in curve.names_of(family)]
    print(f"{curve.verdict}\n\n{regime_table(curve).to_markdown()}\n\n{contrast_table(curve, names).to_markdown()}\n")
    for worth in curve.worth:
        print(f"- {worth.describe()}")


def _in_order(points: Sequence[FinishedPoint]) -> list[FinishedPoint]:
    return sorted(points, key=lambda point: min(point.counts))


def main() -> None:
    """Keep a record, or show records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep")
    keeping.add_argument("ablation", type=Path)
    keeping.add_argument("file", type=Path)
    commands.add_parser("show").add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()
    if args.command == "keep":
        keep(read_substudy(args.ablation), args.file)
    else:
        show(compare(_in_order([read(file) for file in args.files])))


if __name__ == "__main__":
    main()
