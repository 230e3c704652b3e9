"""Metrics of a classifier: pure functions of ``y_true`` (n,) and ``y_score``.

With two classes, ``y_true`` is in {0, 1} and ``y_score`` (n,) is the probability of class 1, the positive one. With C
classes, ``y_score`` is (n, C) and each row is a distribution; the functions for C classes are at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from balancer.metrics.classification import (
    ECE_BINS,
    EPSILON,
    weighted_auroc,
    weighted_average_precision,
    weighted_calibration,
    weighted_decisions,
)
from classifier.evaluation.fold_metrics import (
    BinaryMetrics,
    CalibrationMetrics,
    DecisionMetrics,
    MulticlassDecision,
    MulticlassMetrics,
)
from classifier.evaluation.thresholds import calibrated_threshold, with_temperature

Array = np.ndarray
CALIBRATION = ("nll", "brier", "ece")
RANKING = ("auroc", "auprc", *CALIBRATION)
DECISION = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1")
MULTICLASS_RANKING = ("auroc", "auprc", "auroc_pneumonia", *CALIBRATION)
MULTICLASS_DECISION = ("accuracy", "balanced_accuracy", "f1")


def ranking_metrics(y_true: Array, y_score: Array) -> dict[str, float]:
    """Return AUROC and AUPRC (average precision), which no temperature and no threshold changes."""
    from sklearn.metrics import average_precision_score, roc_auc_score  # half a second

    return {
        "auroc": float(roc_auc_score(y_true, y_score)),
        "auprc": float(average_precision_score(y_true, y_score)),
    }


def calibration_metrics(y_true: Array, y_score: Array) -> dict[str, float]:
    """Return negative log-likelihood, Brier score and ECE, which a temperature changes."""
    return {
        "nll": nll(y_true, y_score),
        "brier": float(np.mean((y_score - y_true) ** 2)),
        "ece": expected_calibration_error(y_true, y_score),
    }


def decision_metrics(y_true: Array, y_score: Array, threshold: float) -> dict[str, float]:
    """Return the metrics of the decision ``y_score >= threshold``; a ratio with a denominator of 0 is 0."""
    once = np.ones((1, len(y_true)))
    return {key: float(value[0]) for key, value in weighted_decisions(y_true, y_score >= threshold, once).items()}


def confusion(y_true: Array, y_score: Array, threshold: float) -> tuple[int, int, int, int]:
    """Return (TN, FP, FN, TP) of the decision ``y_score >= threshold``; class 1 is positive."""
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(y_true, y_score >= threshold, labels=[0, 1])
    tn, fp, fn, tp = (int(v) for v in matrix.ravel())
    return tn, fp, fn, tp


def nll(y_true: Array, y_score: Array) -> float:
    """Return the mean negative log-likelihood in nats, of two classes or C; probabilities stay 1e-7 off 0 and 1."""
    if y_score.ndim == 2:
        of_truth = np.clip(y_score[np.arange(len(y_true)), y_true], EPSILON, 1 - EPSILON)
        return float(-np.mean(np.log(of_truth)))
    p = np.clip(y_score, EPSILON, 1 - EPSILON)
    return float(-np.mean(np.where(y_true == 1, np.log(p), np.log(1 - p))))


def expected_calibration_error(y_true: Array, y_score: Array) -> float:
    """Return the mean distance of observed from stated probability over equal-width bins (Naeini et al. 2015)."""
    bin_of = np.minimum((y_score * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = [abs(float((y_true[bin_of == b] - y_score[bin_of == b]).sum())) for b in np.unique(bin_of)]
    return sum(gaps) / len(y_true)


def weighted_metrics(
    y_true: Array, y_score: Array, calibrated: Array, threshold: float, weights: Array
) -> dict[str, Array]:
    """Return the test metrics of :data:`classifier.report.tables.COLUMNS` (b,) under each row of ``weights`` (b, n).

    NLL, Brier score and ECE are of ``calibrated``, the probabilities with the temperature. All else is of ``y_score``.
    Decisions are ``y_score >= 0.5`` and, with the suffix ``_val_threshold``, ``y_score >= threshold``.
    """
    values = {
        "auroc": weighted_auroc(y_true, y_score, weights),
        "auprc": weighted_average_precision(y_true, y_score, weights),
        **weighted_calibration(y_true, calibrated, weights),
    }
    for suffix, cut in (("", 0.5), ("_val_threshold", threshold)):
        decisions = weighted_decisions(y_true, y_score >= cut, weights)
        values |= {name + suffix: of_name for name, of_name in decisions.items()}
    return values


def evaluate(
    y_true: Array, y_score: Array, threshold: float, temperature: float, chest: bool = False
) -> BinaryMetrics | MulticlassMetrics:
    """Return every metric of one fold.

    Args:
        y_true: (n,) in {0, 1}, or in 0 to C - 1.
        y_score: (n,) probabilities of class 1, or (n, C) of each class; uncalibrated.
        threshold: of the decisions at_threshold, on ``y_score``. Multiclass decisions are for the most likely class
            and ignore it.
        temperature: of NLL, Brier score and ECE; the metrics under ``uncalibrated`` are without it.
        chest: whether the classes are NORMAL and kinds of pneumonia (:func:`balancer.data.chest.is_chest`).
    """
    if y_score.ndim == 2:
        return MulticlassMetrics(
            n=len(y_true),
            **multiclass_ranking(y_true, y_score),
            auroc_of_class=aurocs_of_classes(y_true, y_score),
            auroc_pneumonia=auroc_pneumonia(y_true, y_score) if chest else None,
            **multiclass_calibration(y_true, with_temperature(y_score, temperature)),
            uncalibrated=CalibrationMetrics(**multiclass_calibration(y_true, y_score)),
            most_likely=multiclass_decision(y_true, y_score),
            temperature=temperature,
        )
    return BinaryMetrics(
        n=len(y_true),
        **ranking_metrics(y_true, y_score),
        **calibration_metrics(y_true, with_temperature(y_score, temperature)),
        uncalibrated=CalibrationMetrics(**calibration_metrics(y_true, y_score)),
        at_half=_decide(y_true, y_score, 0.5),
        at_threshold=_decide(y_true, y_score, threshold),
        threshold=calibrated_threshold(threshold, temperature),
        uncalibrated_threshold=threshold,
        temperature=temperature,
    )


def _decide(y_true: Array, y_score: Array, threshold: float) -> DecisionMetrics:
    return DecisionMetrics(
        **decision_metrics(y_true, y_score, threshold), confusion=confusion(y_true, y_score, threshold)
    )


def multiclass_ranking(y_true: Array, y_score: Array) -> dict[str, float]:
    """Return AUROC and AUPRC, each class against the rest, averaged over classes (macro)."""
    of_class = [ranking_metrics(y_true == k, y_score[:, k]) for k in range(y_score.shape[1])]
    return {key: float(np.mean([figures[key] for figures in of_class])) for key in ("auroc", "auprc")}


def aurocs_of_classes(y_true: Array, y_score: Array) -> list[float]:
    """Return the AUROC of each class against the rest, by the probability of the class."""
    return [ranking_metrics(y_true == k, y_score[:, k])["auroc"] for k in range(y_score.shape[1])]


def auroc_pneumonia(y_true: Array, y_score: Array) -> float:
    """Return the AUROC of any pneumonia against NORMAL, by the probability of not being NORMAL.

    It is comparable with the AUROC of a two-class network.
    """
    return ranking_metrics(y_true > 0, 1 - y_score[:, 0])["auroc"]


def multiclass_calibration(y_true: Array, y_score: Array) -> dict[str, float]:
    """Return NLL, Brier score and ECE.

    The Brier score is summed over classes, in [0, 2] (Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2).
    With two classes this sum is twice the usual score. The ECE is of the probability of the most likely class (Guo et
    al. 2017, arXiv:1706.04599).
    """
    hit = (y_score.argmax(axis=1) == y_true).astype(float)
    return {
        "nll": nll(y_true, y_score),
        "brier": float(np.mean(((y_score - np.eye(y_score.shape[1])[y_true]) ** 2).sum(axis=1))),
        "ece": expected_calibration_error(hit, y_score.max(axis=1)),
    }


def multiclass_decision(y_true: Array, y_score: Array) -> MulticlassDecision:
    """Return the metrics of the decision for the most likely class; a ratio with a denominator of 0 is 0.

    Balanced accuracy is the mean of the classes' sensitivities, and F1 the mean of the classes' F1 (macro).
    """
    from sklearn.metrics import confusion_matrix

    classes = range(y_score.shape[1])
    matrix = confusion_matrix(y_true, y_score.argmax(axis=1), labels=list(classes))
    hits, true_counts, decided_counts = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    sensitivity = hits / np.maximum(true_counts, 1)
    return MulticlassDecision(
        accuracy=float(hits.sum() / len(y_true)),
        balanced_accuracy=float(sensitivity.mean()),
        f1=float((2 * hits / np.maximum(true_counts + decided_counts, 1)).mean()),
        sensitivity=sensitivity.tolist(),
        confusion=matrix.tolist(),
    )


def of_class(metric: str, name: str) -> str:
    """Return the key of a metric of one class, such as ``recall[benign]``."""
    return f"{metric}[{name}]"


def weighted_multiclass_metrics(
    y_true: Array, y_score: Array, calibrated: Array, weights: Array, classes: Sequence[str], chest: bool = False
) -> dict[str, Array]:
    """Return the test metrics (b,) of C classes under each row of ``weights`` (b, n).

    The metrics are those of :func:`evaluate`, and AUROC and recall of each class (:func:`of_class`). NLL, Brier score
    and ECE are of ``calibrated`` (n, C), the probabilities with the temperature. All else is of ``y_score`` (n, C).
    """
    labels = range(len(classes))
    aurocs = [weighted_auroc((y_true == k).astype(int), y_score[:, k], weights) for k in labels]
    areas = [weighted_average_precision((y_true == k).astype(int), y_score[:, k], weights) for k in labels]
    decisions = weighted_multiclass_decisions(y_true, y_score.argmax(axis=1), weights, len(classes))
    recalls = decisions.pop("recalls")
    return {
        "auroc": np.mean(aurocs, axis=0),
        "auprc": np.mean(areas, axis=0),
        **({"auroc_pneumonia": weighted_auroc(np.minimum(y_true, 1), 1 - y_score[:, 0], weights)} if chest else {}),
        **weighted_multiclass_calibration(y_true, calibrated, weights),
        **decisions,
        **{of_class("auroc", name): auroc for name, auroc in zip(classes, aurocs, strict=True)},
        **{of_class("recall", name): recalls[:, k] for k, name in enumerate(classes)},
    }


def weighted_multiclass_calibration(y_true: Array, probability: Array, weights: Array) -> dict[str, Array]:
    """Return ``brier``, ``nll`` and ``ece`` (b,) as :func:`multiclass_calibration` defines them."""
    hit = (probability.argmax(axis=1) == y_true).astype(float)
    distances = ((probability - np.eye(probability.shape[1])[y_true]) ** 2).sum(axis=1)
    of_truth = np.clip(probability[np.arange(len(y_true)), y_true], EPSILON, 1 - EPSILON)
    brier, nlls = (weights @ np.stack([distances, -np.log(of_truth)], axis=1)).T / weights.sum(axis=1)
    return {"brier": brier, "nll": nlls, "ece": weighted_calibration(hit, probability.max(axis=1), weights)["ece"]}


def weighted_multiclass_decisions(y_true: Array, decided: Array, weights: Array, classes: int) -> dict[str, Array]:
    """Return the metrics (b,) of decisions (n,) for one of C classes, and ``recalls`` (b, C).

    The metrics are those of :func:`multiclass_decision`; a ratio with a denominator of 0 is 0.
    """
    cells = np.eye(classes * classes)[y_true * classes + decided]
    matrix = (weights @ cells).reshape(-1, classes, classes)  # true class, decided class
    hits, of_truth = np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(axis=2)
    both = of_truth + matrix.sum(axis=1)
    recalls = np.divide(hits, of_truth, out=np.zeros(hits.shape), where=of_truth > 0)
    f1s = np.divide(2 * hits, both, out=np.zeros(hits.shape), where=both > 0)
    return {
        "accuracy": hits.sum(axis=1) / matrix.sum(axis=(1, 2)),
        "balanced_accuracy": recalls.mean(axis=1),
        "f1": f1s.mean(axis=1),
        "recalls": recalls,
    }
