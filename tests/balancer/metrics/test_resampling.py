"""Resamples and folds of patients: patients stay together, and intervals know them."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from balancer.core.errors import BalancerError
from balancer.metrics import classification
from balancer.metrics.resampling import (
    AurocInterval,
    auroc_interval,
    even_folds,
    macro_auroc_interval,
    patient_weights,
    patients_per_class,
    resample_groups,
    stratified_folds,
)

# Weights of resamples


def test_a_resample_draws_patients_with_replacement() -> None:
    """Counts are multinomial over patients, and all images of a patient count alike."""
    groups = ["b", "a", "b", "c", "d"]
    for one_fewer in (True, False):
        counts = resample_groups(groups, 20_000, np.random.default_rng(0), one_fewer)
        assert (counts[:, 0] == counts[:, 2]).all()
        per_patient = counts[:, [1, 0, 3, 4]]
        assert (per_patient.sum(axis=1) == 4 - one_fewer).all()
        draws = 4 - one_fewer
        assert per_patient.mean(axis=0) == pytest.approx(np.full(4, draws / 4), abs=0.03)
        assert np.cov(per_patient.T) == pytest.approx(draws / 4 * (np.eye(4) - 1 / 4), abs=0.05)


def test_resamples_keep_patients_whole_and_classes_in_size() -> None:
    y_true = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 1, 0])
    groups = ["a", "a", "b", "c", "d", "d", "d", "e", "f", "g", "g", "h"]  # g has both classes and is alone in that
    weights = patient_weights(y_true, groups, 500, 1)
    assert weights.shape == (501, 12)
    assert (weights[0] == 1).all()
    for name in set(groups):
        of_patient = weights[:, [i for i, g in enumerate(groups) if g == name]]
        assert (of_patient == of_patient[:, :1]).all()
    assert (weights[:, [9, 10]] == 1).all()
    patients_of = ([0, 2, 3, 11], [4, 7, 8])  # one image of each
    for images in patients_of:
        assert weights[:, images].sum(axis=1) == pytest.approx(np.full(501, len(images)))
    assert weights[1:].mean(axis=0) == pytest.approx(np.ones(12), abs=0.2)
    assert (weights == patient_weights(y_true, groups, 500, 1)).all()
    assert (weights != patient_weights(y_true, groups, 500, 2)).any()


def test_few_patients_bias_no_variance() -> None:
    """A plain bootstrap of m patients gives (m - 1) / m of the squared standard error of their mean."""
    values = np.array([1.0, 2, 4, 9])
    weights = patient_weights(np.array([1, 1, 1, 1, 0, 0]), list("abcdef"), 40_000, 0)[1:]
    means = (weights[:, :4] @ values) / weights[:, :4].sum(axis=1)
    assert means.std() == pytest.approx(stats.sem(values), rel=0.02)


@pytest.mark.parametrize(("y_true", "groups"), [([0, 0, 1, 1], "abcc"), ([0, 0, 1, 1], "aacd"), ([1, 1], "ab")])
def test_one_patient_of_a_class_is_too_few(y_true: list[int], groups: str) -> None:
    with pytest.raises(BalancerError, match=r"patient\(s\) of class 0 and .* two or more"):
        patient_weights(np.array(y_true), list(groups), 10, 0)


def test_patients_are_counted_by_class() -> None:
    assert patients_per_class(np.array([0, 0, 1, 1, 1]), list("aabca")) == (1, 3)


# Intervals of an AUROC


def test_copies_of_a_patients_images_add_no_certainty() -> None:
    """Each image five times: the same interval if they are known to be one patient's, a narrower one if not."""
    y = np.arange(60) % 3 == 0
    score = np.random.default_rng(0).normal(size=60) + y
    once = auroc_interval(y, score, np.arange(60), 1000, seed=1)
    grouped = auroc_interval(np.repeat(y, 5), np.repeat(score, 5), np.repeat(np.arange(60), 5), 1000, seed=1)
    ignored = auroc_interval(np.repeat(y, 5), np.repeat(score, 5), np.arange(300), 1000, seed=1)
    assert once is not None
    assert grouped == once
    assert ignored is not None
    assert ignored.high - ignored.low < 0.6 * (once.high - once.low)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """100 samples of 80 images; the truth is Phi(1 / sqrt(2))."""
    truth, inside = 0.7602, 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        y = np.arange(80) % 2 == 0
        result = auroc_interval(y, rng.normal(size=80) + y, np.arange(80), 1000, seed)
        assert result is not None
        inside += result.low <= truth <= result.high
    assert 0.90 <= inside / 100 <= 0.99


def test_one_patient_in_a_class_gives_no_interval_and_one_class_no_auroc() -> None:
    y = np.array([True, True, False, False])
    assert auroc_interval(y[:2], np.arange(2), np.arange(2), 1000, seed=0) is None
    assert auroc_interval(y[2:], np.arange(2), np.arange(2), 1000, seed=0) is None
    result = auroc_interval(y, np.arange(4), np.array([7, 7, 1, 2]), 1000, seed=0)
    assert result == AurocInterval(0.0, None, None)


def test_an_interval_is_the_same_in_parts_and_holds_few_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights of 4,000 images under 500 resamples are 16 MB; a twentieth at once gives the same interval."""
    rng = np.random.default_rng(0)
    y, patients = np.arange(4000) % 3, rng.integers(0, 1500, 4000)
    scores = rng.normal(size=(4000, 3)) + np.eye(3)[y]

    def intervals() -> tuple[AurocInterval | None, ...]:
        two = auroc_interval(y == 1, scores[:, 1], patients, 500, seed=3)
        return two, macro_auroc_interval(y, scores, patients, 500, seed=3)

    at_once = intervals()
    monkeypatch.setattr(classification, "MOST_WEIGHTS", 4000 * 25)
    tracemalloc.start()
    try:
        assert intervals() == at_once
        assert tracemalloc.get_traced_memory()[1] < 6e6
    finally:
        tracemalloc.stop()
    weights = resample_groups(patients, 500, np.random.default_rng(3), one_fewer=False)
    by_hand = np.quantile(classification.weighted_auroc(y == 1, scores[:, 1], weights), [0.025, 0.975])
    assert (at_once[0].low, at_once[0].high) == pytest.approx(tuple(by_hand))


# Folds


@given(
    sizes=st.lists(st.integers(1, 12), min_size=4, max_size=30),
    folds=st.integers(2, 6),
    seed=st.integers(0, 10_000),
)
def test_folds_keep_patients_whole_and_are_balanced(sizes: list[int], folds: int, seed: int) -> None:
    groups = np.repeat([f"p{i}" for i in range(len(sizes))], sizes)
    shuffled = np.random.default_rng(seed).permutation(groups)
    fold = even_folds(shuffled, folds, seed)
    assert fold.shape == groups.shape
    of_patient = {p: set(fold[shuffled == p].tolist()) for p in set(groups)}
    assert all(len(f) == 1 for f in of_patient.values())
    patients = np.bincount([f.pop() for f in of_patient.values()], minlength=folds)
    images = np.bincount(fold, minlength=folds)
    assert len(images) == folds
    assert np.ptp(patients) <= 1
    assert np.ptp(images) <= max(sizes)
    assert (even_folds(shuffled, folds, seed) == fold).all()


def test_folds_are_far_more_even_than_their_bound() -> None:
    """The smallest fold is served first in each round; in a fixed order, folds would differ by 15 images."""
    sizes = np.arange(1, 21)
    assert np.ptp(np.bincount(even_folds(np.repeat(sizes, sizes), 4, 0))) <= 3


def test_seeds_deal_differently() -> None:
    groups = np.arange(40)
    assert (even_folds(groups, 5, 0) != even_folds(groups, 5, 1)).any()


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_stratified_folds_hold_whole_patients_and_every_class(seed: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(30), rng.integers(1, 4, 30))
    y_true = (patients % 3 == 0).astype(int)
    fold = stratified_folds(y_true, patients, folds, seed)
    assert all(len(set(fold[patients == p].tolist())) == 1 for p in range(30))
    for label in (0, 1):
        assert len(set(fold[y_true == label].tolist())) == folds
    assert (stratified_folds(y_true, patients, folds, seed) == fold).all()
