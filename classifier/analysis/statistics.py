"""Statistics of an ablation: pure functions of arrays. See docs/statistics.md for the method and how it was checked.

In arrays of resampled metrics, the first row is the sample itself and the other rows are resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import brentq

Array = np.ndarray
ALPHA = 0.05
POWER = 0.8
FEWEST_GAN_SEEDS = 3  # fewer synthetic sets are a fixed choice, not a sample of what the GAN makes


class DeLong(NamedTuple):
    """DeLong's test of two AUROCs on the same images, which are taken as independent."""

    estimate: float  # the difference
    se: float
    p: float  # two-sided


class McNemar(NamedTuple):
    """McNemar's exact test of two sets of decisions on the same images, which are taken as independent."""

    n10: int  # images that only the first decides rightly
    n01: int  # images that only the second decides rightly
    p: float  # two-sided


@dataclass(frozen=True)
class Estimate:
    """A mean over trial seeds and GAN seeds, with its t interval and its test of zero.

    Each variance is of the mean and includes what the factor shares with other factors. So the sum of the variances
    less ``counted_twice`` is the square of ``se``.
    """

    value: float
    se: float
    df: float
    low: float  # 95 % interval
    high: float
    p: float  # two-sided; below .05 if and only if the interval leaves out 0
    n_trial_seeds: int
    n_gan_seeds: int
    seed_sd: float | None  # SD of the means per trial seed; None for one trial seed
    patients: float  # variance
    trial_seeds: float  # variance
    gan_seeds: float  # variance
    counted_twice: float  # variance
    shares: tuple[tuple[float, int], ...]  # of the variance without what is counted twice, with degrees of freedom


def crossed_estimate(values: Array, patients: int) -> Estimate:
    """Return the mean of a metric, or of a contrast, over cells of trial seed x GAN seed on one test set.

    Patients, trial seeds and GAN seeds are crossed random factors (Owen 2007, Ann. Appl. Stat. 1). The total variance
    is the variance over seeds + the variance over patients - the part counted in both (inclusion-exclusion, Cameron,
    Gelbach & Miller 2011, JBES 29). No part is taken as less than 0. The t interval has Satterthwaite's degrees of
    freedom (1946, Biometrics Bulletin 2). One or two GAN seeds are a fixed choice and add no variance. One trial seed
    shows no scatter over seeds: the interval is over patients alone.

    Args:
        values: (1 + resamples, K, G): the sample itself, then resamples of patients.
        patients: number in the class that has fewer; their share has one degree of freedom less.
    """
    n_gan_seeds = values.shape[2]
    if n_gan_seeds < FEWEST_GAN_SEEDS:
        values = values.mean(axis=2, keepdims=True)
    observed, deviation = values[0], values[1:] - values[1:].mean(axis=0)
    by_patient = float(deviation.mean(axis=(1, 2)).var(ddof=1))
    trial, gan, both = (float(v) for v in _seed_variances(observed))
    rescale = len(deviation) / (len(deviation) - 1)
    with_trial, with_gan, with_both = (float(v.mean()) * rescale for v in _seed_variances(deviation))
    patient_part = max(by_patient - with_trial - with_gan + with_both, 0.0)
    trial_part, gan_part = _seeds_once(trial, gan, both)
    variance = patient_part + trial_part + gan_part
    k, g = observed.shape
    parts = [(v, df) for v, df in ((patient_part, patients - 1), (trial_part, k - 1), (gan_part, g - 1)) if v > 0]
    shares = tuple((v / variance, df) for v, df in parts) or ((1.0, patients - 1),)
    df = 1 / sum(share**2 / df for share, df in shares)
    value, se = float(observed.mean()), variance**0.5
    half = float(stats.t.ppf(1 - ALPHA / 2, df)) * se
    return Estimate(
        value=value,
        se=se,
        df=df,
        low=value - half,
        high=value + half,
        p=t_test(value, se, df),
        n_trial_seeds=k,
        n_gan_seeds=n_gan_seeds,
        seed_sd=float(observed.mean(axis=1).std(ddof=1)) if k > 1 else None,
        patients=by_patient,
        trial_seeds=trial,
        gan_seeds=gan,
        counted_twice=by_patient + trial + gan - variance,
        shares=shares,
    )


def _seeds_once(trial: float, gan: float, both: float) -> tuple[float, float]:
    """Return the variances of trial seeds and GAN seeds, their interaction counted once.

    The sum is at least as large as either variance.
    """
    if both >= min(trial, gan):
        return (trial, 0.0) if trial >= gan else (0.0, gan)
    scale = (trial + gan - both) / (trial + gan)
    return trial * scale, gan * scale


def _seed_variances(values: Array) -> tuple[Array, Array, Array]:
    """Return the variances (...) of the mean of ``values`` (..., K, G) by rows, columns and their interaction.

    A variance is 0 if there is one row or one column.
    """
    k, g = values.shape[-2:]
    rows, columns = values.mean(axis=-1), values.mean(axis=-2)
    residual = values - rows[..., :, None] - columns[..., None, :] + values.mean(axis=(-1, -2))[..., None, None]
    zero = np.zeros(values.shape[:-2])
    return (
        rows.var(axis=-1, ddof=1) / k if k > 1 else zero,
        columns.var(axis=-1, ddof=1) / g if g > 1 else zero,
        (residual**2).sum(axis=(-1, -2)) / ((k - 1) * (g - 1) * k * g) if k > 1 and g > 1 else zero,
    )


def t_test(value: float, se: float, df: float) -> float:
    """Return the two-sided p of zero; without any scatter, 1 for a value of zero and 0 for any other."""
    if se == 0:
        return float(value == 0)
    return float(2 * stats.t.sf(abs(value) / se, df))


def share_interval(estimate: Estimate, patients: int) -> tuple[float, float]:
    """Return the 95 % interval of a metric in [0, 1], by the delta method on the logit scale, so that it stays inside.

    At exactly 0 or 1 resamples show no scatter. There the bound is exact for ``patients`` patients with one outcome
    (Clopper & Pearson 1934).

    Args:
        estimate: of the metric.
        patients: number in the class that has fewer.
    """
    value = estimate.value
    open_end = (ALPHA / 2) ** (1 / patients)
    if value <= 0:
        return 0.0, 1 - open_end
    if value >= 1:
        return open_end, 1.0
    odds = value / (1 - value)
    factor = float(np.exp(stats.t.ppf(1 - ALPHA / 2, estimate.df) * estimate.se / (value * (1 - value))))
    return odds / (odds + factor), odds * factor / (odds * factor + 1)


def positive_interval(estimate: Estimate) -> tuple[float, float]:
    """Return the 95 % interval of a metric above 0, such as the NLL, on the log scale; [0, 0] for exactly 0."""
    if estimate.value <= 0:
        return 0.0, 0.0
    factor = float(np.exp(stats.t.ppf(1 - ALPHA / 2, estimate.df) * estimate.se / estimate.value))
    return estimate.value / factor, estimate.value * factor


def metric_interval(metric: str, estimate: Estimate, patients: int) -> tuple[float, float]:
    """Return the 95 % interval of a regime's metric; the NLL has no upper end, every other metric lies in [0, 1]."""
    return positive_interval(estimate) if metric == "nll" else share_interval(estimate, patients)


def family_p(estimate: Estimate) -> float:
    """Return the two-sided p of zero for a family of tests, which reads p at .05 / 4 and the like.

    Satterthwaite's degrees of freedom take the estimated shares of the variance for the true shares. If few seeds agree
    by luck, the degrees of freedom are too many. An interval hardly shows the error, but the tails do: of true nulls,
    up to 3.8 % had p < .0125. So p is the mean over the parts of the variance, each at its own degrees of freedom,
    weighted by share (Cochran & Cox 1950, Experimental Designs, average critical values so).
    """
    return sum(share * t_test(estimate.value, estimate.se, df) for share, df in estimate.shares)


def detectable_effect(estimate: Estimate, family: int | None = None) -> float:
    """Return the minimal detectable effect, which such a study finds with a probability of .8, by the noncentral t.

    The effect is as uncertain as the standard error.

    Args:
        estimate: gives the standard error and the degrees of freedom.
        family: number of tests that :func:`holm` adjusts for. The test is then Holm's worst case: :func:`family_p` at
            .05 / ``family``. None for an unadjusted test at .05.
    """
    if family is None:
        critical = float(stats.t.ppf(1 - ALPHA / 2, estimate.df))
    else:
        bounds = [float(stats.t.ppf(1 - ALPHA / family / 2, df)) for _, df in estimate.shares]

        def excess(t: float) -> float:
            return family_p(replace(estimate, value=t, se=1.0)) - ALPHA / family

        critical = float(brentq(excess, min(bounds), max(bounds))) if min(bounds) < max(bounds) else bounds[0]
    shift = brentq(lambda shift: stats.nct.sf(critical, estimate.df, shift) - POWER, 0, 3 * critical + 5)
    return float(shift) * estimate.se


def holm(p: Sequence[float]) -> list[float]:
    """Return the adjusted p of a family of tests.

    Rejecting below alpha keeps the family's error at alpha (Holm 1979, Scand. J. Stat. 6).
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return [float(v) for v in adjusted]


def delong(y_true: Array, left: Array, right: Array) -> DeLong:
    """Return DeLong's test of the difference of two AUROCs.

    DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44; by midranks as in Sun & Xu 2014, IEEE Sig. Proc. Lett. 21.

    Args:
        y_true: (n,) in {0, 1}, two or more of each.
        left: scores (n,).
        right: scores (n,).
    """
    positive = y_true == 1
    m, n = int(positive.sum()), int((~positive).sum())
    sides = []  # per image, the share of the other class in the right order with it
    for score in (left, right):
        ranks = stats.rankdata(score)
        above = (ranks[positive] - stats.rankdata(score[positive])) / n
        below = 1 - (ranks[~positive] - stats.rankdata(score[~positive])) / m
        sides.append((above, below))
    above, below = (a - b for a, b in zip(*sides, strict=True))
    value, se = float(above.mean()), float((above.var(ddof=1) / m + below.var(ddof=1) / n) ** 0.5)
    return DeLong(value, se, t_test(value, se, np.inf))


def mcnemar(left: Array, right: Array) -> McNemar:
    """Return McNemar's exact test of two sets of decisions (McNemar 1947, Psychometrika 12).

    Args:
        left: (n,) bool, whether each image was decided rightly.
        right: (n,) bool.
    """
    only_left, only_right = int((left & ~right).sum()), int((right & ~left).sum())
    n = only_left + only_right
    return McNemar(only_left, only_right, float(stats.binomtest(only_left, n).pvalue) if n else 1.0)
