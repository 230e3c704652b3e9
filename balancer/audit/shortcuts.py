"""How far the classes can be told without looking at the lungs.

A network takes whatever tells the classes, also the sharpness of an image or the black of its border (Geirhos et al. 2020,
"Shortcut learning in deep neural networks", doi:10.1038/s42256-020-00257-z; on radiographs DeGrave et al. 2021,
doi:10.1038/s42256-021-00338-7). Each property of :mod:`balancer.audit.properties` is asked alone, then all of them together.

Within the training split the question is how well it tells the classes, between training and test split how far a class
has moved. The second reads test images; no test label, and no figure from here, is used to choose anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from balancer.audit.properties import OF_PIXELS, Measured, Property, pixel_properties
from balancer.core.seeding import derive_seed
from balancer.data.dataset import Dataset
from balancer.data.folder import CLASSES

Array = np.ndarray
RESAMPLES = 1000
CONFIDENCE = 0.95
FOLDS = 5
CHUNK = 50  # resamples at a time, which bounds the memory


def shortcuts(data: Dataset, measured: Measured, seed: int = 0) -> dict[str, Any]:
    """What each property tells, and all together; see the module.

    ``working`` repeats the question on the working images, which are all that a classifier sees: size and bytes are gone there.

    Args:
        data: the data set; its official ``train`` and ``test`` splits are compared, whatever was carved for validation.
        measured: of this data set.
        seed: of resampling and of the cross-validation's folds.
    """
    splits = np.array([record.split for record in data.records])
    train = splits == "train"
    groups = np.unique(np.asarray(data.groups), return_inverse=True)[1]
    working = pixel_properties(data.images)
    column = {prop.key: i for i, prop in enumerate(OF_PIXELS)}

    def ask(mask: Array, y: Array, scores: Array, *names: str) -> dict[str, float | None] | None:
        if np.ptp(scores) == 0:
            return None
        return clustered_auroc(y[mask], scores[mask], groups[mask], derive_seed(seed, "shortcuts", *names))

    def together(properties: Sequence[Property], values: Array) -> dict[str, Any] | None:
        return _together(properties, values[train], data.labels[train], groups[train], seed)

    rows = []
    for i, prop in enumerate(measured.properties):
        values = measured.values[:, i]
        seen = working[:, column[prop.key]] if prop.key in column and measured.from_files else None
        moved = {
            cls: ask((data.labels == label) & (train | (splits == "test")), splits == "test", values, prop.key, cls)
            for label, cls in enumerate(CLASSES)
        }
        rows.append(
            {
                "key": prop.key,
                "words": prop.words,
                "medians": {cls: _median(values[train & (data.labels == k)]) for k, cls in enumerate(CLASSES)},
                "constant": bool(np.ptp(values) == 0),
                "classes": ask(train, data.labels == 1, values, prop.key),
                "working": None if seen is None else ask(train, data.labels == 1, seen, prop.key, "working"),
                "shift": moved,
            }
        )
    return {
        "from_files": measured.from_files,
        "image_size": int(data.images.shape[1]),
        "n": {cls: int((train & (data.labels == k)).sum()) for k, cls in enumerate(CLASSES)},
        "n_test": {cls: int(((splits == "test") & (data.labels == k)).sum()) for k, cls in enumerate(CLASSES)},
        "patients": len(set(groups[train].tolist())),
        "resamples": RESAMPLES,
        "properties": rows,
        "together": together(measured.properties, measured.values),
        "together_working": together(OF_PIXELS, working),
    }


def clustered_auroc(y_true: Array, y_score: Array, groups: Array, seed: int) -> dict[str, float | None] | None:
    """AUROC, ties counted half, with a percentile interval that resamples whole groups (RESAMPLES of them).

    Args:
        y_true: (n,) bool; y_score: (n,); groups: (n,) int, images of one patient alike.
        seed: of the resampling.

    Returns:
        ``auroc``, ``low`` and ``high``, these two None where a class has fewer than two groups; None without both classes.
    """
    if y_true.all() or not y_true.any():
        return None
    order = np.argsort(y_score, kind="stable")
    y, members = y_true[order], np.unique(groups[order], return_inverse=True)[1]
    starts = np.flatnonzero(np.r_[True, np.diff(y_score[order]) != 0])
    n = int(members.max()) + 1
    estimate = float(_weighted_auroc(np.ones((1, len(y))), y, starts)[0])
    if min(len(np.unique(members[y])), len(np.unique(members[~y]))) < 2:
        return {"auroc": estimate, "low": None, "high": None}
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(0, RESAMPLES, CHUNK):
        times = rng.multinomial(n, np.full(n, 1 / n), size=CHUNK).astype(np.float32)
        drawn.append(_weighted_auroc(times[:, members], y, starts))
    low, high = np.nanquantile(np.concatenate(drawn), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"auroc": estimate, "low": float(low), "high": float(high)}


def _weighted_auroc(weights: Array, y: Array, starts: Array) -> Array:
    """AUROC of each row of ``weights`` (b, n); images in order of score, ``starts`` where a new score begins.

    Not a number where a resample lacks a class.
    """
    positive = np.add.reduceat(weights * y, starts, axis=1, dtype=np.float64)
    negative = np.add.reduceat(weights * ~y, starts, axis=1, dtype=np.float64)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    area: Array = (positive * below).sum(axis=1) / np.where(pairs == 0, np.nan, pairs)
    return area


def _folds(y: Array, patients: Array, seed: int) -> list[tuple[Array, Array]] | None:
    """Positions to fit on and to score, patients kept together; None where a class has too few of them."""
    from sklearn.model_selection import StratifiedGroupKFold

    n = min(FOLDS, *(len(np.unique(patients[y == label])) for label in range(len(CLASSES))))
    if n < 2:
        return None
    split = StratifiedGroupKFold(n, shuffle=True, random_state=derive_seed(seed, "shortcuts", "folds") % 2**32)
    folds = list(split.split(y, y, patients))
    return folds if all(len(np.unique(y[fitted])) == len(CLASSES) for fitted, _ in folds) else None


def _together(
    properties: Sequence[Property], values: Array, y: Array, patients: Array, seed: int
) -> dict[str, Any] | None:
    """AUROC of a logistic regression on all properties, each image scored by a fit that saw none of its patient.

    The interval takes the fits as given. None where there are too few patients.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = _folds(y, patients, seed)
    if folds is None:
        return None
    skewed = np.array([prop.skewed for prop in properties])
    x = np.where(skewed, np.log1p(np.where(skewed, values, 0)), values)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    score = cross_val_predict(model, x, y, cv=folds, method="decision_function")
    found = clustered_auroc(y == 1, score, patients, derive_seed(seed, "shortcuts", "together"))
    return None if found is None else {**found, "folds": len(folds), "properties": [prop.key for prop in properties]}


def _median(values: Array) -> float | None:
    return float(np.median(values)) if len(values) else None
