"""The grade of a set of synthetic images, and what to do next: the findings of the report brought together.

The rules stand in RULES and in docs/gan.md; what they rest on is decided in :mod:`balancer.quality.judgement` and
:mod:`balancer.metrics.memorization`. The course of training gives advice and no grade: images are judged by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from balancer.metrics.chance import FEWEST
from balancer.metrics.memorization import Memorization
from balancer.metrics.trend import Direction, Trend
from balancer.quality.judgement import FEW, HARD_TO_TELL, POOR, Likeness, Variety, likeness, variety
from balancer.quality.results import QualityReport
from balancer.reporting.grades import UNKNOWN, Grade, Rule, graded
from balancer.reporting.numbers import fixed, p_equals, percent, plural, short

DOCS = "docs/gan.md"
SHORTCUT = 0.75  # AUROC from which a classifier can be expected to use the difference as a shortcut
LESS_VARIED = 0.9  # recall below this share of its real baseline is less
COPIES, LIKENESS, VARIETY = "copies", "likeness", "variety"  # the parts


@dataclass(frozen=True)
class Evidence:
    """What the rules go by."""

    quality: QualityReport
    likeness: Likeness
    variety: Variety | None

    @classmethod
    def of(cls, quality: QualityReport) -> Evidence:
        """Return the evidence of a report."""
        return cls(quality, likeness(quality), variety(quality))

    @property
    def copies(self) -> Memorization | None:
        """Return the search for copies; None if there was none."""
        return self.quality.memorization

    @property
    def are_real(self) -> bool:
        """Return whether synthetic images are real images that the generator never saw, or a set of real images."""
        return bool(self.quality.same_images or self.quality.held_out_copies)


def _copies(e: Evidence) -> str:
    return e.copies.verdict if e.copies else "The search for copies could not be made."


def _likeness(e: Evidence) -> str:
    best = e.likeness.best
    if best is None:
        return "No classifier was trained to tell the images from real ones."
    return f"The best classifier, on {best.on}, tells the images from real ones in {percent(best.auroc)} of pairs."


def _variety(e: Evidence) -> str:
    v, m = e.variety, e.copies
    if v is None:
        return "Recall has no real baseline here."
    words = f"Recall is {short(v.overlap.recall, 2)} where real against real gives {short(v.real.recall, 2)}"
    if v.coverage_share < POOR:
        words += f", and coverage {short(v.overlap.coverage, 2)} where it gives {short(v.real.coverage, 2)}"
    if m and v.repeated:
        words += f"; {m.duplicates_within:,} of the {m.n_fake:,} images repeat another one"
    return f"{words} ({v.n} images a side)."


_LOOK = "Look at the closest pairs in the section on copies before any use."
_MORE = (
    "Compare more images, of the side that has fewer: `--n` for synthetic ones, a larger `--val-fraction` (and a GAN "
    "trained anew) for held-out ones."
)
RULES: tuple[Rule[Evidence], ...] = (
    Rule(
        COPIES,
        "unfit",
        "the images are a set of real images",
        lambda e: e.quality.same_images is not None,
        lambda e: f"The images are identical to a real set ({e.quality.same_images}).",
        "Give synthetic images.",
    ),
    Rule(
        COPIES,
        "unfit",
        "an image equals a held-out image",
        lambda e: e.quality.held_out_copies > 0,
        lambda e: f"{e.quality.held_out_copies:,} of {e.quality.n_fake:,} images equal a held-out image.",
        "Do not use the set: find out how the generator came to see held-out images, and train again.",
    ),
    Rule(COPIES, UNKNOWN, "the search for copies could not be made", lambda e: e.copies is None, _copies),
    Rule(
        COPIES,
        "unfit",
        "an image equals a training image",
        lambda e: e.copies is not None and e.copies.exact_copies > 0,
        _copies,
        "Train for fewer steps or with `--set diffaugment=translation,cutout`, and synthesize again.",
    ),
    Rule(
        COPIES,
        "poor",
        "near copies, or images closer to training images than to unseen ones",
        lambda e: e.copies is not None and e.copies.status != "none",
        _copies,
        f"{_LOOK} If they are copies: train for fewer steps or with `--set diffaugment=translation,cutout`.",
    ),
    Rule(
        COPIES,
        UNKNOWN,
        f"fewer than {FEWEST} images on a side",
        lambda e: e.copies is not None and min(e.copies.n_fake, e.copies.n_baseline) < FEWEST,
        _copies,
        _MORE,
    ),
    Rule(COPIES, "good", "no sign of copying", lambda e: True, _copies),
    Rule(
        LIKENESS,
        UNKNOWN,
        "no classifier was trained, or the images are real ones",
        lambda e: e.likeness.claim == "not tested" or e.are_real,
        lambda e: "Real images are like real images: no figure counts." if e.are_real else _likeness(e),
    ),
    Rule(
        LIKENESS,
        "poor",
        f"a classifier tells the images from real ones in {percent(SHORTCUT)} of pairs or more",
        lambda e: e.likeness.claim == "apart" and e.likeness.best is not None and e.likeness.best.auroc >= SHORTCUT,
        _likeness,
        "A classifier that learns from them can take the difference for the class. Train with another preset. In an "
        "ablation run the controls (`--regimes all,controls`).",
    ),
    Rule(
        LIKENESS,
        "fair",
        "a classifier tells them apart, in fewer pairs",
        lambda e: e.likeness.claim == "apart",
        _likeness,
        "In an ablation run the controls (`--regimes all,controls`), which show whether the difference does harm.",
    ),
    Rule(
        LIKENESS,
        "poor",
        "a classifier does worse than a coin, as with copies",
        lambda e: e.likeness.claim == "below chance",
        _likeness,
        _LOOK,
    ),
    Rule(
        LIKENESS,
        UNKNOWN,
        f"no classifier tells them apart, but an interval ends above {short(HARD_TO_TELL, 1)}",
        lambda e: e.likeness.claim == "not settled",
        _likeness,
        _MORE,
    ),
    Rule(LIKENESS, "good", "no classifier tells them apart, and every interval ends below", lambda e: True, _likeness),
    Rule(
        VARIETY,
        UNKNOWN,
        "recall has no real baseline, or the images are real ones",
        lambda e: e.variety is None or e.are_real,
        _variety,
    ),
    Rule(
        VARIETY,
        "unfit",
        "the generator has collapsed",
        lambda e: e.variety is not None and e.variety.collapsed,
        _variety,
        "Do not use the set: the generator has collapsed. With `balancer gan-train`, lower `lr_generator` or take "
        "another preset.",
    ),
    Rule(
        VARIETY,
        "poor",
        f"recall is below {percent(POOR)} of its real baseline, or many images repeat one another",
        lambda e: e.variety is not None and (e.variety.little or e.variety.repeated),
        _variety,
        "The images are much less varied. Widen the networks (`generator_width` of `balancer gan-train`), or train "
        "with `--set minibatch_stddev=true`.",
    ),
    Rule(
        VARIETY,
        UNKNOWN,
        f"fewer than {FEW} images a side, or chance can lower recall as far",
        lambda e: (
            e.variety is not None and (e.variety.few or (e.variety.recall_share < LESS_VARIED and not e.variety.low))
        ),
        _variety,
        _MORE,
    ),
    Rule(
        VARIETY,
        "fair",
        f"recall is below {percent(LESS_VARIED)} of its real baseline, or coverage below {percent(POOR)} of its own",
        lambda e: e.variety is not None and (e.variety.recall_share < LESS_VARIED or e.variety.coverage_share < POOR),
        _variety,
        "The images are less varied. Widen the networks (`generator_width` of `balancer gan-train`), or train "
        "with `--set minibatch_stddev=true`.",
    ),
    Rule(VARIETY, "good", "recall and coverage are near their real baselines", lambda e: True, _variety),
)
TREND_ADVICE: dict[Direction, str] = {
    "falling": "train longer, with a larger `--steps`",
    "rising": "longer training will not help; the earlier snapshot with the lowest KID is used",
    "level": "nothing here says that longer training would help",
    "too few": "take more snapshots, with a smaller `--set snapshot_every`",
}


def grade(quality: QualityReport) -> Grade:
    """Return the grade of the images by the rules."""
    return graded(RULES, Evidence.of(quality))


def training_advice(trend: Trend | None) -> list[str]:
    """Return a sentence on the course of KID; nothing where it was not measured, or is as low as between real sets."""
    if trend is None or trend.last <= trend.real_baseline:
        return []
    over = f"over the last third of training ({plural(trend.n, 'snapshot')}"
    moved = f"{over}, from {fixed(trend.first, 3)} to {fixed(trend.last, 3)}"
    test = "" if trend.p is None else f", {p_equals(trend.p)}"
    words = {
        "falling": f"KID was still falling {moved}{test})",
        "rising": f"KID rose {moved}{test})",
        "level": f"KID neither fell nor rose beyond its noise {moved}{test})",
        "too few": f"Whether KID was still falling cannot be said {over})",
    }[trend.direction]
    return [f"Training: {words}: {TREND_ADVICE[trend.direction]}."]
