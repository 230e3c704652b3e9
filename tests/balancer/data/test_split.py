"""The split: by patient, stratified, near the share asked for, the same for ever."""

import csv
import hashlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.data.split import carve_validation, merge_groups, patient_halves, split_hash, write_split

# Images as (class, patient); a patient is of one class, as in the folder layout.
IMAGES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), min_size=1, max_size=60)
FRACTION = st.floats(0, 0.95)


def unzip(images: list) -> tuple[list[int], list[str]]:
    return [label for label, _ in images], [f"{label}-{patient}" for label, patient in images]


@given(IMAGES, FRACTION, st.integers(0, 9))
def test_groups_stay_whole_and_the_share_is_met(images: list, fraction: float, seed: int) -> None:
    labels, groups = unzip(images)
    chosen = carve_validation(labels, groups, fraction, seed)
    assert (chosen.shape, chosen.dtype) == ((len(images),), bool)
    sides = defaultdict(set)
    for group, side in zip(groups, chosen, strict=True):
        sides[group].add(bool(side))
    assert all(len(side) == 1 for side in sides.values())
    for label in set(labels):
        sizes = Counter(g for g, one in zip(groups, labels, strict=True) if one == label)
        count = sum(c for c, one in zip(chosen.tolist(), labels, strict=True) if one == label)
        assert abs(count - fraction * sum(sizes.values())) < max(sizes.values())


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), min_size=1, max_size=40), FRACTION, st.integers(0, 9))
def test_a_group_of_several_classes_stays_whole_too(images: list, fraction: float, seed: int) -> None:
    """One file copied into both class folders makes such a group."""
    labels, groups = [label for label, _ in images], [str(patient) for _, patient in images]
    chosen = carve_validation(labels, groups, fraction, seed)
    assert not {g for g, c in zip(groups, chosen, strict=True) if c} & {
        g for g, c in zip(groups, chosen, strict=True) if not c
    }


@given(IMAGES, FRACTION, st.integers(0, 9), st.randoms())
def test_the_choice_depends_on_patients_not_on_the_order_of_images(
    images: list, fraction: float, seed: int, random: object
) -> None:
    labels, groups = unzip(images)
    chosen = carve_validation(labels, groups, fraction, seed)
    assert np.array_equal(chosen, carve_validation(np.array(labels), list(groups), fraction, seed))
    order = list(range(len(images)))
    random.shuffle(order)
    shuffled = carve_validation([labels[i] for i in order], [groups[i] for i in order], fraction, seed)
    assert np.array_equal(shuffled, chosen[order])


@given(IMAGES, FRACTION, st.integers(0, 9), st.integers(1, 20))
def test_another_class_changes_nothing(images: list, fraction: float, seed: int, extra: int) -> None:
    labels, groups = unzip(images)
    alone = carve_validation(labels, groups, fraction, seed)
    for other in (-1, 7):  # sorted before and after
        more = carve_validation([*labels, *[other] * extra], [*groups, *map(str, range(extra))], fraction, seed)
        assert np.array_equal(more[: len(images)], alone)


def test_another_seed_chooses_others() -> None:
    labels, groups = [0] * 100 + [1] * 100, [str(i) for i in range(200)]
    chosen = [carve_validation(labels, groups, 0.2, seed) for seed in range(5)]
    assert all(c[:100].sum() == c[100:].sum() == 20 for c in chosen)
    assert len({c.tobytes() for c in chosen}) == 5
    assert not np.array_equal(chosen[0][:100], chosen[0][100:]), "the classes share one stream"


def test_the_choice_never_changes() -> None:
    """Pinned: another choice would make every published split another one."""
    labels, groups = [0] * 12 + [1] * 12, [f"p{i // 2}" for i in range(24)]
    assert np.flatnonzero(carve_validation(labels, groups, 0.34, 3)).tolist() == [2, 3, 10, 11, 18, 19, 22, 23]


def test_every_patient_has_its_chance() -> None:
    labels, groups = [0] * 20, [str(i // 2) for i in range(20)]
    times = sum(carve_validation(labels, groups, 0.3, seed).astype(int) for seed in range(300))
    assert 60 <= times.min() <= times.max() <= 120, "expected 90 of 300"


def test_nothing_to_carve() -> None:
    assert not carve_validation([0, 1], ["a", "b"], 0.0, 0).any()
    assert carve_validation([], [], 0.5, 0).shape == (0,)
    assert not carve_validation([0] * 10, ["one patient"] * 10, 0.3, 0).any()


@given(st.lists(st.integers(0, 12), max_size=60))
def test_halves_share_no_patient(patients: list[int]) -> None:
    groups = [str(p) for p in patients]
    first, second = patient_halves(groups)
    assert sorted([*first, *second]) == list(range(len(groups)))
    assert not {groups[i] for i in first} & {groups[i] for i in second}
    assert list(first) == sorted(first)
    assert list(second) == sorted(second)
    if groups:
        assert abs(len(first) - len(groups) / 2) < max(Counter(groups).values())
    again = patient_halves(groups)
    assert np.array_equal(first, again[0])
    assert np.array_equal(second, again[1])


PINNED = [1, 2, 7, 9, 11, 13, 14, 15, 17, 18, 19, 24, 25, 28, 31, 34, 35, 37, 38, 39]


def test_halves_of_single_images_are_even_and_never_change() -> None:
    """Pinned: with others, figures of a training run and of its report would no longer be of the same images."""
    first, second = patient_halves([str(i) for i in range(40)])
    assert len(first) == len(second) == 20
    assert first.tolist() == PINNED


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25))
def test_merged_groups_are_connected_components(files: list) -> None:
    patients, digests = [f"p{p}" for p, _ in files], [f"d{d}" for _, d in files]
    merged = merge_groups(patients, digests)
    n = len(files)  # brute force: the transitive closure of "same patient or same content"
    linked = np.array([[a[0] == b[0] or a[1] == b[1] for b in files] for a in files], dtype=bool).reshape(n, n)
    for _ in range(n):
        linked = linked | (linked.astype(int) @ linked.astype(int) > 0)
    for i in range(n):
        for j in range(n):
            assert (merged[i] == merged[j]) == linked[i, j]
    assert set(merged) <= set(patients)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25), st.randoms())
def test_merging_does_not_depend_on_the_order(files: list, random: object) -> None:
    merged = merge_groups([f"p{p}" for p, _ in files], [f"d{d}" for _, d in files])
    order = list(range(len(files)))
    random.shuffle(order)
    again = merge_groups([f"p{files[i][0]}" for i in order], [f"d{files[i][1]}" for i in order])
    assert again == [merged[i] for i in order]


NAMES, FOLDS, DIGESTS = ["a", "b", "c", "d"], ["train", "train", "val", "test"], ["1", "2", "3", "4"]


def test_the_split_hash_is_that_of_the_sorted_rows() -> None:
    """As in every version, so that old runs are of the same split: names that begin others, signs, folders, umlauts."""
    names = ["b/a 1", "b/a", "b/a-1", "b/a.png", "b/a\u00e4", "b", "B", "b/\udcff", "a/z", "\U0001f4a9"]
    folds = ["val", "train", "train", "val", "train", "train", "test", "val", "train", "train"]
    digests = [f"{i % 3}" for i in range(len(names))]
    rows = sorted(f"{f}\t{n}\t{d}" for n, f, d in zip(names, folds, digests, strict=True) if f != "test")
    text = "\n".join(rows).encode(errors="surrogateescape")
    assert split_hash(names, iter(folds), digests) == hashlib.sha256(text).hexdigest()[:16]


def test_the_split_hash_names_train_and_validation() -> None:
    base = split_hash(NAMES, FOLDS, DIGESTS)
    assert len(base) == 16
    int(base, 16)
    order = [2, 0, 3, 1]
    assert base == split_hash([NAMES[i] for i in order], [FOLDS[i] for i in order], [DIGESTS[i] for i in order])
    assert base == split_hash(NAMES, FOLDS, [*DIGESTS[:3], "changed test image"])
    assert base == split_hash(NAMES[:3], FOLDS[:3], DIGESTS[:3])
    for other in (
        split_hash(NAMES, FOLDS, ["1", "2", "changed", "4"]),
        split_hash(NAMES, FOLDS, ["2", "1", "3", "4"]),
        split_hash(NAMES, ["train", "val", "val", "test"], DIGESTS),
        split_hash(NAMES, ["train", "val", "train", "test"], DIGESTS),
        split_hash(NAMES, ["train", "test", "val", "test"], DIGESTS),
        split_hash(["a", "x", "c", "d"], FOLDS, DIGESTS),
    ):
        assert other != base


def test_split_csv(tmp_path: Path) -> None:
    patients = ["p,1", 'p"2', "p 3", "é"]
    write_split(tmp_path / "split.csv", NAMES, FOLDS, ["NORMAL"] * 4, patients, DIGESTS, list("abcd"))
    with (tmp_path / "split.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["patient"] for row in rows] == patients
    assert rows[2] == {"name": "c", "fold": "val", "label": "NORMAL", "patient": "p 3", "sha256": "3", "source": "c"}
    with pytest.raises(ValueError, match="shorter"):
        write_split(tmp_path / "split.csv", NAMES, FOLDS, ["NORMAL"] * 3, patients, DIGESTS, list("abcd"))
