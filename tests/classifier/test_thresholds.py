"""The threshold chosen on validation: none is better, and in a gap it lies in the middle; the temperature likewise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.errors import UsageError
from classifier.thresholds import THRESHOLDS, balanced_accuracy, fit_temperature, threshold_rule, with_temperature

Array = np.ndarray
SCORES = st.floats(0, 1, width=32)  # what a sigmoid in float32 gives, 0 and 1 included


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, Array]:
    n = draw(st.integers(2, 25))
    y_true = [0, 1, *draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))]
    some = st.one_of(SCORES, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    return np.array(y_true), np.array(draw(st.lists(some, min_size=n, max_size=n)))


def reached(y_true: Array, y_score: Array, threshold: float) -> float:
    called = y_score >= threshold
    return float((called[y_true == 1].mean() + (~called[y_true == 0]).mean()) / 2)


@given(cases())
def test_no_cut_is_better(case: tuple[Array, Array]) -> None:
    y_true, y_score = case
    chosen = balanced_accuracy(y_true, y_score)
    assert 0 <= chosen <= 1
    every = [reached(y_true, y_score, cut) for cut in (*y_score, np.inf)]
    assert reached(y_true, y_score, chosen) == pytest.approx(max(every))


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.375, width=32), st.floats(0.625, 1, width=32))
def test_in_a_gap_it_lies_in_the_middle(n: int, m: int, low: float, high: float) -> None:
    rng = np.random.default_rng(n * 10 + m)
    y_score = np.concatenate([low * rng.random(n - 1), [low], [high], high + (1 - high) * rng.random(m - 1)])
    y_true = np.repeat([0, 1], [n, m])
    order = rng.permutation(n + m)
    assert balanced_accuracy(y_true[order], y_score[order]) == pytest.approx((low + high) / 2)


def test_ties_are_kept_on_one_side() -> None:
    """Three images share the score .5; the cut that splits them does not exist."""
    y_true, y_score = np.array([0, 0, 0, 1, 1, 1]), np.array([0.1, 0.5, 0.2, 0.5, 0.5, 0.9])
    assert balanced_accuracy(y_true, y_score) == pytest.approx((0.2 + 0.5) / 2)


@pytest.mark.parametrize("score", [0.0, 0.3, 1.0])
def test_one_score_for_all(score: float) -> None:
    chosen = balanced_accuracy(np.array([0, 1, 1]), np.full(3, score))
    assert 0 <= chosen <= 1


def test_scores_the_wrong_way_round() -> None:
    """Nothing beats .5 here; a score of 1, which no threshold up to 1 excludes, must not make it worse."""
    y_true, y_score = np.array([1, 1, 0, 0]), np.array([0.1, 0.2, 0.8, 1.0])
    assert reached(y_true, y_score, balanced_accuracy(y_true, y_score)) == 0.5


def test_half_is_half() -> None:
    assert threshold_rule("half")(np.array([0, 1]), np.array([0.9, 0.1])) == 0.5


def test_rules_by_name() -> None:
    assert threshold_rule("balanced_accuracy") is balanced_accuracy
    assert set(THRESHOLDS) == {"half", "balanced_accuracy"}
    with pytest.raises(UsageError, match="threshold is 'balanced'; did you mean 'balanced_accuracy'"):
        threshold_rule("balanced")


def likelihood(y_true: Array, y_score: Array) -> float:
    return float(np.mean(np.log(np.where(y_true == 1, y_score, 1 - y_score))))


@given(st.integers(0, 1000), st.floats(0.2, 6))
def test_a_known_temperature_is_found(seed: int, true: float) -> None:
    """Labels drawn from the stated probabilities, which are then overstated or understated."""
    rng = np.random.default_rng(seed)
    honest = 1 / (1 + np.exp(-2 * rng.normal(size=4000)))
    y_true = (rng.random(4000) < honest).astype(int)
    assert fit_temperature(y_true, with_temperature(honest, 1 / true)) == pytest.approx(true, rel=0.12)


@given(cases())
def test_no_temperature_is_likelier(case: tuple[Array, Array]) -> None:
    y_true, y_score = case
    found = fit_temperature(y_true, y_score)
    assert 1 / 20.1 < found < 20.1
    best = likelihood(y_true, np.clip(with_temperature(y_score, found), 1e-300, 1 - 1e-16))
    for temperature in np.exp(np.linspace(-2.99, 2.99, 41)):
        other = likelihood(y_true, np.clip(with_temperature(y_score, temperature), 1e-300, 1 - 1e-16))
        assert best >= other - 1e-4 * max(1, abs(other))


@given(cases(), st.floats(0.05, 20))
def test_a_temperature_keeps_order_and_the_decision_at_half(case: tuple[Array, Array], temperature: float) -> None:
    _, y_score = case
    changed = with_temperature(y_score, temperature)
    order = np.argsort(y_score, kind="stable")
    assert (np.diff(changed[order]) >= 0).all()
    assert ((changed >= 0.5) == (y_score >= 0.5)).all()
