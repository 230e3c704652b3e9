"""`classifier crossvalidate`: whole patients, classes in equal shares, the test set out of reach, figures, resuming."""

import csv
import json
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from commands import done, refused
from fake_study import fake_study
from sklearn.metrics import roc_auc_score

from balancer.core.config import resolve
from balancer.core.errors import BalancerError, Interrupted
from balancer.core.jsonl import read_jsonl
from balancer.core.sealed import read_json
from balancer.core.settings import CrossvalidateConfig
from balancer.data.dataset import Dataset
from classifier.evaluation.thresholds import with_temperature
from classifier.experiments import crossvalidation as crossval

Run = Callable[..., Result]
Args = tuple[str, ...]
QUICK = ("--folds", "2", "--val-fraction", "0.3", "--seed", "5")


def patients(data: Dataset, chosen: np.ndarray) -> set[str]:
    return {data.groups[i] for i in np.flatnonzero(chosen)}


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_hold_whole_patients_and_every_class(small_data: Dataset, folds: int) -> None:
    number = crossval.fold_numbers(small_data, folds, seed=0)
    tested = small_data.folds == "test"
    assert set(number[tested]) == {-1}
    assert set(number[~tested]) == set(range(folds))
    parts = [patients(small_data, number == k) for k in range(folds)]
    assert sum(map(len, parts)) == len(set().union(*parts))  # none is in two
    for label in (0, 1):
        counts = [int(((number == k) & (small_data.labels == label)).sum()) for k in range(folds)]
        whole, views = sum(counts), max(Counter(small_data.groups).values())
        assert max(abs(n - whole / folds) for n in counts) <= views


def test_folds_depend_on_the_split_seed_alone(small_data: Dataset) -> None:
    first, again, other = (crossval.fold_numbers(small_data, 3, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_a_rotation_parts_patients_three_ways(small_data: Dataset) -> None:
    number, hashes = crossval.fold_numbers(small_data, 3, seed=0), set()
    for k in range(3):
        made = crossval.rotation(small_data, number, k, fraction=0.3, seed=0)
        parts = {fold: made.folds == fold for fold in ("train", "val", "test", "unused")}
        assert (parts["test"] == (number == k)).all()
        assert (parts["unused"] == (small_data.folds == "test")).all()
        assert sum(int(p.sum()) for p in parts.values()) == len(made.labels)
        seen = [patients(made, parts[fold]) for fold in ("train", "val", "test")]
        assert sum(map(len, seen)) == len(set.union(*seen))  # none is in two
        assert all(all(made.counts(fold)) for fold in ("train", "val", "test"))
        hashes.add(made.split_hash)
    assert len(hashes) == 3


def test_too_many_folds(small_data: Dataset, make_data: Callable[..., Dataset]) -> None:
    with pytest.raises(BalancerError, match=r"40 folds of both classes cannot be made .*13 NORMAL.*fewer --folds"):
        crossval.fold_numbers(small_data, 40, seed=0)
    few = make_data(train=(2, 9), val=(0, 0))  # one NORMAL is left beside a fold: none for validation or for training
    number = crossval.fold_numbers(few, 2, seed=0)
    with pytest.raises(BalancerError, match="would hold 0 NORMAL"):
        crossval.rotation(few, number, 0, fraction=0.3, seed=0)


@pytest.fixture(scope="module")
def finished(small_args: Args, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run of two folds, and what it said."""
    from click.testing import CliRunner

    from classifier.cli import main

    run = tmp_path_factory.mktemp("crossval") / "run"
    result = CliRunner().invoke(main, ["crossvalidate", *small_args, *QUICK, "--out", str(run)])
    return run, done(result)


def rows_of(run: Path) -> list[dict[str, Any]]:
    return read_jsonl(run / "folds.jsonl")


def predictions(run: Path, row: dict[str, Any]) -> dict[str, np.ndarray]:
    with np.load(run / row["folder"] / "predictions.npz") as saved:
        return dict(saved)


def test_every_image_outside_test_is_evaluated_once(finished: tuple[Path, Result], small_data: Dataset) -> None:
    run, _ = finished
    rows = rows_of(run)
    assert [(row["fold"], row["trial_seed"], row["regime"]) for row in rows] == [(0, 5, "baseline"), (1, 6, "baseline")]
    found = np.concatenate([predictions(run, row)["test_index"] for row in rows])
    assert sorted(found) == np.flatnonzero(small_data.folds != "test").tolist()
    with (run / "folds.csv").open(newline="") as handle:
        named = [row["fold"] for row in csv.DictReader(handle)]
    for row in rows:
        assert {named[i] for i in predictions(run, row)["test_index"]} == {f"fold-{row['fold']}"}
        assert (run / row["folder"] / "model.pt").exists()
    assert {named[i] for i in small_data.indices("test")} == {"unused"}
    assert (run / "done").exists()
    assert "do not replace the test set" in (run / "table.md").read_text()


def test_figures_against_scikit_learn(finished: tuple[Path, Result]) -> None:
    run, result = finished
    rows, table = rows_of(run), read_json(run / "table.json")
    own = [predictions(run, row) for row in rows]
    y_true = np.concatenate([p["test_true"] for p in own])
    stated, right = [], []
    for p, row in zip(own, rows, strict=True):
        stated.append(with_temperature(p["test_score"], row["test"]["temperature"]))
        called = p["test_score"] >= row["test"]["uncalibrated_threshold"]
        right += called[p["test_true"] == 1].tolist()
    figures = table["figures"]
    assert figures["auroc"]["pooled"] == pytest.approx(roc_auc_score(y_true, np.concatenate(stated)))
    assert figures["sensitivity_val_threshold"]["pooled"] == pytest.approx(np.mean(right))
    assert figures["accuracy"]["pooled"] == pytest.approx(np.mean((np.concatenate(stated) >= 0.5) == y_true))
    each = [roc_auc_score(p["test_true"], p["test_score"]) for p in own]
    assert figures["auroc"]["folds"] == pytest.approx(each)
    assert (figures["auroc"]["mean"], figures["auroc"]["sd"]) == pytest.approx((np.mean(each), np.std(each, ddof=1)))
    for f in figures.values():
        assert f["low"] <= f["pooled"] <= f["high"]
    assert table["n"] == len(y_true)
    assert "no standard error" in (run / "table.md").read_text()
    assert "pooled [95 %]" in result.stdout


def test_the_test_set_is_never_shown(
    classifier: Run, small_args: Args, small_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a network is given to learn from, to be selected on or to predict, it is no image of the test set."""
    from classifier.experiments import trial

    hidden = {image.tobytes() for image in small_data.images[small_data.indices("test")]}
    shown: set[bytes] = set()
    fit, predict = trial.trainer.train, trial.trainer.predict

    def spy_fit(*args: Any, **more: Any) -> Any:
        shown.update(image.tobytes() for images in (args[3].images, args[4][0]) for image in images)
        return fit(*args, **more)

    def spy_predict(*args: Any, **more: Any) -> Any:
        shown.update(image.tobytes() for image in args[1])
        return predict(*args, **more)

    monkeypatch.setattr(trial.trainer, "train", spy_fit)
    monkeypatch.setattr(trial.trainer, "predict", spy_predict)
    done(classifier("crossvalidate", *small_args, *QUICK, "--out", tmp_path / "run"))
    assert len(shown) > 50
    assert not shown & hidden


def test_an_interrupted_run_goes_on_where_it_was(
    classifier: Run, small_args: Args, finished: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, run_trial, seen = tmp_path / "run", crossval.run_trial, []

    def once(study: Any, trial: Any, *more: Any) -> Any:
        if seen:
            raise Interrupted(signal.SIGINT, "stopped")
        seen.append(trial.seed)
        return run_trial(study, trial, *more)

    monkeypatch.setattr(crossval, "run_trial", once)
    stopped = classifier("crossvalidate", *small_args, *QUICK, "--out", run)
    refused(stopped, 130, "finished folds are kept", f"--resume {run}")
    assert not (run / "done").exists()
    monkeypatch.setattr(crossval, "run_trial", run_trial)
    device = small_args[small_args.index("--device") :]
    done(classifier("crossvalidate", "--resume", run, *device))
    assert [row["trial_seed"] for row in rows_of(run)] == [5, 6]
    assert seen == [5]  # and was not trained again
    whole = read_json(finished[0] / "table.json")
    assert read_json(run / "table.json") == whole


def test_folds_of_other_data_are_refused(classifier: Run, finished: tuple[Path, Result]) -> None:
    run, _ = finished
    before = (run / "folds.jsonl").read_text()
    try:
        first, second = rows_of(run)
        rows = first, second | {"split_hash": "0" * 16}
        (run / "folds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        refused(
            classifier("crossvalidate", "--resume", run, "-q"),
            1,
            "fold 1 holds trials of split_hash 0000",
            "start a new run",
        )
    finally:
        (run / "folds.jsonl").write_text(before)


def test_refused(classifier: Run, small_args: Args, small_synthesis: Path) -> None:
    def asked(*more: object) -> Result:
        return classifier("crossvalidate", *small_args, *more, "--dry-run")

    refused(asked("--regime", "gan"), 2, "regime gan brings synthetic images", "classifier ablate")
    refused(asked("--set", f"synthetic={small_synthesis}"), 2, "synthetic brings synthetic images")
    refused(asked("--regime", "all"), 2, "takes one regime")
    refused(asked("--val-fraction", "0"), 2, "val_fraction is 0")
    refused(asked("--folds", "1"), 2, "folds")
    refused(asked("--folds", "30"), 1, "30 folds of both classes", "fewer --folds")
    refused(asked("--task", "multiclass"), 2, "crossvalidate compares two classes")
    refused(asked("--set", "batch_size=5000"), 2, "batch_size is 5000, but the training fold has")
    refused(asked("--threshold", "cost"), 2, "threshold is 'cost'; cost takes a number above 0")


def test_a_dry_run_counts_every_fold_and_writes_nothing(
    classifier: Run, small_args: Args, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classifier.api.estimate_seconds", lambda *_: 7.0)
    planned = json.loads(done(classifier("crossvalidate", *small_args, "--folds", "4", "--dry-run", "--json")).stdout)
    assert planned["estimated_seconds"] == pytest.approx(28, abs=5)
    assert planned["config"]["folds"] == 4
    assert not (runs_cwd / "runs").exists()


def test_folds_that_were_computed_in_other_ways_are_told() -> None:
    study = fake_study(["baseline"], seeds=2)
    data: Any = SimpleNamespace(groups=study.patients, source="drawn", patients_known=True, notes=["a note"])
    first, second = (replace(trial, code_hash="a", threads=1) for trial in study.trials)
    assert crossval.summarise([first, second], data, Path("table.md")).notes == ["a note"]
    told = crossval.summarise([first, replace(second, threads=2)], data, Path("table.md")).notes
    assert len(told) == 2
    assert "computed with 1 and 2 threads" in told[1]


def test_on_drawings_it_is_a_demonstration() -> None:
    assert resolve(CrossvalidateConfig, {"data": {"path": "phantom"}}).model_dump()["steps"] == 250
