"""The two-sample test against closed forms, scikit-learn and planted differences; its folds and its interval."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from streams import global_streams_untouched

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data.dataset import load_dataset
from balancer.metrics import pixel_classifier, two_sample
from balancer.metrics.resampling import even_folds
from balancer.metrics.two_sample import (
    TwoSample,
    fold_auroc,
    interpretation,
    logistic_two_sample,
    pixel_two_sample,
)

CPU = torch.device("cpu")


@pytest.fixture
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """For hundreds of intervals in seconds."""
    monkeypatch.setattr(two_sample, "RESAMPLES", 300)


def natural(n: int, side: int, seed: int) -> np.ndarray:
    """Smooth random images (n, side, side), a little noise on them."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(n, side, side)), (0, 2, 2), mode="wrap")
    return to_uint8(128 + 35 * smooth / smooth.std() + 2 * rng.normal(size=smooth.shape))


def to_uint8(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def checkerboard(images: np.ndarray) -> np.ndarray:
    """Three grey levels up or down, in turn."""
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
    return to_uint8(images + 3.0 * (1 - 2 * ((rows + columns) % 2)))


def blur(images: np.ndarray) -> np.ndarray:
    return to_uint8(gaussian_filter(images.astype(float), (0, 1, 1)))


# ---- folds


@pytest.mark.parametrize("control", [False, True])
@given(
    sizes=st.lists(st.integers(1, 9), min_size=10, max_size=25), folds=st.integers(2, 5), seed=st.integers(0, 10_000)
)
def test_no_patient_is_on_both_sides(control: bool, sizes: list[int], folds: int, seed: int) -> None:
    """Every image is scored once, by a classifier that saw no image of its patient; a control has them on both sides.

    Without a control, training and scored parts hold as many synthetic as real images.
    """
    rng = np.random.default_rng(seed)
    groups, others = (rng.permutation(np.repeat(np.arange(len(sizes)), sizes)) for _ in range(2))
    n, scored = len(groups), []

    def score(train: np.ndarray, fold: int) -> np.ndarray:
        for side, part in ((groups, train[:n]), (others if control else np.arange(n), train[n:])):
            assert not set(side[part]) & set(side[~part])
            assert 0 < part.sum() < n
        assert control or train[:n].sum() == train[n:].sum()
        scored.extend(np.flatnonzero(~train))
        return np.zeros((~train).sum())

    labels = np.repeat([0, 1], n)
    result = two_sample._cross_validate("none", score, labels, groups, others if control else None, seed, folds)
    assert sorted(scored) == list(range(2 * n))
    assert (result.auroc, result.low, result.high) == (0.5, 0.5, 0.5)  # ties are half a win


# ---- AUROC and interval


@given(seed=st.integers(0, 10_000), folds=st.integers(2, 4), levels=st.sampled_from([4, 1024]))
def test_auroc_against_scikit_learn(seed: int, folds: int, levels: int) -> None:
    """Per fold, weighted by pairs; four levels make many ties. Rescaling the scores of a fold changes nothing."""
    rng = np.random.default_rng(seed)
    n = 12 * folds
    labels, fold = rng.integers(0, 2, n), rng.permutation(np.arange(n) % folds)
    labels[:folds], labels[folds : 2 * folds], labels[2 * folds : 3 * folds] = 0, 1, 0
    labels[3 * folds : 4 * folds] = 1
    fold[: 4 * folds] = np.tile(np.arange(folds), 4)  # two of each kind in every fold
    scores = rng.integers(0, levels, n) / levels + 0.25 * labels  # exact, so that rescaling keeps ties
    expected, weights = [], []
    for k in range(folds):
        inside = fold == k
        expected.append(roc_auc_score(labels[inside], scores[inside]))
        weights.append((labels[inside] == 0).sum() * (labels[inside] == 1).sum())
    auroc, low, high = fold_auroc(scores, labels, fold, np.arange(n), seed=0)
    assert auroc == pytest.approx(np.average(expected, weights=weights))
    assert 0 <= low <= auroc <= high <= 1
    assert fold_auroc(np.exp(scores) * (1 + fold) - 50 * fold, labels, fold, np.arange(n), 0)[0] == pytest.approx(auroc)


def narrowed(auroc: float, low: float, high: float) -> tuple[float, float]:
    """Return the interval without the allowance for dependent folds, which fixed scores do not need."""
    return auroc + (low - auroc) / math.sqrt(2), auroc + (high - auroc) / math.sqrt(2)


@pytest.mark.usefixtures("fewer_resamples")
@pytest.mark.parametrize(
    ("shift", "studies"), [(1.2, 60), *(pytest.param(shift, 300, marks=pytest.mark.nightly) for shift in (0.0, 1.2))]
)
def test_coverage_with_fixed_scores_and_clustered_patients(shift: float, studies: int) -> None:
    """20 patients of 4 images whose scores are alike: the interval has to know, or it is far too narrow."""
    truth = norm.cdf(shift / math.sqrt(2))
    labels, patients = np.repeat([0, 1], 80), np.repeat(np.arange(20), 4)
    covered, blind = [], []
    for seed in range(studies):
        rng = np.random.default_rng(seed)
        real = 0.9**0.5 * rng.normal(size=20)[patients] + 0.1**0.5 * rng.normal(size=80)
        scores = np.concatenate([real, rng.normal(size=80) + shift])
        fold_real = even_folds(patients, 5, seed)
        fold = np.concatenate([fold_real, rng.permutation(fold_real)])
        for units, hits in ((np.concatenate([patients, np.arange(80)]), covered), (np.tile(np.arange(80), 2), blind)):
            low, high = narrowed(*fold_auroc(scores, labels, fold, units, seed))
            hits.append(low <= truth <= high)
    assert 0.91 <= np.mean(covered) <= 0.98
    assert np.mean(blind) < 0.85


def test_the_interval_resamples_patients() -> None:
    """Four images with the score of their patient are worth one: twice the width that the real side has by image."""
    patients, labels = np.repeat(np.arange(40), 4), np.repeat([0, 1], 160)
    scores = np.random.default_rng(0).normal(size=40)[patients]

    def score(train: np.ndarray, _: int) -> np.ndarray:
        return np.concatenate([scores, np.zeros(160)])[~train]

    by_patient, by_image = (
        two_sample._cross_validate("x", score, labels, groups, None, 0, 5) for groups in (patients, np.arange(160))
    )
    assert by_patient.auroc == pytest.approx(by_image.auroc, abs=0.02)
    assert by_patient.high - by_patient.low > 1.7 * (by_image.high - by_image.low)


@pytest.mark.usefixtures("fewer_resamples")
@pytest.mark.parametrize("studies", [60, pytest.param(200, marks=pytest.mark.nightly)])
def test_coverage_of_trained_classifiers_under_the_null(studies: int) -> None:
    """Folds that train one another vary together; the interval that takes them for independent misses .5 too often."""
    results = []
    for seed in range(studies):
        rng = np.random.default_rng(seed)
        results.append(logistic_two_sample(rng.normal(size=(40, 8)), rng.normal(size=(40, 8)), np.arange(40), seed))
    assert np.mean([r.auroc for r in results]) == pytest.approx(0.5, abs=0.015)
    assert np.mean([r.low <= 0.5 <= r.high for r in results]) >= 0.93
    narrow = [narrowed(r.auroc, r.low, r.high) for r in results]
    assert np.mean([low <= 0.5 <= high for low, high in narrow]) < 0.91


# ---- logistic regression on features


@pytest.mark.parametrize("shift", [1.0, *(pytest.param(shift, marks=pytest.mark.nightly) for shift in (0.5, 2.0))])
def test_shifted_gaussians_against_the_closed_form(shift: float) -> None:
    """No classifier does better than Phi(d / sqrt 2); in a few dimensions logistic regression all but reaches it."""
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2000, 3)), rng.normal(size=(2000, 3)) + np.array([shift, 0, 0])
    result = logistic_two_sample(real, fake, np.arange(2000), seed=0)
    expected = norm.cdf(shift / math.sqrt(2))
    assert result.auroc == pytest.approx(expected, abs=0.02)
    assert result.low < expected < result.high
    assert (result.n_real, result.n_fake, result.folds) == (2000, 2000, 5)
    swapped = logistic_two_sample(fake, real, np.arange(2000), seed=0)
    assert swapped.auroc == pytest.approx(result.auroc, abs=0.01)


def test_many_features_and_few_images() -> None:
    """A difference spread thinly over 500 features is found, and units of measurement do not matter."""
    rng = np.random.default_rng(2)
    real, fake = rng.normal(size=(100, 500)), rng.normal(size=(100, 500)) + 0.12
    result = logistic_two_sample(real, fake, np.arange(100), seed=0)
    assert result.auroc > 0.75
    units = np.exp(rng.normal(size=500))
    assert logistic_two_sample(real * units, fake * units, np.arange(100), seed=0).auroc == pytest.approx(
        result.auroc, abs=0.002
    )


def test_a_difference_where_features_hardly_vary() -> None:
    """Sixty features of two strong factors, like a network's; too strong a penalty sees only the factors."""
    rng = np.random.default_rng(5)
    mixing, direction = rng.normal(size=(2, 60)), rng.normal(size=60)
    real, fake = (rng.normal(size=(150, 2)) @ mixing + 0.1 * rng.normal(size=(150, 60)) for _ in range(2))
    assert logistic_two_sample(real, fake + 0.03 * direction, np.arange(150), seed=0).auroc > 0.85


def test_patients_alike_are_no_evidence() -> None:
    """Twelve patients of six images: by image a classifier knows them again, by patient it has nothing to go by."""
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(12), 6)
    real = rng.normal(size=(12, 40))[patients] + 0.05 * rng.normal(size=(72, 40))
    fake = rng.normal(size=(72, 40))
    assert logistic_two_sample(real, fake, np.arange(72), seed=0).auroc > 0.85
    grouped = logistic_two_sample(real, fake, patients, seed=0)
    assert grouped.auroc < 0.7
    assert grouped.low < 0.5 < grouped.high
    each = np.arange(72)
    assert logistic_two_sample(fake, real, each, seed=0).auroc > 0.85
    control = logistic_two_sample(fake, real, each, seed=0, other_groups=patients)
    assert control.auroc < 0.7
    assert control.low < 0.5 < control.high


def test_repeats_and_leaves_global_streams_alone() -> None:
    rng = np.random.default_rng(4)
    real, fake = rng.normal(size=(40, 5)), rng.normal(size=(40, 5)) + 0.5
    images = natural(16, 16, 0)
    result = []
    for disturbance in (0, 1):
        with global_streams_untouched(disturbance):
            logistic = logistic_two_sample(real, fake, np.arange(40), seed=7)
            pixel = pixel_two_sample(images[:8], images[8:], np.arange(8), CPU, seed=7, folds=2, steps=3)
        result.append((logistic, pixel))
    assert result[0] == result[1]
    assert logistic_two_sample(real, fake, np.arange(40), seed=8) != result[0][0]


# ---- pixels


@pytest.mark.parametrize(("change", "least"), [(checkerboard, 0.9), (blur, 0.9)])
def test_planted_artefacts_are_found(change: Callable[[np.ndarray], np.ndarray], least: float) -> None:
    images = natural(96, 28, 0)
    result = pixel_two_sample(images[:48], change(images[48:]), np.arange(48), CPU, seed=0, folds=3, steps=40)
    assert result.auroc > least
    assert "expect a shortcut" in interpretation(result)


def test_pixels_of_one_distribution() -> None:
    images = natural(96, 28, 1)
    result = pixel_two_sample(images[:48], images[48:], np.repeat(np.arange(24), 2), CPU, seed=0, folds=3, steps=40)
    assert result.low < 0.5 < result.high


@pytest.mark.parametrize(
    ("shape", "steps", "final"),
    [
        ((8, 8), 60, (8, 8)),  # one convolution alone takes longer
        ((28, 28), 12, (7, 7)),
        ((20, 47), 12, (3, 6)),
        ((47, 20), 12, (6, 3)),
        ((128, 128), 6, (8, 8)),
        pytest.param((256, 256), 12, (8, 8), marks=pytest.mark.nightly),
    ],
)
def test_any_size(shape: tuple[int, int], steps: int, final: tuple[int, int]) -> None:
    """A checkerboard in the last quarter of the image alone is found, and what is pooled is a map of 8 px or less."""
    images = natural(64, max(shape), 0)[:, : shape[0], : shape[1]]
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    corner = (rows >= shape[0] // 2) & (columns >= shape[1] // 2)
    marked = to_uint8(images[32:] + 20.0 * corner * (1 - 2 * ((rows + columns) % 2)))
    result = pixel_two_sample(images[:32], marked, np.arange(32), CPU, seed=0, folds=2, steps=steps)
    assert result.auroc > 0.9
    net = pixel_classifier.train_on_pixels(images, np.repeat([0, 1], 32), CPU, 0, 1, lambda: None)
    assert net.layers[:-2](torch.zeros(1, 2, *shape)).shape[2:] == final


def test_constant_images_are_ties() -> None:
    grey = np.full((8, 16, 16), 90, np.uint8)
    result = pixel_two_sample(grey, grey, np.arange(8), CPU, seed=0, folds=2, steps=2)
    assert (result.auroc, result.low, result.high) == (0.5, 0.5, 0.5)


def test_inputs_are_standardised_by_the_training_images() -> None:
    net = pixel_classifier.PixelNet(32)
    pixels = torch.from_numpy(natural(300, 32, 0))[:, None]
    net.standardise(pixels)
    inputs = (net.inputs(pixels) - net.mean) / net.sd
    assert inputs.mean((0, 2, 3)).abs().max() < 1e-4
    assert inputs.std((0, 2, 3), unbiased=False).numpy() == pytest.approx([1, 1], abs=1e-4)
    flat = torch.full((2, 1, 9, 9), 200, dtype=torch.uint8)
    assert net.inputs(flat)[:, 1].abs().max() == pytest.approx(0, abs=1e-4)  # no residual, borders included


@pytest.mark.parametrize("shape", [(40, 24, 24), (40, 17, 30), (40, 16, 16, 3)])
def test_inputs_that_are_kept_change_no_bit(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), np.tile([0, 1], 20)
    kept = pixel_classifier.train_on_pixels(images, labels, CPU, 0, 6, lambda: None).state_dict()
    monkeypatch.setattr(pixel_classifier, "MOST_KEPT", 0)
    made_anew = pixel_classifier.train_on_pixels(images, labels, CPU, 0, 6, lambda: None).state_dict()
    assert all(torch.equal(values, made_anew[name]) for name, values in kept.items())


def test_an_image_scores_the_same_whatever_is_scored_beside_it() -> None:
    images = natural(40, 16, 0)
    net = pixel_classifier.train_on_pixels(images, np.tile([0, 1], 20), CPU, 0, 5, lambda: None)
    together = pixel_classifier.score_images(net, images, CPU)
    assert together.shape == (40,)
    assert together.std() > 0
    assert pixel_classifier.score_images(net, images[:7], CPU) == pytest.approx(together[:7], abs=1e-4)


# ---- words and errors


def test_interpretations() -> None:
    def of(auroc: float, low: float, high: float) -> str:
        return interpretation(TwoSample("small CNN", auroc, low, high, 202, 202, 5))

    assert of(0.53, 0.46, 0.6) == (
        "a classifier (small CNN) is not shown to tell them apart at this n (202 real, 202 synthetic):"
        " 53 % of pairs [.46, .60]"
    )
    assert "not shown" in of(0.4, 0.33, 0.47)
    assert "less than a coin" in of(0.4, 0.33, 0.47)
    assert "less than a coin" not in of(0.4, 0.33, 0.52)
    assert "[" not in of(1.0, 1.0, 1.0), "resamples of no error are no interval"
    assert "100 % of pairs" in of(1.0, 1.0, 1.0)
    assert "202 real, 202 synthetic" in of(1.0, 1.0, 1.0)
    assert (
        of(0.83, 0.79, 0.87)
        == "a classifier (small CNN) tells them apart in 83 % of pairs [.79, .87]: expect a shortcut"
    )

    def beside(result: tuple[float, float, float], control: tuple[float, float, float]) -> str:
        return interpretation(*(TwoSample("small CNN", *figures, 202, 202, 5) for figures in (result, control)))

    apart = beside((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    assert "[" not in apart
    assert "not shown" not in apart, "the classifier tells the sides apart, and real ones as well"
    assert "and in 100 % with two real sets: what parts real sets may part these sides" in apart
    assert "in 70 % [.60, .80] with two real sets: what parts" in beside((0.75, 0.7, 0.8), (0.7, 0.6, 0.8))
    open_question = beside((0.66, 0.61, 0.7), (0.5, 0.4, 0.72))
    assert "not shown to tell them apart" in open_question
    assert open_question.endswith("and in 50 % [.40, .72] with two real sets")
    assert of(0.58, 0.51, 0.65).endswith("close to real, but not the same")
    assert of(0.7, 0.65, 0.75).endswith("a moderate difference")
    assert "in over 99 % of pairs [.99, 1.00]: the synthetic" in of(0.998, 0.991, 1.0)
    assert of(1.0, 1.0, 1.0).endswith(": the synthetic images give themselves away, expect a shortcut")


def test_bad_input_is_one_line() -> None:
    x, groups = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20)
    images = natural(20, 16, 0)
    for message, test in (
        (
            "as many synthetic as real images; got 20 real and 19 synthetic",
            lambda: logistic_two_sample(x, x[1:], groups, 0),
        ),
        ("one group for each of 20 real images; got 19", lambda: logistic_two_sample(x, x, groups[1:], 0)),
        (
            "one group for each of 20 other images; got 3",
            lambda: logistic_two_sample(x, x, groups, 0, other_groups=groups[:3]),
        ),
        (
            "got 5 folds and 9 patients; it needs 2 or more folds and 10 or more patients",
            lambda: logistic_two_sample(x, x, np.minimum(groups, 8), 0),
        ),
        ("got 1 folds and 20 patients", lambda: logistic_two_sample(x, x, groups, 0, folds=1)),
        ("one dim on both sides", lambda: logistic_two_sample(x, x[:, :2], groups, 0)),
        ("finite features", lambda: logistic_two_sample(x, np.full_like(x, np.inf), groups, 0)),
        ("of one size, 8 px or more", lambda: pixel_two_sample(images, images[:, 1:], groups, CPU, 0)),
        ("of one size, 8 px or more", lambda: pixel_two_sample(images[:, :7], images[:, :7], groups, CPU, 0)),
        ("uint8 images; got float32", lambda: pixel_two_sample(images.astype(np.float32), images, groups, CPU, 0)),
        ("got 20 real and 18 synthetic", lambda: pixel_two_sample(images, images[2:], groups, CPU, 0)),
    ):
        with pytest.raises(BalancerError, match=message) as caught:
            test()
        assert "\n" not in str(caught.value)


def test_a_diverged_classifier_is_no_result() -> None:
    with pytest.raises(BalancerError, match="diverged: 40 scores are not finite"):
        two_sample._cross_validate(
            "x", lambda train, _: np.full((~train).sum(), np.nan), np.repeat([0, 1], 20), np.arange(20), None, 0, 5
        )


# ---- real chests


@pytest.mark.realdata
@pytest.mark.nightly
def test_real_against_real_is_near_one_half(real_data: Path) -> None:
    """202 validation images of NORMAL against one image of each of 202 training patients; then those with artefacts."""
    data = load_dataset(DataConfig(path=str(real_data), image_size=64))
    val = data.indices("val", 0)
    firsts = list({data.groups[i]: i for i in np.random.default_rng(0).permutation(data.indices("train", 0))}.values())
    real, other, groups = data.images[val], data.images[firsts[: len(val)]], [data.groups[i] for i in val]
    coarse = [x.reshape(len(x), 8, 8, 8, 8).mean(axis=(2, 4)).reshape(len(x), 64) for x in (real, other)]
    for result in (
        logistic_two_sample(*coarse, groups, seed=0),
        pixel_two_sample(real, other, groups, CPU, seed=0, folds=2, steps=40),
    ):
        print(interpretation(result))
        assert result.low < 0.5 < result.high
        assert result.auroc == pytest.approx(0.5, abs=0.1)
    for change in (checkerboard, blur):
        result = pixel_two_sample(real, change(other), groups, CPU, seed=0, folds=2, steps=25)
        print(change.__name__, interpretation(result))
        assert result.auroc > 0.97
