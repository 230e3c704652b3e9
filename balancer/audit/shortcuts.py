"""How well the classes can be separated without looking at the anatomy.

A network uses whatever separates the classes, also the sharpness of an image or the black of its border (Geirhos et al.
2020, "Shortcut learning in deep neural networks", doi:10.1038/s42256-020-00257-z; on radiographs DeGrave et al. 2021,
doi:10.1038/s42256-021-00338-7). Each property of :mod:`balancer.audit.properties` is tested alone, then all of them
together.

Within the training split the question is how well a property separates the classes, between training and test split how
far a class has moved. The second reads test images. No test label, and no figure from here, is used to choose anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from balancer.audit.properties import Measured, Property, of_pixels, pixel_properties
from balancer.audit.results import JointResult, PropertyResult, Shortcuts
from balancer.core.seeding import derive_seed
from balancer.data.dataset import Dataset
from balancer.metrics.resampling import FEWER_RESAMPLES as RESAMPLES
from balancer.metrics.resampling import (
    AurocInterval,
    auroc_interval,
    macro_auroc_interval,
    patients_per_class,
    stratified_folds,
)

Array = np.ndarray
FOLDS = 5


def shortcuts(data: Dataset, measured: Measured, seed: int = 0) -> Shortcuts:
    """Return how well each property, and all together, separate the classes.

    The question is repeated on the working images, which are all that a classifier sees: they have no size and bytes.

    Args:
        data: the data set; its official ``train`` and ``test`` splits are compared, whatever was carved for validation.
        measured: properties of this data set.
        seed: of resampling and of the cross-validation's folds.
    """
    splits = np.array([record.split for record in data.records])
    train, test, positive = splits == "train", splits == "test", data.labels == 1
    two_classes = len(data.classes) == 2
    groups = np.unique(np.asarray(data.groups), return_inverse=True)[1]
    seen_by_classifiers, working = of_pixels(data.channels), pixel_properties(data.images)
    column = {prop.key: i for i, prop in enumerate(seen_by_classifiers)}

    def auroc(mask: Array, y: Array, scores: Array, *names: str) -> AurocInterval | None:
        if np.ptp(scores) == 0:
            return None
        stream = derive_seed(seed, "shortcuts", *names)
        return auroc_interval(y[mask], scores[mask], groups[mask], RESAMPLES, stream)

    def against_rest(values: Array, *names: str) -> dict[str, AurocInterval | None]:
        """Return the AUROC of each of more than two classes against the rest."""
        classes = () if two_classes else data.classes
        return {cls: auroc(train, data.labels == k, values, *names, cls) for k, cls in enumerate(classes)}

    def joint(properties: Sequence[Property], values: Array) -> JointResult | None:
        return _joint(properties, values[train], data.labels[train], groups[train], len(data.classes), seed)

    def result(prop: Property, values: Array) -> PropertyResult:
        seen = working[:, column[prop.key]] if prop.key in column and measured.from_files else None
        return PropertyResult(
            key=prop.key,
            words=prop.words,
            medians={cls: _median(values[train & (data.labels == k)]) for k, cls in enumerate(data.classes)},
            constant=bool(np.ptp(values) == 0),
            classes=auroc(train, positive, values, prop.key) if two_classes else None,
            working=auroc(train, positive, seen, prop.key, "working") if two_classes and seen is not None else None,
            shift={
                cls: auroc((data.labels == label) & (train | test), test, values, prop.key, cls)
                for label, cls in enumerate(data.classes)
            },
            one_against_rest=against_rest(values, prop.key),
            working_against_rest={} if seen is None else against_rest(seen, prop.key, "working"),
        )

    return Shortcuts(
        from_files=measured.from_files,
        image_size=int(data.images.shape[1]),
        n={cls: int((train & (data.labels == k)).sum()) for k, cls in enumerate(data.classes)},
        n_test={cls: int((test & (data.labels == k)).sum()) for k, cls in enumerate(data.classes)},
        patients=len(set(groups[train].tolist())),
        resamples=RESAMPLES,
        properties=[result(prop, measured.values[:, i]) for i, prop in enumerate(measured.properties)],
        together=joint(measured.properties, measured.values),
        together_working=joint(seen_by_classifiers, working),
    )


def patient_folds(y: Array, patients: Array, classes: int, seed: int) -> Array | None:
    """Return the fold (n,) of each image, patients kept together; None where a class has too few patients."""
    n = min(FOLDS, *patients_per_class(y, patients, classes))
    if n < 2:
        return None
    fold = stratified_folds(y, patients, n, derive_seed(seed, "shortcuts", "folds"))
    return fold if all(len(np.unique(y[fold != k])) == classes for k in range(n)) else None


def _joint(
    properties: Sequence[Property], values: Array, y: Array, patients: Array, classes: int, seed: int
) -> JointResult | None:
    """Return the AUROC of a logistic regression on all properties; no image is scored by a fit on its patient.

    The interval takes the fits as fixed. The result is None where there are too few patients.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = patient_folds(y, patients, classes, seed)
    if folds is None:
        return None
    skewed = np.array([prop.skewed for prop in properties])
    x = np.where(skewed, np.log1p(np.where(skewed, values, 0)), values)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    score = cross_val_predict(model, x, y, cv=PredefinedSplit(folds), method="decision_function")
    stream = derive_seed(seed, "shortcuts", "together")
    if classes == 2:
        interval = auroc_interval(y == 1, score, patients, RESAMPLES, stream)
    else:
        interval = macro_auroc_interval(y, score, patients, RESAMPLES, stream)
    if interval is None:
        return None
    return JointResult(**vars(interval), folds=int(folds.max()) + 1, properties=[prop.key for prop in properties])


def _median(values: Array) -> float | None:
    return float(np.median(values)) if len(values) else None
