"""Copies that were planted are found, images that are no copies are left alone, figures agree with loops."""

import io
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest, mannwhitneyu

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.perceptual_hash import perceptual_hash
from balancer.data.phantom import draw_image, draw_patient
from balancer.metrics.memorization import PAIRS, memorization


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(divide="raise", invalid="raise"):
        warnings.simplefilter("error")
        yield


def quantised(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def fields(n: int, *key: int, side: int = 64) -> np.ndarray:
    """Smooth random fields (n, side, side) of mean 0 and SD 1."""
    sigma = side / 16
    noise = gaussian_filter(np.random.default_rng(key).standard_normal((n, side, side)), (0, sigma, sigma))
    return (noise - noise.mean((1, 2), keepdims=True)) / noise.std((1, 2), keepdims=True)


def images(*args: int, side: int = 64) -> np.ndarray:
    return quantised(128 + 40 * fields(*args, side=side))


def phantoms(n: int, seed: int) -> np.ndarray:
    streams = (np.random.default_rng([seed, i]) for i in range(n))
    return np.stack([draw_image(draw_patient(rng), 0, rng, 64) for rng in streams])


@pytest.fixture(scope="module")
def drawings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, held-out and further phantom images, each of a patient of its own."""
    return phantoms(150, 0), phantoms(60, 1), phantoms(120, 2)


def blurred(originals: np.ndarray) -> np.ndarray:
    return quantised(gaussian_filter(originals.astype(float), (0, 1.5, 1.5)))


def jpeg(originals: np.ndarray) -> np.ndarray:
    def encoded(image: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=30)
        return np.asarray(Image.open(buffer))

    return np.stack([encoded(image) for image in originals])


def noisy(originals: np.ndarray) -> np.ndarray:
    return quantised(originals + np.random.default_rng(0).normal(0, 10, originals.shape))


def paler(originals: np.ndarray) -> np.ndarray:
    return quantised(0.7 * originals + 50)


def shifted(originals: np.ndarray) -> np.ndarray:
    """Two pixels down and right, the gap black."""
    return np.pad(originals, ((0, 0), (2, 0), (2, 0)))[:, :-2, :-2]


CORRUPTIONS = {"blurred": blurred, "jpeg": jpeg, "noisy": noisy, "paler": paler, "shifted": shifted}


def test_exact_copies(drawings: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    train, held_out, fake = drawings
    fake = np.concatenate([fake[:114], train[10:16]])  # 5 %
    result = memorization(train, fake, held_out)
    assert (result.exact_copies, result.near_copies, result.status) == (6, 0, "copies")
    assert result.verdict == "6 exact copies of training images among 120 synthetic images: do not use them."
    assert result.closest[:6] == tuple((114 + i, 10 + i, 0.0) for i in range(6))
    assert len({i for i, _, _ in result.closest}) == len(result.closest) == PAIRS, "as many as are shown"
    assert (result.n_train, result.n_held_out, result.n_fake, result.n_baseline) == (150, 60, 120, 60)


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_near_copies(
    drawings: tuple[np.ndarray, np.ndarray, np.ndarray], corrupt: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Drawings are more alike than X-rays, so a few corrupted copies may pass; on X-rays below none does."""
    train, held_out, fake = drawings
    assert memorization(train, fake, held_out).near_copies == 0
    result = memorization(train, np.concatenate([fake, corrupt(train[:60])]), held_out)
    assert result.exact_copies == 0
    assert 54 <= result.near_copies <= 60
    assert result.status == "copies"
    assert "look at the closest pairs" in result.verdict


def test_the_hash_finds_what_the_pixels_do_not(
    drawings: tuple[np.ndarray, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, _, _ = drawings
    copies = quantised(gaussian_filter(train[:60].astype(float), (0, 1.6, 1.6)))
    together = memorization(train, copies).near_copies
    monkeypatch.setattr("balancer.metrics.memorization.HASH_MOST", 0.0)
    assert together > 50 > 35 > memorization(train, copies).near_copies


def test_one_copy_is_told_in_the_singular(drawings: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    train, held_out, fake = drawings
    result = memorization(train, np.concatenate([fake, jpeg(train[:1])]), held_out)
    assert result.verdict.startswith("1 near copy of a training image among 121 synthetic images: look")
    result = memorization(train, np.concatenate([fake, jpeg(train[:1]), train[5:7]]), held_out)
    assert result.verdict.startswith("2 exact and 1 near copies of training images among 123 synthetic images: do not")


def test_copies_of_each_other(drawings: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    train, held_out, fake = drawings
    result = memorization(train, np.concatenate([fake, fake[:3], fake[:1], jpeg(fake[7:9])]), held_out)
    assert result.duplicates_within == 3 + 3 + 1 + 2 + 2
    assert memorization(train, fake, held_out).duplicates_within == 0
    assert result.status == "none"  # a collapsed generator is not a copying one


def test_a_generator_that_half_remembers() -> None:
    """Synthetic images that correlate .55 with a training image are no near copies, but reveal the training images."""
    train, held_out = fields(60, 0), images(40, 1)
    fake = quantised(128 + 40 * (0.55 * train + 0.835 * fields(60, 2)))
    result = memorization(quantised(128 + 40 * train), fake, held_out)
    assert (result.exact_copies, result.near_copies, result.status) == (0, 0, "closer")
    assert min(result.nearer_probability, result.membership_auroc) > 0.75
    assert "may have memorised" in result.verdict
    assert "p < .001" in result.verdict
    alone = memorization(quantised(128 + 40 * train), fake)
    assert (alone.baseline, alone.n_held_out, alone.n_baseline, alone.status) == ("training", 0, 60, "closer")
    assert alone.membership_auroc is alone.membership_p is None
    assert alone.nearer_probability > 0.75


def test_held_out_images_of_another_source_excuse_what_looks_like_copying() -> None:
    """Real images of the training images' own source, which nothing was trained on."""
    common = fields(1, 0)
    of_one_source = quantised(128 + 40 * (0.8 * common + 0.6 * fields(140, 1)))
    elsewhere = images(40, 2)
    result = memorization(of_one_source[:70], of_one_source[70:], elsewhere)
    assert (result.status, result.membership_p < 0.001, result.shift_p < 0.001) == ("closer", True, True)
    assert "may have memorised" not in result.verdict
    assert "another source" in result.verdict


@pytest.mark.parametrize("n_fake", [1, 40])
def test_no_test_proves_that_nothing_is_closer(n_fake: int) -> None:
    """A large p shows no difference, which is not the same as none; one image could hardly show any."""
    result = memorization(images(40, 1), images(n_fake, 3), images(40, 2))
    assert result.status == "none"
    assert "not shown to be closer" in result.verdict
    assert ("too few" in result.verdict) == (n_fake == 1)


def test_a_generator_of_typical_images_has_not_copied() -> None:
    """It draws the common part of all images with half of the variety: nearer to any real image than real ones are."""
    common = fields(1, 0)
    train, held_out, fake = (
        quantised(128 + 30 * (common + variety * fields(n, seed)))
        for n, variety, seed in ((100, 0.6, 1), (80, 0.6, 2), (100, 0.3, 3))
    )
    result = memorization(train, fake, held_out)
    assert result.nearer_p < 1e-6
    assert result.membership_p > 0.05
    assert result.status == "none"
    assert "typical rather than copied" in result.verdict
    assert "held-out images would tell" in memorization(train, fake).verdict


@pytest.mark.parametrize("studies", [40, pytest.param(100, marks=pytest.mark.nightly)])
def test_p_values_are_uniform_where_nothing_was_copied(studies: int) -> None:
    result = [memorization(images(16, 0, i), images(20, 1, i), images(16, 2, i)) for i in range(studies)]
    assert kstest([f.nearer_p for f in result], "uniform").pvalue > 0.05
    assert kstest([f.membership_p for f in result], "uniform").pvalue > 0.05
    assert np.mean([f.nearer_probability for f in result]) == pytest.approx(0.5, abs=0.02)
    assert sum(f.status != "none" for f in result) <= 4  # 1 expected at ALPHA = .01
    assert sum(f.near_copies + f.exact_copies for f in result) == 0


def distance_by_loops(query: np.ndarray, target: np.ndarray) -> float:
    """RMS difference of standardised crops, least over the 25 shifts."""
    query, target = (gaussian_filter(image.astype(np.float64), 2) for image in (query, target))

    def standardised(y: int, x: int, image: np.ndarray) -> np.ndarray:
        crop = image[4 + y : 56 + y, 4 + x : 56 + x][::2, ::2]
        return (crop - crop.mean()) / crop.std()

    still = standardised(2, 2, target)
    shifts = itertools.product(range(5), repeat=2)
    return min(np.sqrt(np.mean((standardised(y, x, query) - still) ** 2)) for y, x in shifts)


def test_against_loops() -> None:
    train, fake, held_out = images(7, 0), images(9, 1), images(6, 2)
    fake[3] = paler(shifted(train[4:5]))[0]
    result = memorization(train, fake, held_out, pairs=3)
    to_train = np.array([[distance_by_loops(f, t) for t in train] for f in fake])
    to_held = np.array([[distance_by_loops(f, h) for h in held_out] for f in fake])
    baseline = [min(distance_by_loops(h, t) for t in train) for h in held_out]
    nearest = to_train.min(axis=1)
    order = np.argsort(nearest)[:3]
    assert [(f, t) for f, t, _ in result.closest] == [(f, to_train[f].argmin()) for f in order]
    assert [d for _, _, d in result.closest] == pytest.approx(nearest[order].tolist(), abs=4e-3)  # float32
    assert result.median_fake == pytest.approx(np.median(nearest), abs=1e-5)
    assert result.median_baseline == pytest.approx(np.median(baseline), abs=1e-5)
    assert result.nearer_probability == pytest.approx(np.mean([[f < h for h in baseline] for f in nearest]))
    assert result.nearer_p == mannwhitneyu(nearest, baseline, alternative="less").pvalue
    patients = to_train.min(axis=0), to_held.min(axis=0)
    assert result.membership_auroc == pytest.approx(np.mean([[t < h for h in patients[1]] for t in patients[0]]))
    assert result.membership_p == mannwhitneyu(*patients, alternative="less").pvalue
    assert result.near_copies == 1


def test_nothing_depends_on_how_many_are_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given = images(20, 0), images(30, 1), images(10, 2)
    at_once = memorization(*given)
    monkeypatch.setattr("balancer.metrics.memorization.CHUNK", 7)
    in_parts = memorization(*given)
    assert (in_parts.nearer_probability, in_parts.membership_auroc) == (
        at_once.nearer_probability,
        at_once.membership_auroc,
    )
    assert [pair[:2] for pair in in_parts.closest] == [pair[:2] for pair in at_once.closest]


def test_nothing_depends_on_how_many_training_images_are_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest of all is in the last block, and a patient's own images in another than the patient."""
    train, fake = images(30, 1), np.concatenate([images(20, 0), noisy(images(30, 1)[28:])])
    patients = [f"p{i % 15}" for i in range(30)]
    at_once = memorization(train, fake, images(10, 2), patients)
    monkeypatch.setattr("balancer.metrics.memorization.BLOCK", 7)
    in_blocks = memorization(train, fake, images(10, 2), patients)
    assert [pair[:2] for pair in in_blocks.closest] == [pair[:2] for pair in at_once.closest]
    assert {pair.training for pair in in_blocks.closest[:2]} == {28, 29}
    for name in ("nearer_p", "membership_p", "shift_p", "near_copies", "duplicates_within", "train_duplicates"):
        assert getattr(in_blocks, name) == getattr(at_once, name), name
    assert in_blocks.near_threshold == pytest.approx(at_once.near_threshold, rel=1e-5)


def test_of_many_patients_some_are_asked_and_no_copy_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    train, held_out = images(40, 1), images(30, 2)
    fake = np.concatenate([images(20, 0), noisy(train)])
    monkeypatch.setattr("balancer.metrics.memorization.MOST_ASKED", 12)
    result = memorization(train, fake, held_out)
    assert (result.n_baseline, result.train_units, result.n_train, result.n_held_out) == (12, 12, 40, 30)
    assert result.near_copies == 40


def test_hash_against_its_definition() -> None:
    originals = images(5, 0)
    small = originals.reshape(5, 32, 2, 32, 2).mean(axis=(2, 4))
    wave = [[np.cos(np.pi * (2 * i + 1) * k / 64) for i in range(32)] for k in range(1, 9)]
    expected = np.einsum("ki,nij,lj->nkl", wave, small, wave).reshape(5, 64)
    expected = expected > np.median(expected, axis=1, keepdims=True)
    assert (perceptual_hash(originals) == expected).all()
    assert (expected.sum(axis=1) == 32).all()
    assert (perceptual_hash(np.kron(originals, np.ones((1, 3, 3), np.uint8))) == expected).all()  # at 192 px
    bits = (perceptual_hash(images(40, 1))[:, None] != perceptual_hash(images(40, 2))[None]).sum(axis=2)
    assert bits.min() > 10
    assert bits.mean() == pytest.approx(32, abs=1)


@pytest.mark.parametrize("side", [28, 64, 96, 148, 256])
def test_any_size(side: int) -> None:
    train, fake = images(30, 0, side=side), images(20, 1, side=side)
    fake[:4] = noisy(train[:4])
    fake[4] = train[9]
    result = memorization(train, fake, images(20, 2, side=side))
    assert (result.exact_copies, result.near_copies) == (1, 4)


def test_images_need_not_be_square() -> None:
    train, fake = images(30, 0)[:, :48], images(20, 1)[:, :48]
    fake[0] = jpeg(train[:1])[0]
    assert memorization(train, fake).near_copies == 1


def test_one_image_a_patient() -> None:
    """Further images of a patient change nothing in the tests, and are no baseline for each other."""
    train, fake, held_out = images(20, 0), images(30, 1), images(15, 2)
    names = [f"train{i}" for i in range(20)], [f"held{i}" for i in range(15)]
    once = memorization(train, fake, held_out, *names)
    more = memorization(train, fake, np.concatenate([held_out, images(15, 3)]), names[0], names[1] * 2)
    assert (more.n_held_out, more.n_baseline) == (30, 15)
    assert (more.nearer_p, more.membership_p, more.median_baseline) == (
        once.nearer_p,
        once.membership_p,
        once.median_baseline,
    )
    twice = np.concatenate([train, train])
    alone = memorization(twice, fake, None, names[0] * 2)
    assert alone.n_baseline == 20
    assert alone.median_baseline == pytest.approx(memorization(train, fake, None).median_baseline, rel=1e-6)
    with pytest.raises(BalancerError, match="half of the 40 training images have the same image"):
        memorization(twice, fake)


def test_no_number_of_patients_where_none_is_known() -> None:
    images = quantised(np.random.default_rng(0).normal(128, 40, (14, 16, 16)))
    for key, patients in (("NORMAL-{}", 6), ("image-train-{}", None)):
        result = memorization(images[:6], images[6:], train_groups=[key.format(i) for i in range(6)])
        assert (result.train_patients, result.train_units) == (patients, 6)


def test_a_handful_of_duplicates_does_not_move_the_threshold(
    drawings: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    train, held_out, fake = drawings
    planted = np.concatenate([fake, noisy(train[:20])])
    clean = memorization(train, planted, held_out)
    result = memorization(np.concatenate([train, train[:15]]), planted, np.concatenate([held_out, train[30:35]]))
    assert result.near_threshold == pytest.approx(clean.near_threshold, rel=0.03)
    assert result.near_copies == clean.near_copies == 20


def test_blank_images_are_defined() -> None:
    train, held_out, fake = images(20, 0), images(20, 1), images(20, 2)
    grey = np.full((3, 64, 64), 90, np.uint8)
    grey[0, 30, 30] += 1  # a speck that standardising must not blow up
    result = memorization(train, np.concatenate([fake, grey]), held_out)
    assert (result.near_copies, result.duplicates_within, result.status) == (0, 3, "none")
    assert np.isfinite([result.nearer_probability, result.nearer_p, result.membership_auroc, result.membership_p]).all()
    assert memorization(np.concatenate([train, grey[1:]]), grey, held_out).exact_copies == 2
    assert memorization(np.concatenate([train, grey[:1]]), grey + 1, held_out).near_copies == 3  # brightness cancels
    with pytest.raises(BalancerError, match="or a blank one"):
        memorization(np.zeros((20, 64, 64), np.uint8), fake, held_out)


def test_the_fewest_images() -> None:
    result = memorization(images(2, 0), images(1, 1), images(2, 2))
    assert (result.n_train, result.n_fake, result.duplicates_within, result.status) == (2, 1, 0, "none")
    assert len(result.closest) == 1
    assert memorization(images(2, 0), images(1, 1)).status == "none"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": images(1, 0)}, "at least 2 training images; got 1"),
        ({"fake": images(0, 0)}, "at least 1 synthetic images; got 0"),
        ({"held_out": images(1, 0)}, "at least 2 held-out images; got 1"),
        (
            {"fake": images(4, 0, side=32)},
            "held-out 64 x 64 px in grey, synthetic 32 x 32 px in grey, training 64 x 64 px in grey",
        ),
        ({"fake": fields(4, 0)}, "synthetic images are float64"),
        ({"train": images(4, 0)[:, None]}, r"of shape \(4, 1, 64, 64\); expected uint8 \(n, H, W\)"),
        ({"train_groups": ["a"]}, "4 training images but 1 groups"),
        ({"train_groups": ["a"] * 4}, "all 4 training images are of one patient"),
        ({"held_groups": ["b"] * 4}, "all 4 held-out images are of one patient"),
        ({"train_groups": list("abcd"), "held_groups": list("defg")}, r"1 patients are in both .* \(d, ...\)"),
    ],
)
def test_what_cannot_be_compared_is_one_line(change: dict[str, object], message: str) -> None:
    given = {"train": images(4, 0), "fake": images(4, 1), "held_out": images(4, 2)}
    with pytest.raises(BalancerError, match=message):
        memorization(**(given | change))


@pytest.fixture(scope="module")
def xrays(real_data: Path) -> Dataset:
    return load_dataset(DataConfig(path=str(real_data), image_size=64))


def fold(data: Dataset, name: str, label: int) -> tuple[np.ndarray, list[str]]:
    rows = data.indices(name, label)
    return data.images[rows], [data.groups[i] for i in rows]


@pytest.mark.realdata
@pytest.mark.nightly
def test_xrays_of_unseen_patients_are_no_copies(xrays: Dataset) -> None:
    train, patients = fold(xrays, "train", 0)
    unseen, names = fold(xrays, "val", 0)
    odd = np.array([int(names[i].encode().hex(), 16) % 2 for i in range(len(names))], dtype=bool)
    held_out, groups = unseen[odd], [n for n, o in zip(names, odd, strict=True) if o]
    result = memorization(train, unseen[~odd], held_out, patients, groups)
    assert (result.exact_copies, result.near_copies, result.duplicates_within, result.status) == (0, 0, 0, "none")
    assert result.nearer_probability == pytest.approx(0.5, abs=0.1)
    alone = memorization(train, unseen, None, patients)
    assert (alone.near_copies, alone.status) == (0, "none")
    pneumonia = memorization(train, fold(xrays, "val", 1)[0], unseen, patients, names)
    assert (pneumonia.exact_copies, pneumonia.near_copies, pneumonia.status) == (0, 0, "none")
    assert pneumonia.nearer_probability < 0.2


@pytest.mark.realdata
def test_copies_among_xrays_are_all_found(xrays: Dataset) -> None:
    train, patients = fold(xrays, "train", 0)
    innocent = fold(xrays, "test", 0)[0][:180]
    chosen = np.random.default_rng(0).choice(len(train), 60, replace=False).reshape(6, 10)
    planted = [train[chosen[0]], *(f(train[c]) for f, c in zip(CORRUPTIONS.values(), chosen[1:], strict=True))]
    held_out, names = fold(xrays, "val", 0)
    result = memorization(train, np.concatenate([innocent, *planted]), held_out, patients, names, pairs=60)
    assert (result.exact_copies, result.near_copies, result.status) == (10, 50, "copies")
    assert {f for f, _, _ in result.closest} == set(range(180, 240))
    assert all((train[t] == train[chosen.ravel()[f - 180]]).all() for f, t, _ in result.closest)
