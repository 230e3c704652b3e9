"""What would settle an open question: how many trial seeds, or why more trial seeds would not."""

from __future__ import annotations

from collections.abc import Sequence

from balancer.reporting.numbers import plural, short
from classifier.analysis.contrasts import ContrastResult
from classifier.analysis.statistics import Estimate, critical_value, shares_of, variances_counted_once
from classifier.analysis.verdicts import MARGIN, UNSETTLED, short_margin

MOST_TRIAL_SEEDS = 100  # more are no plan
# What the largest part of the variance says, in the order of the parts.
LIMITS = ("the test set is too small", "trainings scatter too much", "it takes more GAN seeds")


def planned_variances(estimate: Estimate, trial_seeds: int) -> tuple[float, float, float]:
    """Return the parts of the variance by patients, trial seeds and GAN seeds in a study with more trial seeds.

    The variance of a mean over seeds falls as one over their number. So does the interaction of both kinds of seeds,
    which the GAN seeds' variance holds too. Patients and GAN seeds stay as they are.
    """
    e, fewer = estimate, estimate.n_trial_seeds / trial_seeds
    trial, both = fewer * e.trial_seeds, fewer * e.counted_twice
    return variances_counted_once(e.patients, trial, e.gan_seeds - e.counted_twice + both, both)


def planned_half_width(estimate: Estimate, trial_seeds: int) -> float:
    """Return half the width of the 95 % interval that a study with more trial seeds can expect.

    Args:
        estimate: of the study at hand.
        trial_seeds: of the larger study.
    """
    known = iter(df for _, df in estimate.shares)  # of the parts above 0
    now = (estimate.patients, estimate.trial_seeds, estimate.gan_seeds)
    patients_df, trial_df, gan_df = (next(known) if variance > 0 else 0 for variance in now)
    planned = planned_variances(estimate, trial_seeds)
    dfs = (patients_df, trial_df + trial_seeds - estimate.n_trial_seeds, gan_df)
    shares = shares_of(planned, dfs, sum(planned))
    return critical_value(shares) * sum(planned) ** 0.5 if shares else 0.0


def seeds_to_settle(estimate: Estimate, half_width: float = MARGIN) -> int | None:
    """Return the fewest trial seeds whose expected 95 % interval is as narrow; None if :data:`MOST_TRIAL_SEEDS` is not.

    Args:
        estimate: of the study at hand.
        half_width: of the interval, in units of the metric.
    """
    wanted = range(estimate.n_trial_seeds + 1, MOST_TRIAL_SEEDS + 1)
    return next((k for k in wanted if planned_half_width(estimate, k) < half_width), None)


def advice(results: Sequence[ContrastResult]) -> list[str]:
    """Return a sentence for each confirmatory contrast of a study that was tested and is not settled."""
    return [
        _sentence(result)
        for result in results
        if result.contrast.is_confirmatory and result.p is not None and result.verdict == UNSETTLED
    ]


def _sentence(result: ContrastResult) -> str:
    estimate, name = result.estimate, result.name
    seeds = seeds_to_settle(estimate)
    if seeds is not None:
        return (
            f"{name}: with {plural(seeds - estimate.n_trial_seeds, 'more trial seed')}, expect an interval narrower "
            f"than ±{short_margin()}, if seeds scatter as here."
        )
    left, parts = planned_half_width(estimate, MOST_TRIAL_SEEDS), planned_variances(estimate, MOST_TRIAL_SEEDS)
    return (
        f"{name}: more trial seeds alone would not make the interval narrower than ±{short_margin()}: "
        f"{LIMITS[parts.index(max(parts))]}. "
        f"With {MOST_TRIAL_SEEDS} trial seeds the interval would still be ±{short(left)}."
    )
