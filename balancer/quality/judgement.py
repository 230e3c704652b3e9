"""What the figures of a quality report decide: whether classifiers can tell the images, and how varied these are.

The verdict in words (:mod:`balancer.quality.interpretation`) and the grade (:mod:`balancer.quality.grade`) both rest on
these decisions. The constants part one decision from the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import scipy

from balancer.metrics.chance import ALPHA
from balancer.metrics.features import is_untrained
from balancer.metrics.manifold import NEIGHBOURS, Manifold
from balancer.metrics.memorization import Memorization
from balancer.metrics.two_sample import chance_level
from balancer.quality.results import SYNTHETIC, DistanceRow, QualityReport, TwoSampleRow

HARD_TO_TELL = 0.6  # images are hard to tell from real ones if no AUROC's interval exceeds this
COLLAPSED = 0.1  # recall below this share of its real baseline, with poor coverage, means a collapsed generator
POOR = 0.5  # recall or coverage below this share of its real baseline is little
FEW = 10 * NEIGHBOURS  # images a side: among fewer, the neighbourhoods that recall counts by overlap widely
REPEATED = 0.1  # share of synthetic images that repeat one another from which the verdict says so
LikenessClaim = Literal["not tested", "apart", "below chance", "hard to tell", "not settled"]


@dataclass(frozen=True)
class Likeness:
    """Whether classifiers can tell the synthetic images from real ones.

    Attributes:
        best: the classifier that tells best; None if none was trained.
        apart: the classifiers that tell the sides apart, by what they see.
    """

    claim: LikenessClaim
    best: TwoSampleRow | None
    apart: dict[str, TwoSampleRow]


@dataclass(frozen=True)
class Variety:
    """How much of the variety of the real images the synthetic ones show, beside other real images.

    Attributes:
        n: images a side.
        little: recall is below POOR of its real baseline, and chance hardly gives so little.
        low: chance hardly gives so low a recall.
        repeated: many synthetic images repeat one another.
    """

    overlap: Manifold
    real: Manifold
    n: int
    little: bool
    low: bool
    collapsed: bool
    repeated: bool

    @property
    def few(self) -> bool:
        """Return whether there are too few images for a high recall to say much."""
        return self.n < FEW

    @property
    def recall_share(self) -> float:
        """Return recall as a share of its real baseline."""
        return over(self.overlap.recall, self.real.recall)

    @property
    def coverage_share(self) -> float:
        """Return coverage as a share of its real baseline."""
        return over(self.overlap.coverage, self.real.coverage)


def likeness(quality: QualityReport) -> Likeness:
    """Return whether classifiers can tell the images; what they reach on real images alone is chance as well."""
    tests = [t for t in quality.two_sample if t.compared == SYNTHETIC]
    real = controls(quality)
    apart = {t.on: t for t in tests if t.low > chance_level(real.get(t.on))}
    best = max(apart.values() or tests, key=lambda t: t.auroc, default=None)
    return Likeness(_claim(tests, bool(apart)), best, apart)


def _claim(tests: list[TwoSampleRow], apart: bool) -> LikenessClaim:
    if not tests:
        return "not tested"
    if apart:
        return "apart"
    if any(t.high < 0.5 for t in tests):
        return "below chance"
    return "hard to tell" if all(t.high <= HARD_TO_TELL for t in tests) else "not settled"


def variety(quality: QualityReport) -> Variety | None:
    """Return how varied the images are; None where recall has no real baseline."""
    r, m = next((r for r in main_rows(quality) if r.overlap and r.overlap_real_baseline), None), quality.memorization
    if r is None or r.overlap is None or r.overlap_real_baseline is None:
        return None
    overlap, real = r.overlap, r.overlap_real_baseline
    recall, coverage = over(overlap.recall, real.recall), over(overlap.coverage, real.coverage)
    repeated = m is not None and repeats(m)
    low = r.recall_chance is None or r.recall_chance.is_low
    little = recall < POOR and low
    # Recall alone is as low where all images are a little off; images that are far off cover nothing, however varied
    # they are.
    collapsed = little and recall < COLLAPSED and coverage < POOR
    collapsed = collapsed and (repeated or over(overlap.precision, real.precision) >= POOR)
    return Variety(overlap, real, r.n_real, little, low, collapsed, repeated)


def main_rows(quality: QualityReport) -> list[DistanceRow]:
    """Return the distances that the interpretation goes by: to the main reference, on trained networks.

    Where the synthetic images are the real ones, the full sets are compared, so that the distance is 0 as it should be.
    """
    rows = [r for r in quality.distances if r.reference == quality.reference]
    if quality.same_images:
        rows = [r for r in quality.distances if r.frechet_real_baseline is None] or rows
    return [r for r in rows if not is_untrained(r.features)] or rows


def controls(quality: QualityReport) -> dict[str, TwoSampleRow]:
    """Return the tests of real against real by what the classifier sees."""
    return {t.on: t for t in quality.two_sample if t.compared != SYNTHETIC}


def is_beyond_chance(r: DistanceRow, higher: bool) -> bool:
    """Return whether chance hardly gives a kernel distance so high, or so low."""
    if r.kid_chance is None:
        return True
    return r.kid_chance.is_high if higher else r.kid_chance.is_low


def over(value: float, baseline: float) -> float:
    """Return a figure as a multiple of its real baseline; real sets of equal blank images lie 0 apart."""
    return value / max(baseline, 1e-9)


def repeats(m: Memorization) -> bool:
    """Return whether many synthetic images repeat one another, and more than training patients do.

    Repetitions come in pairs, so half of them are independent: the test is Fisher's, on pairs.
    """
    if m.duplicates_within < REPEATED * m.n_fake:
        return False
    if m.train_duplicates is None or m.train_units is None:
        return True
    fake, real = m.duplicates_within // 2, m.train_duplicates // 2
    table = [[fake, m.n_fake // 2 - fake], [real, m.train_units // 2 - real]]
    return bool(scipy.stats.fisher_exact(table, alternative="greater").pvalue <= ALPHA)
