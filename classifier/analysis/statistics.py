"""Statistics of an ablation: pure functions of arrays. docs/statistics.md says what is estimated and how it was checked.

Resampled figures come as arrays whose first row is the sample itself and whose other rows are resamples: one function gives both.
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
FEWEST_GAN_SEEDS = 3  # with fewer, the synthetic sets are a fixed choice and not a sample of what the GAN makes


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
    """A mean over trial seeds and GAN seeds with its standard error, t interval and test of zero.

    ``patients``, ``trial_seeds`` and ``gan_seeds`` are variances of the mean, each factor's with all that it shares with the
    others; their sum less ``counted_twice`` is ``se`` squared. ``p`` belongs to the interval: below .05 where that leaves out 0.
    """

    value: float
    se: float
    df: float
    low: float
    high: float
    p: float
    n_trial_seeds: int
    n_gan_seeds: int
    seed_sd: float | None  # SD of the means per trial seed; None with one
    patients: float
    trial_seeds: float
    gan_seeds: float
    counted_twice: float
    shares: tuple[tuple[float, int], ...]  # of the variance, once all is counted once, each with its degrees of freedom


def crossed_estimate(values: Array, patients: int) -> Estimate:
    """Mean of a figure, or of a contrast of figures, over cells of trial seed x GAN seed on one test set of patients.

    Patients, trial seeds and GAN seeds are crossed random factors. The scatter over seeds was measured on these patients,
    so it holds already what patients do differently from seed to seed; added to it is only what they do alike under all
    seeds: the variance over resamples of patients, less the part that differs between seeds (counting once what two factors
    share is the rule of Cameron, Gelbach & Miller 2011, JBES 29; for crossed factors see Owen 2007, Ann. Appl. Stat. 1). No
    part is taken as less than 0. The t interval has Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2). One or
    two GAN seeds are fixed: no variance is added for them, and the mean speaks for these synthetic sets only. With one trial
    seed there is no scatter to see: the interval is over patients alone.

    Args:
        values: (1 + resamples, K, G): the sample itself, then resamples of patients.
        patients: in the class that has fewer of them; one less is the degrees of freedom of their share.
    """
    n_gan_seeds = values.shape[2]
    if n_gan_seeds < FEWEST_GAN_SEEDS:
        values = values.mean(axis=2, keepdims=True)
    observed, deviation = values[0], values[1:] - values[1:].mean(axis=0)
    by_patient = float(deviation.mean(axis=(1, 2)).var(ddof=1))
    trial, gan, both = (float(v) for v in _seed_variances(observed))
    rescale = len(deviation) / (len(deviation) - 1)
    with_trial, with_gan, with_both = (float(v.mean()) * rescale for v in _seed_variances(deviation))
    alike = max(by_patient - with_trial - with_gan + with_both, 0.0)
    of_trial, of_gan = _seeds_once(trial, gan, both)
    variance = alike + of_trial + of_gan
    k, g = observed.shape
    parts = [(v, df) for v, df in ((alike, patients - 1), (of_trial, k - 1), (of_gan, g - 1)) if v > 0]
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
    """What trial seeds and GAN seeds contribute, their interaction counted once; together no less than either alone shows."""
    if both >= min(trial, gan):
        return (trial, 0.0) if trial >= gan else (0.0, gan)
    scale = (trial + gan - both) / (trial + gan)
    return trial * scale, gan * scale


def _seed_variances(values: Array) -> tuple[Array, Array, Array]:
    """Variances (...) of the mean of ``values`` (..., K, G) that rows, columns and their interaction show; 0 where one is alone."""
    k, g = values.shape[-2:]
    rows, columns = values.mean(axis=-1), values.mean(axis=-2)
    left = values - rows[..., :, None] - columns[..., None, :] + values.mean(axis=(-1, -2))[..., None, None]
    nothing = np.zeros(values.shape[:-2])
    return (
        rows.var(axis=-1, ddof=1) / k if k > 1 else nothing,
        columns.var(axis=-1, ddof=1) / g if g > 1 else nothing,
        (left**2).sum(axis=(-1, -2)) / ((k - 1) * (g - 1) * k * g) if k > 1 and g > 1 else nothing,
    )


def t_test(value: float, se: float, df: float) -> float:
    """Two-sided p of zero; with no scatter at all it is 1 for zero and 0 for anything else."""
    if se == 0:
        return float(value == 0)
    return float(2 * stats.t.sf(abs(value) / se, df))


def share_interval(estimate: Estimate, patients: int) -> tuple[float, float]:
    """95 % interval of a figure in [0, 1], made on the logit scale by the delta method, so that it stays inside.

    At exactly 0 or 1 no resample shows any scatter; there the bound is the exact one for ``patients`` patients who all
    come out alike (Clopper & Pearson 1934), patients being those of the class that has fewer.
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
    """95 % interval of a figure above 0, such as a likelihood, made on the log scale; [0, 0] for exactly 0."""
    if estimate.value <= 0:
        return 0.0, 0.0
    factor = float(np.exp(stats.t.ppf(1 - ALPHA / 2, estimate.df) * estimate.se / estimate.value))
    return estimate.value / factor, estimate.value * factor


def metric_interval(metric: str, estimate: Estimate, patients: int) -> tuple[float, float]:
    """The 95 % interval of a regime's own figure: of the NLL, which has no upper end, on the log scale, else of a share."""
    return positive_interval(estimate) if metric == "nll" else share_interval(estimate, patients)


def family_p(estimate: Estimate) -> float:
    """Two-sided p of zero for a family of tests, which reads it at .05 / 4 and the like.

    Satterthwaite's degrees of freedom take the estimated shares of the variance for the true ones. Where few seeds agree by
    luck that is too many, which an interval hardly shows but the tails do: of true nulls, up to 3.8 % had p < .0125. So p
    is averaged here over the parts of the variance, each at its own degrees of freedom, by share: as Cochran & Cox (1950,
    Experimental Designs) average critical values. docs/statistics.md compares.
    """
    return sum(share * t_test(estimate.value, estimate.se, df) for share, df in estimate.shares)


def detectable_effect(estimate: Estimate, family: int | None = None) -> float:
    """The effect that such a study finds with a probability of .8: the minimal detectable effect, by the noncentral t.

    It is as uncertain as the standard error that it is made of.

    Args:
        family: how many tests :func:`holm` adjusts for; finding it then means in the worst case, at .05 / ``family``, by
            :func:`family_p`. None for an unadjusted test at .05.
    """
    if family is None:
        critical = float(stats.t.ppf(1 - ALPHA / 2, estimate.df))
    else:
        alone = [float(stats.t.ppf(1 - ALPHA / family / 2, df)) for _, df in estimate.shares]

        def excess(t: float) -> float:
            return family_p(replace(estimate, value=t, se=1.0)) - ALPHA / family

        critical = float(brentq(excess, min(alone), max(alone))) if min(alone) < max(alone) else alone[0]
    shift = brentq(lambda shift: stats.nct.sf(critical, estimate.df, shift) - POWER, 0, 3 * critical + 5)
    return float(shift) * estimate.se


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p of a family of tests: rejecting below alpha keeps its error at alpha (Holm 1979, Scand. J. Stat. 6)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return [float(v) for v in adjusted]


def delong(y_true: Array, left: Array, right: Array) -> DeLong:
    """Difference of two AUROCs on the same images, its standard error and two-sided p, images taken as independent.

    DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44; by midranks as in Sun & Xu 2014, IEEE Sig. Proc. Lett. 21.

    Args:
        y_true: (n,) in {0, 1}, two or more of each.
        left, right: scores (n,).
    """
    positive = y_true == 1
    m, n = int(positive.sum()), int((~positive).sum())
    sides = []  # per image, the share of the other class that it is in the right order with
    for score in (left, right):
        ranks = stats.rankdata(score)
        above = (ranks[positive] - stats.rankdata(score[positive])) / n
        below = 1 - (ranks[~positive] - stats.rankdata(score[~positive])) / m
        sides.append((above, below))
    above, below = (a - b for a, b in zip(*sides, strict=True))
    value, se = float(above.mean()), float((above.var(ddof=1) / m + below.var(ddof=1) / n) ** 0.5)
    return DeLong(value, se, t_test(value, se, np.inf))


def mcnemar(left: Array, right: Array) -> McNemar:
    """(right under ``left`` alone, right under ``right`` alone, exact two-sided p) of two sets of decisions.

    McNemar 1947, Psychometrika 12; exact binomial, images taken as independent.

    Args:
        left, right: booleans (n,), whether each image was decided rightly.
    """
    only_left, only_right = int((left & ~right).sum()), int((right & ~left).sum())
    n = only_left + only_right
    return McNemar(only_left, only_right, float(stats.binomtest(only_left, n).pvalue) if n else 1.0)
