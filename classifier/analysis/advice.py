"""What would settle an open question: how many trial seeds, or why more trial seeds would not."""

from __future__ import annotations

from collections.abc import Sequence

from balancer.reporting.numbers import plural, short
from classifier.analysis.contrasts import ContrastResult
from classifier.analysis.statistics import Estimate, critical_value
from classifier.analysis.verdicts import MARGIN, UNSETTLED, short_margin

MOST_TRIAL_SEEDS = 100  # more are no plan


def planned_half_width(estimate: Estimate, trial_seeds: int, patients: int) -> float:
    """Return half the width of the 95 % interval that a study with more trial seeds can expect.

    The variance of a mean over seeds falls as one over their number. Patients and GAN seeds stay as they are.

    Args:
        estimate: of the study at hand.
        trial_seeds: of the larger study.
        patients: of the test set, in the class that has fewer.
    """
    e = estimate
    fewer = e.n_trial_seeds / trial_seeds
    trial, both = fewer * e.trial_seeds, fewer * e.counted_twice
    variance = e.patients + trial + e.gan_seeds - both
    parts = [(e.patients, patients - 1), (trial - both, trial_seeds - 1), (e.gan_seeds, max(e.n_gan_seeds - 1, 1))]
    shares = tuple((v / variance, df) for v, df in parts if v > 0)
    return critical_value(shares) * variance**0.5 if shares else 0.0


def seeds_to_settle(estimate: Estimate, patients: int, half_width: float = MARGIN) -> int | None:
    """Return the fewest trial seeds whose expected 95 % interval is as narrow; None if :data:`MOST_TRIAL_SEEDS` is not.

    Args:
        estimate: of the study at hand.
        patients: of the test set, in the class that has fewer.
        half_width: of the interval, in units of the metric.
    """
    wanted = range(estimate.n_trial_seeds + 1, MOST_TRIAL_SEEDS + 1)
    return next((k for k in wanted if planned_half_width(estimate, k, patients) < half_width), None)


def advice(results: Sequence[ContrastResult], patients: int) -> list[str]:
    """Return a sentence for each confirmatory contrast that was tested and is not settled.

    Args:
        results: contrasts of a study.
        patients: of the test set, in the class that has fewer.
    """
    return [
        _sentence(result, patients)
        for result in results
        if result.contrast.is_confirmatory and result.p is not None and result.verdict == UNSETTLED
    ]


def _sentence(result: ContrastResult, patients: int) -> str:
    e, name = result.estimate, result.name
    seeds = seeds_to_settle(e, patients)
    if seeds is not None:
        return (
            f"{name}: {plural(seeds - e.n_trial_seeds, 'more trial seed')} would settle a difference of "
            f"{short_margin()}, if seeds scatter as here."
        )
    left = planned_half_width(e, MOST_TRIAL_SEEDS, patients)
    limit = "the test set is too small" if e.patients >= e.gan_seeds else "it takes more GAN seeds"
    return (
        f"{name}: more trial seeds alone would not settle a difference of {short_margin()}: {limit}. "
        f"With {MOST_TRIAL_SEEDS} trial seeds the interval would still be ±{short(left)}."
    )
