"""Is the class told by where an image comes from? Sites differ in patients, devices and habits (Zech et al. 2018).

A classifier that knows the site knows the class as far as the sites' shares of the classes differ. How far that goes
without any image is measured here: each image is scored by the share of the class among the training images of its
source, learnt on other patients.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from balancer.audit.results import Sources
from balancer.audit.shortcuts import patient_folds
from balancer.core.seeding import derive_seed
from balancer.data.dataset import Dataset
from balancer.metrics.resampling import FEWER_RESAMPLES as RESAMPLES
from balancer.metrics.resampling import AurocInterval, auroc_interval, macro_auroc_interval

Array = np.ndarray
PRIOR = 1.0  # images of the overall shares that each source is given, so that a small source does not score 0 or 1


def sources(data: Dataset, seed: int = 0) -> Sources | None:
    """Return what the sources tell of the class in the official training split; None where the data name no source.

    Args:
        data: the data set.
        seed: of the folds and of the resamples.
    """
    if not data.source_name:
        return None
    train = np.array([record.split == "train" for record in data.records])
    names = [record.source or "unknown" for record in data.records]
    counts = Counter(names[i] for i in np.flatnonzero(train).tolist())
    pairs = Counter((names[i], int(data.labels[i])) for i in np.flatnonzero(train).tolist())
    table = {
        source: {cls: pairs[source, label] for label, cls in enumerate(data.classes)}
        for source, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    }
    groups = np.unique(np.asarray(data.groups), return_inverse=True)[1][train]
    number = np.unique(np.asarray(names), return_inverse=True)[1][train]
    told, folds = _told(data.labels[train], number, groups, len(data.classes), seed) if len(counts) > 1 else (None, 0)
    return Sources(data.source_name, table, told, folds)


def _told(y: Array, source: Array, patients: Array, classes: int, seed: int) -> tuple[AurocInterval | None, int]:
    """Return the AUROC of the class by the source alone, and the folds of its cross-validation."""
    folds = patient_folds(y, patients, classes, seed)
    if folds is None:
        return None, 0
    scores = np.empty((len(y), classes))
    for fold in range(int(folds.max()) + 1):
        others, here = folds != fold, folds == fold
        share = np.bincount(y[others], minlength=classes) / others.sum()
        counts = np.zeros((int(source.max()) + 1, classes))
        np.add.at(counts, (source[others], y[others]), 1)
        shares = (counts + PRIOR * share) / (counts.sum(axis=1, keepdims=True) + PRIOR)
        scores[here] = shares[source[here]]
    stream = derive_seed(seed, "sources")
    if classes == 2:
        return auroc_interval(y == 1, scores[:, 1], patients, RESAMPLES, stream), int(folds.max()) + 1
    return macro_auroc_interval(y, scores, patients, RESAMPLES, stream), int(folds.max()) + 1
