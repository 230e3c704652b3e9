"""A data set ready for use: folds, counts, notes, and what a caller may rely on."""

import csv
import json
import logging
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data import dataset
from balancer.data.chest import CLASSES, find_root, parse_name, read_folder
from balancer.data.dataset import PHANTOM_NOTICE, Dataset, load_dataset
from balancer.data.images import read_image
from balancer.data.phantom import PhantomSpec

SPLITS = ("train", "val", "test")


def load(path: Path, **settings: object) -> Dataset:
    return load_dataset(DataConfig(path=str(path), image_size=16, **settings))


def test_everything_is_in_one_order(chest_folder: Path) -> None:
    data = load(chest_folder)
    assert len(data.images) == len(data.labels) == len(data.folds) == len(data.records) == len(data.groups) == 114
    for i in range(0, 114, 7):
        record = data.records[i]
        assert np.array_equal(data.images[i], read_image(chest_folder / record.name, 16, "squash"))
        assert CLASSES[data.labels[i]] in record.name
    assert data.images.dtype == np.uint8
    assert data.labels.dtype == np.int64


def test_validation_is_carved_from_train_and_val_by_patient(chest_folder: Path) -> None:
    data = load(chest_folder)
    pool = [i for i, r in enumerate(data.records) if r.split != "test"]
    assert {data.folds[i] for i in pool} == {"train", "val"}
    assert all((r.split == "test") == (fold == "test") for r, fold in zip(data.records, data.folds, strict=True))
    for label, total in ((0, 26), (1, 62)):
        largest = max(Counter(data.records[i].patient for i in pool if data.labels[i] == label).values())
        assert abs(data.counts("val")[label] - 0.15 * total) < largest
        assert data.counts("val")[label] + data.counts("train")[label] == total
    patients = {f: {r.patient for r, fold in zip(data.records, data.folds, strict=True) if fold == f} for f in SPLITS}
    assert not patients["train"] & patients["val"]


def test_the_images_of_val_may_be_trained_on(chest_folder: Path) -> None:
    """Carved from train and val together: the 16 images of val are no fold of their own."""
    trained_on = set()
    for seed in range(4):
        data = load(chest_folder, split_seed=seed)
        trained_on |= {data.records[i].name for i in data.indices("train") if data.records[i].split == "val"}
    assert len(trained_on) == 4


def test_the_split_is_fixed_by_its_own_seed(chest_folder: Path) -> None:
    first, again = load(chest_folder), load(chest_folder)
    assert np.array_equal(first.folds, again.folds)
    assert first.split_hash == again.split_hash
    other = load(chest_folder, split_seed=1)
    assert other.split_hash != first.split_hash
    assert other.fingerprint == first.fingerprint
    larger = load_dataset(DataConfig(path=str(chest_folder), image_size=20))
    assert larger.split_hash == first.split_hash, "the split depends on the working size"


def test_a_moved_folder_has_the_same_split(chest_folder: Path, tmp_path: Path) -> None:
    first = load(chest_folder)
    moved = load(chest_folder.rename(tmp_path / "moved"))
    assert (moved.split_hash, moved.fingerprint) == (first.split_hash, first.fingerprint)


def test_fraction_zero_keeps_the_folds_of_the_source(chest_folder: Path) -> None:
    data = load(chest_folder, val_fraction=0)
    assert [data.counts(f) for f in SPLITS] == [(24, 60), (2, 2), (10, 16)]
    assert data.deficit == 36
    assert any("4 validation images" in note for note in data.notes)
    assert not any("validation" in note for note in load(chest_folder).notes)


def test_identical_files_stay_together(chest_folder: Path) -> None:
    folder = chest_folder / "train" / "PNEUMONIA"
    for seed in range(8):
        shutil.copy(sorted(folder.iterdir())[5 * seed], folder / f"person{900 + seed}_virus_1.png")
    for seed in range(8):
        data = load(chest_folder, split_seed=seed, val_fraction=0.4)
        sides = {}
        for digest, fold in zip(data.digests, data.folds, strict=True):
            sides.setdefault(digest, set()).add(str(fold))
        assert max(Counter(data.digests).values()) == 2
        assert all(len(side) == 1 for side in sides.values())


def test_one_file_in_both_classes_stays_on_one_side(chest_folder: Path) -> None:
    for i, file in enumerate(sorted((chest_folder / "train" / "NORMAL").iterdir())):
        shutil.copy(file, chest_folder / "train" / "PNEUMONIA" / f"person{900 + i}_virus_1.png")
    data = load(chest_folder, val_fraction=0.4)
    digests = [{d for d, f in zip(data.digests, data.folds, strict=True) if f == fold} for fold in ("train", "val")]
    assert not digests[0] & digests[1]


def test_counts_and_classes(chest_folder: Path) -> None:
    data = load(chest_folder, val_fraction=0)
    assert data.minority_class == 0
    assert len(data.indices("train")) == 84
    minority = data.indices("train", 0)
    assert len(minority) == 24
    assert all(data.records[i].name.startswith("train/NORMAL/") for i in minority)
    for file in sorted((chest_folder / "train" / "PNEUMONIA").iterdir())[:50]:
        file.unlink()
    data = load(chest_folder, val_fraction=0)
    assert (data.minority_class, data.deficit) == (1, 14)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_fold_that_is_needed_must_be_there(chest_folder: Path, split: str) -> None:
    shutil.rmtree(chest_folder / split)
    config = DataConfig(path=str(chest_folder), image_size=16, val_fraction=0)
    load_dataset(config)
    with pytest.raises(BalancerError, match=f"no {split} images") as caught:
        load_dataset(config, require=("train", split))
    assert "\n" not in str(caught.value)
    assert ("--val-fraction" in str(caught.value)) == (split == "val")


def test_a_carve_that_leaves_a_class_empty_is_an_error(chest_folder: Path) -> None:
    for file in sorted((chest_folder / "train" / "NORMAL").iterdir())[1:]:
        file.unlink()
    shutil.rmtree(chest_folder / "val")
    with pytest.raises(BalancerError, match="train holds 0 NORMAL and"):
        load(chest_folder, val_fraction=0.6)


def test_what_is_written_down(chest_folder: Path, tmp_path: Path) -> None:
    data = load(chest_folder)
    about = json.loads(json.dumps(data.describe(), allow_nan=False))
    assert about["counts"]["test"] == {"NORMAL": 10, "PNEUMONIA": 16}
    assert about["image_size"] == 16
    assert about["split_hash"] == data.split_hash
    assert about["patients"] == len({(r.label, r.patient) for r in data.records})
    data.write_split(tmp_path / "split.csv")
    with (tmp_path / "split.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert Counter((r["fold"], r["label"]) for r in rows) == {
        (fold, cls): n for fold in SPLITS for cls, n in zip(CLASSES, data.counts(fold), strict=True)
    }
    assert [r["name"] for r in rows] == [r.name for r in data.records]


def test_no_such_data() -> None:
    for path in ("/nowhere/at/all", "/nowhere/x.npz"):
        with pytest.raises(BalancerError, match="does not exist"):
            load_dataset(DataConfig(path=path))


@pytest.mark.parametrize("path", ["phantom", None])
def test_the_phantom_set_is_announced(
    path: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path))
    small = PhantomSpec(size=16, train=(6, 12), val=(1, 1), test=(3, 4))
    monkeypatch.setattr(dataset.phantom, "PhantomSpec", lambda: small)
    with caplog.at_level(logging.WARNING, "balancer"):
        data = load_dataset(DataConfig(path=path, image_size=16, val_fraction=0))
    assert PHANTOM_NOTICE in caplog.text
    assert PHANTOM_NOTICE in data.notes
    assert data.is_phantom
    assert [data.counts(f) for f in SPLITS] == [(6, 12), (1, 1), (3, 4)]


def test_a_real_folder_is_no_phantom(chest_folder: Path) -> None:
    data = load(chest_folder)
    assert not data.is_phantom
    assert PHANTOM_NOTICE not in data.notes


@pytest.mark.realdata
@pytest.mark.parametrize("fraction", [None, 0.0])
def test_the_real_set(real_data: Path, fraction: float | None) -> None:
    data = load(real_data, val_fraction=fraction)
    assert data.bad == []
    assert data.counts("test") == (234, 390)
    if fraction == 0:
        assert data.counts("train") == (1341, 3875)
        assert data.counts("val") == (8, 8)
        assert data.deficit == 2534
        return
    pool = [r for r in read_folder(find_root(real_data)) if r.split != "test"]
    for label, total in ((0, 1349), (1, 3883)):  # train and the 16 of val
        largest = max(Counter(r.patient for r in pool if r.label == label).values())
        assert abs(data.counts("val")[label] - 0.15 * total) < largest
        assert data.counts("val")[label] + data.counts("train")[label] == total
        print(CLASSES[label], data.counts("train")[label], data.counts("val")[label], "largest patient", largest)
    sides = {f: {r.patient for r, fold in zip(data.records, data.folds, strict=True) if fold == f} for f in SPLITS}
    assert not sides["train"] & sides["val"]
    contents = {f: {d for d, fold in zip(data.digests, data.folds, strict=True) if fold == f} for f in SPLITS}
    assert not contents["train"] & contents["val"]
    copies = Counter(data.digests)
    assert sum(n > 1 for n in copies.values()) == 30
    assert sum(n for n in copies.values() if n > 1) == 62


def test_patient_numbers_on_both_sides_of_test_are_a_note(chest_folder):
    config = DataConfig(path=str(chest_folder), image_size=16)
    assert not load_dataset(config).notes
    taken = next((chest_folder / "train/PNEUMONIA").glob("person1_*"))
    shutil.copy(taken, chest_folder / "test/PNEUMONIA/person1_virus_999.png")
    copies, note = load_dataset(config).notes
    assert "equal content" in copies
    assert "0 NORMAL and 1 PNEUMONIA patient numbers" in note


def copied(folder: Path, source: str, target: str) -> None:
    """Let the target's first files have the bytes of the source's first three."""
    sources, targets = (sorted((folder / name).iterdir()) for name in (source, target))
    for one, other in zip(sources[:3], targets, strict=False):
        other.write_bytes(one.read_bytes())


@pytest.mark.parametrize(
    ("source", "target", "words", "val_fraction"),
    [
        ("train/NORMAL", "test/NORMAL", "3 contents stand both in test and outside it", None),
        ("train/NORMAL", "train/PNEUMONIA", "3 contents stand under two classes", None),
        ("train/NORMAL", "val/NORMAL", "2 contents stand both in train and validation", 0),
        ("train/NORMAL", "val/NORMAL", "", None),  # carved anew, copies stay together
    ],
)
def test_equal_files_where_they_make_figures_wrong_are_a_note(
    chest_folder: Path, caplog: pytest.LogCaptureFixture, source: str, target: str, words: str, val_fraction: float
) -> None:
    copied(chest_folder, source, target)
    notes = [note for note in load(chest_folder, val_fraction=val_fraction).notes if "equal content" in note]
    if not words:
        assert notes == []
        return
    (note,) = notes
    assert words in note
    assert all(sorted((chest_folder / name).iterdir())[0].name in note for name in (source, target))
    assert caplog.messages.count(note) == 1


def test_equal_files_in_one_place_are_no_note(chest_folder: Path) -> None:
    for place in ("train/NORMAL", "test/PNEUMONIA"):
        first, second = sorted((chest_folder / place).iterdir())[:2]
        second.write_bytes(first.read_bytes())
    assert load(chest_folder).notes == []


@pytest.mark.parametrize("where", ["cache", "train/NORMAL/cache", "."])
def test_a_cache_inside_the_data_is_refused(chest_folder: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setenv("BALANCER_CACHE", str(chest_folder / where))
    with pytest.raises(BalancerError, match="BALANCER_CACHE"):
        load(chest_folder)


@pytest.mark.realdata
def test_the_real_sets_shared_numbers_are_a_note(real_data):
    (note,) = load_dataset(DataConfig(path=str(real_data))).notes
    assert "94 NORMAL and 170 PNEUMONIA" in note  # as the data note counts them, keyed on the number alone


def mendeley(folder: Path) -> dict[str, str]:
    """Give every file the name that Mendeley's edition 3 would; return the patient of each new name."""
    patients = {}
    for split in SPLITS:
        for file in sorted((folder / split).rglob("*.png")):
            patient, kind = parse_name(file.stem, int("PNEUMONIA" in file.parts))
            number = 1000 * (1 + sum(map(ord, patient))) + int(patient.split("-")[1])
            disease = {"bacteria": "BACTERIA", "virus": "VIRUS"}.get(kind, "NORMAL")
            file.rename(file.with_name(f"{disease}-{number}-{len(patients) + 1:04d}.png"))
            patients[f"{disease}-{number}-{len(patients) + 1:04d}.png"] = patient
    return patients


def test_the_names_of_mendeleys_edition_3(chest_folder: Path) -> None:
    patients = mendeley(chest_folder)
    for task in ("binary", "multiclass"):
        data = load(chest_folder, task=task, val_fraction=0.3)
        assert data.patients_known
        assert data.describe()["patients"] == len(set(patients.values()))
        sides = defaultdict(set)
        for record, fold in zip(data.records, data.folds, strict=True):
            sides[patients[Path(record.name).name]].add(str(fold))
        assert all(len(folds) == 1 for folds in sides.values()), "a patient lies in two folds"
        assert not any("patient" in note for note in data.notes)


def test_one_id_in_two_classes_is_one_child(chest_folder: Path) -> None:
    for label, name in ((0, "NORMAL-77-0001.png"), (1, "VIRUS-77-0002.png")):
        folder = chest_folder / "train" / CLASSES[label]
        next(folder.iterdir()).rename(folder / name)
    data = load(chest_folder)
    assert len({g for g, r in zip(data.groups, data.records, strict=True) if "-77-" in r.name}) == 1


def anonymous(folder: Path, keep: int = 0) -> None:
    """Give the files names that tell no patient, the same in train and in test."""
    for split in SPLITS:
        for cls in CLASSES:
            for i, file in enumerate(sorted((folder / split / cls).iterdir())[keep:]):
                file.rename(file.with_name(f"scan {i}.png"))


def test_no_name_tells_a_patient(chest_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    anonymous(chest_folder)
    data = load(chest_folder)
    assert not data.patients_known
    assert data.describe()["patients"] is None
    (note,) = data.notes
    assert note.startswith("No file name tells a patient")
    assert caplog.text.count(note) == 1


def test_some_names_tell_a_patient(chest_folder: Path) -> None:
    anonymous(chest_folder, keep=1)
    data = load(chest_folder)
    assert data.patients_known
    (note,) = data.notes
    assert "108 of 114 file names tell no patient" in note


def test_files_that_cannot_be_read_are_a_note(chest_folder: Path) -> None:
    names = [f"IM-{i:04d}-0001.png" for i in (1, 4)]
    for name in names:
        (chest_folder / "train" / "NORMAL" / name).write_bytes(b"no image")
    (note,) = load(chest_folder, max_bad=0.05).notes
    assert note.startswith("2 files could not be read")
    assert all(name in note for name in names)
