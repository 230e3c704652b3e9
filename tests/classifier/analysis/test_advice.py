"""Advice on open questions: the planned interval is that of a larger study, and limits are named."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from classifier.analysis.advice import advice, planned_half_width, seeds_to_settle
from classifier.analysis.contrasts import Contrast, ContrastResult
from classifier.analysis.statistics import Estimate, crossed_estimate

PATIENTS = 200
NOTHING = Estimate(0.0, 0.0, 1, 0.0, 0.0, 0.5, 3, 3, 0.0, 0.0, 0.0, 0.0, 0.0, ((1.0, 1),))


def test_seeds_alone_by_the_t_distribution() -> None:
    """All scatter is that of trial seeds: the interval is Student's, and the plan the first number that is enough."""
    estimate = replace(NOTHING, trial_seeds=0.02**2 / 3)  # an SD of .02
    widths = {k: stats.t.ppf(0.975, k - 1) * 0.02 / k**0.5 for k in range(4, 60)}
    for k, width in widths.items():
        assert planned_half_width(estimate, k, PATIENTS) == pytest.approx(width)
    assert seeds_to_settle(estimate, PATIENTS) == min(k for k, width in widths.items() if width < 0.01) == 18


def test_the_plan_meets_what_a_larger_study_finds() -> None:
    """Studies of 4 trial seeds expect, on average, the interval that studies of 20 have."""
    rng = np.random.default_rng(0)

    def study(k: int) -> Estimate:
        resamples = 0.004 * rng.standard_normal((401, 1, 1)) * (np.arange(401) > 0)[:, None, None]
        return crossed_estimate(resamples + 0.02 * rng.standard_normal((1, k, 1)), PATIENTS)

    planned = np.mean([planned_half_width(study(4), 20, PATIENTS) ** 2 for _ in range(300)]) ** 0.5
    seen = np.mean([((e.high - e.low) / 2) ** 2 for e in (study(20) for _ in range(300))]) ** 0.5
    assert planned == pytest.approx(seen, rel=0.1)


@pytest.mark.parametrize(
    ("variances", "words"),
    [
        ({"trial_seeds": 0.02**2 / 3}, "15 more trial seeds would settle a difference of .01"),
        ({"patients": 0.01**2, "trial_seeds": 1e-6}, "the test set is too small"),
        ({"gan_seeds": 0.01**2, "trial_seeds": 1e-6}, "it takes more GAN seeds"),
    ],
)
def test_what_limits_a_study_is_said(variances: dict[str, float], words: str) -> None:
    contrast = Contrast("gan - baseline", "confirmatory", {"gan": 1.0, "baseline": -1.0}, "gan", "baseline")
    open_question = ContrastResult(contrast, replace(NOTHING, **variances), 0.4, 0.4, None, "not settled")
    (sentence,) = advice([open_question], PATIENTS)
    assert sentence.startswith("gan - baseline: ")
    assert words in sentence
    settled = [replace(open_question, verdict=v) for v in ("helps", "hurts", "small", "no benefit")]
    untested = replace(open_question, p=None, p_holm=None)
    leads = replace(open_question, contrast=replace(contrast, family="exploratory"))
    assert advice([*settled, untested, leads], PATIENTS) == []
    assert seeds_to_settle(open_question.estimate, PATIENTS) in (None, 18)
