"""Statistics, each against another way to the same number: scikit-learn, scipy, brute force, a closed form, or R."""

import itertools
import json
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from balancer.metrics.classification import weighted_auroc
from balancer.metrics.resampling import patient_weights
from classifier.analysis import image_tests, statistics
from classifier.analysis.contrasts import FACTORIAL, POOLED, estimate_sum, scatter_over_seeds
from classifier.analysis.statistics import Estimate, SeedScatter, crossed_estimate, pooled_scatter

Array = np.ndarray
# Few levels, so that ties are common.
SCORES = st.lists(st.integers(0, 6).map(lambda v: v / 7), min_size=6, max_size=25)


def clustered(sizes: tuple[tuple[int, ...], tuple[int, ...]], seed: int) -> tuple[Array, Array, Array]:
    """Labels, patients and scores, by the images of each class per patient; half the variance is the patient's."""
    rng, labels, patients, scores, number = np.random.default_rng(seed), [], [], [], 0
    for label, of_class in enumerate(sizes):
        for size in of_class:
            labels += [label] * size
            patients += [number] * size
            scores += list(1.2 * label + rng.normal() + rng.normal(size=size))
            number += 1
    return np.array(labels), np.array(patients), np.array(scores)


def obuchowski(y_true: Array, patients: Array, scores: Array) -> float:
    """Variance of the AUROC of clustered images (Obuchowski 1997, Biometrics 53), patients of one class each."""
    pairs = (scores[y_true == 1][:, None] > scores[y_true == 0]) + 0.5 * (
        scores[y_true == 1][:, None] == scores[y_true == 0]
    )
    total = 0.0
    for label, placement in ((1, pairs.mean(axis=1)), (0, pairs.mean(axis=0))):
        mine = patients[y_true == label]
        sums = np.array([(placement[mine == p] - pairs.mean()).sum() for p in np.unique(mine)])
        total += (sums**2).sum() * len(sums) / (len(sums) - 1) / len(mine) ** 2
    return total


@pytest.mark.parametrize("seed", [0, 1])
def test_resampled_auroc_varies_as_that_of_clustered_images_does(seed: int) -> None:
    y_true, patients, scores = clustered(((1,) * 60 + (2,) * 20 + (5,) * 4, (1,) * 50 + (4,) * 20 + (9,) * 3), seed)
    weights = patient_weights(y_true, patients, 4000, 0)
    found = weighted_auroc(y_true, scores, weights)
    assert found[1:].var() == pytest.approx(obuchowski(y_true, patients, scores), rel=0.1)
    alone = patient_weights(y_true, np.arange(len(y_true)), 4000, 0)
    as_images = weighted_auroc(y_true, scores, alone)
    assert as_images[1:].std() == pytest.approx(image_tests.delong(y_true, scores, np.zeros(len(scores)))[1], rel=0.06)
    assert found.std() > 1.1 * as_images.std()


# Means over seeds


def flat(observed: Array, resamples: int = 50) -> Array:
    """Values as if patients made no difference."""
    return np.repeat(np.asarray(observed, dtype=float)[None], resamples + 1, axis=0)


def test_without_scatter_of_patients_it_is_the_paired_t_test() -> None:
    differences = np.array([0.012, -0.004, 0.02, 0.009, 0.001])
    found = crossed_estimate(flat(differences[:, None]), 100)
    expected = stats.ttest_1samp(differences, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert found.df == pytest.approx(4)
    assert found.seed_sd == pytest.approx(differences.std(ddof=1))
    assert (found.n_trial_seeds, found.n_gan_seeds) == (5, 1)


def test_one_trial_seed_leaves_the_patients() -> None:
    values = np.append(0.3, np.random.default_rng(0).normal(0.3, 0.02, 400))[:, None, None]
    found = crossed_estimate(values, 60)
    half = stats.t.ppf(0.975, 59) * values[1:].std(ddof=1)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half))
    assert found.seed_sd is None


def test_crossed_seeds_are_a_two_way_analysis_of_variance() -> None:
    """Mean squares from least squares on dummy variables."""
    k, g = 5, 4
    rng = np.random.default_rng(2)
    observed = rng.normal(size=(k, 1)) + rng.normal(size=(1, g)) + 0.5 * rng.normal(size=(k, g))
    row, column = np.eye(k)[np.repeat(np.arange(k), g)], np.eye(g)[np.tile(np.arange(g), k)]
    ones = np.ones((k * g, 1))

    def left_over(*parts: Array) -> float:
        design = np.hstack(parts)
        fit = design @ np.linalg.lstsq(design, observed.ravel(), rcond=None)[0]
        return float(((observed.ravel() - fit) ** 2).sum())

    full = left_over(ones, row, column)
    ms_row, ms_column = (left_over(ones, column) - full) / (k - 1), (left_over(ones, row) - full) / (g - 1)
    ms_both = full / ((k - 1) * (g - 1))
    found = crossed_estimate(flat(observed), 100)
    assert found.se**2 == pytest.approx((ms_row + ms_column - ms_both) / (k * g))
    assert (found.trial_seeds, found.gan_seeds) == pytest.approx((ms_row / (k * g), ms_column / (k * g)))


def test_degrees_of_freedom_are_satterthwaites() -> None:
    """Two crossed factors without interaction, in the ratio 4 to 1, and patients as much as both together."""
    k, g, rng = 5, 4, np.random.default_rng(0)
    seeds = 2 * stats.zscore(np.arange(k))[:, None] * (k - 1) ** 0.5 + stats.zscore(np.arange(g)) * (g - 1) ** 0.5
    patients = np.append(0, 5**0.5 * stats.zscore(rng.normal(size=400), ddof=1))[:, None, None]
    found = crossed_estimate(patients + seeds, 31)
    assert found.shares == ((pytest.approx(0.5), 30), (pytest.approx(0.4), 4), (pytest.approx(0.1), 3))
    assert found.df == pytest.approx(1 / (0.5**2 / 30 + 0.4**2 / 4 + 0.1**2 / 3))
    assert found.counted_twice == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("sets", [1, 2])
def test_one_or_two_gan_seeds_are_these_sets(sets: int) -> None:
    """They are averaged before anything else; three are a sample of what the GAN makes."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(1, 5, 3)) + 0.1 * rng.normal(size=(201, 5, 3)) + 5 * rng.normal(size=(1, 1, 3))
    fixed = crossed_estimate(values[:, :, :sets], 50)
    averaged = crossed_estimate(values[:, :, :sets].mean(axis=2, keepdims=True), 50)
    assert fixed == replace(averaged, n_gan_seeds=sets)
    assert fixed.gan_seeds == 0
    assert crossed_estimate(values, 50).gan_seeds > 1


FACTORS = ("patient", "trial", "gan", "patient trial", "patient gan", "trial gan", "all")


@pytest.mark.parametrize(
    "sds",
    [(3, 0.5, 0.5, 3, 2, 0.3, 2), (4, 0, 0, 3, 0, 0, 0), (0, 0.8, 0, 3, 0, 0, 3), (3, 0.3, 0.3, 0, 0, 0, 9)],
    ids=["all", "patients", "trials", "interaction"],
)
def test_each_variance_is_counted_once(sds: tuple[float, ...]) -> None:
    """Means over patients of a crossed random-effects model: the true variance of the grand mean is known exactly."""
    n, k, g, studies, sd = 40, 5, 6, 500, dict(zip(FACTORS, sds, strict=True))
    rng, found = np.random.default_rng(4), []
    y_true, groups = np.repeat([0, 1], n), np.arange(2 * n)
    for number in range(studies):
        shapes = ((n, 1, 1), (1, k, 1), (1, 1, g), (n, k, 1), (n, 1, g), (1, k, g), (n, k, g))
        values = sum(s * rng.normal(size=shape) for s, shape in zip(sds, shapes, strict=True))
        weights = patient_weights(y_true, groups, 60, number)[:, :n] / n
        found.append(crossed_estimate(np.einsum("bn,nkg->bkg", weights, values), n).se ** 2)
    once = {
        "patient": n,
        "trial": k,
        "gan": g,
        "patient trial": n * k,
        "patient gan": n * g,
        "trial gan": k * g,
        "all": n * k * g,
    }
    assert np.mean(found) == pytest.approx(sum(sd[f] ** 2 / once[f] for f in FACTORS), rel=0.08)


@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 4))
def test_estimates_move_and_stretch_with_their_values(seed: int, k: int, g: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(30, 1, 1)) + rng.normal(size=(30, k, g))
    one = crossed_estimate(values, 20)
    other = crossed_estimate(3 - 2 * values[:, rng.permutation(k)][:, :, rng.permutation(g)], 20)
    assert (other.value, other.se, other.df) == pytest.approx((3 - 2 * one.value, 2 * one.se, one.df))
    assert (other.low, other.high) == pytest.approx((3 - 2 * one.high, 3 - 2 * one.low))
    assert one.low < one.value < one.high
    assert one.df >= 1
    assert one.se**2 >= max(one.trial_seeds, one.gan_seeds) * (1 - 1e-9)
    shares = one.patients + one.trial_seeds + one.gan_seeds - one.counted_twice
    assert shares == pytest.approx(one.se**2)


def test_no_scatter_at_all() -> None:
    same = crossed_estimate(flat(np.zeros((3, 1))), 10)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert crossed_estimate(flat(np.full((3, 1), 0.25)), 10).p == 0


# Few trial seeds


def test_two_trial_seeds_that_agree_by_luck_are_no_surer_than_their_patients() -> None:
    """A contrast of the chest X-rays had a standard error of .0007, and .0018 over patients alone."""
    of_seed = np.random.default_rng(1).normal(size=(400, 2))  # patients who are hard for one training only
    of_seed *= 0.0018 / of_seed.mean(axis=1).std(ddof=1)
    values = np.concatenate([np.zeros((1, 2)), of_seed])[..., None] + np.array([[-0.0115], [-0.0125]])
    lucky = crossed_estimate(values, 202)
    assert lucky.se >= lucky.patients**0.5 == pytest.approx(0.0018)
    assert abs(values[0, 0, 0] - values[0, 1, 0]) / 2 == pytest.approx(0.0005)  # over two seeds alone
    assert lucky.high - lucky.low >= 2 * 1.96 * 0.0018


@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 4), st.floats(0, 3), st.floats(-1, 1))
def test_seeds_never_take_from_the_variance_over_patients(
    seed: int, k: int, g: int, interaction: float, pooled: float
) -> None:
    """Neither does the scatter of other regimes, which chance can put below 0."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(40, 1, 1)) + interaction * rng.normal(size=(40, k, g))
    e = crossed_estimate(values, 20, SeedScatter(pooled, 4, -pooled, 2))
    averaged = values.mean(axis=(1, 2)) if g < 3 else values.mean(axis=2).mean(axis=1)
    assert e.se**2 >= averaged[1:].var(ddof=1) * (1 - 1e-9)
    assert sum(share for share, _ in e.shares) == pytest.approx(1)
    assert (e.p < 0.05) == (e.low > 0 or e.high < 0)


def two_way(observed: Array) -> float:
    """The residual mean square of regimes x seeds, from least squares on dummy variables."""
    r, k = observed.shape
    design = np.hstack([np.eye(r)[np.repeat(np.arange(r), k)], np.eye(k)[np.tile(np.arange(k), r)]])
    fit = design @ np.linalg.lstsq(design, observed.ravel(), rcond=None)[0]
    return float(((observed.ravel() - fit) ** 2).sum() / ((r - 1) * (k - 1)))


@pytest.mark.parametrize(("regimes", "k", "df"), [(6, 3, 4), (4, 3, 4), (3, 3, 2), (2, 3, 0), (3, 2, 1), (6, 10, 4)])
def test_trial_seeds_are_moderated_by_the_scatter_of_all_regimes(regimes: int, k: int, df: int) -> None:
    """Smyth's moderated variance: (d0 s0^2 + d s^2) / (d0 + d); what a seed does to all regimes alike cancels."""
    rng = np.random.default_rng(regimes + k)
    observed = rng.normal(size=(regimes, k)) + 9 * rng.normal(size=k)
    scatter = pooled_scatter(np.stack([flat(row[:, None]) for row in observed], axis=1), [False] * regimes)
    assert (scatter.trial_seeds, scatter.trial_df) == (pytest.approx(two_way(observed)), df)
    contrast = observed[0] - observed[1]
    e = crossed_estimate(flat(contrast[:, None]), 100, scatter.of_contrast(2, []))
    expected = (df * 2 * two_way(observed) + (k - 1) * contrast.var(ddof=1)) / (df + k - 1)
    assert e.se**2 == pytest.approx(expected / k)
    assert e.shares == ((pytest.approx(1), df + k - 1),)


def test_gan_seeds_that_move_regimes_together_do_not_cancel_in_their_mean() -> None:
    """Regimes train on the same images: the mean of two then scatters over GAN seeds as much as either of them."""
    rng = np.random.default_rng(4)
    of_set = rng.normal(size=(1, 3)).repeat(2, axis=0)
    values = {arm: flat(of_set if arm in ("gan", "combined") else 0 * of_set) for arm in POOLED}
    scatter = scatter_over_seeds(values)
    alone = estimate_sum({"gan": 1.0, "baseline": -1.0}, values, 100, scatter, None)
    mean = estimate_sum(FACTORIAL["main effect of synthetic images"], values, 100, scatter, None)
    assert mean.gan_seeds == pytest.approx(of_set[0].var(ddof=1) / 3)
    assert (mean.value, mean.gan_seeds) == (pytest.approx(alone.value), pytest.approx(alone.gan_seeds))


def test_what_patients_explain_is_no_scatter_of_seeds() -> None:
    """Regimes that differ from seed to seed as much as resamples of patients do have nothing left on average."""
    rng, scatters = np.random.default_rng(0), []
    for _ in range(300):
        values = rng.normal(size=(61, 4, 3, 3)) + rng.normal(size=(61, 1, 1, 1))
        scatters.append(pooled_scatter(values, [True, True, False, False]))
    assert np.mean([s.trial_seeds for s in scatters]) == pytest.approx(0, abs=0.03)  # of a variance of 1 / 3
    assert np.mean([s.gan_seeds for s in scatters]) == pytest.approx(0, abs=0.04)
    assert {(s.trial_df, s.gan_df) for s in scatters} == {(4, 2)}


@given(st.integers(0, 999), st.sampled_from([0.5, 1.0, 2.0]))
def test_intervals_stay_inside_what_a_difference_can_be(seed: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(-limit, limit, size=(30, 3, 1))
    free, held = crossed_estimate(values, 5), crossed_estimate(values, 5, limit=limit)
    assert -limit <= held.low <= held.value <= held.high <= limit
    assert (held.low, held.high) == (max(free.low, -limit), min(free.high, limit))
    assert held.p == free.p


@pytest.mark.parametrize("patients", [2, 15, 202])
@pytest.mark.parametrize("value", [0.0, 0.01, 0.3, -1.0])
def test_without_scatter_the_patients_bound_a_difference(patients: int, value: float) -> None:
    """Perfect classifiers: of so many patients, none was an exception (a sign test of none among them)."""
    e = crossed_estimate(flat(np.full((3, 1), value)), patients, limit=1.0)
    end = stats.binomtest(0, patients).proportion_ci(method="exact").high
    assert (e.low, e.high) == pytest.approx((max(value - end, -1), min(value + end, 1)))
    assert (e.p < 0.05) == (abs(value) > end)


# Intervals of single figures


def estimate(value: float, se: float, df: float = 30) -> Estimate:
    return Estimate(value, se, df, value, value, 1.0, 5, 1, 0.0, 0.0, 0.0, 0.0, 0.0, ((1.0, 30),))


@given(st.floats(1e-3, 1 - 1e-3), st.floats(1e-6, 0.5))
def test_intervals_of_shares_stay_inside(value: float, se: float) -> None:
    low, high = statistics.share_interval(estimate(value, se), 100)
    assert 0 <= low < value < high <= 1
    other_low, other_high = statistics.share_interval(estimate(1 - value, se), 100)
    assert (1 - other_high, 1 - other_low) == pytest.approx((low, high), abs=1e-9)


def test_narrow_intervals_of_shares_are_plain_t_intervals() -> None:
    half = stats.t.ppf(0.975, 30) * 1e-5
    assert statistics.share_interval(estimate(0.9, 1e-5), 100) == pytest.approx((0.9 - half, 0.9 + half), abs=1e-8)
    assert statistics.positive_interval(estimate(2.0, 1e-5)) == pytest.approx((2 - half, 2 + half), abs=1e-8)


@pytest.mark.parametrize("patients", [2, 40, 202])
def test_at_its_end_a_share_has_the_exact_bound(patients: int) -> None:
    exact = stats.binomtest(patients, patients).proportion_ci(method="exact")
    assert statistics.share_interval(estimate(1.0, 0), patients) == pytest.approx((exact.low, 1))
    assert statistics.share_interval(estimate(0.0, 0), patients) == pytest.approx((0, 1 - exact.low))


def test_positive_intervals_are_symmetric_in_ratio() -> None:
    low, high = statistics.positive_interval(estimate(0.2, 0.5))
    assert 0 < low < 0.2 < high
    assert low * high == pytest.approx(0.04)
    assert statistics.positive_interval(estimate(0.0, 0.0)) == (0, 0)


# Tests


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_bonferroni_test(p: list[float]) -> None:
    """A hypothesis is rejected if Bonferroni rejects every set of hypotheses around it (Marcus et al. 1976)."""
    sets = [c for size in range(1, len(p) + 1) for c in itertools.combinations(range(len(p)), size)]
    bonferroni = {c: min(1.0, len(c) * min(p[i] for i in c)) for c in sets}
    closed = [max(v for c, v in bonferroni.items() if i in c) for i in range(len(p))]
    assert statistics.holm(p) == pytest.approx(closed)


def test_holm_of_nothing_is_nothing() -> None:
    assert statistics.holm([]) == []


def slow_delong(y_true: Array, left: Array, right: Array) -> tuple[float, float]:
    """By the definition: placements from all pairs, then their covariance matrices."""
    wins = [np.sign(s[y_true == 1][:, None] - s[y_true == 0]) / 2 + 0.5 for s in (left, right)]
    contrast = np.array([1, -1])
    positives = np.cov([w.mean(axis=1) for w in wins]) / wins[0].shape[0]
    negatives = np.cov([w.mean(axis=0) for w in wins]) / wins[0].shape[1]
    return float(wins[0].mean() - wins[1].mean()), float((contrast @ (positives + negatives) @ contrast) ** 0.5)


@given(SCORES, st.integers(0, 999))
def test_delong_is_its_definition(scores: list[float], seed: int) -> None:
    left = np.array(scores)
    y_true, right = np.arange(len(left)) % 2, np.random.default_rng(seed).permutation(left)
    value, se, p = image_tests.delong(y_true, left, right)
    expected, expected_se = slow_delong(y_true, left, right)
    assert value == pytest.approx(expected, abs=1e-12)
    assert se == pytest.approx(expected_se, abs=1e-7)
    if se > 1e-6:
        assert p == pytest.approx(2 * stats.norm.sf(abs(expected) / expected_se), abs=1e-6)
        assert image_tests.delong(y_true, right, left) == pytest.approx((-value, se, p))


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")
def test_delong_is_that_of_proc(tmp_path: Path) -> None:
    y_true = (np.arange(80) % 3 > 0).astype(int)
    left, right = (
        np.round(1 / (1 + np.exp(-np.random.default_rng(seed).normal(y_true - 0.5, 1))), 2) for seed in (0, 5)
    )
    program = f"""
        if (!requireNamespace("pROC", quietly = TRUE)) quit(status = 3)
        y <- c({",".join(map(str, y_true))}); a <- c({",".join(map(str, left))}); b <- c({",".join(map(str, right))})
        roc <- function(s) pROC::roc(y, s, direction = "<", levels = c(0, 1), quiet = TRUE)
        t <- pROC::roc.test(roc(a), roc(b), method = "delong", paired = TRUE)
        cat(sprintf("[%.12f, %.12f]", t$statistic, t$p.value))
    """
    (tmp_path / "delong.R").write_text(program)
    done = subprocess.run(["Rscript", str(tmp_path / "delong.R")], capture_output=True, text=True, timeout=120)
    if done.returncode == 3:
        pytest.skip("R has no pROC")
    z, p = json.loads(done.stdout)
    value, se, own_p = image_tests.delong(y_true, left, right)
    assert (value / se, own_p) == pytest.approx((z, p), abs=1e-6)


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemar_is_the_sum_of_what_is_no_likelier(only_left: int, only_right: int) -> None:
    left = np.array([True] * only_left + [False] * only_right + [True, False, True])
    right = np.array([False] * only_left + [True] * only_right + [True, False, True])
    n = only_left + only_right
    chances = [math.comb(n, i) for i in range(n + 1)]
    expected = sum(c for c in chances if c <= chances[only_left]) / 2**n
    assert image_tests.mcnemar(left, right) == (only_left, only_right, pytest.approx(expected))


def split(se: float, *shares: tuple[float, int]) -> Estimate:
    """An estimate whose variance has these parts."""
    return replace(estimate(0.0, se, 1 / sum(share**2 / df for share, df in shares)), shares=shares)


@pytest.mark.parametrize("df", [2, 4, 40])
@pytest.mark.parametrize("family", [None, 1, 4])
def test_the_detectable_effect_is_found_in_four_of_five_studies(df: int, family: int | None) -> None:
    """By drawing means and standard errors of studies."""
    rng = np.random.default_rng(0)
    effect = statistics.detectable_effect(split(2.0, (1.0, df)), family)
    t = (effect + 2 * rng.normal(size=200_000)) / (2 * (rng.chisquare(df, 200_000) / df) ** 0.5)
    assert (2 * stats.t.sf(np.abs(t), df) < 0.05 / (family or 1)).mean() == pytest.approx(0.8, abs=0.005)


def test_the_detectable_effect_of_known_scatter() -> None:
    known = split(0.01, (1.0, 100_000))
    assert statistics.detectable_effect(known) == pytest.approx(0.01 * (1.959964 + 0.841621), rel=1e-4)
    assert statistics.detectable_effect(known, 4) == pytest.approx(0.01 * (2.497705 + 0.841621), rel=1e-4)


@given(st.floats(0.01, 0.98), st.floats(0.01, 1), st.integers(1, 6), st.floats(0.1, 9))
def test_p_of_a_family_averages_over_the_parts(first: float, second: float, family: int, t: float) -> None:
    shares = ((first, 201), ((1 - first) * second, 4), ((1 - first) * (1 - second), 2))
    found = split(2.0, *shares)
    p = statistics.mean_p(-2 * t, 2.0, shares)
    assert p == pytest.approx(sum(share * 2 * stats.t.sf(t, df) for share, df in shares))
    if t > 2:
        assert p >= 2 * stats.t.sf(t, found.df) * (1 - 1e-9)  # more cautious than the interval's
    effect = statistics.detectable_effect(found, family)
    critical = stats.nct.isf(0.8, found.df, effect / 2)
    assert statistics.mean_p(critical, 1.0, shares) == pytest.approx(0.05 / family, rel=1e-3)
    assert statistics.critical_value(shares, 0.05 / family) == pytest.approx(critical, rel=1e-3)
