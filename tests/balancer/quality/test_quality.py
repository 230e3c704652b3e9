"""The quality report: which sets are compared, what planted failures do to it, and what it says of them."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import fields
from scipy.ndimage import gaussian_filter

from balancer.core.settings import QualityConfig
from balancer.data.folder import Record, find_root, read_folder
from balancer.data.images import read_image
from balancer.metrics.features import FeatureNetwork
from balancer.quality import assess as quality
from balancer.quality.assess import ImageSet, assess, halved, report_seconds
from balancer.quality.interpretation import readings, times, verdict

CPU = torch.device("cpu")
SETTINGS = QualityConfig(inception="off", kid_subsets=3, kid_subset_size=6, two_sample=False)
Pairs = dict[str, list[tuple[np.ndarray, np.ndarray]]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path))


@pytest.fixture
def forty_pixel_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough steps of the pixel network to tell apart what is easily told; its default of 200 a fold is slow."""
    quick = functools.partial(quality.two_sample.pixel_two_sample, steps=40)
    monkeypatch.setattr(quality.two_sample, "pixel_two_sample", quick)


def levels(first: int, n: int, name: str) -> ImageSet:
    """Every image is one grey level, its own; three images a patient."""
    grey = np.arange(first, first + n, dtype=np.uint8)
    images = np.ascontiguousarray(np.broadcast_to(grey[:, None, None], (n, 16, 16)))
    return ImageSet(images, [f"{name}-{i // 3}" for i in range(n)], name)


def fakes(n: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(200, 256, (n, 16, 16), dtype=np.uint8)


def grey_network(name: str) -> Any:
    """Feature 0 is the mean grey level, which names a real image."""

    def module(batch: torch.Tensor) -> torch.Tensor:
        return torch.stack([batch.float().mean(dim=(1, 2, 3)), batch.float().amax(dim=(1, 2, 3))], dim=1)

    return lambda _device: FeatureNetwork(name, 2, "1", module, 8)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Pairs:
    """The pairs of feature sets that each distance was asked for, on one network whose features name the image."""
    pairs: Pairs = {"frechet": [], "kernel": []}

    def frechet(real: np.ndarray, fake: np.ndarray) -> float:
        pairs["frechet"].append((real[:, 0].round().astype(int), fake[:, 0].round().astype(int)))
        return 1.5

    def kernel(real: np.ndarray, fake: np.ndarray, subsets: int, size: int, seed: int) -> tuple[float, float]:
        pairs["kernel"].append((real[:, 0].round().astype(int), fake[:, 0].round().astype(int)))
        assert size <= len(real)
        return 0.25, 0.1

    monkeypatch.setattr(quality, "_networks", lambda *_: [grey_network("grey-2")(CPU)])
    monkeypatch.setattr(quality, "frechet_distance", frechet)
    monkeypatch.setattr(quality, "kernel_distance", kernel)
    return pairs


# --- which sets are compared


@pytest.mark.parametrize(("train", "val", "n_fake"), [(30, 12, 40), (30, 12, 7), (13, 40, 40)])
def test_sets_that_are_compared(train: int, val: int, n_fake: int, compared: Pairs) -> None:
    """Equal counts; the floor is between real sets with no patient in common, with the same reference as the synthetic side."""
    real, held_out = levels(0, train, "training fold"), levels(100, val, "validation")
    group = dict(enumerate(real.groups)) | {100 + i: g for i, g in enumerate(held_out.groups)}
    rows = assess(SETTINGS, real, held_out, fakes(n_fake), CPU)["distances"]
    assert [r["reference"] for r in rows] == ["training fold (half the patients)", "validation"]
    for pairs in compared.values():
        assert len(pairs) == 4
        for row, (reference, fake), (again, floor) in zip(rows, pairs[::2], pairs[1::2], strict=True):
            assert sorted(reference) == sorted(again), "the floor has the same reference"
            assert len(reference) == len(fake) == len(floor) == row["n_real"] == row["n_fake"]
            assert len(set(reference)) == len(reference)
            assert len(set(floor)) == len(floor)
            assert ((reference >= 100) == (row["reference"] == "validation")).all()
            assert (floor < 100).all(), "training images"
            assert not {group[k] for k in reference} & {group[k] for k in floor}
            assert fake.min() >= 200


def test_without_held_out_images(compared: Pairs) -> None:
    """All real images are a reference without a floor; the halves have one, and readings go by them."""
    found = assess(SETTINGS, levels(0, 30, "real images"), None, fakes(), CPU)
    whole, half = found["distances"]
    assert (whole["reference"], whole["n_real"], whole["frechet_floor"]) == ("real images (all)", 30, None)
    assert (half["reference"], half["frechet_floor"]) == ("real images (half the patients)", 1.5)
    assert found["reference"] == half["reference"]
    assert any("may have seen" in note for note in found["notes"])


def test_the_data_sets_own_shift(compared: Pairs) -> None:
    """Training against test, beside two halves of training with no patient in common, all of one size."""
    real, test = levels(0, 30, "training fold"), levels(150, 12, "test")
    found = assess(SETTINGS, real, None, fakes(), CPU, test=test)
    (row,) = found["shift"]
    assert (row["reference"], row["n"]) == ("training fold against test", 12)
    (a, b), (c, d) = compared["frechet"][-2:]
    assert a.max() < 100
    assert b.min() >= 150
    assert not {real.groups[k] for k in c} & {real.groups[k] for k in d}
    assert {len(x) for x in (a, b, c, d)} == {12}
    assert all(x[1].max() < 150 or x[1].min() >= 200 for x in compared["frechet"][:-2]), "test is used for nothing else"


def test_held_out_images_of_training_patients_are_left_out(compared: Pairs) -> None:
    real, mixed = levels(0, 30, "training fold"), levels(100, 12, "validation")
    mixed = dataclasses.replace(mixed, groups=[real.groups[0]] * 6 + mixed.groups[6:])
    found = assess(SETTINGS, real, mixed, fakes(), CPU)
    assert found["distances"][1]["n_real"] == 6
    assert any("6 of the 12 images of validation are of patients in training fold too" in n for n in found["notes"])
    gone = dataclasses.replace(mixed, groups=[real.groups[0]] * 12)
    assert assess(SETTINGS, real, gone, fakes(), CPU)["reference"] == "training fold (half the patients)"


def test_a_seed_of_its_own(compared: Pairs) -> None:
    """It decides which images are drawn, not which patients are in which half: those are the same while training."""
    for seed in (0, 1):
        settings = SETTINGS.model_copy(update={"seed": seed})
        assess(settings, levels(0, 30, "training fold"), levels(100, 12, "validation"), fakes(), CPU)
    references, drawn = ([tuple(p[side]) for p in compared["frechet"]] for side in (0, 1))
    assert references[:4] == references[4:]
    assert drawn[:4] != drawn[4:]


@pytest.mark.parametrize("val", [1, 0])
def test_too_little_validation_data_is_said(val: int) -> None:
    held_out = levels(100, val, "validation")
    found = assess(SETTINGS, levels(0, 30, "training fold"), held_out, fakes(), CPU)
    assert found["reference"] == "training fold (half the patients)"
    text = "it needs 2 images a side; there are 1 real" if val else "No held-out images"
    assert any(text in note for note in found["notes"])


def test_one_synthetic_image_gives_no_distance_but_is_looked_up() -> None:
    train = ImageSet(fields(20, 0), [str(i) for i in range(20)], "training fold")
    found = assess(SETTINGS, train, None, train.images[:1], CPU)
    assert found["distances"] == found["two_sample"] == []
    assert sum("1 synthetic" in note for note in found["notes"]) == 2
    assert found["memorization"]["exact_copies"] == 1
    assert "1 exact copy of a training image" in found["verdict"]


def test_kid_subsets_shrink_and_the_report_says_so() -> None:
    settings = SETTINGS.model_copy(update={"kid_subset_size": 100})
    found = assess(settings, levels(0, 30, "training fold"), levels(100, 4, "validation"), fakes(), CPU)
    sizes = {r["reference"]: r["kid_subset_size"] for r in found["distances"]}
    assert sizes == {"training fold (half the patients)": 7, "validation": 2}
    assert [n for n in found["notes"] if "instead of 100" in n] == [
        "KID against training fold (half the patients): 15 images a side, so its subsets hold 7 instead of 100.",
        "KID against validation: 4 images a side, so its subsets hold 2 instead of 100.",
    ]


def test_blank_images_give_notes_and_no_nan(five_pixel_steps: None) -> None:
    black = np.zeros((20, 16, 16), np.uint8)
    train = ImageSet(black, [str(i) for i in range(20)], "real images")
    settings = SETTINGS.model_copy(update={"two_sample": True})
    for fake in (black, fields(20, 0, 16)):
        found = assess(settings, train, None, fake, CPU)
        json.dumps(found, allow_nan=False)
        assert any(note.startswith("No memorisation") for note in found["notes"])


# --- FID and its name


@pytest.mark.parametrize(
    ("given", "phrase"), [("off", "--inception-weights is off"), ("auto", "--inception-weights FILE")]
)
def test_without_inception_no_figure_is_an_fid(given: str, phrase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "inception_weights", lambda _given: None)
    settings = SETTINGS.model_copy(update={"inception": given})
    found = assess(settings, levels(0, 30, "training fold"), levels(100, 12, "validation"), fakes(), CPU)
    assert {r["features"] for r in found["distances"]} == {"chest-xray-128", "random-conv-128"}
    assert {r["frechet_name"] for r in found["distances"]} == {"Fréchet distance"}
    assert any("FID was not computed" in n and phrase in n for n in found["notes"])
    assert not any("FID" in r["metric"] for r in found["readings"])


def test_with_inception_each_figure_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "inception_weights", lambda given: given)
    monkeypatch.setattr(quality, "inception", lambda _weights, device: grey_network("inception-2048")(device))
    found = assess(SETTINGS, levels(0, 30, "training fold"), levels(100, 12, "validation"), fakes(), CPU)
    names = {(r["features"], r["frechet_name"]) for r in found["distances"]}
    assert names == {
        ("chest-xray-128", "Fréchet distance"),
        ("random-conv-128", "Fréchet distance"),
        ("inception-2048", "FID"),
    }
    assert sum(r["metric"] == "FID" for r in found["readings"]) == 1
    assert not any("FID was not computed" in n for n in found["notes"])


# --- planted failures


def real_sets(n: int = 90) -> tuple[ImageSet, ImageSet]:
    train = ImageSet(fields(n, 1), [f"p{i // 2}" for i in range(n)], "training fold")
    return train, ImageSet(fields(n // 2, 2), [f"v{i}" for i in range(n // 2)], "validation")


def main_row(found: dict[str, Any]) -> dict[str, Any]:
    return next(r for r in found["distances"] if r["reference"] == "validation" and r["features"] == "chest-xray-128")


def test_honest_images_pass(forty_pixel_steps: None) -> None:
    """Other real images in the place of synthetic ones: near the floor, no copies, and hard to tell."""
    train, held_out = real_sets()
    settings = SETTINGS.model_copy(update={"two_sample": True, "kid_subset_size": 20})
    found = assess(settings, train, held_out, fields(80, 3), CPU)
    row = main_row(found)
    assert row["frechet"] < 1.5 * row["frechet_floor"]
    assert abs(row["kid"] - row["kid_floor"]) < 3 * row["kid_sd_floor"]
    assert row["overlap"]["recall"] > 0.7 * row["overlap_floor"]["recall"]
    assert found["memorization"]["status"] == "none"
    assert "No copy of a training image was found." in found["verdict"]
    assert "They can be told from real images" not in found["verdict"]
    pixels = next(t for t in found["two_sample"] if t["on"] == "pixels")
    assert pixels["low"] < 0.6


def test_the_same_seed_gives_the_same_report() -> None:
    first, again = (
        assess(SETTINGS, levels(0, 30, "training fold"), levels(100, 12, "validation"), fakes(), CPU) for _ in range(2)
    )
    assert first == again


@pytest.mark.parametrize("blurred", [False, True])
def test_copies_are_caught(blurred: bool) -> None:
    train, held_out = real_sets()
    copies = train.images[::2]
    if blurred:
        copies = np.rint(gaussian_filter(copies.astype(float), (0, 1, 1))).astype(np.uint8)
    found = assess(SETTINGS, train, held_out, np.concatenate([copies, fields(45, 3)]), CPU)
    assert found["memorization"]["status"] == "copies"
    assert found["memorization"]["near_copies" if blurred else "exact_copies"] == 45
    assert f"45 {'near' if blurred else 'exact'} copies of training images" in found["verdict"]
    pairs = found["memorization"]["closest"]
    assert all(train_index == 2 * fake_index for fake_index, train_index, _ in pairs)


@pytest.mark.parametrize("distinct", [1, 5])
def test_a_collapsed_generator_is_caught(distinct: int) -> None:
    train, held_out = real_sets(200)
    noise = np.random.default_rng(0).integers(-2, 3, (100, 32, 32))
    fake = np.clip(np.tile(fields(distinct, 3), (100 // distinct, 1, 1)) + noise, 0, 255).astype(np.uint8)
    found = assess(SETTINGS, train, held_out, fake, CPU)
    row = main_row(found)
    assert row["overlap"]["recall"] < 0.1 * row["overlap_floor"]["recall"]
    assert row["overlap"]["coverage"] < 0.5 * row["overlap_floor"]["coverage"]
    assert found["memorization"]["duplicates_within"] == 100
    assert "The generator has collapsed" in found["verdict"]
    assert "100 of the 100 images repeat another one" in found["verdict"]


def test_another_class_is_caught(forty_pixel_steps: None) -> None:
    """Fields of another smoothness, contrast and brightness: far above every floor, and told apart by every classifier."""
    train, held_out = real_sets(200)
    settings = SETTINGS.model_copy(update={"two_sample": True, "kid_subset_size": 20})
    found = assess(settings, train, held_out, fields(100, 3, smooth=1.2, contrast=60, grey=160), CPU)
    row = main_row(found)
    assert row["frechet"] > 3 * row["frechet_floor"]
    assert row["kid"] > row["kid_floor"] + 5 * row["kid_sd_floor"]
    told = {t["on"]: t for t in found["two_sample"] if t["compared"] == "synthetic"}
    assert set(told) == {"chest-xray-128", "random-conv-128", "pixels", "pixels at half size"}
    assert all(t["low"] > 0.9 for t in told.values())
    floors = {t["on"]: t for t in found["two_sample"] if t["compared"] == "other real images"}
    assert floors.keys() == told.keys(), "every classifier has its control"
    assert all(t["low"] < 0.6 for t in floors.values())
    assert "They can be told from real images" in found["verdict"]
    assert found["spectrum"]["rms_db"] > 3 * found["spectrum"]["rms_db_real_baseline"]
    assert found["memorization"]["status"] == "none"


def test_the_same_images_on_both_sides() -> None:
    train, _ = real_sets()
    found = assess(SETTINGS, train, None, train.images[::-1].copy(), CPU)
    assert found["same_images"] == "training fold"
    assert found["verdict"] == "The synthetic images are the very images of the training fold: nothing new is in them."
    assert found["memorization"]["exact_copies"] == len(train.images)
    rows = {r["metric"]: r for r in found["readings"]}
    assert rows["Fréchet distance (chest-xray-128)"]["figure"] == "0.00"
    assert rows["Fréchet distance (chest-xray-128)"]["reading"] == "no difference: they are the same images"


# --- words


def test_times() -> None:

    assert [times(x) for x in (1.26, 9.94, 12.6, 1e9)] == ["1.3 times", "9.9 times", "13 times", "over 1,000 times"]


def row(**changes: Any) -> dict[str, Any]:
    plain = {
        "features": "chest-xray-128",
        "frechet_name": "Fréchet distance",
        "reference": "validation",
        "n_real": 50,
        "n_fake": 50,
        "frechet": 1.0,
        "frechet_floor": 1.0,
        "kid": 0.0,
        "kid_sd": 0.01,
        "kid_floor": 0.0,
        "kid_sd_floor": 0.01,
        "overlap": None,
        "overlap_floor": None,
    }
    return plain | changes


def words(**changes: Any) -> list[str]:
    found = {
        "reference": "validation",
        "same_images": None,
        "distances": [row(**changes)],
        "two_sample": [],
        "memorization": None,
        "spectrum": None,
    }
    assert verdict(found)
    return [r["reading"] for r in readings(found)]


@pytest.mark.parametrize(
    ("frechet", "reading"),
    [
        (1.0, "about what two sets of 50 real images differ by, of which small sets say little"),
        (6.1, "6.1 times what two sets of 50 real images differ by"),
        (0.3, "less than two sets of 50 real images differ by: expected of copies, not of new images"),
    ],
)
def test_readings_of_a_distance(frechet: float, reading: str) -> None:
    assert words(frechet=frechet)[0] == reading


@pytest.mark.parametrize(
    ("kid", "reading"),
    [
        (0.015, "within what subsets of real images scatter by"),
        (0.05, "above the floor by 5.0 times what subsets of real images scatter by"),
        (-0.05, "below the floor by 5.0 times what subsets of real images scatter by"),
    ],
)
def test_readings_of_kid(kid: float, reading: str) -> None:
    assert words(kid=kid)[1] == reading


def test_readings_of_overlap() -> None:
    overlap = {"precision": 0.8, "recall": 0.67, "density": 1.1, "coverage": 0.5}
    floor = {"precision": 0.9, "recall": 0.94, "density": 1.0, "coverage": 0.97}
    said = words(overlap=overlap, overlap_floor=floor)
    assert "they show 67 % of the variety of real images; other real images: 94 %" in said
    assert "they show 67 % of the variety of real images" in words(overlap=overlap)


@pytest.mark.parametrize(
    ("precision", "recall", "coverage", "said"),
    [
        (0.8, 0.05, 0.2, "The generator has collapsed: they show 5 % of the variety"),
        (0.8, 0.05, 0.8, "They show only 5 % of the variety"),
        (0.0, 0.0, 0.0, "They show only 0 % of the variety"),
        (0.8, 0.7, 0.8, "They show 70 % of the variety"),
    ],
)
def test_what_the_verdict_says_of_variety(precision: float, recall: float, coverage: float, said: str) -> None:
    """Low recall alone is no collapse: it is as low where images are a little off, or so far off that nothing is covered."""
    overlap = {"precision": precision, "recall": recall, "density": 1.0, "coverage": coverage}
    floor = {"precision": 0.9, "recall": 0.94, "density": 1.0, "coverage": 0.97}
    found = {
        "reference": "validation",
        "same_images": None,
        "distances": [row(overlap=overlap, overlap_floor=floor)],
        "two_sample": [],
        "memorization": None,
    }
    assert said in verdict(found)


def told(on: str, auroc: float, low: float, high: float, compared: str = "synthetic") -> dict[str, Any]:
    names = {"classifier": "x", "on": on, "compared": compared, "reference": "validation", "reading": "..."}
    return names | {"auroc": auroc, "low": low, "high": high, "n_real": 50, "n_fake": 50}


CONTROL = told("pixels", 0.5, 0.4, 0.62, "other real images")


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ([told("pixels", 0.5, 0.43, 0.57)], "They are hard to tell from real images"),
        ([told("pixels", 0.5, 0.43, 0.57), told("features", 0.9, 0.8, 0.95)], "They can be told from real images"),
        ([told("pixels", 0.85, 0.48, 1.0)], "Whether they can be told from real images is not settled at this number"),
        ([told("pixels", 0.66, 0.61, 0.7), CONTROL], "is not settled at this number"),  # reals are told so, too
        ([told("pixels", 0.66, 0.61, 0.7)], "They can be told from real images"),
        (
            [told("pixels", 1, 1, 1), told("pixels at half size", 0.9, 0.8, 1)],
            "(at half size in 90 %: by more than fine detail)",
        ),
        ([], "No classifier was asked whether they can be told from real images; the Fréchet distance is 1.0 times"),
    ],
)
def test_what_the_verdict_says_of_likeness(tests: list[dict[str, Any]], said: str) -> None:
    """Likeness is claimed where no classifier can do much, difference where one does better than with real images."""
    found = {
        "reference": "validation",
        "same_images": None,
        "distances": [row()],
        "two_sample": tests,
        "memorization": None,
    }
    assert said in verdict(found)


def test_fine_detail_alone_is_not_called_more() -> None:
    tests = [told("pixels", 1, 1, 1), told("pixels at half size", 0.52, 0.45, 0.6)]
    found = {"reference": "validation", "same_images": None, "distances": [], "two_sample": tests, "memorization": None}
    assert (
        verdict(found)
        == "They can be told from real images: a classifier on pixels tells them apart in 100 % of pairs."
    )


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 33, 47)])
def test_halved(shape: tuple[int, int, int]) -> None:
    """Means of blocks of four; a checkerboard leaves nothing behind."""
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    half = halved(images)
    assert half.shape == (shape[0], shape[1] // 2, shape[2] // 2)
    assert half[1, 4, 5] == np.rint(images[1, 8:10, 10:12].astype(float).mean())
    board = np.indices(shape[1:]).sum(axis=0) % 2 * 40
    assert np.array_equal(halved(np.broadcast_to(80 + board, shape).astype(np.uint8)), np.full_like(half, 100))


def test_the_estimate_grows_with_size_until_batches_shrink() -> None:
    seconds = {side: report_seconds(QualityConfig(), side, 1000) for side in (32, 64, 128, 256)}
    assert seconds[32] < seconds[64] < seconds[128] < seconds[256] < 2 * seconds[128]
    assert report_seconds(QualityConfig(two_sample=False), 256, 1000) < seconds[32]
    assert 40 < report_seconds(QualityConfig(), 64, 2534) < 160  # 65 s were measured


def test_nothing_to_read() -> None:
    assert verdict(
        {"same_images": None, "memorization": None, "two_sample": [], "distances": [], "reference": None}
    ) == ("Too few images for a verdict.")


# --- on real X-rays


@pytest.fixture(scope="module")
def chests(real_data: Path) -> dict[str, ImageSet]:
    """Images of the official train folder at 64 px: three NORMAL sets with no patient in common, and PNEUMONIA."""
    records = [r for r in read_folder(find_root(real_data)) if r.split == "train"]
    patients: dict[int, dict[str, list[Record]]] = {0: {}, 1: {}}
    for r in records:
        patients[r.label].setdefault(r.patient, []).append(r)
    found = {}
    streams = {label: iter(sorted(groups.values(), key=lambda g: g[0].patient)) for label, groups in patients.items()}
    for name, label, n in (("training", 0, 400), ("held out", 0, 200), ("honest", 0, 200), ("pneumonia", 1, 200)):
        chosen: list[Record] = []
        while len(chosen) < n:
            chosen += next(streams[label])
        images = np.stack([read_image(find_root(real_data) / r.name, 64, "squash") for r in chosen])
        found[name] = ImageSet(images, [r.patient for r in chosen], name)
    return found


def judged(
    chests: dict[str, ImageSet], fake: np.ndarray, two_sample: bool = True
) -> tuple[dict[str, Any], float, dict[str, Any]]:
    """The assessment, the Fréchet distance over its floor on the shipped network, and its logistic two-sample test."""
    settings = QualityConfig(inception="off", kid_subsets=20, two_sample=two_sample)
    found = assess(settings, chests["training"], chests["held out"], fake, CPU)
    row = next(r for r in found["distances"] if (r["reference"], r["features"]) == ("held out", "chest-xray-128"))
    told = next((t for t in found["two_sample"] if t["on"] == "chest-xray-128" and t["compared"] == "synthetic"), {})
    return found, row["frechet"] / row["frechet_floor"], told


@pytest.mark.realdata
def test_other_real_normals_pass(chests: dict[str, ImageSet], five_pixel_steps: None) -> None:
    found, ratio, told = judged(chests, chests["honest"].images)
    assert ratio < 1.5
    assert told["low"] < 0.6
    assert found["memorization"]["status"] == "none"
    assert "No copy of a training image was found" in found["verdict"]


@pytest.mark.realdata
def test_pneumonia_given_as_normal_is_caught(chests: dict[str, ImageSet], five_pixel_steps: None) -> None:
    found, ratio, told = judged(chests, chests["pneumonia"].images)
    assert ratio > 3
    assert told["auroc"] > 0.9
    assert "They can be told from real images" in found["verdict"]
    assert found["memorization"]["status"] == "none"


@pytest.mark.realdata
def test_real_copies_are_caught(chests: dict[str, ImageSet]) -> None:
    copies = chests["training"].images[:20].astype(float)
    blurred = np.rint(gaussian_filter(copies, (0, 1, 1))).astype(np.uint8)
    found, _, _ = judged(chests, np.concatenate([blurred, chests["honest"].images[20:]]), two_sample=False)
    assert found["memorization"]["near_copies"] >= 18
    assert found["memorization"]["status"] == "copies"


@pytest.mark.realdata
def test_a_generator_that_knows_five_real_images_is_caught(chests: dict[str, ImageSet]) -> None:
    noise = np.random.default_rng(0).integers(-2, 3, (200, 64, 64))
    fake = np.clip(np.tile(chests["honest"].images[:200:40], (40, 1, 1)) + noise, 0, 255).astype(np.uint8)
    found, ratio, _ = judged(chests, fake, two_sample=False)
    assert ratio > 3
    assert "The generator has collapsed" in found["verdict"]
    assert found["memorization"]["duplicates_within"] == 200
