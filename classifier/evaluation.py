"""What is reported of a classifier: pure functions of ``y_true`` (n,) in {0, 1} and ``y_score`` (n,), the probability of PNEUMONIA."""

from __future__ import annotations

import numpy as np
from sklearn import metrics

from classifier.thresholds import with_temperature

Array = np.ndarray
EPSILON = 1e-7
CALIBRATION = ("nll", "brier", "ece")
RANKING = ("auroc", "auprc", *CALIBRATION)
DECISION = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1")


def ranking_metrics(y_true: Array, y_score: Array) -> dict[str, float]:
    """AUROC and AUPRC (average precision): what no temperature and no threshold changes."""
    return {
        "auroc": float(metrics.roc_auc_score(y_true, y_score)),
        "auprc": float(metrics.average_precision_score(y_true, y_score)),
    }


def calibration_metrics(y_true: Array, y_score: Array) -> dict[str, float]:
    """Negative log-likelihood, Brier score and ECE: what a temperature changes."""
    return {
        "nll": nll(y_true, y_score),
        "brier": float(np.mean((y_score - y_true) ** 2)),
        "ece": expected_calibration_error(y_true, y_score),
    }


def decision_metrics(y_true: Array, y_score: Array, threshold: float) -> dict[str, float]:
    """Metrics of the decision ``y_score >= threshold``; a ratio with nothing below it is 0."""
    tn, fp, fn, tp = confusion(y_true, y_score, threshold)

    def ratio(a: int, b: int) -> float:
        return a / b if b else 0.0

    sensitivity, specificity, precision = ratio(tp, tp + fn), ratio(tn, tn + fp), ratio(tp, tp + fp)
    return {
        "accuracy": (tp + tn) / len(y_true),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": precision,
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
    }


def confusion(y_true: Array, y_score: Array, threshold: float) -> tuple[int, int, int, int]:
    """(TN, FP, FN, TP), PNEUMONIA being positive."""
    matrix = metrics.confusion_matrix(y_true, y_score >= threshold, labels=[0, 1])
    tn, fp, fn, tp = (int(v) for v in matrix.ravel())
    return tn, fp, fn, tp


def nll(y_true: Array, y_score: Array) -> float:
    """Mean negative log-likelihood in nats, probabilities kept off 0 and 1 by 1e-7."""
    p = np.clip(y_score, EPSILON, 1 - EPSILON)
    return float(-np.mean(np.where(y_true == 1, np.log(p), np.log(1 - p))))


def expected_calibration_error(y_true: Array, y_score: Array, bins: int = 15) -> float:
    """Mean distance of the observed from the stated probability over equal-width bins (Naeini et al. 2015)."""
    which = np.minimum((y_score * bins).astype(int), bins - 1)
    gaps = [abs(float((y_true[which == b] - y_score[which == b]).sum())) for b in np.unique(which)]
    return sum(gaps) / len(y_true)


def evaluate(y_true: Array, y_score: Array, threshold: float, temperature: float) -> dict[str, object]:
    """Everything at once: the threshold-free metrics, and decisions at 0.5 and at ``threshold``.

    NLL, Brier score and ECE are of the probabilities with the temperature; those without it are under ``uncalibrated``.
    """
    return {
        "n": len(y_true),
        **ranking_metrics(y_true, y_score),
        **calibration_metrics(y_true, with_temperature(y_score, temperature)),
        "uncalibrated": calibration_metrics(y_true, y_score),
        "at_half": decision_metrics(y_true, y_score, 0.5) | {"confusion": confusion(y_true, y_score, 0.5)},
        "at_threshold": decision_metrics(y_true, y_score, threshold)
        | {"confusion": confusion(y_true, y_score, threshold)},
        "threshold": threshold,
        "temperature": temperature,
    }
