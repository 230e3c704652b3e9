"""The folds that are carved, against brute force: nothing is parted, every class is everywhere, shares are met."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from layouts import Made, as_classes, as_splits, made, write_table
from PIL import Image

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.folds import assign_folds, carved_folds
from balancer.data.listing import Listing
from balancer.data.phantom import draw_image, draw_patient
from balancer.data.records import Record
from balancer.data.split import hold_out_sources

FOLDS = ("train", "val", "test")


def load(path: Path, **settings: object) -> Dataset:
    return load_dataset(DataConfig.model_validate({"path": str(path), "image_size": 16, **settings}))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 25)), min_size=12, max_size=120),
    st.integers(0, 5),
    st.floats(0.1, 0.4),
)
def test_carved_folds(images: list, seed: int, test: float) -> None:
    """Patients have images of any class. All that can be promised is checked image by image."""
    records = [Record(f"{i}", label, "", f"patient-{p}", "") for i, (label, p) in enumerate(images)]
    groups = [r.patient for r in records]
    patients = [{r.patient for r in records if r.label == label} for label in range(3)]
    assume(min(map(len, patients)) >= 3)
    config = DataConfig(split_seed=seed, test_fraction=test)
    listing = Listing(Path("x"), ("a", "b", "c"), records)
    shares = carved_folds(records, config, listing)
    folds, notes = assign_folds(records, groups, shares, config, listing)
    sides = defaultdict(set)
    for record, fold in zip(records, folds, strict=True):
        sides[record.patient].add(str(fold))
    assert all(len(of) == 1 for of in sides.values()), "a patient lies on two sides"
    assert set(folds.tolist()) <= set(FOLDS)
    assert notes
    again, _ = assign_folds(list(records), list(groups), shares, config, listing)
    assert np.array_equal(folds, again)


@given(st.lists(st.integers(1, 6), min_size=9, max_size=60), st.integers(0, 5), st.floats(0.05, 0.45))
def test_every_class_in_every_fold_near_its_share(sizes: list, seed: int, test: float) -> None:
    """Patients of one class each: every fold has every class, and counts are off by less than the largest patient."""
    records = [Record(f"{p}-{i}", p % 3, "", f"patient-{p}", "") for p, size in enumerate(sizes) for i in range(size)]
    config = DataConfig(split_seed=seed, test_fraction=test, val_fraction=0.2)
    listing = Listing(Path("x"), ("a", "b", "c"), records)
    folds, _ = assign_folds(records, [r.patient for r in records], (test, 0.2), config, listing)
    labels = np.array([r.label for r in records])
    for label in range(3):
        counts = Counter(folds[labels == label].tolist())
        assert all(counts[fold] for fold in FOLDS)
        largest = max(size for p, size in enumerate(sizes) if p % 3 == label)
        assert abs(counts["test"] - test * (labels == label).sum()) <= largest
        assert abs(counts["val"] - 0.2 * (counts["val"] + counts["train"])) <= largest


def test_a_class_of_two_patients_is_too_small(tmp_path: Path) -> None:
    root = as_classes(made({"train": (9, 2)}, "ab"), tmp_path / "data")
    with pytest.raises(BalancerError, match=r"b 2 of 2 images.*expected 3 images or more"):
        load(root)
    data = load(root, test_fraction=0)
    assert [data.counts(fold) for fold in FOLDS] == [(7, 1), (2, 1), (0, 0)] or all(data.counts("val"))


def test_the_default_shares(tmp_path: Path) -> None:
    data = load(as_classes(made({"train": (200, 100)}, "ab"), tmp_path / "data"))
    assert data.counts("test") == (40, 20)
    assert data.counts("val") == (24, 12)
    assert data.carved
    assert {r.split for r, fold in zip(data.records, data.folds, strict=True) if fold == "test"} == {"test"}
    assert any("60 for test and 36 for validation were carved from 300 images, by image" in n for n in data.notes)


def test_given_validation_stays_where_test_is_carved(tmp_path: Path) -> None:
    root = as_splits(made({"train": (20, 20), "val": (8, 8)}, "ab"), tmp_path / "data")
    data = load(root, test_fraction=0.2)
    folds = {fold: {data.records[i].name for i in data.indices(fold)} for fold in FOLDS}
    assert data.counts("test") == (6, 6)
    assert folds["val"] == {r.name for r in data.records if r.name.startswith("val")} - folds["test"] != set()
    assert folds["train"] == {r.name for r in data.records if r.name.startswith("train")} - folds["test"]
    assert any(
        f"12 for test were carved from 56 images, by image (seed 0; split.csv has them). {len(folds['val'])} of their"
        " validation images stay" in note
        for note in data.notes
    )
    again = load(root, test_fraction=0.2, val_fraction=0.5)
    assert again.counts("val") == (11, 11), "a share that is given is carved from all that is left"


def drawings(n: int) -> list[np.ndarray]:
    """Drawings that are unlike one another, and each once more, brighter: near duplicates."""
    images = []
    for i in range(n):
        rng = np.random.default_rng(i)
        first = draw_image(draw_patient(rng), 1, rng, 64)
        images += [first, np.clip(first.astype(float) * 1.2 + 6, 0, 255).astype(np.uint8)]
    return images


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    images = [Made(f"{i:03d}.png", "ab"[i // 2 % 2], "", picture) for i, picture in enumerate(drawings(20))]
    root = as_classes(images, tmp_path / "data")
    for seed in range(5):
        data = load(root, split_seed=seed, test_fraction=0.3)
        fold = {Path(r.name).name: str(f) for r, f in zip(data.records, data.folds, strict=True)}
        assert all(fold[f"{2 * k:03d}.png"] == fold[f"{2 * k + 1:03d}.png"] for k in range(20))
    assert any("pairs of near duplicates stay on one side" in note for note in data.notes)
    other = load_dataset(DataConfig(path=str(root), image_size=32, split_seed=4, test_fraction=0.3))
    assert other.split_hash == data.split_hash, "the split depends on the working size"


def test_near_duplicates_that_nobody_compared_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.data.near_duplicates.MOST_CANDIDATES", 2)
    images = [Made(f"{i:03d}.png", "ab"[i // 2 % 2], "", picture) for i, picture in enumerate(drawings(8))]
    notes = load(as_classes(images, tmp_path / "data")).notes
    (note,) = (note for note in notes if "were not compared" in note)
    assert int(note.split()[0]) >= 6, "each of the others has a twin"


def test_equal_files_stay_together_and_two_labels_are_named(tmp_path: Path) -> None:
    root = as_classes(made({"train": (12, 12)}, "ab"), tmp_path / "data")
    first = min((root / "a").iterdir())
    for k in range(4):
        (root / "b" / f"copy{k}.png").write_bytes(first.read_bytes())
    for seed in range(4):
        data = load(root, split_seed=seed)
        assert len({str(f) for f, d in zip(data.folds, data.digests, strict=True) if data.digests.count(d) > 1}) == 1
    assert any("under two classes" in note and first.name in note for note in data.notes)
    with pytest.raises(BalancerError, match="under two classes"):
        load(root, strict=True)


def sites(root: Path, site: object, patient: object = None) -> Path:
    images = made({"train": (30, 30)}, "ab")
    for image in images:
        image.save(root / image.name)
    rows = [
        {"file": image.name, "label": image.cls, "site": site(i), **({"patient": patient(i)} if patient else {})}
        for i, image in enumerate(images)
    ]
    return write_table(root / "t.csv", rows)


def test_whole_sources_are_held_out(tmp_path: Path) -> None:
    table = sites(tmp_path, lambda i: f"site {i % 6}", lambda i: i)
    data = load(table, split_by="source")
    of = defaultdict(set)
    for record, fold in zip(data.records, data.folds, strict=True):
        of[record.source].add("test" if fold == "test" else "train")
    assert all(len(sides) == 1 for sides in of.values())
    held = [source for source, sides in of.items() if sides == {"test"}]
    assert 1 <= len(held) < 6
    assert all(data.counts("val")), "validation is of the sources that are trained on"
    assert any(all(source in note for source in held) and "never sees" in note for note in data.notes)


def test_sources_that_share_a_patient_count_as_one(tmp_path: Path) -> None:
    table = sites(tmp_path, lambda i: "AB"[i % 2], lambda i: 0 if i < 2 else i)
    with pytest.raises(BalancerError, match="count as one"):
        load(table, split_by="source")


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=60), st.floats(0.05, 0.9), st.integers(0, 5))
def test_some_sources_on_either_side(sources: list, fraction: float, seed: int) -> None:
    assume(len(set(sources)) > 1)
    chosen = hold_out_sources(sources, fraction, seed)
    held, kept = (
        {s for s, c in zip(sources, chosen, strict=True) if c},
        {s for s, c in zip(sources, chosen, strict=True) if not c},
    )
    assert held
    assert kept
    assert not held & kept


def test_colour_and_grey_together(tmp_path: Path) -> None:
    root = as_classes(made({"train": (12, 12)}, "ab"), tmp_path / "data")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / "a" / "rgb.png")
    assert len(load(root).records) == 25
