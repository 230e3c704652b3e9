"""What a learning curve shows: the contrasts at each size, tested together, and what a synthetic image is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from balancer.core.files import JsonObject
from balancer.metrics.resampling import RESAMPLES
from balancer.reporting.numbers import listed, signed
from classifier.analysis import shortcut_answers, statistics, verdicts
from classifier.analysis.analyse import Analysis, analyse, with_contrasts
from classifier.analysis.contrasts import ADJUSTED, CONFIRMATORY, ContrastResult
from classifier.learning_curve.steps import FinishedPoint
from classifier.learning_curve.worth import Worth, worths


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
    def answer(self) -> list[str]:
        """Return the answer in sentences: that of the ablation for one size, else a count, and where on the curve."""
        if len(self.sizes) == 1:
            return [self.sizes[0].analysis.verdict]
        results = [c for size in self.sizes for c in size.analysis.contrasts]
        where = [f"at {size.minority:,} images" for size in self.sizes for _ in size.analysis.contrasts]
        tests = [c for c in results if c.contrast.is_adjusted]
        read = shortcut_answers.along_sizes({size.minority: size.analysis.meter for size in self.sizes})
        said = [*_along_the_curve(self), *verdicts.on_the_shortcut(results, where), *verdicts.limits(tests), read]
        return [sentence for sentence in (_counted(self), *said) if sentence]

    @property
    def verdict(self) -> str:
        """Return the answer in a paragraph."""
        return " ".join(self.answer)

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
        SizeResult(point.point.name, *_smallest(point), analysis)
        for point, analysis in zip(points, analyses, strict=True)
    ]
    counts = [(size.minority, size.added) for size in sizes]
    return Curve(sizes, worths([size.name for size in sizes], counts, studies, seed, resamples))


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
        with_contrasts(a, [_adjusted(c, p_holm.get((i, c.name)), len(tested)) for c in a.contrasts])
        for i, a in enumerate(analyses)
    ]


def _adjusted(result: ContrastResult, p_holm: float | None, family: int) -> ContrastResult:
    if p_holm is None:
        return result
    mde = statistics.detectable_effect(result.estimate, family) if result.mde is not None else None
    return replace(result, p_holm=p_holm, mde=mde, verdict=verdicts.verdict_of(result.estimate, p_holm))


def _smallest(point: FinishedPoint) -> tuple[int, int]:
    """Return the real images of the smallest class, and how many images fill the deficits."""
    return min(point.counts), sum(max(point.counts) - n for n in point.counts)


def _counted(curve: Curve) -> str:
    """Return ``Of 20 planned differences, gains: 1; losses: 1; not settled: 18.``; nothing if none was planned."""
    planned = [c.verdict for s in curve.sizes for c in s.analysis.contrasts if c.contrast.family == "confirmatory"]
    counts = [f"{words}: {planned.count(verdict)}" for verdict, words in _COUNTED.items() if verdict in planned]
    return f"Of {len(planned)} planned differences, {'; '.join(counts)}." if planned else ""


def _along_the_curve(curve: Curve) -> list[str]:
    """Return a sentence for each planned difference: at which sizes it shows what; one for all if they show the same.

    ``Synthetic images against none, with augmentation: a gain at 50 (+.080) images; not settled at 400 images.``
    """
    shown = {name: _along(curve, name) for name in curve.contrast_names}
    if not shown:
        return [verdicts.NOT_ASKED]
    if len(shown) == len(CONFIRMATORY) and len(set(shown.values())) == 1:
        return [
            f"Synthetic images against none and against copies, with and without augmentation: {shown.popitem()[1]}."
        ]
    return [f"Synthetic images {_AGAINST[name]}: {text}." for name, text in shown.items()]


def _along(curve: Curve, name: str) -> str:
    """Return what a contrast shows along the curve: ``a gain at 50 (+.080) images; not settled at 400 images``."""
    at: dict[str, list[str]] = {}
    for size in curve.sizes:
        if (result := size.contrast(name)) is not None:
            effect = f" ({signed(result.estimate.value)})" if result.verdict in ("helps", "hurts") else ""
            at.setdefault(result.verdict, []).append(f"{size.minority:,}{effect}")
    return "; ".join(f"{_WORDS[verdict]} at {listed(sizes)} images" for verdict, sizes in at.items())


_AGAINST = {
    "gan - baseline": "against none, without augmentation",
    "combined - augment": "against none, with augmentation",
    "gan - duplicate": "against copies, without augmentation",
    "combined - duplicate_augment": "against copies, with augmentation",
}
_WORDS = {
    "helps": "a gain",
    "hurts": "a loss",
    "small": f"a difference below {verdicts.short_margin()}",
    "no benefit": f"no effect above {verdicts.short_margin()}",
    verdicts.UNSETTLED: verdicts.UNSETTLED,
}
_COUNTED = _WORDS | {"helps": "gains", "hurts": "losses", "small": f"differences below {verdicts.short_margin()}"}
