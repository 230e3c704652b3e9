"""What a learning curve shows: the contrasts at each size, tested together, and what a synthetic image is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from balancer.core.files import JsonObject
from balancer.metrics.resampling import CONFIDENCE, RESAMPLES
from balancer.reporting.numbers import listed
from classifier.analysis import statistics, verdicts
from classifier.analysis.analyse import Analysis, ResampledStudy, analyse
from classifier.analysis.contrasts import ADJUSTED, ContrastResult
from classifier.analysis.results import StudyResults
from classifier.learning_curve.steps import FinishedPoint

Array = np.ndarray
PAIRS = (("gan", "baseline"), ("combined", "augment"))  # whose gain is put in real images
FEWEST_SIZES = 3  # by which a curve of real images is drawn


@dataclass(frozen=True)
class SizeResult:
    """The analysis at one size. Holm's correction of its contrasts is over all sizes."""

    name: str  # 50, or all
    minority: int  # training images of the smallest class, as many as whole patients give
    added: int  # synthetic images that fill the deficit
    analysis: Analysis

    def contrast(self, name: str) -> ContrastResult | None:
        """Return a contrast by its name; None if the study has none."""
        return next((c for c in self.analysis.contrasts if c.name == name), None)


@dataclass(frozen=True)
class Worth:
    """The number of real images of the smallest class that would give what a regime with synthetic images gives.

    The interval is over resamples of test patients; seeds are not in it. A bound at an end of the curve is open: the
    curve of real images has no sizes beyond.
    """

    regime: str
    size: str
    minority: int
    added: int
    real: float
    low: float
    high: float
    smallest: int  # sizes at the ends of the curve
    largest: int

    def describe(self) -> str:
        """Return a sentence."""
        low, high = (self._end(value) for value in (self.low, self.high))
        return (
            f"{self.regime} at {self.minority:,} real images ({self.added:,} synthetic added): as"
            f" {self._end(self.real)} real images, 95 % interval {low} to {high} over test patients"
        )

    def _end(self, value: float) -> str:
        if value <= self.smallest:
            return f"at most {self.smallest:,}"
        return f"at least {self.largest:,}" if value >= self.largest else f"{value:,.0f}"


@dataclass(frozen=True)
class Curve:
    """A study at one size or at several, the smallest first."""

    sizes: list[SizeResult]
    worth: list[Worth]

    def names_of(self, family: str) -> list[str]:
        """Return the names of the contrasts of a family that the sizes have."""
        return list(
            dict.fromkeys(c.name for s in self.sizes for c in s.analysis.contrasts if c.contrast.family == family)
        )

    @property
    def contrast_names(self) -> list[str]:
        """Return the names of the confirmatory contrasts."""
        return self.names_of("confirmatory")

    @property
    def verdict(self) -> str:
        """Return the answer in a paragraph: that of the ablation for one size, else where on the curve it helps."""
        if len(self.sizes) == 1:
            return self.sizes[0].analysis.verdict
        results = [c for size in self.sizes for c in size.analysis.contrasts]
        return " ".join([*(_along(self, name) for name in self.contrast_names), *verdicts.on_the_shortcut(results)])

    @property
    def headline(self) -> list[str]:
        """Return a sentence per confirmatory contrast and size."""
        return [
            verdicts.sentence(c) if len(self.sizes) == 1 else f"{s.minority:,} images: {verdicts.sentence(c)}"
            for name in self.contrast_names
            for s in self.sizes
            if (c := s.contrast(name)) is not None
        ]

    def to_json(self) -> JsonObject:
        """Return the content of study.json."""
        sizes = [{"size": s.name, "minority": s.minority, "added": s.added, **s.analysis.to_json()} for s in self.sizes]
        return {"verdict": self.verdict, "sizes": sizes, "worth": [vars(worth) for worth in self.worth]}


def compare(points: Sequence[FinishedPoint], seed: int = 0, resamples: int = RESAMPLES) -> Curve:
    """Analyse the ablations of all sizes; the contrasts of an adjusted family are one family of Holm over all sizes.

    Raises:
        BalancerError: as :func:`~classifier.analysis.analyse.analyse`.
    """
    studies = [point.ablation.results for point in points]
    analyses = adjusted_together([analyse(results, resamples, seed) for results in studies])
    sizes = [
        SizeResult(point.point.name, *_counts(results), analysis)
        for point, results, analysis in zip(points, studies, analyses, strict=True)
    ]
    return Curve(sizes, worths(sizes, studies, seed, resamples))


def adjusted_together(analyses: Sequence[Analysis]) -> list[Analysis]:
    """Return the analyses, with the p-values of each adjusted family adjusted over all of them."""
    for family in ADJUSTED:
        analyses = _family_together(family, analyses)
    return list(analyses)


def _family_together(family: str, analyses: Sequence[Analysis]) -> list[Analysis]:
    tested = {
        (i, c.name): c.p
        for i, analysis in enumerate(analyses)
        for c in analysis.contrasts
        if c.contrast.family == family and c.p is not None
    }
    p_holm = dict(zip(tested, statistics.holm(list(tested.values())), strict=True))
    return [
        replace(a, contrasts=[_adjusted(c, p_holm.get((i, c.name)), len(tested)) for c in a.contrasts])
        for i, a in enumerate(analyses)
    ]


def _adjusted(result: ContrastResult, p_holm: float | None, family: int) -> ContrastResult:
    if p_holm is None:
        return result
    mde = statistics.detectable_effect(result.estimate, family) if result.mde is not None else None
    return replace(result, p_holm=p_holm, mde=mde, verdict=verdicts.verdict_of(result.estimate, p_holm))


def _counts(results: StudyResults) -> tuple[int, int]:
    """Return the real images of the smallest class, and how many images fill its deficit."""
    reference = next(t for t in results.trials if t.regime in ("baseline", "augment"))
    counts = list(reference.n_train.values())
    return min(counts), sum(max(counts) - n for n in counts)


def _along(curve: Curve, name: str) -> str:
    """Return where on the curve a contrast shows an effect: ``gan - baseline helps at 50 and 100 images``."""
    at: dict[str, list[str]] = {}
    for size in curve.sizes:
        if (result := size.contrast(name)) is not None:
            at.setdefault(result.verdict, []).append(f"{size.minority:,}")
    parts = [f"{_WORDS.get(verdict, verdict)} at {listed(sizes)}" for verdict, sizes in at.items()]
    return f"{name} {'; '.join(parts)} images."


_WORDS = {
    "small": "differs by less than the margin",
    "no benefit": "has no effect larger than the margin",
    verdicts.UNSETTLED: "is not settled",
}


def worths(sizes: Sequence[SizeResult], studies: Sequence[StudyResults], seed: int, resamples: int) -> list[Worth]:
    """Return for each size and pair of regimes the number of real images that the synthetic ones stand for.

    The curve of the regime without synthetic images is made to rise with the number of real images, and is read off
    between the sizes on a logarithmic scale.
    """
    if len(sizes) < FEWEST_SIZES:
        return []
    resampled = [ResampledStudy(results, resamples, seed) for results in studies]
    numbers = np.array([size.minority for size in sizes])
    found = []
    for regime, reference in PAIRS:
        values = {arm: [study.means(arm) for study in resampled] for arm in (regime, reference)}
        if any(v is None for of_arm in values.values() for v in of_arm):
            continue
        curve = np.stack([v for v in values[reference] if v is not None])  # (sizes, 1 + resamples)
        for size, reached in zip(sizes, values[regime], strict=True):
            assert reached is not None
            real = equivalent(numbers, curve, reached)
            low, high = np.quantile(real[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            found.append(
                Worth(
                    regime,
                    size.name,
                    size.minority,
                    size.added,
                    float(real[0]),
                    float(low),
                    float(high),
                    int(numbers[0]),
                    int(numbers[-1]),
                )
            )
    return found


def equivalent(numbers: Array, curve: Array, reached: Array) -> Array:
    """Return the number of real images (b,) at which a rising curve reaches a value, within the ends of the curve.

    Args:
        numbers: of real images, (sizes,), rising.
        curve: the metric at each number, (sizes, b); where it falls it is held at its highest value so far.
        reached: the value to reach, (b,).

    >>> equivalent(np.array([10, 100, 1000]), np.array([[0.5], [0.7], [0.9]]), np.array([0.8])).round(1)
    array([316.2])
    """
    rising = np.maximum.accumulate(curve, axis=0)
    logs = np.log(numbers)
    out = np.empty(len(reached))
    for i, value in enumerate(reached):
        # of a flat stretch the first number counts: np.interp takes the last
        column = rising[:, i]
        first = int(np.searchsorted(column, value, side="left"))
        if first == 0:
            out[i] = logs[0]
        elif first == len(column):
            out[i] = logs[-1]
        else:
            share = (value - column[first - 1]) / (column[first] - column[first - 1])
            out[i] = logs[first - 1] + share * (logs[first] - logs[first - 1])
    return np.exp(out)
