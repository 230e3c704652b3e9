"""Every weighted metric against scikit-learn's ``sample_weight``, ties included, and against repeated images."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from balancer.metrics.classification import (
    ECE_BINS,
    EPSILON,
    ordered_pairs,
    precision_at,
    roc_at,
    threshold_sweep,
    weighted_auroc,
    weighted_average_precision,
    weighted_calibration,
    weighted_decisions,
)

Array = np.ndarray
GRID = np.linspace(0.005, 0.995, 100)
THRESHOLDS = np.array([0.0, 0.3, 0.5, 1.0])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    """Draw labels of both classes, scores of few levels, and four rows of whole weights that keep both classes."""
    n, levels = draw(st.integers(4, 25)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    y_true = rng.permutation(np.arange(n) % 2)
    weights = rng.integers(0, 4, (4, n)).astype(float)
    weights[:, [np.argmax(y_true == 0), np.argmax(y_true == 1)]] = 1
    return y_true, rng.integers(0, levels + 1, n) / levels, weights


def all_metrics(y_true: Array, y_score: Array, weights: Array) -> dict[str, Array]:
    """Return every metric of the module that is a number, (b,) each; decisions at .5."""
    sensitivity, specificity = threshold_sweep(y_true, y_score, THRESHOLDS, weights)
    swept = {f"sensitivity at {t}": sensitivity[:, i] for i, t in enumerate(THRESHOLDS)}
    return {
        "auroc": weighted_auroc(y_true, y_score, weights),
        "average_precision": weighted_average_precision(y_true, y_score, weights),
        **weighted_calibration(y_true, y_score, weights),
        **weighted_decisions(y_true, y_score >= 0.5, weights),
        **swept,
        **{f"specificity at {t}": specificity[:, i] for i, t in enumerate(THRESHOLDS)},
    }


def of_sklearn(y_true: Array, y_score: Array, weight: Array) -> dict[str, float]:
    """Return the metrics by scikit-learn, which has no calibration error."""
    decided, options = (y_score >= 0.5).astype(int), {"sample_weight": weight, "zero_division": 0}
    return {
        "auroc": metrics.roc_auc_score(y_true, y_score, sample_weight=weight),
        "average_precision": metrics.average_precision_score(y_true, y_score, sample_weight=weight),
        "brier": metrics.brier_score_loss(y_true, y_score, sample_weight=weight),
        "nll": metrics.log_loss(y_true, np.clip(y_score, EPSILON, 1 - EPSILON), sample_weight=weight),
        "accuracy": metrics.accuracy_score(y_true, decided, sample_weight=weight),
        "balanced_accuracy": metrics.balanced_accuracy_score(y_true, decided, sample_weight=weight),
        "sensitivity": metrics.recall_score(y_true, decided, **options),
        "specificity": metrics.recall_score(y_true, decided, pos_label=0, **options),
        "precision": metrics.precision_score(y_true, decided, **options),
        "f1": metrics.f1_score(y_true, decided, **options),
        **{f"sensitivity at {t}": metrics.recall_score(y_true, y_score >= t, **options) for t in THRESHOLDS},
        **{
            f"specificity at {t}": metrics.recall_score(y_true, y_score >= t, pos_label=0, **options)
            for t in THRESHOLDS
        },
    }


@settings(max_examples=25)
@given(cases())
def test_every_metric_is_scikit_learns(case: tuple[Array, Array, Array]) -> None:
    y_true, y_score, weights = case
    weights = weights * np.array([[1.0], [0.37], [1.91], [1.0]])  # whole numbers and others
    values = all_metrics(y_true, y_score, weights)
    for row, weight in enumerate(weights):
        expected = of_sklearn(y_true, y_score, weight)
        assert expected.keys() == values.keys() - {"ece"}
        assert {key: values[key][row] for key in expected} == pytest.approx(expected, abs=1e-12)


@settings(max_examples=25)
@given(cases())
def test_a_weight_of_three_is_three_images(case: tuple[Array, Array, Array]) -> None:
    """Brute force: each row of weights against a sample in which the images are repeated."""
    y_true, y_score, weights = case
    values = all_metrics(y_true, y_score, weights)
    curves: tuple[Callable[..., Array], ...] = (roc_at, precision_at)
    points = [curve(GRID, y_true, y_score, weights) for curve in curves]
    for row, times in enumerate(weights.astype(int)):
        repeated = np.repeat(y_true, times), np.repeat(y_score, times), np.ones((1, times.sum()))
        expected = {key: value[0] for key, value in all_metrics(*repeated).items()}
        assert {key: value[row] for key, value in values.items()} == pytest.approx(expected, abs=1e-12)
        for curve, of_weights in zip(curves, points, strict=True):
            np.testing.assert_allclose(of_weights[row], curve(GRID, *repeated)[0])


@settings(max_examples=25)
@given(cases())
def test_curves_are_scikit_learns(case: tuple[Array, Array, Array]) -> None:
    y_true, y_score, weights = case
    sensitivity, precision = (curve(GRID, y_true, y_score, weights) for curve in (roc_at, precision_at))
    for row, weight in enumerate(weights):
        fpr, tpr, _ = metrics.roc_curve(y_true, y_score, sample_weight=weight, drop_intermediate=False)
        np.testing.assert_allclose(sensitivity[row], np.interp(GRID, fpr, tpr))
        exact, recall, _ = metrics.precision_recall_curve(y_true, y_score, sample_weight=weight)
        reached = [exact[np.flatnonzero(recall >= r - 1e-12)[-1]] for r in GRID]
        np.testing.assert_allclose(precision[row], reached)


@settings(max_examples=25)
@given(cases())
def test_the_calibration_error_is_its_definition(case: tuple[Array, Array, Array]) -> None:
    y_true, y_score, weights = case
    bin_of = np.minimum(np.floor(y_score * ECE_BINS), ECE_BINS - 1)
    ece = weighted_calibration(y_true, y_score, weights)["ece"]
    for row, weight in enumerate(weights):
        gaps = [abs(((y_true - y_score) * weight)[bin_of == b].sum()) for b in range(ECE_BINS)]
        assert ece[row] == pytest.approx(sum(gaps) / weight.sum())


def test_many_resamples_are_as_good_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is done in chunks of resamples."""
    rng = np.random.default_rng(0)
    y_true, y_score, weights = np.arange(40) % 2, rng.integers(0, 9, 40) / 9, rng.integers(1, 4, (7, 40)).astype(float)
    at_once = all_metrics(y_true, y_score, weights)
    monkeypatch.setattr("balancer.metrics.classification.CHUNK", 3)
    in_chunks = all_metrics(y_true, y_score, weights)
    assert all((at_once[key] == in_chunks[key]).all() for key in at_once)


def test_a_class_without_weight_has_no_auroc() -> None:
    y_true, y_score = np.array([False, False, True]), np.array([0.1, 0.9, 0.5])
    weights = np.array([[1.0, 1, 1], [1, 1, 0], [0, 0, 2], [3, 0, 1]])
    np.testing.assert_array_equal(weighted_auroc(y_true, y_score, weights), [0.5, np.nan, np.nan, 1])
    ordered, pairs = ordered_pairs(y_true, y_score, weights)
    assert (ordered.tolist(), pairs.tolist()) == ([1, 0, 0, 3], [2, 0, 0, 3])


def test_a_ratio_with_nothing_below_it_is_zero() -> None:
    y_true, none = np.array([0, 0, 1, 1]), np.zeros(4, dtype=bool)
    values = weighted_decisions(y_true, none, np.ones((1, 4)))
    assert (values["precision"][0], values["f1"][0], values["sensitivity"][0]) == (0, 0, 0)
    values = weighted_decisions(np.ones(4, int), none, np.ones((1, 4)))
    assert (values["specificity"][0], values["balanced_accuracy"][0]) == (0, 0)
