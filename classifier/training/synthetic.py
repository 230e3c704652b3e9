"""Synthetic images, read from a manifest: this is all that the classifier knows of any generator."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset
from balancer.data.images import read_image
from balancer.data.manifest import MANIFEST_COLUMNS

Array = np.ndarray


@dataclass(frozen=True)
class SyntheticSet:
    """Images (n, size, size) uint8 and their labels (n,) int64, in the order of the manifest: of one class, unless joined."""

    path: Path
    images: Array
    labels: Array
    hashes: tuple[str, ...]  # SHA-256 of each file
    generator: str  # names what drew them: of several sets, each must have its own

    @property
    def digest(self) -> str:
        """Sixteen hex digits that name these images."""
        return hashlib.sha256("".join(self.hashes).encode()).hexdigest()[:16]

    def first(self, count: int) -> SyntheticSet:
        """The first ``count`` images."""
        return replace(self, images=self.images[:count], labels=self.labels[:count], hashes=self.hashes[:count])


def load_sets(
    paths: Sequence[str], data: Dataset, config: DataConfig, count: int | str, dose: float = 0.0
) -> list[SyntheticSet]:
    """One set per path, each of a generator of its own.

    Of two classes, all are of the minority class: one per GAN seed. Of more, each is of a class of its own.

    Raises:
        BalancerError: as in :func:`load_synthetic`, or two sets come from one generator.
    """
    sets = [load_synthetic(Path(path), data, config, count, dose) for path in paths]
    for a, b in combinations(sets, 2):
        if a.generator == b.generator:
            raise BalancerError(
                f"{a.path} and {b.path} come from one generator: they are not two GAN seeds; give sets of GANs trained with different --seed"
            )
    return sets


def join(sets: Sequence[SyntheticSet], data: Dataset) -> SyntheticSet:
    """Sets of different classes as one, which fills each class with its own images.

    Raises:
        BalancerError: two sets are of one class.
    """
    for a, b in combinations(sets, 2):
        if a.labels[0] == b.labels[0]:
            raise BalancerError(
                f"{a.path} and {b.path} both hold {data.classes[a.labels[0]]} images; give --synthetic one set of each class"
            )
    hashes = tuple(h for s in sets for h in s.hashes)
    images, labels = (np.concatenate([getattr(s, name) for s in sets]) for name in ("images", "labels"))
    return SyntheticSet(sets[0].path, images, labels, hashes, "".join(s.generator for s in sets))


def load_synthetic(path: Path, data: Dataset, config: DataConfig, count: int | str, dose: float = 0.0) -> SyntheticSet:
    """Read the first images of a synthesis run, as many as the study can ask for.

    Args:
        path: a folder with ``manifest.csv``.
        data: the real data; the manifest must have been made under the same split. Of two classes, it must be of the
            minority class; of more, of any one.
        config: gives the working size.
        count: ``deficit`` (of the set's class), ``all`` or a number.
        dose: the largest dose, in deficits.

    Raises:
        BalancerError: no manifest, too few images, a changed or missing file, another split or class.
    """
    if (path / "config.yaml").exists() and not (path / "done").exists():
        raise BalancerError(f"{path} is not finished; continue it with `balancer synthesize --resume {path}`")
    rows = _read_manifest(path)
    splits, classes = {r["split_hash"] for r in rows}, {r["class"] for r in rows}
    if splits != {data.split_hash}:
        raise BalancerError(
            f"{path} was made under split {'/'.join(sorted(splits))}, the data here ({data.source}) give {data.split_hash}: it could hold "
            "validation patients; synthesize again from a GAN trained on this split, or give the same --data and split settings"
        )
    label = _label(path, classes, data)
    deficit = data.deficits[label]
    needed = deficit if count == "deficit" else len(rows) if count == "all" else int(count)
    if needed < 1:
        raise BalancerError(
            f"{needed} synthetic images would be added (the training fold's deficit is {deficit}); "
            "give --synthetic-count N of at least 1, or all"
        )
    needed = max(needed, round(dose * deficit))
    if needed > len(rows):
        raise BalancerError(
            f"the ablation needs {needed} synthetic images, {path / 'manifest.csv'} lists {len(rows)}; "
            f"run `balancer synthesize --n {needed}`, or give --synthetic-count all"
        )
    rows = rows[:needed]
    images = np.stack([_read(path, r, config) for r in rows])
    hashes = tuple(r["sha256"] for r in rows)
    return SyntheticSet(path, images, np.full(needed, label), hashes, _generator(path, hashes))


def _label(path: Path, classes: set[str], data: Dataset) -> int:
    """The one class of a manifest."""
    known = list(data.classes) if len(data.classes) > 2 else [data.classes[data.minority_class]]
    if len(classes) == 1 and classes <= set(known):
        return data.classes.index(next(iter(classes)))
    what = f"one of {', '.join(known)}" if len(known) > 1 else f"{known[0]}, the minority class here"
    raise BalancerError(
        f"{path} holds {'/'.join(sorted(classes))} images; expected {what}; give --synthetic a set of {' or '.join(known)}"
    )


def _generator(path: Path, hashes: tuple[str, ...]) -> str:
    """What drew the images: the GAN's settings, its seed among them, as a synthesis of ours reports them. Images of other
    makers, which say nothing of it, name themselves."""
    try:
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
        return json.dumps(report["gan_config"], sort_keys=True)
    except (OSError, ValueError, KeyError, TypeError):
        return "".join(hashes)


def _read_manifest(path: Path) -> list[dict[str, str]]:
    try:
        with (path / "manifest.csv").open(newline="", encoding="utf-8") as handle:
            rows = sorted(csv.DictReader(handle), key=lambda r: int(r["index"]))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BalancerError(
            f"{path} has no manifest.csv; give --synthetic a finished `balancer synthesize` run"
        ) from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise BalancerError(f"{path / 'manifest.csv'} is damaged ({error}); synthesize again") from error
    if any(value is None for row in rows for value in row.values()):
        raise BalancerError(f"{path / 'manifest.csv'} is damaged (a line is cut short); synthesize again")
    missing = set(MANIFEST_COLUMNS) - set(rows[0] if rows else ())
    if missing:
        raise BalancerError(f"{path / 'manifest.csv'} lists no image or lacks the columns {', '.join(sorted(missing))}")
    return rows


def _read(path: Path, row: dict[str, str], config: DataConfig) -> Array:
    file = path / row["file"]
    try:
        if hashlib.sha256(file.read_bytes()).hexdigest() != row["sha256"]:
            raise BalancerError(f"{file} is not the image that the manifest lists (SHA-256 differs); synthesize again")
        with Image.open(file) as image:
            if min(image.size) < config.image_size:  # the blur of an enlarged image would tell the class
                raise BalancerError(
                    f"{file} is {image.size[0]} x {image.size[1]} px, the classifier works at {config.image_size} px; "
                    f"synthesize at that size, or give --image-size {min(image.size)}"
                )
        return read_image(file, config.image_size, config.resize)
    except OSError as error:
        raise BalancerError(f"{file}, listed in the manifest, cannot be read ({error}); synthesize again") from error
