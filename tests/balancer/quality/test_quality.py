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

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig, QualityConfig
from balancer.data.chest import find_root, read_folder
from balancer.data.coding import Coding, Jpeg
from balancer.data.dataset import load_dataset
from balancer.data.images import read_image
from balancer.data.records import Record
from balancer.metrics.chance import Chance
from balancer.metrics.features import FeatureNetwork
from balancer.metrics.kernel import KernelDistance
from balancer.metrics.manifold import Manifold
from balancer.quality import assess as quality
from balancer.quality import synthetic
from balancer.quality.assess import assess, halved, report_seconds
from balancer.quality.interpretation import interpret, verdict
from balancer.quality.results import DistanceRow, QualityReport, TwoSampleRow
from balancer.quality.sides import ImageSet, equals, same_images
from balancer.quality.synthetic import SyntheticClass

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
    """Return the pairs of feature sets that each distance got, on one network whose features name the image."""
    pairs: Pairs = {"frechet": [], "kernel": []}

    def frechet(real: np.ndarray, fake: np.ndarray) -> float:
        pairs["frechet"].append((real[:, 0].round().astype(int), fake[:, 0].round().astype(int)))
        return 1.5

    def kernel(real: np.ndarray, fake: np.ndarray, subsets: int, size: int, seed: int) -> KernelDistance:
        pairs["kernel"].append((real[:, 0].round().astype(int), fake[:, 0].round().astype(int)))
        assert size <= len(real)
        return KernelDistance(0.25, 0.1)

    monkeypatch.setattr(quality, "_networks", lambda *_: [grey_network("grey-2")(CPU)])
    monkeypatch.setattr(quality, "frechet_distance", frechet)
    monkeypatch.setattr(quality, "kernel_distance", kernel)
    return pairs


# --- which sets are compared


@pytest.mark.parametrize(("train", "val", "n_fake"), [(30, 12, 40), (30, 12, 7), (13, 40, 40)])
def test_sets_that_are_compared(train: int, val: int, n_fake: int, compared: Pairs) -> None:
    """Counts are equal. The real sets of a baseline share no patient; the reference is that of the synthetic side."""
    real, held_out = levels(0, train, "training fold"), levels(100, val, "validation")
    group = dict(enumerate(real.groups)) | {100 + i: g for i, g in enumerate(held_out.groups)}
    rows = assess(SETTINGS, real, held_out, fakes(n_fake), CPU).distances
    assert [r.reference for r in rows] == ["training fold (half the patients)", "validation"]
    for pairs in compared.values():
        assert len(pairs) == 4
        for row, (reference, fake), (again, baseline) in zip(rows, pairs[::2], pairs[1::2], strict=True):
            assert sorted(reference) == sorted(again), "the baseline has the same reference"
            assert len(reference) == len(fake) == len(baseline) == row.n_real == row.n_fake
            assert len(set(reference)) == len(reference)
            assert len(set(baseline)) == len(baseline)
            assert ((reference >= 100) == (row.reference == "validation")).all()
            assert (baseline < 100).all(), "training images"
            assert not {group[k] for k in reference} & {group[k] for k in baseline}
            assert fake.min() >= 200


def test_without_held_out_images(compared: Pairs) -> None:
    """All real images are a reference without a baseline; the interpretation goes by the halves, which have one."""
    report = assess(SETTINGS, levels(0, 30, "real images"), None, fakes(), CPU)
    full, half = report.distances
    assert (full.reference, full.n_real, full.frechet_real_baseline) == ("real images (all)", 30, None)
    assert (half.reference, half.frechet_real_baseline) == ("real images (half the patients)", 1.5)
    assert report.reference == half.reference
    assert any("may have seen" in note for note in report.notes)


def test_the_data_sets_own_shift(compared: Pairs) -> None:
    """Training against test, beside two halves of training with no patient in common, all of one size."""
    real, test = levels(0, 30, "training fold"), levels(150, 12, "test")
    report = assess(SETTINGS, real, None, fakes(), CPU, test=test)
    (row,) = report.shift
    assert (row.reference, row.n) == ("training fold against test", 12)
    (a, b), (c, d) = compared["frechet"][-2:]
    assert a.max() < 100
    assert b.min() >= 150
    assert not {real.groups[k] for k in c} & {real.groups[k] for k in d}
    assert {len(x) for x in (a, b, c, d)} == {12}
    assert all(x[1].max() < 150 or x[1].min() >= 200 for x in compared["frechet"][:-2]), "test is used for nothing else"


def test_of_a_large_set_only_the_images_on_a_side_have_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are what costs time; of a set of which the sides take more than half, all are measured and kept."""
    seen: list[int] = []

    def module(batch: torch.Tensor) -> torch.Tensor:
        seen.extend(batch[:, 0, 0, 0].tolist())
        return batch.float().mean(dim=(2, 3)).expand(-1, 2)

    monkeypatch.setattr(quality, "_networks", lambda *_: [FeatureNetwork("grey-2", 2, "1", module, 8)])
    train, val, test = levels(0, 90, "training fold"), levels(100, 9, "validation"), levels(150, 30, "test")
    assess(SETTINGS, train, val, fakes(5), CPU, test=test)
    of_val, of_test = ([g for g in seen if low <= g < high] for low, high in ((100, 109), (150, 180)))
    assert of_val == list(range(100, 109)), "five of nine"
    assert of_test == list(range(150, 180)), "30 of 30, as many as are compared with training images"
    assert len([g for g in seen if g < 90]) == 90
    seen.clear()
    assess(SETTINGS, train, val, fakes(5), CPU)
    assert 10 <= len([g for g in seen if g < 90]) <= 15, "two halves of five, and five beside validation"


def test_held_out_images_of_training_patients_are_left_out(compared: Pairs) -> None:
    real, mixed = levels(0, 30, "training fold"), levels(100, 12, "validation")
    mixed = dataclasses.replace(mixed, groups=[real.groups[0]] * 6 + mixed.groups[6:])
    report = assess(SETTINGS, real, mixed, fakes(), CPU)
    assert report.distances[1].n_real == 6
    assert any(
        "6 of the 12 images of validation are left out: their patients are in training fold too" in n
        for n in report.notes
    )
    gone = dataclasses.replace(mixed, groups=[real.groups[0]] * 12)
    assert assess(SETTINGS, real, gone, fakes(), CPU).reference == "training fold (half the patients)"


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
    report = assess(SETTINGS, levels(0, 30, "training fold"), held_out, fakes(), CPU)
    assert report.reference == "training fold (half the patients)"
    text = "it needs 2 images a side, and there are 1 real" if val else "No held-out images"
    assert any(text in note for note in report.notes)


def test_one_synthetic_image_gives_no_distance_but_is_looked_up() -> None:
    train = ImageSet(fields(20, 0), [str(i) for i in range(20)], "training fold")
    report = assess(SETTINGS, train, None, train.images[:1], CPU)
    assert report.distances == report.two_sample == []
    assert sum("1 synthetic" in note for note in report.notes) == 2
    assert report.memorization.exact_copies == 1
    assert "1 exact copy of a training image" in verdict(report)


def test_kid_subsets_shrink_and_the_report_says_so() -> None:
    settings = SETTINGS.model_copy(update={"kid_subset_size": 100})
    report = assess(settings, levels(0, 30, "training fold"), levels(100, 4, "validation"), fakes(), CPU)
    sizes = {r.reference: r.kid_subset_size for r in report.distances}
    assert sizes == {"training fold (half the patients)": 7, "validation": 2}
    assert [n for n in report.notes if "not 100" in n] == [
        "KID against training fold (half the patients): with 15 images a side its subsets hold 7 images, not 100.",
        "KID against validation: with 4 images a side its subsets hold 2 images, not 100.",
    ]


def test_of_large_sets_some_images_are_compared_with_each_other_and_the_report_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = [ImageSet(fakes(n), [f"{n}-{i // 3}" for i in range(n)], f"fold {n}") for n in (60, 30)]
    sets = *noise, np.random.default_rng(1).integers(0, 256, (40, 16, 16), dtype=np.uint8)
    alone = assess(SETTINGS, *sets, CPU)
    monkeypatch.setattr("balancer.quality.assess.MOST_OVERLAP", 10)
    monkeypatch.setattr("balancer.quality.assess.MOST", 20)
    for module in ("balancer.quality.assess", "balancer.metrics.memorization"):
        monkeypatch.setattr(f"{module}.MOST_ASKED", 5)
    report = assess(SETTINGS, *sets, CPU)
    pairs = list(zip(alone.distances, report.distances, strict=True))
    assert all((a.frechet, a.kid) == (b.frechet, b.kid) for a, b in pairs), "these are of all images"
    assert any(a.overlap_real_baseline != b.overlap_real_baseline for a, b in pairs)
    added = [note for note in report.notes if note not in alone.notes]
    assert sum("are those of 10 of the" in note for note in added) == 2, "a note for each reference"
    assert sum("was asked of 5 of" in note for note in added) == 2
    assert sum("KID and recall" in note and "drawn with 20 of the 30 images a side" in note for note in added) == 2
    assert report.memorization.train_units == 5


def test_blank_images_give_notes_and_no_nan(five_pixel_steps: None) -> None:
    black = np.zeros((20, 16, 16), np.uint8)
    train = ImageSet(black, [str(i) for i in range(20)], "real images")
    settings = SETTINGS.model_copy(update={"two_sample": True})
    for fake in (black, fields(20, 0, 16)):
        report = assess(settings, train, None, fake, CPU)
        json.dumps(dataclasses.asdict(report), allow_nan=False)
        assert any(note.startswith("No memorisation") for note in report.notes)


# --- FID and its name


@pytest.mark.parametrize(
    ("given", "phrase"), [("off", "--inception-weights is off"), ("auto", "--inception-weights FILE")]
)
def test_without_inception_no_figure_is_an_fid(given: str, phrase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "inception_weights", lambda _given: None)
    settings = SETTINGS.model_copy(update={"inception": given})
    report = assess(settings, levels(0, 30, "training fold"), levels(100, 12, "validation"), fakes(), CPU)
    assert {r.features for r in report.distances} == {"chest-xray-128", "random-conv-128"}
    assert {r.frechet_name for r in report.distances} == {"Fréchet distance"}
    assert any("FID was not computed" in n and phrase in n for n in report.notes)
    assert not any("FID" in r.metric for r in interpret(report))


def test_with_inception_each_figure_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "inception_weights", lambda given: given)
    monkeypatch.setattr(quality, "inception", lambda _weights, device: grey_network("inception-2048")(device))
    report = assess(SETTINGS, levels(0, 30, "training fold"), levels(100, 12, "validation"), fakes(), CPU)
    names = {(r.features, r.frechet_name) for r in report.distances}
    assert names == {
        ("chest-xray-128", "Fréchet distance"),
        ("random-conv-128", "Fréchet distance"),
        ("inception-2048", "FID"),
    }
    assert sum(r.metric == "FID" for r in interpret(report)) == 1
    assert not any("FID was not computed" in n for n in report.notes)


# --- planted failures


def real_sets(n: int = 90) -> tuple[ImageSet, ImageSet]:
    train = ImageSet(fields(n, 1), [f"p{i // 2}" for i in range(n)], "training fold")
    return train, ImageSet(fields(n // 2, 2), [f"v{i}" for i in range(n // 2)], "validation")


def main_row(report: QualityReport) -> DistanceRow:
    return next(r for r in report.distances if r.reference == "validation" and r.features == "chest-xray-128")


def test_honest_images_pass(forty_pixel_steps: None) -> None:
    """Other real images in the place of synthetic ones: near the real baseline, no copies, and hard to tell."""
    train, held_out = real_sets()
    settings = SETTINGS.model_copy(update={"two_sample": True, "kid_subset_size": 20})
    report = assess(settings, train, held_out, fields(80, 3), CPU)
    row = main_row(report)
    assert row.frechet < 1.5 * row.frechet_real_baseline
    assert abs(row.kid - row.kid_real_baseline) < 3 * row.kid_sd_real_baseline
    assert row.overlap.recall > 0.7 * row.overlap_real_baseline.recall
    assert report.memorization.status == "none"
    assert "No copy of a training image was found." in verdict(report)
    assert "The synthetic images can be told from real ones" not in verdict(report)
    pixels = next(t for t in report.two_sample if t.on == "pixels")
    assert pixels.low < 0.6


def test_the_seed_draws_what_chance_does_to_spectra(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def compare(real: np.ndarray, fake: np.ndarray, other: np.ndarray, seed: int = 0) -> None:
        asked.append(seed)
        raise BalancerError("enough")

    monkeypatch.setattr(quality.spectrum, "compare_spectra", compare)
    assess(SETTINGS.model_copy(update={"seed": 7}), levels(0, 30, "train"), levels(100, 12, "val"), fakes(), CPU)
    assert asked == [7]


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
    report = assess(SETTINGS, train, held_out, np.concatenate([copies, fields(45, 3)]), CPU)
    assert report.memorization.status == "copies"
    assert getattr(report.memorization, "near_copies" if blurred else "exact_copies") == 45
    assert f"45 {'near' if blurred else 'exact'} copies of training images" in verdict(report)
    pairs = report.memorization.closest
    assert all(train_index == 2 * fake_index for fake_index, train_index, _ in pairs)


@pytest.mark.parametrize("distinct", [1, 5])
def test_a_collapsed_generator_is_caught(distinct: int) -> None:
    train, held_out = real_sets(200)
    noise = np.random.default_rng(0).integers(-2, 3, (100, 32, 32))
    fake = np.clip(np.tile(fields(distinct, 3), (100 // distinct, 1, 1)) + noise, 0, 255).astype(np.uint8)
    report = assess(SETTINGS, train, held_out, fake, CPU)
    row = main_row(report)
    assert row.overlap.recall < 0.1 * row.overlap_real_baseline.recall
    assert row.overlap.coverage < 0.5 * row.overlap_real_baseline.coverage
    assert report.memorization.duplicates_within == 100
    assert "The generator has collapsed" in verdict(report)
    assert "100 of the 100 images repeat another image" in verdict(report)


@pytest.mark.nightly
def test_another_class_is_caught(forty_pixel_steps: None) -> None:
    """Fields of another smoothness, contrast and brightness lie far above every baseline; every classifier sees it."""
    train, held_out = real_sets(200)
    settings = SETTINGS.model_copy(update={"two_sample": True, "kid_subset_size": 20})
    report = assess(settings, train, held_out, fields(100, 3, smooth=1.2, contrast=60, grey=160), CPU)
    row = main_row(report)
    assert row.frechet > 3 * row.frechet_real_baseline
    assert row.kid > row.kid_real_baseline + 5 * row.kid_sd_real_baseline
    tests = {t.on: t for t in report.two_sample if t.compared == "synthetic"}
    assert set(tests) == {"chest-xray-128", "random-conv-128", "pixels", "pixels at half size"}
    assert all(t.low > 0.9 for t in tests.values())
    controls = {t.on: t for t in report.two_sample if t.compared == "other real images"}
    assert controls.keys() == tests.keys(), "every classifier has its control"
    assert all(t.low < 0.6 for t in controls.values())
    assert "The synthetic images can be told from real ones" in verdict(report)
    assert report.spectrum.rms_db > 3 * report.spectrum.rms_db_real_baseline
    assert report.memorization.status == "none"


def test_the_same_images_on_both_sides() -> None:
    train, _ = real_sets()
    report = assess(SETTINGS, train, None, train.images[::-1].copy(), CPU)
    assert report.same_images == "training fold"
    assert (
        verdict(report) == "The synthetic images are identical to a real set (training fold). Nothing in them is new."
    )
    assert report.memorization.exact_copies == len(train.images)
    rows = {r.metric: r for r in interpret(report)}
    assert rows["Fréchet distance (chest-xray-128)"].figure == "0.00"
    assert rows["Fréchet distance (chest-xray-128)"].interpretation == "No difference: these are the same images."


# --- words


def row(**changes: Any) -> DistanceRow:
    plain: dict[str, Any] = {
        "frechet": 1.0,
        "kid": 0.0,
        "kid_sd": 0.01,
        "overlap": None,
        "features": "chest-xray-128",
        "frechet_name": "Fréchet distance",
        "reference": "validation",
        "n_real": 50,
        "n_fake": 50,
        "kid_subsets": 3,
        "kid_subset_size": 25,
        "frechet_real_baseline": 1.0,
        "kid_real_baseline": 0.0,
        "kid_sd_real_baseline": 0.01,
        "overlap_real_baseline": None,
    }
    return DistanceRow(**plain | changes)


def report_of(rows: list[DistanceRow], tests: list[TwoSampleRow] | None = None) -> QualityReport:
    return QualityReport(50, "validation", distances=rows, two_sample=tests or [])


def words(**changes: Any) -> list[str]:
    return [finding.interpretation for finding in interpret(report_of([row(**changes)]))]


@pytest.mark.parametrize(
    ("frechet", "text"),
    [
        (1.0, "About the distance between two sets of 50 real images; with small sets this says little."),
        (6.1, "6.1 times the distance between two sets of 50 real images."),
        (0.3, "Less than the distance between two sets of 50 real images: expected of copies, not of new images."),
    ],
)
def test_interpretation_of_a_distance(frechet: float, text: str) -> None:
    assert words(frechet=frechet)[0] == text


@pytest.mark.parametrize(
    ("kid", "text"),
    [
        (0.015, "Within the scatter of subsets of real images."),
        (0.05, "Above real against real by 5.0 times the scatter of subsets of real images."),
        (-0.05, "Below real against real by 5.0 times the scatter of subsets of real images."),
    ],
)
def test_interpretation_of_kid(kid: float, text: str) -> None:
    assert words(kid=kid)[1] == text


@pytest.mark.parametrize(("n", "where"), [(500, "at this n"), (501, "with 500 images a side")])
def test_chance_is_said_of_as_many_images_as_were_asked(n: int, where: str) -> None:
    changes = {"frechet": 6.1, "kid": 0.05, "kid_chance": Chance(0.5, 0.5), "n_real": n, "n_fake": n}
    frechet, kid = words(**changes)
    assert frechet.endswith(f", which chance can do {where}.")
    assert kid == f"Within what chance does {where}."
    assert f"which chance can do {where}." in verdict(report_of([row(**changes)]))
    low = {"overlap": Manifold(0.8, 0.05, 1.0, 0.2), "overlap_real_baseline": REAL_OVERLAP}
    text = verdict(report_of([row(**changes, **low, recall_chance=Chance(0.5, 0.5))]))
    assert f"Chance can do that {where}." in text


REAL_OVERLAP = Manifold(0.9, 0.94, 1.0, 0.97)


def test_interpretation_of_overlap() -> None:
    overlap = Manifold(0.8, 0.67, 1.1, 0.5)
    sentence = "The synthetic images show 67 % of the variety of the real images"
    assert f"{sentence}; other real images: 94 %." in words(overlap=overlap, overlap_real_baseline=REAL_OVERLAP)
    assert f"{sentence}." in words(overlap=overlap)


@pytest.mark.parametrize(
    ("precision", "recall", "coverage", "text"),
    [
        (0.8, 0.05, 0.2, "The generator has collapsed: its images show 5 % of the variety"),
        (0.8, 0.05, 0.8, "The synthetic images show only 5 % of the variety"),
        (0.0, 0.0, 0.0, "The synthetic images show only 0 % of the variety"),
        (0.8, 0.7, 0.8, "The synthetic images show 70 % of the variety"),
    ],
)
def test_what_the_verdict_says_of_variety(precision: float, recall: float, coverage: float, text: str) -> None:
    """Low recall alone is no collapse: it is as low if images are a little off, or so far that nothing is covered."""
    overlap = Manifold(precision, recall, 1.0, coverage)
    assert text in verdict(report_of([row(overlap=overlap, overlap_real_baseline=REAL_OVERLAP)]))


@pytest.mark.parametrize(("coverage", "doubted"), [(0.0, True), (0.4, True), (0.6, False)])
def test_high_recall_of_images_that_cover_nothing_is_doubted(coverage: float, doubted: bool) -> None:
    """Blurred images spread in every direction: real ones lie among them (recall), and none lies near a real one."""
    overlap = Manifold(0.0, 0.95, 1.0, coverage)
    text = verdict(report_of([row(overlap=overlap, overlap_real_baseline=REAL_OVERLAP)]))
    assert ("no sign of variety" in text) == doubted


def two_sample(on: str, auroc: float, low: float, high: float, compared: str = "synthetic") -> TwoSampleRow:
    return TwoSampleRow("x", auroc, low, high, 50, 50, 5, on, compared, "validation", "...")


CONTROL = two_sample("pixels", 0.5, 0.4, 0.62, "other real images")
HALF = "pixels at half size"


@pytest.mark.parametrize(
    ("tests", "text"),
    [
        ([two_sample("pixels", 0.5, 0.43, 0.57)], "The synthetic images are hard to tell from real ones."),
        (
            [two_sample("pixels", 0.5, 0.43, 0.57), two_sample("features", 0.9, 0.8, 0.95)],
            "The synthetic images can be told from real ones.",
        ),
        (
            [two_sample("pixels", 0.85, 0.48, 1.0)],
            "Whether the synthetic images can be told from real ones is not settled",
        ),
        ([two_sample("pixels", 0.66, 0.61, 0.7), CONTROL], "is not settled"),  # real images are told apart so, too
        ([two_sample("pixels", 0.66, 0.61, 0.7)], "The synthetic images can be told from real ones."),
        (
            [two_sample("pixels", 1, 1, 1), two_sample(HALF, 0.9, 0.8, 1)],
            "at half size in 90 %, so not by fine detail alone",
        ),
        (
            [],
            "No classifier was trained to tell the synthetic images from real ones. The Fréchet distance is 1.0 times",
        ),
    ],
)
def test_what_the_verdict_says_of_likeness(tests: list[TwoSampleRow], text: str) -> None:
    """Likeness is claimed where no classifier can do much, difference where one does better than with real images."""
    assert text in verdict(report_of([row()], tests))


def test_fine_detail_alone_is_not_called_more() -> None:
    tests = [two_sample("pixels", 1, 1, 1), two_sample(HALF, 0.52, 0.45, 0.6)]
    expected = (
        "The synthetic images can be told from real ones. A classifier on pixels tells them apart in 100 % of pairs."
    )
    assert verdict(report_of([], tests)) == expected


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 33, 47)])
def test_halved(shape: tuple[int, int, int]) -> None:
    """Means of blocks of four; a checkerboard leaves nothing behind."""
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    half = halved(images)
    assert half.shape == (shape[0], shape[1] // 2, shape[2] // 2)
    assert half[1, 4, 5] == np.rint(images[1, 8:10, 10:12].astype(float).mean())
    board = np.indices(shape[1:]).sum(axis=0) % 2 * 40
    assert np.array_equal(halved(np.broadcast_to(80 + board, shape).astype(np.uint8)), np.full_like(half, 100))


def test_the_estimate_grows_with_size_until_batches_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.quality.assess.slowness", lambda: 1.0)
    monkeypatch.setattr(quality, "allowed_processors", lambda: 1)
    seconds = {side: report_seconds(QualityConfig(), side, 1000) for side in (32, 64, 128, 256)}
    assert seconds[32] < seconds[64] < seconds[128] < seconds[256] < 2 * seconds[128]
    assert report_seconds(QualityConfig(two_sample=False), 256, 1000) < seconds[32]
    alone = report_seconds(QualityConfig(), 64, 2534)
    assert 40 < alone < 160  # 65 s were measured
    monkeypatch.setattr(quality, "allowed_processors", lambda: 2)
    assert 0.5 * alone < report_seconds(QualityConfig(), 64, 2534) < 0.8 * alone, "tests run side by side"


def test_copies_of_held_out_images_are_no_likeness() -> None:
    """They are not of training, and no classifier can tell them: both were reported as if the images were good."""
    train, held_out = real_sets()
    report = assess(SETTINGS, train, held_out, held_out.images[:30].copy(), CPU)
    assert report.held_out_copies == 30
    assert verdict(report).startswith("30 of the 30 synthetic images are identical to held-out images")
    tests = [two_sample("pixels", 0.15, 0.0, 0.32), two_sample("features", 0.4, 0.2, 0.59)]  # as such copies give
    assert "hard to tell" not in verdict(dataclasses.replace(report, two_sample=tests))
    assert "worse than a coin" in verdict(dataclasses.replace(report, two_sample=tests))
    assert not equals(fields(30, 3), held_out).any()


def test_equal_images_are_found_although_one_side_was_coded_as_the_other() -> None:
    """As JPEG: coding moves some levels by a few."""
    train, held_out = real_sets()
    copies = train.images[:30].copy()
    coded = dataclasses.replace(train, images=train.images ^ 1, as_read=train.images)
    assert not equals(copies ^ 1, train).any()
    assert equals(copies ^ 1, train, as_read=copies).all()
    assert equals(copies, coded).all()
    assert equals(copies ^ 1, coded).all(), "equal after coding"
    assert same_images(train.images ^ 1, [train]) is None
    assert same_images(train.images ^ 1, [train], as_read=train.images) == "training fold"
    both = np.concatenate([train.images[:15], held_out.images[:15]])
    report = assess(SETTINGS, train, held_out, both ^ 1, CPU, as_read=both)
    assert (report.memorization.exact_copies, report.held_out_copies) == (15, 15)


def test_a_synthesis_looks_for_equal_images_before_coding(chest_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_dataset(DataConfig(path=str(chest_folder), image_size=16))
    made = SyntheticClass(0, fakes(3), ["a", "b", "c"], 0.0, None)
    asked: dict[str, np.ndarray] = {}

    def stop(*args: Any, **others: Any) -> None:
        asked.update(others, shown=args[3])
        raise BalancerError("enough")

    monkeypatch.setattr(synthetic, "assess", stop)
    monkeypatch.setattr(synthetic, "dataset_coding", lambda *_: Coding((Jpeg(((90,) * 64,)),)))
    with pytest.raises(BalancerError, match="enough"):
        synthetic.write_reports(SETTINGS.model_copy(update={"features": "random"}), data, None, [made], None, CPU)
    assert np.array_equal(asked["as_read"], made.images)
    assert not np.array_equal(asked["shown"], made.images)


def test_high_recall_of_few_images_is_no_claim() -> None:
    """Among 12 images, neighbourhoods of five cover nearly everything: recall is 1 whatever the generator."""
    overlap = Manifold(0.25, 1.0, 0.3, 0.17)
    few, many = (row(overlap=overlap, overlap_real_baseline=REAL_OVERLAP, n_real=n, n_fake=n) for n in (12, 200))
    assert "With 12 images a side this says little" in verdict(report_of([few]))
    assert "says little" not in verdict(report_of([many]))


def test_marks_of_one_repeated_image_are_said_to_be() -> None:
    train, held_out = real_sets()
    report = assess(SETTINGS, train, held_out, np.repeat(fields(1, 3), 40, axis=0), CPU)
    finding = next(f for f in interpret(report) if f.metric.startswith("Power spectrum"))
    assert "single image" in finding.interpretation
    assert "too sure" in verdict(report)


def test_nothing_to_interpret() -> None:
    assert interpret(QualityReport(0)) == []
    assert verdict(QualityReport(0)) == "Too few images for a verdict."


# --- on real X-rays


@pytest.fixture(scope="module")
def chests(real_data: Path) -> dict[str, ImageSet]:
    """Images of the official train folder at 64 px: three NORMAL sets with no patient in common, and PNEUMONIA."""
    records = [r for r in read_folder(find_root(real_data)) if r.split == "train"]
    patients: dict[int, dict[str, list[Record]]] = {0: {}, 1: {}}
    for r in records:
        patients[r.label].setdefault(r.patient, []).append(r)
    sets = {}
    streams = {label: iter(sorted(groups.values(), key=lambda g: g[0].patient)) for label, groups in patients.items()}
    for name, label, n in (("training", 0, 400), ("held out", 0, 200), ("honest", 0, 200), ("pneumonia", 1, 200)):
        chosen: list[Record] = []
        while len(chosen) < n:
            chosen += next(streams[label])
        images = np.stack([read_image(find_root(real_data) / r.name, 64, "squash") for r in chosen])
        sets[name] = ImageSet(images, [r.patient for r in chosen], name)
    return sets


def judged(
    chests: dict[str, ImageSet], fake: np.ndarray, two_sample: bool = True
) -> tuple[QualityReport, float, TwoSampleRow | None]:
    """Return the report, and on the shipped network the Fréchet distance over its baseline and the two-sample test."""
    settings = QualityConfig(inception="off", kid_subsets=20, two_sample=two_sample)
    report = assess(settings, chests["training"], chests["held out"], fake, CPU)
    row = next(r for r in report.distances if (r.reference, r.features) == ("held out", "chest-xray-128"))
    test = next((t for t in report.two_sample if t.on == "chest-xray-128" and t.compared == "synthetic"), None)
    return report, row.frechet / (row.frechet_real_baseline or np.nan), test


@pytest.mark.realdata
@pytest.mark.nightly
def test_other_real_normals_pass(chests: dict[str, ImageSet], five_pixel_steps: None) -> None:
    report, ratio, test = judged(chests, chests["honest"].images)
    assert ratio < 1.5
    assert test.low < 0.6
    assert report.memorization.status == "none"
    assert "No copy of a training image was found" in verdict(report)


@pytest.mark.realdata
@pytest.mark.nightly
def test_pneumonia_given_as_normal_is_caught(chests: dict[str, ImageSet], five_pixel_steps: None) -> None:
    report, ratio, test = judged(chests, chests["pneumonia"].images)
    assert ratio > 3
    assert test.auroc > 0.9
    assert "The synthetic images can be told from real ones" in verdict(report)
    assert report.memorization.status == "none"


@pytest.mark.realdata
def test_real_copies_are_caught(chests: dict[str, ImageSet]) -> None:
    copies = chests["training"].images[:20].astype(float)
    blurred = np.rint(gaussian_filter(copies, (0, 1, 1))).astype(np.uint8)
    report, _, _ = judged(chests, np.concatenate([blurred, chests["honest"].images[20:]]), two_sample=False)
    assert report.memorization.near_copies >= 18
    assert report.memorization.status == "copies"


@pytest.mark.realdata
def test_a_generator_that_knows_five_real_images_is_caught(chests: dict[str, ImageSet]) -> None:
    noise = np.random.default_rng(0).integers(-2, 3, (200, 64, 64))
    fake = np.clip(np.tile(chests["honest"].images[:200:40], (40, 1, 1)) + noise, 0, 255).astype(np.uint8)
    report, ratio, _ = judged(chests, fake, two_sample=False)
    assert ratio > 3
    assert "The generator has collapsed" in verdict(report)
    assert report.memorization.duplicates_within == 200
