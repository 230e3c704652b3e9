"""Metrics against scikit-learn, and the calibration error against its definition."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from balancer.core.shapes import parse
from classifier.evaluation.fold_metrics import AnyMetrics, BinaryMetrics
from classifier.evaluation.metrics import (
    CALIBRATION,
    calibration_metrics,
    confusion,
    evaluate,
    expected_calibration_error,
    nll,
    ranking_metrics,
    weighted_metrics,
)
from classifier.evaluation.thresholds import with_temperature

Array = np.ndarray


@st.composite
def cases(draw: st.DrawFn, both: bool = True) -> tuple[Array, Array]:
    """Labels and scores; scores are multiples of 1/64, so that ties are common and arithmetic on them is exact."""
    n = draw(st.integers(2, 40))
    y_true = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    if both:
        y_true[:2] = [0, 1]
    y_score = draw(st.lists(st.integers(0, 64), min_size=n, max_size=n))
    return np.array(y_true), np.array(y_score) / 64


THRESHOLD = st.integers(0, 64).map(lambda k: k / 64)


@given(cases())
def test_ranking_metrics_agree_with_sklearn(case: tuple[Array, Array]) -> None:
    y_true, y_score = case
    clipped = np.clip(y_score, 1e-7, 1 - 1e-7)
    assert {**ranking_metrics(y_true, y_score), **calibration_metrics(y_true, y_score)} == pytest.approx(
        {
            "auroc": metrics.roc_auc_score(y_true, y_score),
            "auprc": metrics.average_precision_score(y_true, y_score),
            "nll": metrics.log_loss(y_true, clipped),
            "brier": metrics.brier_score_loss(y_true, y_score),
            "ece": expected_calibration_error(y_true, y_score),
        }
    )


@given(cases(both=False), THRESHOLD)
def test_confusion_counts_every_image_once(case: tuple[Array, Array], threshold: float) -> None:
    y_true, y_score = case
    pairs = [(int(t), bool(s >= threshold)) for t, s in zip(y_true, y_score, strict=True)]
    by_hand = [pairs.count(p) for p in ((0, False), (0, True), (1, False), (1, True))]
    assert list(confusion(y_true, y_score, threshold)) == by_hand


def test_calibration_error_by_hand() -> None:
    """Ten images at .75 of which five are positive, ten at .05 without one: (.25 + .05) / 2."""
    y_score = np.repeat([0.75, 0.05], 10)
    y_true = np.array([1] * 5 + [0] * 15)
    assert expected_calibration_error(y_true, y_score) == pytest.approx(0.15)


def test_a_score_of_one_is_in_the_last_bin() -> None:
    """With .95, not in a bin of its own: |(0 - 1) + (1 - .95)| / 2."""
    assert expected_calibration_error(np.array([0, 1]), np.array([1.0, 0.95])) == pytest.approx(0.475)


def test_the_threshold_itself_is_positive() -> None:
    y_true, y_score = np.array([0, 1]), np.array([0.3, 0.3])
    assert confusion(y_true, y_score, 0.3) == (0, 1, 0, 1)
    assert confusion(y_true, y_score, np.nextafter(0.3, 1)) == (1, 0, 1, 0)


@pytest.mark.parametrize(("score", "matrix"), [(0.0, (3, 0, 2, 0)), (1.0, (0, 3, 0, 2))])
def test_one_answer_for_everything(score: float, matrix: tuple[int, ...]) -> None:
    """No division by zero, no NaN: NaN cannot be written as JSON."""
    y_true, y_score = np.array([0, 1, 0, 1, 0]), np.full(5, score)
    result = evaluate(y_true, y_score, 0.5, 1.0)
    assert isinstance(result, BinaryMetrics)
    assert result.at_half.confusion == matrix
    assert result.auroc == 0.5
    assert result.at_half.balanced_accuracy == 0.5
    json.dumps(result.to_json(), allow_nan=False)


def test_certain_and_wrong_is_expensive_but_finite() -> None:
    assert nll(np.array([1]), np.array([0.0])) == pytest.approx(-np.log(1e-7))
    assert nll(np.array([1, 0]), np.array([1.0, 0.0])) == pytest.approx(0, abs=1e-6)


def test_evaluate_reports_both_thresholds() -> None:
    y_true, y_score = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.7, 0.9])
    result = evaluate(y_true, y_score, 0.65, 1.0)
    assert isinstance(result, BinaryMetrics)
    assert (result.n, result.threshold) == (4, 0.65)
    assert result.at_half.confusion == (1, 1, 0, 2)
    assert result.at_threshold.confusion == (2, 0, 0, 2)
    assert result.at_threshold.accuracy == 1
    assert result.auroc == 1
    assert parse(AnyMetrics, json.loads(json.dumps(result.to_json())), Path("row")) == result


def test_the_temperature_changes_calibration_alone() -> None:
    y_true, y_score = np.array([0, 1, 1, 0, 1]), np.array([0.2, 0.7, 0.999, 0.6, 0.4])
    plain, hot = (evaluate(y_true, y_score, 0.65, t).to_json() for t in (1.0, 2.5))
    assert plain["uncalibrated"] == pytest.approx({k: plain[k] for k in CALIBRATION})
    assert hot["uncalibrated"] == plain["uncalibrated"]
    softened = 1 / (1 + (1 / y_score - 1) ** (1 / 2.5))
    assert hot["brier"] == pytest.approx(metrics.brier_score_loss(y_true, softened))
    assert hot["nll"] == pytest.approx(metrics.log_loss(y_true, softened))
    changed = {k for k in plain if plain[k] != hot[k]}
    assert changed == {*CALIBRATION, "temperature", "threshold"}  # all that is on calibrated probabilities


def test_scores_that_a_temperature_would_tie_keep_their_order() -> None:
    """Perfectly separated validation asks for the lowest temperature, at which .999 and .9999 both become 1."""
    y_true, y_score = np.array([0, 0, 1]), np.array([0.1, 0.999, 0.9999])
    assert evaluate(y_true, y_score, 0.5, 0.05).auroc == 1


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_an_image_that_counts_thrice_is_three_images(temperature: float) -> None:
    rng = np.random.default_rng(0)
    y_true = (np.arange(60) % 3 > 0).astype(int)
    y_score = np.round(1 / (1 + np.exp(-rng.normal(y_true - 0.5, 1))), 2)
    counts = rng.integers(0, 4, (5, 60)).astype(float)
    result = weighted_metrics(
        y_true, y_score, with_temperature(y_score, temperature), 0.37, np.vstack([np.ones(len(y_true)), counts])
    )
    for row, times in enumerate([np.ones(len(y_true), int), *counts.astype(int)]):
        expected = evaluate(np.repeat(y_true, times), np.repeat(y_score, times), 0.37, temperature).to_json()
        for key, values in result.items():
            name = key.removesuffix("_val_threshold")
            place = expected["at_threshold" if key != name else "at_half"]
            assert isinstance(place, dict)
            assert values[row] == pytest.approx(expected[key] if key in expected else place[name], abs=1e-9), key


def test_metrics_of_earlier_versions_are_read() -> None:
    """They hold one threshold, on the network's own probabilities; a result now holds it on the calibrated ones too."""
    result = evaluate(np.array([0, 1, 0, 1]), np.array([0.2, 0.7, 0.4, 0.6]), 0.55, 2.0)
    old = json.loads(json.dumps(result.to_json()))
    old["threshold"] = old.pop("uncalibrated_threshold")
    assert parse(AnyMetrics, old, Path("row")) == result
    odds = np.sqrt(0.55 / 0.45)
    assert result.to_json()["threshold"] == pytest.approx(odds / (1 + odds))
