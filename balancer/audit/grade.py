"""The grade of a data set: whether folds leak, and whether the classes can be told without the anatomy.

The rules stand in RULES and in docs/ablation.md; what they rest on is found in :mod:`balancer.audit.findings`.
"""

from __future__ import annotations

from balancer.audit.findings import leaks, open_questions, separation, strongest_shortcut
from balancer.audit.results import Audit
from balancer.reporting.grades import UNKNOWN, Grade, Rule, graded
from balancer.reporting.numbers import short

DOCS = "docs/ablation.md"
STRONG = 0.75  # AUROC from which a shortcut explains much of what a classifier reaches
FOLDS, SHORTCUTS = "folds", "shortcuts"  # the parts


def _questions(audit: Audit) -> str:
    return f"Not settled: {'; '.join(open_questions(audit))}."


def _shortcut(audit: Audit) -> str:
    return strongest_shortcut(audit) or "No property that was measured is shown to separate the classes."


def _strongest(audit: Audit) -> float:
    return separation(audit).strongest or 0.0


_BESIDE = "Read the figures of a classifier beside this, and see with `classifier explain` where the classifier looks."
RULES: tuple[Rule[Audit], ...] = (
    Rule(
        FOLDS,
        "unfit",
        "files, near duplicates or patients are in two folds, or files under both classes",
        lambda audit: bool(leaks(audit)),
        lambda audit: f"Leaks: {'; '.join(leaks(audit))}.",
        "Figures on test would be too good. Take the files out of one side: `balancer audit --strict` fails until "
        "then.",
    ),
    Rule(
        FOLDS,
        UNKNOWN,
        "the patient of an image is not known",
        lambda audit: audit.patients.named < audit.patients.images,
        _questions,
        "Name the files by patient, or say beside every figure that the split may part images of one patient.",
    ),
    Rule(
        FOLDS,
        "fair",
        "a patient number is in two folds, or two images look like one patient",
        lambda audit: bool(open_questions(audit)),
        _questions,
        "Say so beside every figure, and look at the pairs that are named in the section on near duplicates.",
    ),
    Rule(FOLDS, "good", "nothing is in two folds", lambda audit: True, lambda audit: "Nothing was found in two folds."),
    Rule(
        SHORTCUTS,
        UNKNOWN,
        "no property could be measured",
        lambda audit: not separation(audit).measured,
        lambda audit: "No property varies.",
    ),
    Rule(
        SHORTCUTS,
        "poor",
        f"an AUROC of {short(STRONG, 2)} or more without a look at the anatomy",
        lambda audit: _strongest(audit) >= STRONG,
        _shortcut,
        _BESIDE,
    ),
    Rule(SHORTCUTS, "fair", "a lower AUROC, beyond chance", lambda audit: _strongest(audit) > 0, _shortcut, _BESIDE),
    Rule(SHORTCUTS, "good", "no property separates the classes beyond chance", lambda audit: True, _shortcut),
)


def grade(audit: Audit) -> Grade:
    """Return the grade of the data by the rules."""
    return graded(RULES, audit)
