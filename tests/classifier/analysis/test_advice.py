"""Advice on open questions: the planned interval is that of a larger study, and limits are named."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from classifier.analysis.advice import advice, planned_half_width, planned_variances, seeds_to_settle
from classifier.analysis.contrasts import Contrast, ContrastResult
from classifier.analysis.statistics import UNPOOLED, Estimate, SeedScatter, crossed_estimate

PATIENTS = 200


def estimate_of(patients: float = 0.0, trial_seeds: float = 0.0, gan_seeds: float = 0.0) -> Estimate:
    """Of three trial seeds and three GAN seeds, with these variances of the mean."""
    variance = patients + trial_seeds + gan_seeds
    parts = ((patients, PATIENTS - 1), (trial_seeds, 2), (gan_seeds, 2))
    shares = tuple((v / variance, df) for v, df in parts if v > 0)
    return Estimate(0.0, variance**0.5, 1, 0.0, 0.0, 0.5, 3, 3, 0.0, patients, trial_seeds, gan_seeds, 0.0, shares)


def drawn_study(
    rng: np.random.Generator, k: int, g: int, gan: float, both: float, scatter: SeedScatter = UNPOOLED
) -> Estimate:
    """SDs: .004 of patients, .02 of trial seeds, those that are given of GAN seeds and of the interaction."""
    resamples = 0.004 * rng.standard_normal((401, 1, 1)) * (np.arange(401) > 0)[:, None, None]
    cells = 0.02 * rng.standard_normal((1, k, 1)) + gan * rng.standard_normal((1, 1, g))
    return crossed_estimate(resamples + cells + both * rng.standard_normal((1, k, g)), PATIENTS, scatter)


def half_width(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / 2


def test_seeds_alone_by_the_t_distribution() -> None:
    """All scatter is that of trial seeds: the interval is Student's, and the plan the first number that is enough."""
    estimate = estimate_of(trial_seeds=0.02**2 / 3)  # an SD of .02
    widths = {k: stats.t.ppf(0.975, k - 1) * 0.02 / k**0.5 for k in range(4, 60)}
    for k, width in widths.items():
        assert planned_half_width(estimate, k) == pytest.approx(width)
    assert seeds_to_settle(estimate) == min(k for k, width in widths.items() if width < 0.01) == 18


@pytest.mark.parametrize("scatter", [UNPOOLED, SeedScatter(0.015**2, 4, 0.01**2, 2)])
@pytest.mark.parametrize("g", [1, 3])
def test_a_plan_of_as_many_seeds_is_the_study_itself(g: int, scatter: SeedScatter) -> None:
    """With and without GAN seeds, their interaction, and the scatter of other regimes."""
    estimates = [drawn_study(np.random.default_rng(seed), 4, g, 0.01, 0.03, scatter) for seed in range(10)]
    assert any(estimate.counted_twice > 0 for estimate in estimates) == (g == 3)
    for estimate in estimates:
        assert planned_half_width(estimate, 4) == pytest.approx(half_width(estimate))


def test_the_plan_meets_what_a_larger_study_finds() -> None:
    """Studies of 4 trial seeds expect, on average, the interval that studies of 20 have."""
    rng = np.random.default_rng(0)
    studies = {k: [drawn_study(rng, k, 1, 0.0, 0.0) for _ in range(300)] for k in (4, 20)}
    planned = np.mean([planned_half_width(estimate, 20) ** 2 for estimate in studies[4]]) ** 0.5
    seen = np.mean([half_width(estimate) ** 2 for estimate in studies[20]]) ** 0.5
    assert planned == pytest.approx(seen, rel=0.1)


@pytest.mark.parametrize("k", [4, 9, 20])
def test_an_interaction_with_gan_seeds_shrinks_with_the_trial_seeds(k: int) -> None:
    """The variance of the mean of k x 3 cells in a crossed design, from the variances of single seeds and cells."""
    patients, trial, gan, both = 1e-5, 4e-4, 9e-4, 25e-4
    estimate = replace(
        estimate_of(patients, trial / 3 + both / 9, gan / 3 + both / 9), counted_twice=both / 9
    )  # of three trial seeds and three GAN seeds
    planned = planned_variances(estimate, k)
    assert sum(planned) == pytest.approx(patients + trial / k + gan / 3 + both / (3 * k))
    width = planned_half_width(estimate, k)
    standard_errors = width / sum(planned) ** 0.5
    tails = sum(
        part * 2 * stats.t.sf(standard_errors, df) for part, df in zip(planned, (PATIENTS - 1, k - 1, 2), strict=True)
    )
    assert tails == pytest.approx(0.05 * sum(planned))


@pytest.mark.parametrize(
    ("variances", "seeds", "words"),
    [
        ({"trial_seeds": 0.02**2 / 3}, 18, "with 15 more trial seeds, expect an interval narrower than ±.01"),
        ({"patients": 0.01**2, "trial_seeds": 1e-6}, None, "the test set is too small"),
        ({"gan_seeds": 0.01**2, "trial_seeds": 1e-6}, None, "it takes more GAN seeds"),
        ({"patients": 0.001**2, "trial_seeds": 0.1**2}, None, "trainings scatter too much"),
    ],
)
def test_what_limits_a_study_is_said(variances: dict[str, float], seeds: int | None, words: str) -> None:
    contrast = Contrast("gan - baseline", "confirmatory", {"gan": 1.0, "baseline": -1.0}, "gan", "baseline")
    open_question = ContrastResult(contrast, estimate_of(**variances), 0.4, 0.4, None, "not settled")
    (sentence,) = advice([open_question])
    assert sentence.startswith("gan - baseline: ")
    assert words in sentence
    settled = [replace(open_question, verdict=v) for v in ("helps", "hurts", "small", "no benefit")]
    untested = replace(open_question, p=None, p_holm=None)
    leads = replace(open_question, contrast=replace(contrast, family="exploratory"))
    assert advice([*settled, untested, leads]) == []
    assert seeds_to_settle(open_question.estimate) == seeds
