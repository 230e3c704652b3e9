"""`classifier ensemble`: the mean of probabilities, its own threshold and temperature, beside the members."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from commands import done, refused
from fake_study import fake_run, scores
from sklearn.metrics import log_loss, roc_auc_score

from balancer.core.jsonl import read_jsonl
from balancer.core.sealed import read_json
from classifier.evaluation.metrics import decision_metrics
from classifier.evaluation.thresholds import balanced_accuracy, fit_temperature, threshold_rule, with_temperature
from classifier.experiments.ensemble import ALL, _metric

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return fake_run(folder / "first", seeds=4), fake_run(folder / "second", {"augment": 3}, seeds=1)


@pytest.fixture(scope="module")
def both(two: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from classifier.experiments.ensemble import ensemble

    return ensemble(two, (), "balanced_accuracy", tmp_path_factory.mktemp("out")).to_json()


def mean_of(run: Path, fold: str) -> tuple[np.ndarray, np.ndarray]:
    folders = [row["folder"] for row in read_jsonl(run / "results.jsonl")]
    found = [scores(run, folder, fold) for folder in folders]
    return found[0][0], np.mean([s for _, s in found], axis=0)


def test_the_mean_of_the_seeds(two: tuple[Path, Path], both: dict[str, Any]) -> None:
    """Against scikit-learn on scores averaged here."""
    first = both["ensembles"][0]
    assert first["ensemble"] == "first baseline"
    assert len(first["members"]) == 4
    val, test = mean_of(two[0], "val"), mean_of(two[0], "test")
    assert first["uncalibrated_threshold"] == balanced_accuracy(*val)
    expected = with_temperature(np.array([balanced_accuracy(*val)]), first["temperature"])[0]
    assert first["threshold"] == expected, "on the calibrated mean, as scores.csv"
    assert first["temperature"] == fit_temperature(*val)
    figures = {key: f["mean"] for key, f in first["metrics"].items()}
    assert figures["auroc"] == pytest.approx(roc_auc_score(*test))
    assert figures["nll"] == pytest.approx(log_loss(test[0], with_temperature(test[1], first["temperature"])))
    decided = decision_metrics(test[0], with_temperature(test[1], first["temperature"]), first["threshold"])
    for name in ("sensitivity", "specificity", "balanced_accuracy"):
        assert figures[f"{name}_val_threshold"] == pytest.approx(decided[name])


def test_systems_weigh_the_same_whatever_their_number_of_seeds(two: tuple[Path, Path], both: dict[str, Any]) -> None:
    assert [e["ensemble"] for e in both["ensembles"]] == ["first baseline", ALL]  # a single trial is no ensemble
    (y_true, left), (_, right) = mean_of(two[0], "test"), mean_of(two[1], "test")
    together = both["ensembles"][1]
    assert together["arms"] == ["first baseline", "second augment"]
    assert together["metrics"]["auroc"]["mean"] == pytest.approx(roc_auc_score(y_true, (left + right) / 2))


def test_members_and_differences(two: tuple[Path, Path], both: dict[str, Any]) -> None:
    rows = read_jsonl(two[0] / "results.jsonl")
    for key, path in {"auroc": ("auroc",), "brier": ("brier",), "f1_val_threshold": ("at_threshold", "f1")}.items():
        alone = [row["test"][path[0]] if len(path) == 1 else row["test"][path[0]][path[1]] for row in rows]
        found = both["ensembles"][0]["metrics"][key]
        assert found["members_mean"] == pytest.approx(np.mean(alone))
        assert found["members_sd"] == pytest.approx(np.std(alone, ddof=1))
        assert found["gain"] == pytest.approx(found["mean"] - found["members_mean"])
        assert found["gain_low"] < found["gain"] < found["gain_high"]
        assert 0 <= found["low"] < found["mean"] < found["high"] <= 1


def test_an_ensemble_of_copies_gains_nothing(classifier: Run, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", seeds=2)
    rows = read_jsonl(run / "results.jsonl")
    same = (run / rows[0]["folder"] / "predictions.npz").read_bytes()
    (run / rows[1]["folder"] / "predictions.npz").write_bytes(same)
    copied = {**rows[1], "val": rows[0]["val"], "test": rows[0]["test"]}
    (run / "results.jsonl").write_text(f"{json.dumps(rows[0])}\n{json.dumps(copied)}\n")
    (found,) = json.loads(done(classifier("ensemble", run, "--json")).stdout)["ensembles"]
    for figures in found["metrics"].values():
        assert figures["gain"] == pytest.approx(0, abs=1e-12)
        assert figures["gain_high"] - figures["gain_low"] == pytest.approx(0, abs=1e-9)


def test_perfect_members_are_not_proof_that_averaging_gains_nothing() -> None:
    """All resamples agree, but on other patients the members could err: as in an ablation's contrasts."""
    resamples = np.ones(41)
    alike, unlike = (_metric("auroc", resamples, [[resamples] * 2], 20, copies) for copies in (True, False))
    assert (alike.gain_low, alike.gain_high) == (0, 0)
    assert unlike.gain_high == -unlike.gain_low == pytest.approx(1 - 0.025 ** (1 / 20)), "Clopper and Pearson"
    assert math.isfinite(_metric("nll", resamples, [[resamples] * 2], 20, False).gain_high), "has no largest value"


def test_the_command(classifier: Run, two: tuple[Path, Path]) -> None:
    told = done(classifier("ensemble", two[0], "--threshold", "sensitivity=0.9"))
    assert "DRAWN SCORES" in told.stdout
    assert "AUROC" in told.stdout
    folder = two[0] / "ensemble"
    assert sorted(p.name for p in folder.iterdir()) == [
        "ensemble.csv",
        "ensemble.html",
        "ensemble.json",
        "ensemble.md",
        "scores.csv",
    ]
    result = read_json(folder / "ensemble.json")
    assert result["ensembles"][0]["uncalibrated_threshold"] == threshold_rule("sensitivity=0.9")(
        *mean_of(two[0], "val")
    )
    with (folder / "scores.csv").open(newline="") as handle:
        listed = list(csv.DictReader(handle))
    y_true, mean = mean_of(two[0], "test")
    stated = with_temperature(mean, result["ensembles"][0]["temperature"])
    assert [float(row["baseline"]) for row in listed] == pytest.approx(stated.tolist(), abs=1e-6)
    assert [int(row["y_true"]) for row in listed] == y_true.tolist()
    assert "Rule of the threshold: sensitivity=0.9" in (folder / "ensemble.md").read_text()


def test_ensembles_of_unlike_size_come_with_a_warning(classifier: Run, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", ("baseline", "gan"), seeds=2, sets=3)
    result = json.loads(done(classifier("ensemble", run, "--json")).stdout)
    assert [len(e["members"]) for e in result["ensembles"]] == [2, 6]
    assert result["ensembles"][0]["members"] == ["baseline, seed 0", "baseline, seed 1"]
    assert set(result["ensembles"][1]["members"]) == {f"gan, set {s}, seed {t}" for s in range(3) for t in range(2)}
    assert any("2 to 6 members" in note for note in result["notes"])
    result = json.loads(done(classifier("ensemble", run, "--regimes", "gan", "--json")).stdout)
    assert result["notes"] == ["DRAWN SCORES"]


def test_refused(classifier: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    refused(classifier("ensemble", two[1]), 1, "one trial, which makes no ensemble")
    refused(classifier("ensemble", *two), 2, "2 runs are named", "--out")
    refused(classifier("ensemble", two[0], "--threshold", "best"), 2, "threshold is 'best'")
    other = fake_run(tmp_path / "other", data_fingerprint="0" * 16)
    refused(
        classifier("ensemble", two[0], other, "--out", tmp_path / "o"), 1, "data_fingerprint", "same data and split"
    )
