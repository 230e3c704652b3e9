"""Thresholds chosen on validation, each rule against every cut there is; the temperature against scipy and torch."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import f1_score, roc_curve

from balancer.core.errors import UsageError
from classifier.evaluation.metrics import decision_metrics
from classifier.evaluation.thresholds import (
    THRESHOLD_RULES,
    balanced_accuracy,
    calibrated_threshold,
    decide,
    fit_temperature,
    is_at_bound,
    operating_points,
    threshold_rule,
    with_temperature,
)

Array = np.ndarray
RULE_NAMES = ("half", "balanced_accuracy", "f1", "sensitivity=0.9", "specificity=1", "cost=5")
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


def every_cut(y_true: Array, y_score: Array) -> list[tuple[float, float, float]]:
    """(threshold, sensitivity, specificity) of all decisions that a threshold can make, thresholds falling."""
    result = []
    for threshold in (math.inf, *sorted(set(y_score.tolist()), reverse=True)):
        called = y_score >= threshold
        result.append((threshold, float(called[y_true == 1].mean()), float((~called)[y_true == 0].mean())))
    return result


def same_decisions(y_score: Array, threshold: float, expected: float) -> None:
    np.testing.assert_array_equal(y_score >= threshold, y_score >= expected)


@given(cases())
def test_no_cut_is_better(case: tuple[Array, Array]) -> None:
    y_true, y_score = case
    chosen = balanced_accuracy(y_true, y_score)
    assert 0 <= chosen <= 1
    every = [reached(y_true, y_score, cut) for cut in (*y_score, np.inf)]
    assert reached(y_true, y_score, chosen) == pytest.approx(max(every))


@given(cases())
def test_it_is_youdens_point_of_sklearns_roc_curve(case: tuple[Array, Array]) -> None:
    """The first of the best points; the threshold lies halfway to the next lower score."""
    y_true, y_score = case
    fpr, tpr, thresholds = roc_curve(y_true, y_score, drop_intermediate=False)
    upper = thresholds[1:][np.argmax((tpr - fpr)[1:])]
    below = y_score[y_score < upper]
    assert balanced_accuracy(y_true, y_score) == ((upper + below.max()) / 2 if below.size else upper)


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.375, width=32), st.floats(0.625, 1, width=32))
def test_in_a_gap_it_lies_in_the_middle(n: int, m: int, low: float, high: float) -> None:
    rng = np.random.default_rng(n * 10 + m)
    y_score = np.concatenate([low * rng.random(n - 1), [low], [high], high + (1 - high) * rng.random(m - 1)])
    y_true = np.repeat([0, 1], [n, m])
    order = rng.permutation(n + m)
    for rule in ("balanced_accuracy", "f1", "sensitivity=1", "cost=1"):
        assert threshold_rule(rule)(y_true[order], y_score[order]) == pytest.approx((low + high) / 2)
    assert threshold_rule("specificity=1")(y_true[order], y_score[order]) == pytest.approx((low + high) / 2)


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


def test_neighbouring_floats_are_told_apart() -> None:
    """Their middle rounds to one of them; the negative must not be called positive by that."""
    low = 0.3
    y_true, y_score = np.array([0, 1]), np.array([low, np.nextafter(low, 1)])
    for rule in ("balanced_accuracy", "sensitivity=1", "specificity=1", "cost=3", "f1"):
        assert ((y_score >= threshold_rule(rule)(y_true, y_score)) == (y_true == 1)).all()


@given(cases())
def test_the_operating_points_are_every_cut(case: tuple[Array, Array]) -> None:
    y_true, y_score = case
    result, expected = operating_points(y_true, y_score), every_cut(y_true, y_score)
    assert len(result.threshold) == len(expected)
    assert (np.diff(result.threshold) < 0).all()
    for i, (threshold, sensitivity, specificity) in enumerate(expected):
        same_decisions(y_score, result.threshold[i], threshold)
        assert (result.sensitivity[i], result.specificity[i]) == (sensitivity, specificity)


@given(cases(), st.sampled_from([0.05, 0.5, 2 / 3, 0.9, 0.95, 1.0]))
def test_a_wanted_sensitivity_and_specificity(case: tuple[Array, Array], least: float) -> None:
    """Enough of one, and as much of the other as there then is."""
    y_true, y_score = case
    expected = every_cut(y_true, y_score)
    same_decisions(
        y_score,
        threshold_rule(f"sensitivity={least!r}")(y_true, y_score),
        max(t for t, sensitivity, _ in expected if sensitivity >= least),
    )
    same_decisions(
        y_score,
        threshold_rule(f"specificity={least!r}")(y_true, y_score),
        min(t for t, _, specificity in expected if specificity >= least),
    )


@given(cases(), st.sampled_from([0.1, 1, 5, 50]))
def test_no_cut_costs_less(case: tuple[Array, Array], ratio: float) -> None:
    y_true, y_score = case
    n_negative, n_positive = np.bincount(y_true, minlength=2)

    def cost(sensitivity: float, specificity: float) -> float:
        return float(ratio * (1 - sensitivity) * n_positive + (1 - specificity) * n_negative)

    called = y_score >= threshold_rule(f"cost={ratio}")(y_true, y_score)
    mine = cost(called[y_true == 1].mean(), (~called)[y_true == 0].mean())
    assert mine == pytest.approx(min(cost(s, p) for _, s, p in every_cut(y_true, y_score)))


@settings(max_examples=25)  # scikit-learn takes its time
@given(cases())
def test_no_cut_has_a_better_f1(case: tuple[Array, Array]) -> None:
    y_true, y_score = case
    chosen = threshold_rule("f1")(y_true, y_score)
    best = max(f1_score(y_true, y_score >= threshold) for threshold in set(y_score.tolist()))
    assert decision_metrics(y_true, y_score, chosen)["f1"] == pytest.approx(best)


@given(cases(), st.integers(0, 99))
def test_the_order_of_the_images_does_not_matter(case: tuple[Array, Array], seed: int) -> None:
    y_true, y_score = case
    order = np.random.default_rng(seed).permutation(len(y_true))
    for rule in ("balanced_accuracy", "f1", "sensitivity=0.9", "specificity=0.9", "cost=5"):
        choose = threshold_rule(rule)
        assert choose(y_true[order], y_score[order]) == choose(y_true, y_score)


def test_a_dear_miss_lowers_the_threshold_and_a_cheap_one_raises_it() -> None:
    y_true, y_score = np.array([0, 0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9])
    assert threshold_rule("cost=5")(y_true, y_score) == pytest.approx(0.35)  # one false alarm rather than a miss
    assert threshold_rule("cost=0.5")(y_true, y_score) == pytest.approx(0.55)  # a miss rather than a false alarm


@pytest.mark.parametrize("top", [0.9, 1.0])
def test_where_only_calling_nothing_is_specific_enough(top: float) -> None:
    """A negative has the highest score; even at 1, which no threshold up to 1 leaves out."""
    y_true, y_score = np.array([1, 0, 0]), np.array([0.2, 0.1, top])
    assert not (y_score >= threshold_rule("specificity=1")(y_true, y_score)).any()


def test_half_is_half() -> None:
    assert threshold_rule("half")(np.array([0, 1]), np.array([0.9, 0.1])) == 0.5


def test_rules_by_name() -> None:
    assert threshold_rule("balanced_accuracy") is balanced_accuracy
    assert threshold_rule("youden") is balanced_accuracy
    assert threshold_rule(" half ") is threshold_rule("half")
    y_true, y_score = np.array([0, 1, 1]), np.array([0.2, 0.4, 0.8])
    assert threshold_rule("sensitivity = .5")(y_true, y_score) == pytest.approx(0.6)
    for name, rule in THRESHOLD_RULES.items():  # whatever is registered can be asked for
        assert 0 < threshold_rule(name if rule.highest is None else f"{name}=0.5")(y_true, y_score) <= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("balanced", "threshold is 'balanced'; did you mean 'balanced_accuracy'"),
        ("sensitivty=0.9", "threshold is 'sensitivty'; did you mean 'sensitivity'"),
        (
            "sensitivity",
            "threshold is 'sensitivity'; sensitivity takes a number above 0 and at most 1, as in sensitivity=0.95",
        ),
        ("sensitivity=95", "at most 1"),
        ("specificity=0", "above 0"),
        ("specificity=nan", "above 0"),
        ("cost=-1", "cost takes a number above 0, as in cost=5"),
        ("cost=inf", "cost takes"),
        ("cost=five", "cost takes"),
        ("half=0.5", "half takes no value"),
        ("0.7", "known: balanced_accuracy, cost"),
        ("", "known: balanced_accuracy, cost"),
    ],
)
def test_what_is_no_rule_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        threshold_rule(name)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


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
    result = fit_temperature(y_true, y_score)
    assert 1 / 20.1 < result < 20.1
    best = likelihood(y_true, np.clip(with_temperature(y_score, result), 1e-300, 1 - 1e-16))
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


def three_classes(seed: int, n: int = 500) -> tuple[Array, Array]:
    """Labels of three classes and overconfident probabilities (n, 3)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y_true = np.array([rng.choice(3, p=p) for p in honest])
    stated = honest**2.5
    return y_true, stated / stated.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_of_several_classes_is_torchs_cross_entropys(seed: int) -> None:
    import torch

    y_true, y_score = three_classes(seed)
    logits, labels = torch.from_numpy(np.log(y_score)), torch.from_numpy(y_true)

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / temperature, labels))

    expected = minimize_scalar(loss, bounds=(0.1, 10), method="bounded").x
    result = fit_temperature(y_true, y_score)
    assert result == pytest.approx(expected, rel=1e-3)
    assert 1.8 < result < 3.3  # 2.5 was put in
    np.testing.assert_allclose(with_temperature(y_score, result), torch.softmax(logits / result, 1).numpy(), atol=1e-9)


@given(cases(), st.floats(0.2, 5))
def test_two_classes_are_the_binary_case(case: tuple[Array, Array], temperature: float) -> None:
    y_true, y_score = case
    y_score = 0.001 + 0.998 * y_score  # off the ends, where the two are cut off differently
    both = np.stack([1 - y_score, y_score], axis=1)
    np.testing.assert_allclose(
        with_temperature(both, temperature)[:, 1], with_temperature(y_score, temperature), atol=1e-12
    )
    assert fit_temperature(y_true, both) == pytest.approx(fit_temperature(y_true, y_score), rel=1e-3)


def test_a_class_of_probability_0_is_no_infinity() -> None:
    y_score = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    result = fit_temperature(np.array([0, 1, 0]), y_score)
    assert math.isfinite(result)
    assert np.isfinite(with_temperature(y_score, result)).all()


@given(cases(), st.floats(0.05, 20), st.sampled_from(sorted(RULE_NAMES)))
def test_the_reported_threshold_decides_as_the_chosen_one(
    case: tuple[Array, Array], temperature: float, name: str
) -> None:
    """To the last image, also where the temperature ties scores."""
    y_true, y_score = case
    chosen = threshold_rule(name)(y_true, y_score)
    reported = calibrated_threshold(chosen, temperature)
    assert 0 <= reported <= 1
    assert (decide(y_score, temperature, chosen, reported) == (y_score >= chosen)).all()
    assert (decide(y_score, temperature, chosen) == (y_score >= chosen)).all()
    other = decide(y_score, temperature, chosen, 0.25)
    assert reported == 0.25 or (other == (with_temperature(y_score, temperature) >= 0.25)).all()


def test_a_temperature_at_the_end_of_its_search_is_told() -> None:
    y_true = np.array([0, 0, 1, 1])
    assert is_at_bound(fit_temperature(y_true, np.array([0.1, 0.2, 0.8, 0.9]))), "parted without error"
    assert is_at_bound(fit_temperature(y_true, np.array([0.9, 0.8, 0.2, 0.1]))), "turned round"
    assert not is_at_bound(fit_temperature(y_true, np.array([0.1, 0.6, 0.4, 0.9])))
