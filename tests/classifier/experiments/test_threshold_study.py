"""`classifier thresholds`: its figures against decisions counted one by one, and what it refuses."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from commands import done, refused
from fake_study import fake_run, scores
from PIL import Image

from balancer.core.jsonl import read_jsonl
from balancer.core.sealed import read_json
from classifier.analysis.runs import read_runs
from classifier.evaluation.metrics import evaluate
from classifier.evaluation.thresholds import threshold_rule, with_temperature
from classifier.experiments.thresholds import GRID, THRESHOLD_RULES, WARNING

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs") / "study", ("baseline", "gan"), seeds=2, sets=2, shift=1.5)


@pytest.fixture(scope="module")
def result(run: Path) -> dict[str, Any]:
    from classifier.experiments.thresholds import thresholds

    return thresholds([run], (), (), None).to_json()


def rates(y_true: np.ndarray, called: np.ndarray) -> tuple[float, float, float]:
    """Balanced accuracy, sensitivity, specificity, counted."""
    hits = sum(1 for y, c in zip(y_true, called, strict=True) if y and c) / int((y_true == 1).sum())
    spared = sum(1 for y, c in zip(y_true, called, strict=True) if not y and not c) / int((y_true == 0).sum())
    return (hits + spared) / 2, hits, spared


def rows_of(run: Path, regime: str) -> list[dict[str, Any]]:
    rows = read_jsonl(run / "results.jsonl")
    return [row for row in rows if row["regime"] == regime]


@pytest.mark.parametrize(("arm", "regime"), [(0, "baseline"), (1, "gan")])
def test_the_sweep_is_the_mean_over_trials_of_counted_decisions(
    run: Path, result: dict[str, Any], arm: int, regime: str
) -> None:
    assert result["arms"][arm]["arm"] == regime
    assert result["arms"][arm]["synthetic_sets"] == (2 if regime == "gan" else 0)
    for fold in ("val", "test"):
        for k in (0, 37, len(GRID) - 1):
            counted = []
            for row in rows_of(run, regime):
                y_true, y_score = scores(run, row["folder"], fold)
                counted.append(rates(y_true, with_temperature(y_score, row["val"]["temperature"]) >= GRID[k]))
            sweep = result["arms"][arm]["sweep"][fold]
            found = [sweep[m]["mean"][k] for m in ("balanced_accuracy", "sensitivity", "specificity")]
            assert found == pytest.approx(np.mean(counted, axis=0))
            assert sweep["sensitivity"]["low"][k] <= found[1] <= sweep["sensitivity"]["high"][k]


def test_rules_are_chosen_on_validation_alone(run: Path, result: dict[str, Any]) -> None:
    for entry, name in zip(result["arms"][0]["rules"], THRESHOLD_RULES, strict=True):
        assert entry["rule"] == name
        at, counted = [], {"val": [], "test": []}
        for row in rows_of(run, "baseline"):
            chosen = threshold_rule(name)(*scores(run, row["folder"], "val"))
            at.append(with_temperature(np.array([chosen]), row["val"]["temperature"])[0])
            for fold, kept in counted.items():
                y_true, y_score = scores(run, row["folder"], fold)
                kept.append(rates(y_true, y_score >= chosen))
        assert entry["threshold"]["mean"] == pytest.approx(np.mean(at))
        assert entry["threshold"]["sd"] == pytest.approx(np.std(at, ddof=1))
        for i, metric in enumerate(("balanced_accuracy", "sensitivity", "specificity")):
            val, test = (np.array(counted[fold])[:, i] for fold in ("val", "test"))
            assert entry["val"][metric]["mean"] == pytest.approx(val.mean())
            assert entry["test"][metric]["mean"] == pytest.approx(test.mean())
            assert entry["test"][metric]["sd"] == pytest.approx(np.std(test, ddof=1))
            assert entry["gap"][metric]["mean"] == pytest.approx((test - val).mean())


def test_hindsight_beats_every_threshold_of_the_sweep_and_claims_too_much(result: dict[str, Any]) -> None:
    """Scores on test are shifted, so that what validation chose is not what test would."""
    for arm in result["arms"]:
        best = arm["hindsight"]["balanced_accuracy"]["mean"]
        assert best >= max(arm["sweep"]["test"]["balanced_accuracy"]["mean"])
        (chosen,) = (r for r in arm["rules"] if r["rule"] == "balanced_accuracy")
        assert best > chosen["test"]["balanced_accuracy"]["mean"] + 0.01
        assert chosen["gap"]["balanced_accuracy"]["mean"] < 0


def test_files(run: Path, result: dict[str, Any]) -> None:
    folder = run / "thresholds"
    text = (folder / "thresholds.md").read_text()
    assert WARNING in text
    assert "DRAWN SCORES" in text
    assert "validation n = 60 images of 30 patients, test n = 80 images of 40 patients" in text
    assert {"out": str(folder), **read_json(folder / "thresholds.json")} == result
    sweep = list(csv.DictReader(io.StringIO((folder / "sweep.csv").read_text())))
    assert len(sweep) == 2 * 2 * 3 * len(GRID)
    at = [
        r
        for r in sweep
        if (r["arm"], r["fold"], r["metric"], r["threshold"]) == ("gan", "test", "specificity", "0.500000")
    ]
    k = GRID.tolist().index(0.5)
    assert float(at[0]["mean"]) == pytest.approx(result["arms"][1]["sweep"]["test"]["specificity"]["mean"][k], abs=1e-6)
    rules = list(csv.DictReader(io.StringIO((folder / "thresholds.csv").read_text())))
    assert {r["rule"] for r in rules} == set(THRESHOLD_RULES)
    assert (folder / "thresholds.svg").read_bytes().startswith(b"<?xml")
    with Image.open(folder / "thresholds.png") as picture:
        assert min(picture.size) > 500


def test_the_threshold_of_one_model_is_printed_in_full(classifier: Run, tmp_path: Path) -> None:
    """It is the number of `train` and `evaluate`, for `predict --threshold`."""
    single = fake_run(tmp_path / "single", seeds=1, single=True)
    threshold = json.loads((single / "result.json").read_text())["test"]["threshold"]
    assert f"balanced_accuracy  {threshold}  " in re.sub("  +", "  ", done(classifier("thresholds", single)).stdout)
    rules = list(csv.DictReader(io.StringIO((single / "thresholds" / "thresholds.csv").read_text())))
    assert str(threshold) in {r["threshold_mean"] for r in rules if r["rule"] == "balanced_accuracy"}


def test_the_command(classifier: Run, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "place"
    asked = ("thresholds", run, "--regimes", "gan", "--rules", "cost=2, youden", "--out", out)
    told = done(classifier(*asked))
    assert "cost=2" in told.stdout
    assert "best of the sweep on test, no choice" in told.stdout
    assert "baseline" not in told.stdout
    tables = {f"thresholds.{suffix}" for suffix in ("csv", "html", "json", "md", "png", "svg")}
    assert {p.name for p in out.iterdir()} == {"sweep.csv", *tables}
    again = json.loads(done(classifier(*asked, "--json")).stdout)
    assert [r["rule"] for r in again["arms"][0]["rules"]] == ["cost=2", "youden"]


def test_the_help_names_the_rules_that_are_taken_when_none_is_named(classifier: Run) -> None:
    assert ",".join(THRESHOLD_RULES) in "".join(classifier("thresholds", "-h").stdout.split())


@pytest.mark.nightly
def test_several_runs_are_told_apart(classifier: Run, run: Path, tmp_path: Path) -> None:
    other = fake_run(tmp_path / "one", single=True, seeds=1)
    found = json.loads(done(classifier("thresholds", run, other, "--out", tmp_path / "o", "--json")).stdout)
    assert [arm["arm"] for arm in found["arms"]] == ["study baseline", "study gan", "one baseline"]
    assert found["arms"][2]["rules"][0]["test"]["sensitivity"]["sd"] is None
    twin = fake_run(tmp_path / "x" / "study", seeds=2)
    assert list(read_runs([run, twin]).arms)[1:] == [f"{run} gan", f"{twin} baseline"]


def test_refused(classifier: Run, run: Path, tmp_path: Path) -> None:
    refused(classifier("thresholds", run, "--rules", "sensitivity=2"), 2, "threshold is 'sensitivity=2'", "at most 1")
    refused(classifier("thresholds", run, "--regimes", "gam"), 2, "regime is 'gam'; did you mean 'gan'")
    refused(
        classifier("thresholds", run, "--regimes", "augment"), 1, "no trial of regime augment; there are baseline, gan"
    )
    refused(classifier("thresholds", run, run), 2, "2 runs are named", "--out")
    refused(classifier("thresholds", run, run, "--out", tmp_path), 1, "some of them the same")
    (tmp_path / "empty").mkdir()
    refused(classifier("thresholds", tmp_path / "empty"), 1, "holds no finished trial", "classifier ablate")
    file = tmp_path / "file"
    file.write_text("")
    refused(classifier("thresholds", run, "--out", file), 1, "is a file; give a folder")


def test_runs_of_other_data_are_refused(classifier: Run, run: Path, tmp_path: Path) -> None:
    other = fake_run(tmp_path / "other", data_fingerprint="0" * 16)
    refused(classifier("thresholds", run, other, "--out", tmp_path / "o"), 1, "data_fingerprint", "same data and split")
    moved = fake_run(tmp_path / "moved")
    file = moved / "trials/baseline-None-0/predictions.npz"
    with np.load(file) as saved:
        arrays = dict(saved)
    np.savez(file, **arrays | {"val_index": arrays["val_index"][::-1]})
    refused(classifier("thresholds", moved), 1, "different val images")


def test_damaged_runs_are_refused(classifier: Run, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", seeds=2)
    (run / "env.json").write_text("{}")
    refused(classifier("thresholds", run), 1, "env.json is damaged: data")
    run = fake_run(tmp_path / "other", seeds=2)
    (run / "trials" / "baseline-None-1" / "predictions.npz").write_bytes(b"PK")
    refused(classifier("thresholds", run), 1, "predictions.npz is damaged", f"--resume {run}")
    three = evaluate(np.array([0, 1, 2]), np.full((3, 3), 1 / 3), 0.5, 1.0)
    run = fake_run(tmp_path / "classes", seeds=1, single=True, val=three, test=three)
    refused(classifier("thresholds", run), 1, "several classes", "two classes")


def test_an_unfinished_run_is_read_and_said_to_be_one(classifier: Run, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", seeds=2)
    (run / "done").unlink()
    told = done(classifier("thresholds", run))
    assert "is not finished: only the 2 trials there so far" in told.stderr
