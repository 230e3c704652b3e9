"""Data sets in memory, and the columns of a manifest."""

import numpy as np

from balancer.data.dataset import Dataset
from balancer.data.records import Record

COLUMNS = ("file", "index", "seed", "sha256", "class", "split_hash")
SIZE = 16


def in_memory(train: tuple[int, int], val: tuple[int, int] = (6, 6), test: tuple[int, int] = (5, 7)) -> Dataset:
    """Noise; PNEUMONIA has a brighter lower half, so that there is something to learn."""
    rng, images, labels, folds = np.random.default_rng(3), [], [], []
    for fold, counts in (("train", train), ("val", val), ("test", test)):
        for label, n in enumerate(counts):
            pixels = rng.integers(0, 160, (n, SIZE, SIZE))
            pixels[:, SIZE // 2 :] += 60 * label
            images.append(pixels.astype(np.uint8))
            labels += [label] * n
            folds += [fold] * n
    records = [
        Record(f"{i}.png", label, fold, str(i), "") for i, (label, fold) in enumerate(zip(labels, folds, strict=True))
    ]
    n = len(labels)
    digests = [f"{i:064x}" for i in range(n)]
    arrays = np.concatenate(images), np.array(labels), np.array(folds)
    return Dataset("memory", *arrays, records, digests, digests, "0" * 16, "f" * 16)
