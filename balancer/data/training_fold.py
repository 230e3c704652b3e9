"""``training_fold.csv``: the images that a generator may learn from, for generators that are trained elsewhere."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from balancer.core.errors import BalancerError
from balancer.core.sealed import DamagedFile, read_with_sum, write_with_sum
from balancer.data.dataset import Dataset

TRAINING_FOLD = "training_fold.csv"
REMEDY = "write it again with balancer inspect --training-fold"
COLUMNS = ("name", "class", "patient", "sha256")


def check_training_fold(path: Path, data: Dataset) -> None:
    """Refuse a file of :func:`write_training_fold` that names other images than the training fold of the data.

    Raises:
        DamagedFile: the file is not what was written, or no such file.
        BalancerError: the images differ, or the file cannot be read.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_with_sum(path), newline="")))
    except OSError as error:
        raise BalancerError(
            f"{path} cannot be read ({error.strerror}); write it with balancer inspect --training-fold"
        ) from error
    except csv.Error as error:
        raise DamagedFile(path, str(error), REMEDY) from error
    if not rows or not set(COLUMNS) <= rows[0].keys():
        raise DamagedFile(path, f"expected the columns {', '.join(COLUMNS)}", REMEDY)
    stated = {(row["name"], row["class"], row["sha256"]) for row in rows}
    fold = {(data.records[i].name, data.classes[data.labels[i]], data.digests[i]) for i in data.indices("train")}
    if stated != fold:
        raise BalancerError(
            f"{path} names {len(stated)} images, of which {len(stated - fold)} are not in the training fold of"
            f" {data.source} ({len(fold)} images); give the same --data and settings as to balancer inspect"
        )


def write_training_fold(path: Path, data: Dataset) -> None:
    """Write the name, class, patient and hash of each image of the training fold, and the file's SHA-256 beside it.

    Names are relative to the folder of the data; of an archive they are the split and the number of the image.
    """
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(COLUMNS)
    for i in data.indices("train"):
        record = data.records[i]
        rows.writerow([record.name, data.classes[data.labels[i]], record.patient, data.digests[i]])
    write_with_sum(path, buffer.getvalue())
