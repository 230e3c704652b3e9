"""Statistics of an ablation: pure functions of arrays. See docs/statistics.md for the method and how it was checked.

In arrays of resampled metrics, the first row is the sample itself and the other rows are resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy

Array = np.ndarray
Shares = tuple[tuple[float, int], ...]  # of a variance, with degrees of freedom
ALPHA = 0.05
POWER = 0.8
FEWEST_TRIAL_SEEDS = 3  # fewer do not show how trainings scatter: an estimate, but no test and no verdict
ROUNDING = 1e-12  # of a metric; a smaller SD is none
MOST_POOLED = 4  # degrees of freedom that the other regimes' scatter counts for, at most
FEWEST_GAN_SEEDS = 3  # fewer synthetic sets are a fixed choice, not a sample of what the GAN makes


@dataclass(frozen=True)
class Estimate:
    """A mean over trial seeds and GAN seeds, with its interval and its test of zero.

    ``patients`` is the variance of the mean over resamples of patients. Each other variance is what seeds add to the
    mean's variance beyond it. So the sum of the variances less ``counted_twice`` is the square of ``se``.
    """

    value: float
    se: float
    df: float  # Satterthwaite's; says how well ``se`` is known
    low: float  # 95 % interval
    high: float
    p: float  # two-sided; below .05 if and only if the interval leaves out 0
    n_trial_seeds: int
    n_gan_seeds: int
    seed_sd: float | None  # SD of the means per trial seed; None for one trial seed
    patients: float  # variance
    trial_seeds: float  # variance
    gan_seeds: float  # variance
    counted_twice: float  # variance: both kinds of seeds hold their interaction
    shares: Shares


@dataclass(frozen=True)
class SeedScatter:
    """What seeds add to the variance beyond the patients' part, pooled over the regimes of a study.

    A variance is of a single seed. It may lie below 0 by chance.
    """

    trial_seeds: float  # variance
    trial_df: int  # weight in degrees of freedom; 0 for a study that cannot tell
    gan_seeds: float  # variance
    gan_df: int

    def of_contrast(self, squares: float, synthetic: Sequence[float]) -> SeedScatter:
        """Return the scatter of a contrast, for seeds that move each regime by itself.

        Regimes with synthetic images train on the same images, so a GAN seed may move them together. In a difference
        of such regimes that cancels. In a sum it adds up, and the pool would be too small. A sum has no pool of GAN
        seeds.

        Args:
            squares: sum of the squared coefficients.
            synthetic: coefficients of the regimes with synthetic images.
        """
        alone, together = sum(weight**2 for weight in synthetic), sum(synthetic) ** 2
        return replace(
            self,
            trial_seeds=squares * self.trial_seeds,
            gan_seeds=alone * self.gan_seeds,
            gan_df=0 if together > alone else self.gan_df,
        )


UNPOOLED = SeedScatter(0.0, 0, 0.0, 0)


def crossed_estimate(
    values: Array, patients: int, scatter: SeedScatter = UNPOOLED, limit: float | None = None
) -> Estimate:
    """Return the mean of a metric, or of a contrast, over cells of trial seed x GAN seed on one test set.

    Patients, trial seeds and GAN seeds are crossed random factors (Owen 2007, Ann. Appl. Stat. 1). The variance is the
    patients' part plus what each kind of seeds adds to it, never less than 0. The scatter over a few seeds is moderated
    by ``scatter``, that of the study's other regimes (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3). One or two GAN
    seeds are a fixed choice and add no variance. One trial seed shows no scatter over seeds: the interval is over
    patients alone.

    Args:
        values: (1 + resamples, K, G): the sample itself, then resamples of patients.
        patients: number in the class that has fewer; their share has one degree of freedom less.
        scatter: of single seeds, in the units of ``values``.
        limit: the largest absolute value that is possible; None if there is no such limit.
    """
    n_gan_seeds = values.shape[2]
    values = _with_fixed_sets(values)
    observed, deviation = values[0], values[1:] - values[1:].mean(axis=0)
    k, g = observed.shape
    by_patient = _beyond_rounding(float(deviation.mean(axis=(1, 2)).var(ddof=1)))
    trial, gan, both = _beyond_patients(values)
    trial, trial_df = _moderated(trial, k - 1, scatter.trial_seeds / k, scatter.trial_df)
    gan, gan_df = _moderated(gan, g - 1, scatter.gan_seeds / g, scatter.gan_df if g > 1 else 0)
    both = min(max(both, 0.0), trial, gan)
    variance = by_patient + trial + gan - both
    parts = variances_counted_once(by_patient, trial, gan, both)
    shares = shares_of(parts, (patients - 1, trial_df, gan_df), variance) or ((1.0, patients - 1),)
    value, se = float(observed.mean()), variance**0.5
    half = critical_value(shares) * se
    estimate = Estimate(
        value=value,
        se=se,
        df=1 / sum(share**2 / df for share, df in shares),
        low=value - half,
        high=value + half,
        p=mean_p(value, se, shares),
        n_trial_seeds=k,
        n_gan_seeds=n_gan_seeds,
        seed_sd=float(observed.mean(axis=1).std(ddof=1)) if k > 1 else None,
        patients=by_patient,
        trial_seeds=trial,
        gan_seeds=gan,
        counted_twice=both,
        shares=shares,
    )
    return estimate if limit is None else _widened(estimate, patients, limit)


def variances_counted_once(patients: float, trial: float, gan: float, both: float) -> tuple[float, float, float]:
    """Return the parts of a variance by patients, trial seeds and GAN seeds, which add up to the variance.

    Args:
        patients: the patients' part.
        trial: what trial seeds add, with the interaction.
        gan: what GAN seeds add, with the interaction.
        both: the interaction of both kinds of seeds, which their parts share in proportion.
    """
    once = (trial + gan - both) / (trial + gan) if trial + gan > 0 else 1.0
    return patients, once * trial, once * gan


def shares_of(parts: Sequence[float], dfs: Sequence[int], variance: float) -> Shares:
    """Return the share of each part above 0 in a variance, with its degrees of freedom; none if no part is above 0."""
    return tuple((part / variance, df) for part, df in zip(parts, dfs, strict=True) if part > 0)


def pooled_scatter(values: Array, synthetic: Sequence[bool]) -> SeedScatter:
    """Return how much seeds scatter in the regimes of a study, beyond the patients' part.

    What a trial seed does to all regimes alike is left out, since it cancels in contrasts. No pool counts for more than
    :data:`MOST_POOLED` degrees of freedom, because regimes need not scatter alike. A contrast has two regimes of its
    own, so a pool of R regimes adds the degrees of freedom of R - 2.

    Args:
        values: (1 + resamples, R, K, G), a regime without synthetic images repeated over the sets.
        synthetic: (R,) whether the regime uses synthetic images.
    """
    regimes, k = values.shape[1:3]
    by_seed = np.moveaxis(values.mean(axis=3), 1, 2)
    trial = _beyond_patients(by_seed)[2] * k * regimes if min(k, regimes) > 1 else 0.0
    trial_df = min(MOST_POOLED, max(regimes - 2, 0) * (k - 1))
    sets = _with_fixed_sets(values[:, np.asarray(synthetic)].mean(axis=2))
    g = sets.shape[2]
    of_each = [_beyond_patients(sets[:, [i]])[1] * g for i in range(sets.shape[1])]
    gan_df = min(MOST_POOLED, max(len(of_each) - 1, 0) * (g - 1))
    return SeedScatter(trial, trial_df, float(np.mean(of_each)) if of_each else 0.0, gan_df)


def _with_fixed_sets(values: Array) -> Array:
    """Return the values (..., G), averaged over the last axis if the sets are too few for a sample."""
    return values.mean(axis=-1, keepdims=True) if values.shape[-1] < FEWEST_GAN_SEEDS else values


def _beyond_patients(values: Array) -> tuple[float, float, float]:
    """Return the variances of the mean of (1 + resamples, K, G) by trial seeds, GAN seeds and their interaction.

    Each is less the part that resamples of patients show too, and may lie below 0.
    """
    deviation = values[1:] - values[1:].mean(axis=0)
    rescale = len(deviation) / (len(deviation) - 1)
    seen, explained = _seed_variances(values[0]), _seed_variances(deviation)
    trial, gan, both = (float(s - rescale * e.mean()) for s, e in zip(seen, explained, strict=True))
    return trial, gan, both


def _moderated(variance: float, df: int, pooled: float, pooled_df: int) -> tuple[float, int]:
    """Return the mean of two variances, weighted by degrees of freedom and never below 0, and their sum."""
    total = df + pooled_df
    return (_beyond_rounding((df * variance + pooled_df * pooled) / total), total) if total else (0.0, 0)


def _beyond_rounding(variance: float) -> float:
    """Return the variance, or 0 where an SD is what floating point makes of equal values."""
    return variance if variance > ROUNDING**2 else 0.0


def _widened(estimate: Estimate, patients: int, limit: float) -> Estimate:
    """Return the estimate with its interval inside the limit, and with at least the scatter of patients all alike.

    If no resample differs, as among perfect classifiers, the patients' scatter is unknown rather than nothing. The
    interval is then at least the exact one of as many patients without a single exception (Clopper & Pearson 1934).
    """
    value, low, high, p = estimate.value, estimate.low, estimate.high, estimate.p
    if estimate.patients == 0:
        half = limit * (1 - (ALPHA / 2) ** (1 / patients))
        low, high = min(low, value - half), max(high, value + half)
        p = max(p, min(1.0, 2 * (1 - min(abs(value) / limit, 1.0)) ** patients))
    return replace(estimate, low=max(low, -limit), high=min(high, limit), p=p)


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


def mean_p(value: float, se: float, shares: Shares) -> float:
    """Return the two-sided p of zero: the mean over the parts of the variance, each at its own degrees of freedom.

    The parts weigh by their shares (Cochran & Cox 1950, Experimental Designs, average critical values so).
    Satterthwaite's degrees of freedom (1946) take the estimated shares for the true ones. If few seeds agree by luck,
    the degrees of freedom are too many, and the tails are too thin.
    """
    return sum(share * t_test(value, se, df) for share, df in shares)


def critical_value(shares: Shares, alpha: float = ALPHA) -> float:
    """Return how many standard errors a value must lie from zero for :func:`mean_p` to be ``alpha``."""
    bounds = [float(scipy.special.stdtrit(df, 1 - alpha / 2)) for _, df in shares]
    if min(bounds) == max(bounds):
        return bounds[0]

    def excess(t: float) -> float:
        return float(sum(share * 2 * scipy.special.stdtr(df, -t) for share, df in shares)) - alpha

    return float(scipy.optimize.brentq(excess, 0.999 * min(bounds), 1.001 * max(bounds), xtol=1e-12))


def t_test(value: float, se: float, df: float) -> float:
    """Return the two-sided p of zero; without any scatter, 1 for a value of zero and 0 for any other."""
    if se == 0:
        return float(value == 0)
    return float(2 * scipy.stats.t.sf(abs(value) / se, df))


def share_interval(estimate: Estimate, patients: int, most: float = 1.0) -> tuple[float, float]:
    """Return the 95 % interval of a metric in [0, most], by the delta method on the logit scale: it stays inside.

    At exactly 0 or 1 resamples show no scatter. There the bound is exact for ``patients`` patients with one outcome
    (Clopper & Pearson 1934).

    Args:
        estimate: of the metric.
        patients: number in the class that has fewest.
        most: the largest value of the metric.
    """
    value, se = estimate.value / most, estimate.se / most
    open_end = (ALPHA / 2) ** (1 / patients)
    if value <= 0:
        return 0.0, most * (1 - open_end)
    if value >= 1:
        return most * open_end, most
    odds = value / (1 - value)
    factor = float(np.exp(critical_value(estimate.shares) * se / (value * (1 - value))))
    return most * (odds / (odds + factor)), most * (odds * factor / (odds * factor + 1))


def positive_interval(estimate: Estimate) -> tuple[float, float]:
    """Return the 95 % interval of a metric above 0, such as the NLL, on the log scale; [0, 0] for exactly 0."""
    if estimate.value <= 0:
        return 0.0, 0.0
    factor = float(np.exp(critical_value(estimate.shares) * estimate.se / estimate.value))
    return estimate.value / factor, estimate.value * factor


def interval_with(estimate: Estimate, variance: float, df: int) -> tuple[float, float]:
    """Return the 95 % interval of an estimate whose variance has one more part, with its degrees of freedom."""
    if variance <= 0:
        return estimate.low, estimate.high
    total = estimate.se**2 + variance
    known = [(share * estimate.se**2, of) for share, of in estimate.shares]
    shares = shares_of([*(part for part, _ in known), variance], [*(of for _, of in known), df], total)
    half = critical_value(shares) * float(total**0.5)
    return min(estimate.low, estimate.value - half), max(estimate.high, estimate.value + half)


def largest_value(metric: str, classes: int = 2) -> float | None:
    """Return the largest value of a test metric; None for the NLL, which has none."""
    if metric == "nll":
        return None
    return 2.0 if metric == "brier" and classes > 2 else 1.0  # summed over several classes, the Brier score reaches 2


def metric_interval(metric: str, estimate: Estimate, patients: int, classes: int = 2) -> tuple[float, float]:
    """Return the 95 % interval of a regime's metric, from 0 to its largest value."""
    most = largest_value(metric, classes)
    return positive_interval(estimate) if most is None else share_interval(estimate, patients, most)


def detectable_effect(estimate: Estimate, family: int | None = None) -> float:
    """Return the minimal detectable effect, which such a study finds with a probability of .8, by the noncentral t.

    The effect is as uncertain as the standard error.

    Args:
        estimate: gives the standard error, the shares of the variance and the degrees of freedom.
        family: number of tests that :func:`holm` adjusts for; the test is then Holm's worst case, at .05 / ``family``.
            None for an unadjusted test at .05.
    """
    critical = critical_value(estimate.shares, ALPHA / (family or 1))
    noncentral = scipy.stats.nct
    shift = scipy.optimize.brentq(lambda s: noncentral.sf(critical, estimate.df, s) - POWER, 0, 3 * critical + 5)
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
