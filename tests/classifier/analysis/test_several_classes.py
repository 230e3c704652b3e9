"""Studies of three classes of any names: the endpoint, intervals by patient, image-level tests, saved rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from fake_study import fake_trial, write_run
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from balancer.metrics.classification import weighted_auroc
from balancer.metrics.resampling import patient_weights
from classifier.analysis.analyse import analyse
from classifier.analysis.image_tests import delong
from classifier.analysis.reading import read_run, with_predictions
from classifier.analysis.results import StudyResults, TrialPredictions, TrialResult
from classifier.evaluation.fold_metrics import MulticlassMetrics
from classifier.report import tables

Array = np.ndarray
CLASSES = ("COVID-19", "No finding", "Viral (other)")
LABELS = np.repeat([0, 1, 2], (40, 80, 60))
PATIENTS = [f"p{i // 2}" for i in range(len(LABELS))]


def softmax(logits: Array) -> Array:
    e = np.exp(logits)
    return e / e.sum(axis=1, keepdims=True)


def scores(apart: float, seed: int, labels: Array = LABELS) -> Array:
    """Return probabilities (n, 3): the logit of the true class is higher."""
    hard = np.random.default_rng(0).normal(size=(len(labels), 3))
    own = np.random.default_rng(1 + seed).normal(size=(len(labels), 3))
    return softmax(apart * np.eye(3)[labels] + hard + 0.5 * own)


def study(apart: dict[str, float], seeds: int = 3) -> StudyResults:
    trials: list[TrialResult] = []
    for seed in range(seeds):
        for i, (regime, distance) in enumerate(apart.items()):
            index = np.arange(len(LABELS))
            made = TrialPredictions(LABELS, scores(distance, 10 * seed + i), 0.5, 1.2, index)
            counts = dict(zip(CLASSES, (30, 60, 45), strict=True))
            trials.append(fake_trial(regime, seed, predictions={"val": made, "test": made}, n_train=counts))
    return StudyResults.of(trials, PATIENTS)


# ---------------------------------------------------------------- estimators


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_delong_of_two_columns_is_that_of_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y_true = np.repeat([0, 1], (30, 20))
    left, right = rng.random((2, 50)) + 0.4 * y_true
    one = delong(y_true, left, right)
    two = delong(y_true, np.stack([-left, left], 1), np.stack([-right, right], 1))
    assert tuple(two) == pytest.approx(tuple(one))


def test_delong_of_three_columns_is_the_scatter_of_resamples() -> None:
    left, right = scores(1.0, 0), scores(1.4, 1)
    found = delong(LABELS, left, right)

    def macro(score: Array) -> float:
        return float(metrics.roc_auc_score(LABELS, score, multi_class="ovr", average="macro"))

    assert found.estimate == pytest.approx(macro(left) - macro(right))
    weights = patient_weights(LABELS, [str(i) for i in range(len(LABELS))], 2000, 0, classes=3)
    of_class = [
        weighted_auroc((k == LABELS).astype(int), left[:, k], weights)
        - weighted_auroc((k == LABELS).astype(int), right[:, k], weights)
        for k in range(3)
    ]
    assert found.se == pytest.approx(np.mean(of_class, axis=0)[1:].std(), rel=0.07)


def test_patients_are_drawn_within_each_class() -> None:
    weights = patient_weights(LABELS, PATIENTS, 400, 0, classes=3)
    assert (weights[0] == 1).all()
    assert (weights[:, ::2] == weights[:, 1::2]).all(), "the images of a patient stay together"
    for label, n in enumerate((40, 80, 60)):
        assert weights[:, label == LABELS].sum(axis=1) == pytest.approx(n), "every class keeps its weight"
    assert weights[1:].mean(axis=0) == pytest.approx(1, abs=0.3)


# ---------------------------------------------------------------- an analysis


def test_the_endpoint_is_the_macro_auroc() -> None:
    results = study({"baseline": 0.6, "gan": 2.2, "augment": 0.6, "combined": 0.65})
    found = analyse(results, seed=0, resamples=200)
    assert results.classes == CLASSES
    gan = next(c for c in found.contrasts if c.contrast.name == "gan - baseline")
    assert gan.endpoint == "macro AUROC"
    macro = {
        regime: np.mean(
            [
                metrics.roc_auc_score(LABELS, t.predictions["test"].y_score, multi_class="ovr", average="macro")
                for t in results.arms[regime]
            ]
        )
        for regime in ("gan", "baseline")
    }
    assert gan.estimate.value == pytest.approx(macro["gan"] - macro["baseline"])
    assert gan.verdict == "helps"
    summary = next(r for r in found.regimes if r.regime == "baseline").metrics
    assert {f"{kind}[{name}]" for kind in ("auroc", "recall") for name in CLASSES} <= set(summary)
    for name in CLASSES:
        low, high = summary[f"recall[{name}]"].interval or (0, 0)
        assert 0 <= low < summary[f"recall[{name}]"].mean < high <= 1
    assert "macro AUROC" in found.verdict


def test_tables_name_the_classes() -> None:
    results = study({"baseline": 0.6, "gan": 2.2}, seeds=1)
    rows = tables.regime_rows(results, analyse(results, seed=0, resamples=50))
    for columns in rows[0].layout.blocks.values():
        header = tables.regime_table(rows, columns).header
        assert not any("PNEUMONIA" in cell or "NORMAL" in cell for cell in header)
    text = tables.text_table(rows)
    assert "macro AUROC" in text


# ---------------------------------------------------------------- rows of earlier versions


def test_rows_without_the_auroc_of_each_class_are_completed(tmp_path: Path) -> None:
    results = study({"baseline": 0.6}, seeds=2)
    run = write_run(tmp_path / "run", results.trials, PATIENTS)
    lines = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    for line in lines:
        for fold in ("val", "test"):
            assert len(line[fold].pop("auroc_of_class")) == 3
    (run / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for trial, before in zip(read_run(run), results.trials, strict=True):
        completed = with_predictions(trial, run).test
        assert isinstance(completed, MulticlassMetrics)
        assert isinstance(before.test, MulticlassMetrics)
        assert completed.auroc_of_class == pytest.approx(before.test.auroc_of_class)
