"""The threshold chosen on validation: none is better, and in a gap it lies in the middle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.errors import UsageError
from classifier.thresholds import THRESHOLDS, balanced_accuracy, threshold_rule

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
