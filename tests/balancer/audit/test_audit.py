"""The audit finds what was planted, calls only what is proven a leak, and finds on the real set what is known of it."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps

from balancer.audit import shortcuts as data_shortcuts
from balancer.audit.findings import audit, caveats, estimate_seconds, leaks
from balancer.audit.patients import image_level_overlap
from balancer.audit.properties import measure
from balancer.audit.report import _counts, to_json
from balancer.audit.results import Audit, NearDuplicates, NearPair
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.images import resize_image
from balancer.data.near_duplicates import BITS, COPY, HASH_SIDE, SUSPECT, _aligned, _bands, equalise
from balancer.data.perceptual_hash import perceptual_hash
from balancer.data.phantom import draw_image, draw_patient

SETTINGS = {"image_size": 16}


pytestmark = pytest.mark.usefixtures("quick_intervals")


@pytest.fixture
def quick_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are for test_shortcuts.py to check."""
    monkeypatch.setattr(data_shortcuts, "RESAMPLES", 50)


def audit_of(folder: Path, **settings: object) -> Audit:
    config = DataConfig.model_validate({"path": str(folder), **SETTINGS, **settings})
    result = audit(load_dataset(config), config)
    json.dumps(to_json(result), allow_nan=False)
    return result


def files(folder: Path, split: str, cls: str) -> list[Path]:
    return sorted((folder / split / cls).iterdir())


def copy(source: Path, target: Path) -> str:
    target.write_bytes(source.read_bytes())
    return target.name


def drawing(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(draw_image(draw_patient(rng), 1, rng, 96))


def side(shared: Sequence[Any], right: str) -> Any:
    return next(s for s in shared if s.right == right)


# --- a clean set


def test_a_clean_set_has_no_leak(chest_folder: Path) -> None:
    found = audit_of(chest_folder)
    assert leaks(found) == []
    assert found.counts.splits == {
        "train": {"NORMAL": 24, "PNEUMONIA": 60},
        "val": {"NORMAL": 2, "PNEUMONIA": 2},
        "test": {"NORMAL": 10, "PNEUMONIA": 16},
    }
    used = found.counts.folds
    assert "validation is carved out of train and val" in _counts(found).paragraphs[0]
    as_on_disk = replace(found, counts=replace(found.counts, folds={**used, "val": found.counts.splits["val"]}))
    assert "Validation and test are used as they are." in _counts(as_on_disk).paragraphs[0]
    assert used["test"] == {"NORMAL": 10, "PNEUMONIA": 16}
    assert used["train"]["PNEUMONIA"] + used["val"]["PNEUMONIA"] == 62
    names = [
        p
        for split in ("train", "val", "test")
        for cls in ("NORMAL", "PNEUMONIA")
        for p in files(chest_folder, split, cls)
    ]
    assert found.patients.narrow.patients == len({p.stem.rsplit("-", 1)[0].rsplit("_", 1)[0] for p in names})
    train = Counter(p.stem.rsplit("-", 1)[0].rsplit("_", 1)[0] for p in names if p.parent.parent.name == "train")
    several = [n for n in train.values() if n > 1]
    assert found.patients.narrow.train_several == len(several)
    assert found.patients.narrow.train_images_of_several == sum(several)
    assert found.patients.narrow.train_most == 4
    assert (found.identical.groups, found.near.copies) == (0, [])


def test_nothing_depends_on_the_working_size_but_what_a_classifier_sees(chest_folder: Path) -> None:
    small, large = (audit_of(chest_folder, image_size=size) for size in (16, 32))
    assert replace(small, data=large.data, shortcuts=large.shortcuts) == large
    for a, b in zip(small.shortcuts.properties, large.shortcuts.properties, strict=True):
        assert a.working != b.working or a.constant or a.key in ("width", "height", "bytes_per_pixel")
        assert replace(a, working=b.working) == b


# --- identical files


def test_identical_files_are_counted_where_they_are(chest_folder: Path) -> None:
    train, test = (files(chest_folder, split, "PNEUMONIA") for split in ("train", "test"))
    patient = train[0].stem.rsplit("_", 1)[0]
    inside = [copy(train[0], train[0].with_name(f"{patient}_99{i}.png")) for i in range(2)]
    across = copy(train[5], test[0].with_name("person900_bacteria_1.png"))
    found = audit_of(chest_folder).identical
    assert (found.groups, found.files, found.across_splits, found.label_conflicts) == (2, 5, 1, 0)
    assert found.in_split == {"train": 1, "val": 0, "test": 0}
    assert found.across_patients == 1
    listed = [{Path(name).name for name in group.names} for group in found.list]
    assert listed == [{train[0].name, *inside}, {train[5].name, across}]
    assert side(found.folds, "test").groups == 1
    assert side(found.folds, "validation").groups == 0, "copies are kept together"


def test_a_file_in_train_and_test_is_a_leak(chest_folder: Path) -> None:
    copy(files(chest_folder, "train", "NORMAL")[0], chest_folder / "test" / "NORMAL" / "IM-0900-0001.png")
    assert leaks(audit_of(chest_folder)) == ["1 identical file both in train or validation and in test"]


def test_a_file_under_both_classes_is_a_leak(chest_folder: Path) -> None:
    copy(files(chest_folder, "train", "NORMAL")[0], chest_folder / "train" / "PNEUMONIA" / "person900_virus_1.png")
    found = audit_of(chest_folder)
    assert found.identical.label_conflicts == 1
    assert leaks(found) == ["1 identical file under both classes"]


def test_the_sources_own_validation_can_leak(chest_folder: Path) -> None:
    copy(files(chest_folder, "train", "NORMAL")[0], chest_folder / "val" / "NORMAL" / "IM-0900-0001.png")
    assert leaks(audit_of(chest_folder, val_fraction=0)) == ["1 identical file both in train and in validation"]
    assert leaks(audit_of(chest_folder)) == [], "carved anew, copies stay together"


# --- patients


def test_a_patient_in_train_and_test_is_a_leak(chest_folder: Path) -> None:
    """person1 of train is viral and has one image; now test has two of the same kind."""
    test = files(chest_folder, "test", "PNEUMONIA")
    for i in range(2):
        test[i].rename(test[i].with_name(f"person1_virus_{900 + i}.png"))
    found = audit_of(chest_folder)
    assert side(found.patients.narrow.splits, "test").patients == {"NORMAL": 0, "PNEUMONIA": 1}
    assert side(found.patients.narrow.splits, "test").images["PNEUMONIA"] == (1, 2)
    assert leaks(found) == ["1 patient both in train or validation and in test (1 and 2 images)"]


def test_the_same_number_of_another_kind_is_a_caveat(chest_folder: Path) -> None:
    test = files(chest_folder, "test", "PNEUMONIA")
    test[0].rename(test[0].with_name("person1_bacteria_900.png"))
    found = audit_of(chest_folder)
    assert leaks(found) == []
    assert sum(side(found.patients.narrow.folds, "test").patients.values()) == 0
    assert side(found.patients.cautious.folds, "test").patients == {"NORMAL": 0, "PNEUMONIA": 1}
    assert [c for c in caveats(found) if "1 PNEUMONIA patient numbers occur both in test and outside it" in c]


def test_numbers_shared_with_the_sources_own_validation_are_a_caveat(chest_folder: Path) -> None:
    val = files(chest_folder, "val", "PNEUMONIA")
    val[0].rename(val[0].with_name("person1_bacteria_900.png"))
    found = audit_of(chest_folder, val_fraction=0)
    assert leaks(found) == []
    assert [c for c in caveats(found) if "1 patient number both in train and in validation" in c]


def test_names_that_tell_no_patient(chest_folder: Path) -> None:
    """Equal names of another scheme in two splits are not called one patient."""
    for split in ("train", "test"):
        for i, file in enumerate(files(chest_folder, split, "NORMAL")):
            file.rename(file.with_name(f"scan{i}.png"))
    found = audit_of(chest_folder)
    assert leaks(found) == []
    assert found.patients.images - found.patients.named == 34
    assert [c for c in caveats(found) if c.startswith("34 of 114 file names tell no patient")]


def test_an_archive_without_patients(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"{s}_images": rng.integers(0, 256, (12, 28, 28), dtype=np.uint8) for s in ("train", "val", "test")}
    labels = {f"{s}_labels": np.arange(12) % 2 for s in ("train", "val", "test")}
    arrays["test_images"][2] = arrays["train_images"][4]
    np.savez(tmp_path / "pneumoniamnist_set.npz", **arrays, **labels)
    found = audit_of(tmp_path / "pneumoniamnist_set.npz")
    assert (found.patients.narrow, found.patients.cautious, found.patients.named) == (None, None, 0)
    assert [c for c in caveats(found) if "names no patients" in c]
    assert leaks(found) == ["1 identical file both in train or validation and in test"]
    assert not found.shortcuts.from_files


# --- near duplicates


def test_a_reencoded_and_trimmed_image_in_test_is_a_leak(chest_folder: Path) -> None:
    original = drawing(1)
    original.save(chest_folder / "train" / "PNEUMONIA" / "person900_virus_1.png")
    changed = original.crop((1, 1, 95, 95)).point(lambda grey: 0.9 * grey + 10)
    changed.save(chest_folder / "test" / "PNEUMONIA" / "person901_virus_1.jpeg", quality=60)
    found = audit_of(chest_folder)
    assert leaks(found) == ["1 near duplicate between train or validation and test"]
    (pair,) = found.near.copies
    assert pair.names == ("train/PNEUMONIA/person900_virus_1.png", "test/PNEUMONIA/person901_virus_1.jpeg")
    assert pair.same_patient is False
    assert pair.correlation >= COPY
    assert found.near.same_patient == found.near.across_classes == 0


def test_a_near_duplicate_within_train_is_reported_and_no_leak(chest_folder: Path) -> None:
    drawing(2).save(chest_folder / "train" / "PNEUMONIA" / "person900_virus_1.png")
    drawing(2).save(chest_folder / "train" / "PNEUMONIA" / "person900_virus_2.jpeg", quality=60)
    found = audit_of(chest_folder)
    assert leaks(found) == []
    assert (len(found.near.copies), found.near.same_patient) == (1, 1)


def test_a_pair_below_the_threshold_is_shown_and_no_leak(chest_folder: Path) -> None:
    drawing(3).save(chest_folder / "train" / "PNEUMONIA" / "person900_virus_1.png")
    blurred = drawing(3).filter(ImageFilter.GaussianBlur(2.2))
    blurred.save(chest_folder / "test" / "PNEUMONIA" / "person901_virus_1.png")
    found = audit_of(chest_folder)
    (pair,) = found.near.closest
    assert SUSPECT <= pair.correlation < COPY
    assert found.near.suspects == [pair]
    assert leaks(found) == []
    assert [c for c in caveats(found) if pair.names[0] in c]


def test_unreadable_files_are_a_caveat(chest_folder: Path) -> None:
    files(chest_folder, "train", "PNEUMONIA")[0].write_bytes(b"no image")
    found = audit_of(chest_folder, max_bad=0.1)
    assert len(found.data["unreadable"]) == 1
    (caveat,) = [c for c in caveats(found) if "could not be read" in c]
    assert files(chest_folder, "train", "PNEUMONIA")[0].name in caveat


@pytest.mark.parametrize("pixels", ["flat", "one flat picture", "one picture"])
@pytest.mark.parametrize("test", [True, False])
def test_images_without_anything_to_compare(chest_folder: Path, pixels: str, test: bool) -> None:
    if not test:
        for file in (chest_folder / "test").rglob("*.png"):
            file.unlink()
        for folder in ("NORMAL", "PNEUMONIA", ""):
            (chest_folder / "test" / folder).rmdir()
    noise = np.random.default_rng(0).integers(0, 256, (32, 40), dtype=np.uint8)
    for i, file in enumerate(sorted(chest_folder.rglob("*.png"))):
        level = i % 250 if pixels == "flat" else 77
        Image.fromarray(noise if pixels == "one picture" else np.full((32, 40), level, dtype=np.uint8)).save(file)
    found = audit_of(chest_folder)
    assert (found.near.candidates, found.near.copies) == (0, [])
    assert found.near.compared + found.near.blank == len({f.read_bytes() for f in chest_folder.rglob("*.png")})


# --- what an image-level split would leak


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=9), st.floats(0.1, 0.9))
def test_image_level_overlap_is_the_mean_over_all_splits(keys: list[str], fraction: float) -> None:
    n, m = len(keys), round(fraction * len(keys))
    if m == 0:
        return
    shares = []
    for chosen in combinations(range(n), m):
        train = {keys[i] for i in range(n) if i not in chosen}
        shares.append(np.mean([keys[i] in train for i in chosen]))
    assert image_level_overlap(keys, fraction) == pytest.approx(np.mean(shares))


def test_image_level_overlap_by_simulation() -> None:
    """Patients of 1 to 12 images, too many splits to list."""
    rng = np.random.default_rng(0)
    keys = np.repeat(np.arange(200), rng.integers(1, 13, 200))
    m, shares = round(0.2 * len(keys)), []
    for _ in range(300):
        order = rng.permutation(len(keys))
        shares.append(np.isin(keys[order[:m]], keys[order[m:]]).mean())
    expected = image_level_overlap([str(k) for k in keys], 0.2)
    assert expected == pytest.approx(np.mean(shares), abs=4 * np.std(shares) / 300**0.5)


def test_what_was_measured_costs_less(chest_folder: Path) -> None:
    files(chest_folder, "test", "NORMAL")[0].unlink()  # else another test has measured the same set
    data = load_dataset(DataConfig(path=str(chest_folder), image_size=16))
    first = estimate_seconds(data)
    measure(data)
    assert estimate_seconds(data) < first


# --- the real set


@pytest.fixture(scope="module")
def real(real_data: Path) -> tuple[Dataset, Audit]:
    config = DataConfig(path=str(real_data))
    data = load_dataset(config)
    return data, audit(data, config)


@pytest.mark.realdata
@pytest.mark.nightly
def test_the_real_set_has_the_published_findings(real: tuple[Dataset, Audit]) -> None:
    found = real[1]
    narrow, cautious, identical = found.patients.narrow, found.patients.cautious, found.identical
    assert (narrow.patients, narrow.train_several, narrow.train_most) == (4097, 643, 30)
    assert not any(n for across in narrow.splits for n in across.patients.values())
    shared = side(cautious.splits, "test")
    assert shared.patients == {"NORMAL": 94, "PNEUMONIA": 170}
    assert shared.images["PNEUMONIA"] == (457, 320)
    assert narrow.image_level.expected == pytest.approx(0.39, abs=0.01)
    assert (identical.groups, identical.files) == (30, 62)
    assert identical.in_split == {"train": 24, "val": 0, "test": 6}
    assert (identical.across_splits, identical.label_conflicts) == (0, 0)
    sharpness = next(r for r in found.shortcuts.properties if r.key == "sharpness")
    assert {cls: round(m) for cls, m in sharpness.medians.items()} == {"NORMAL": 197, "PNEUMONIA": 130}
    assert sharpness.classes.high < 0.25, "normal images are sharper"
    assert found.shortcuts.together.auroc > 0.85
    assert leaks(found) == []


@pytest.mark.realdata
@pytest.mark.nightly
def test_on_the_real_set_the_threshold_parts_copies_from_patients(real: tuple[Dataset, Audit], real_data: Path) -> None:
    """What the docstring of balancer.data.near_duplicates says, with fewer copies."""
    data, found = real
    assert found.near.copies == []
    assert [{Path(n).name for n in p.names} for p in found.near.suspects] == [
        {"person1565_bacteria_4095.jpeg", "person1637_bacteria_4339.jpeg"}
    ]
    assert found.near.unrelated_most < 0.88
    thumbnails = measure(data).thumbnails
    chosen = np.random.default_rng(0).choice(len(thumbnails), 30, replace=False)
    changes = {
        lambda p: p.crop((3, 3, 221, 221)): np.asarray,
        lambda p: p.point(lambda grey: 0.8 * grey + 30): np.asarray,
        _jpeg: np.asarray,
        ImageOps.equalize: equalise,
    }
    for change, prepare in changes.items():
        pictures = [Image.open(real_data / data.records[i].name).convert("L") for i in chosen]
        copies = np.stack([resize_image(change(picture), 64, "squash") for picture in pictures])
        bits = (perceptual_hash(thumbnails[chosen], HASH_SIDE) != perceptual_hash(copies, HASH_SIDE)).sum(axis=1)
        assert bits.max() <= BITS
        assert _aligned(_bands(prepare(thumbnails[chosen])), _bands(prepare(copies))).min() >= COPY


def _jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=15)
    return Image.open(buffer)


def test_pairs_to_look_at_are_named_however_many_copies_there_are() -> None:
    def pairs(name: str, n: int) -> list[NearPair]:
        return [NearPair((f"{name}{i}", "b"), ("train", "test"), ("A", "A"), True, 0.9, 3) for i in range(n)]

    near = NearDuplicates(40, 0, 40, 40, 0.97, 0.88, pairs("copy", 12), 12, 0, [], pairs("suspect", 2), None, [])
    named = [pair.names[0] for pair in near.shown(10)]
    assert named == [*(f"copy{i}" for i in range(10)), "suspect0", "suspect1"]
    few = replace(near, copies=pairs("copy", 1), closest=[*near.suspects, *pairs("other", 20)])
    assert len({pair.names for pair in few.shown(10)}) == len(few.shown(10)) == 10
    assert {pair.names for pair in near.suspects} < {pair.names for pair in few.shown(10)}
