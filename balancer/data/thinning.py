"""Thin training folds for learning curves: whole patients leave, and a smaller fold lies within a larger one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from balancer.core.errors import UsageError
from balancer.core.seeding import derive_seed
from balancer.core.settings_base import DataConfig

UNUSED = "unused"  # the fold of images that were taken out of training
NEAR = 0.1  # whole patients may miss the number asked for by this share


def thin_training(
    labels: Sequence[int], groups: Sequence[str], folds: np.ndarray, classes: Sequence[str], config: DataConfig
) -> tuple[np.ndarray, list[str]]:
    """Return folds (n,) of which the training fold is thinned as the settings say, and what a report must say of it.

    The class with the fewest training images keeps ``minority`` images. With ``ratio``, each other class keeps at most
    this many times as many. Patients stay in a random order that depends on the split seed and on the class alone. So
    the images of a smaller number are among those of a larger one. Validation and test stay as they are.

    Args:
        labels: class of each image.
        groups: what must not be parted.
        folds: fold of each image.
        classes: names of the classes.
        config: ``minority``, ``ratio`` and ``split_seed``.

    Raises:
        UsageError: the fold holds fewer images, or whole patients come to no number near to this.
    """
    if config.minority is None and config.ratio is None:
        return folds, []
    thinned, labels_ = folds.astype("<U6"), np.asarray(labels)
    in_train = folds == "train"
    counts = [int((in_train & (labels_ == label)).sum()) for label in range(len(classes))]
    smallest = int(np.argmin(counts))
    kept = counts[smallest]
    if config.minority is not None:
        if config.minority > kept:
            raise UsageError(
                f"minority is {config.minority}, and the training fold has {kept} {classes[smallest]} images; expected"
                f" at most {kept}"
            )
        kept = _keep(thinned, in_train & (labels_ == smallest), groups, config.minority, classes[smallest], config)
    if config.ratio is not None:
        for label, count in enumerate(counts):
            most = round(config.ratio * kept)
            if label != smallest and most < count:
                _keep(thinned, in_train & (labels_ == label), groups, most, classes[label], config)
    left = Counter(labels_[(thinned == "train")].tolist())
    shares = ", ".join(
        f"{left[label]:,} of {n:,} {name}" for label, (name, n) in enumerate(zip(classes, counts, strict=True))
    )
    return thinned, [f"The training fold was made smaller: {shares} images are used. The others play no part."]


def _keep(
    folds: np.ndarray, candidates: np.ndarray, groups: Sequence[str], n: int, name: str, config: DataConfig
) -> int:
    """Take all but about ``n`` images of a class out of training; return how many stay."""
    positions = np.flatnonzero(candidates).tolist()
    sizes = Counter(groups[i] for i in positions)
    patients = sorted(sizes)
    order = np.random.default_rng(derive_seed(config.split_seed, "minority", name)).permutation(len(patients))
    totals = np.cumsum([sizes[patients[k]] for k in order])
    last = int(np.argmin(np.abs(totals - n)))  # of two that are as near, the smaller
    if abs(int(totals[last]) - n) > max(1, NEAR * n):
        near = sorted({int(totals[max(0, last - 1)]), int(totals[last]), int(totals[min(last + 1, len(totals) - 1)])})
        raise UsageError(
            f"{n} {name} images are to be kept, and whole patients come to {' or '.join(map(str, near))}; expected a"
            f" number within {NEAR:.0%} of one of these"
        )
    stay = {patients[k] for k in order[: last + 1]}
    folds[[i for i in positions if groups[i] not in stay]] = UNUSED
    return int(totals[last])
