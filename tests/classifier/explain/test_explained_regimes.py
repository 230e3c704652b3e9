"""The comparison of regimes by their maps, on maps that are made so; reading of runs."""

from collections.abc import Mapping

import numpy as np
import pytest

from classifier.explain import regimes

N, PIXELS, IMAGES = 40, 64, [f"patient {i // 2}" for i in range(40)]


def maps_of(seed: int, seeds: int, shift: float, own: float = 1.0) -> Mapping[str, Mapping[int, np.ndarray]]:
    """Maps of two regimes: what an image shows, what a training adds to all images, and what the regime adds."""
    rng = np.random.default_rng(seed)
    image, regime = rng.normal(size=(N, PIXELS)), shift * rng.normal(size=PIXELS)

    def trial(added: np.ndarray | float) -> np.ndarray:
        training = own * rng.normal(size=PIXELS)
        return (image + training + added + 0.5 * rng.normal(size=(N, PIXELS))).reshape(N, 8, 8)

    return {"baseline": {s: trial(0.0) for s in range(seeds)}, "gan": {s: trial(regime) for s in range(seeds)}}


def test_regimes_that_look_elsewhere_are_told_from_seeds_that_do() -> None:
    result = regimes.compare("gan", "baseline", maps_of(0, 4, shift=2.0), IMAGES)
    assert result.verdict == "elsewhere"
    assert result.between.mean < result.within.mean
    assert result.difference.mean == pytest.approx(result.within.mean - result.between.mean)
    assert (result.seeds, result.n) == (4, N)


def test_regimes_that_differ_as_seeds_do_are_rarely_said_to_look_elsewhere() -> None:
    verdicts = [regimes.compare("gan", "baseline", maps_of(s, 3, shift=0.0), IMAGES).verdict for s in range(20)]
    assert verdicts.count("elsewhere") <= 2  # one test in forty by the interval


def test_two_seeds_give_figures_and_no_verdict_and_one_seed_nothing() -> None:
    maps = maps_of(0, 2, shift=2.0)
    result = regimes.compare("gan", "baseline", maps, IMAGES)
    assert result.verdict == "too few"
    assert str(regimes.FEWEST_TRIAL_SEEDS) in result.sentence()
    assert regimes.compare("gan", "baseline", {**maps, "gan": {5: maps["gan"][0]}}, IMAGES) is None


def test_agreement_is_over_pairs_of_different_seeds_by_brute_force() -> None:
    maps = maps_of(3, 3, shift=1.0)
    result = regimes.compare("gan", "baseline", maps, IMAGES)

    def agreement(one: np.ndarray, other: np.ndarray) -> float:
        ranks = [m.reshape(N, -1).argsort(axis=1).argsort(axis=1) for m in (one, other)]
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]))

    gan, baseline = maps["gan"], maps["baseline"]
    within = [agreement(m[s], m[t]) for m in (gan, baseline) for s in range(3) for t in range(s)]
    between = [agreement(gan[s], baseline[t]) for s in range(3) for t in range(3) if s != t]
    assert result.within.mean == pytest.approx(np.mean(within))
    assert result.between.mean == pytest.approx(np.mean(between))


def test_pseudo_values_give_the_jackknifes_variance() -> None:
    rng = np.random.default_rng(0)
    pairs = {(s, t): rng.normal(size=1) for s in range(5) for t in range(s + 1, 5)}
    values = regimes._pseudo_values(pairs, range(5))[0]
    total = np.mean(list(pairs.values()))
    left = [np.mean([v for pair, v in pairs.items() if s not in pair]) for s in range(5)]
    assert values.mean() == pytest.approx(total)
    jackknife = 4 / 5 * np.sum((np.array(left) - np.mean(left)) ** 2)
    assert values.var(ddof=1) / 5 == pytest.approx(jackknife)


def test_each_regime_is_compared_with_the_one_it_differs_from() -> None:
    pairs = list(regimes.pairs_to_compare(["baseline", "augment", "gan", "combined", "duplicate_augment"]))
    expected = [("augment", "baseline"), ("gan", "baseline"), ("combined", "augment"), ("duplicate_augment", "augment")]
    assert pairs == expected
    assert not list(regimes.pairs_to_compare(["gan", "combined"]))
