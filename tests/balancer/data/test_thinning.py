"""Smaller training folds: of whole patients, nested, with nothing else moved."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import as_splits, made
from pydantic import ValidationError

from balancer.core.errors import UsageError
from balancer.core.settings import DataConfig
from balancer.data.caveats import copies_note
from balancer.data.dataset import load_dataset
from balancer.data.thinning import UNUSED, thin_training

CLASSES = ("few", "many")
FEW = [1, 2, 3, 1, 1, 4, 2, 1] * 12  # images of each patient of the class "few"


def fold(*extra: tuple[int, str, str]) -> tuple[list[int], list[str], np.ndarray]:
    """Labels, patients and folds: 180 images of 96 patients in "few", 400 of as many in "many", some in test."""
    rows = [(0, f"f{k}", "train") for k, n in enumerate(FEW) for _ in range(n)]
    rows += [(1, f"m{k}", "train") for k in range(400)] + [(0, "t", "test"), (1, "v", "val"), *extra]
    labels, patients, folds = zip(*rows, strict=True)
    return list(labels), list(patients), np.array(folds)


def thinned(**settings: Any) -> np.ndarray:
    labels, patients, folds = fold()
    return thin_training(labels, patients, folds, CLASSES, DataConfig(**settings))[0]


def test_without_settings_the_fold_stays() -> None:
    labels, patients, folds = fold()
    same, notes = thin_training(labels, patients, folds, CLASSES, DataConfig())
    assert same is folds
    assert notes == []


@pytest.mark.parametrize("n", [16, 50, 100, 179, 180])
def test_whole_patients_stay_or_go(n: int) -> None:
    labels, patients, folds = fold()
    out, (note,) = thin_training(labels, patients, folds, CLASSES, DataConfig(minority=n))
    kept = (out == "train") & (np.array(labels) == 0)
    assert abs(kept.sum() - n) <= 2  # the largest patient has 4 images
    assert f"{kept.sum()} of 180 few, 400 of 400 many" in note
    sides: dict[str, set[str]] = {}
    for patient, name in zip(patients, out.tolist(), strict=True):
        sides.setdefault(patient, set()).add(name)
    assert all(len(names) == 1 for names in sides.values())
    moved = out != folds
    assert set(out[moved].tolist()) <= {UNUSED}
    assert set(folds[moved].tolist()) <= {"train"}


def test_smaller_folds_lie_in_larger_ones_and_another_seed_gives_others() -> None:
    kept = [set(np.flatnonzero(thinned(minority=n) == "train")) for n in (16, 40, 90, 180)]
    assert all(small < large for small, large in itertools.pairwise(kept))
    assert kept[1] != set(np.flatnonzero(thinned(minority=40, split_seed=1) == "train"))


def test_a_ratio_thins_the_other_classes() -> None:
    labels = np.array(fold()[0])
    out = thinned(minority=60, ratio=2.5)
    few, many = (((out == "train") & (labels == k)).sum() for k in (0, 1))
    assert many == round(2.5 * few)
    full = thinned(ratio=2)
    assert [((full == "train") & (labels == k)).sum() for k in (0, 1)] == [180, 360]
    assert (thinned(ratio=100) == "train").sum() == 580, "a class that has fewer keeps all"
    # the majority of a smaller number lies in that of a larger one
    assert set(np.flatnonzero(out == "train")) < set(np.flatnonzero(thinned(minority=120, ratio=2.5) == "train"))


def test_numbers_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="minority is 181, and the training fold has 180 few images"):
        thinned(minority=181)
    with pytest.raises(ValidationError, match="minority"):
        DataConfig(minority=15)
    large = [(0, "large", "train")] * 400
    labels, patients, folds = fold(*large)
    labels += [1] * 400
    patients += [f"n{k}" for k in range(400)]
    folds = np.append(folds, ["train"] * 400)
    refused = []
    for n in (200, 300):  # the patient of 400 images lies in the middle of any order
        try:
            thin_training(labels, patients, folds, CLASSES, DataConfig(minority=n))
        except UsageError as error:
            refused.append(str(error))
    assert refused
    assert "whole patients come to" in refused[0]


def test_a_thinned_data_set_has_another_name_and_the_same_test(chest_folder: Path) -> None:
    source = DataConfig(path=str(chest_folder), image_size=16)
    whole = load_dataset(source)
    small = load_dataset(source.model_copy(update={"minority": 16, "ratio": 2.0}))
    assert abs(small.counts("train")[0] - 16) <= 1
    assert abs(small.counts("train")[1] - 2 * small.counts("train")[0]) <= 3
    for name in ("val", "test"):
        np.testing.assert_array_equal(whole.indices(name), small.indices(name))
    assert whole.split_hash != small.split_hash
    assert whole.fingerprint == small.fingerprint
    assert any("made smaller" in note for note in small.notes)
    small.write_split(chest_folder.parent / "split.csv")
    rows = [line.split(",")[1] for line in (chest_folder.parent / "split.csv").read_text().splitlines()[1:]]
    assert Counter(rows) == Counter(small.folds.tolist())


def test_a_class_that_keeps_its_images_fits_the_split_before_thinning(chest_folder: Path) -> None:
    full = load_dataset(DataConfig(path=str(chest_folder), image_size=16))
    small = load_dataset(DataConfig(path=str(chest_folder), image_size=16, minority=16))
    few, many = small.minority_class, 1 - small.minority_class
    assert small.full_split_hash == full.split_hash != small.split_hash
    assert full.full_split_hash is None
    assert small.fits_split(full.split_hash, many)
    assert not small.fits_split(full.split_hash, few), "its GAN would have seen images that are not used here"
    assert small.fits_split(small.split_hash, few)
    assert not full.fits_split(small.split_hash, many)
    assert not full.fits_split("", many)


def test_images_that_lie_idle_leak_nothing(tmp_path: Path) -> None:
    """A patient with idle images may be in train with another class, in validation or in test."""
    root = tmp_path / "data"
    images = made({"train": (40, 80), "val": (8, 16), "test": (8, 16)}, "ab")
    as_splits([replace(image, name=f"{image.split}{k % 8}_{k}.png") for k, image in enumerate(images)], root)
    pattern = r"/(?P<patient>[a-z]+\d+)_"
    data = load_dataset(DataConfig(path=str(root), image_size=16, patient_pattern=pattern, minority=20, strict=True))
    unused = data.indices(UNUSED)
    assert len(unused) == 20
    assert {data.groups[i] for i in unused} & {data.groups[i] for i in data.indices("train")}
    assert not any("two folds" in note for note in data.notes)
    for fold, said in ((UNUSED, False), ("train", True)):
        assert bool(copies_note(data.records[:2], np.array(["test", fold]), ["equal", "equal"])) == said
