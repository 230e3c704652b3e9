"""Grades in words: a table of rules by part, and the worst part as the grade of all parts.

A room that grades keeps its rules in one registry. The first rule of a part that holds gives the part its step. The
grade is that of the worst part. Where a part is unknown the grade is unknown too, unless another part has the worst
step, which nothing could mend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from balancer.core.files import JsonObject
from balancer.reporting.document import Section, Table

EvidenceT = TypeVar("EvidenceT")
MEANINGS = {  # each step from the best to the worst
    "good": "nothing that was measured speaks against them",
    "fair": "usable where the weakness that is named does not matter",
    "poor": "usable only in a study with controls, which can show the harm",
    "unfit": "not to be used as they are",
}
STEPS = tuple(MEANINGS)
UNKNOWN = "unknown"  # not measured, or not settled


@dataclass(frozen=True)
class Rule(Generic[EvidenceT]):
    """When a part has a step.

    Attributes:
        part: what is graded.
        step: one of STEPS, or UNKNOWN.
        when: the condition in words, as the documentation has it.
        holds: whether the condition holds.
        why: a sentence with the figures.
        advice: what to do next, in a sentence or two; empty if there is nothing to do.
    """

    part: str
    step: str
    when: str
    holds: Callable[[EvidenceT], bool]
    why: Callable[[EvidenceT], str]
    advice: str = ""


@dataclass(frozen=True)
class PartGrade:
    """The step of a part, and why; see :class:`Rule`."""

    part: str
    step: str
    why: str
    advice: str


@dataclass(frozen=True)
class Grade:
    """The steps of all parts."""

    parts: tuple[PartGrade, ...]

    @property
    def step(self) -> str:
        """Return the step of the worst part; UNKNOWN if an unknown part could be worse."""
        worst = self._worst
        return UNKNOWN if self._unknown and worst != STEPS[-1] else worst

    @property
    def is_unfit(self) -> bool:
        """Return whether the step is the worst."""
        return self.step == STEPS[-1]

    @property
    def brief(self) -> str:
        """Return ``poor (copies good, likeness poor)``."""
        parts = ", ".join(f"{part.part} {part.step}" for part in self.parts)
        best = f", {self._worst} at best" if self.step == UNKNOWN and self._worst in STEPS[1:] else ""
        return f"{self.step}{best} ({parts})"

    @property
    def words(self) -> str:
        """Return ``Grade: poor (copies good, likeness poor).``."""
        return f"Grade: {self.brief}."

    @property
    def advice(self) -> list[str]:
        """Return what to do next, a bullet for each part that needs something, the worst part first."""
        order = (*reversed(STEPS), UNKNOWN)
        parts = sorted((part for part in self.parts if part.advice), key=lambda part: order.index(part.step))
        return [f"{part.part.capitalize()}, {part.step}: {part.why} {part.advice}" for part in parts]

    @property
    def _unknown(self) -> bool:
        return any(part.step == UNKNOWN for part in self.parts)

    @property
    def _worst(self) -> str:
        """Return the worst step of the parts that are known; UNKNOWN if none is."""
        return max((part.step for part in self.parts if part.step != UNKNOWN), key=STEPS.index, default=UNKNOWN)

    def section(self, docs: str) -> Section:
        """Return a table of the parts; ``docs`` is the page with the rules."""
        rows = [[part.part, part.step, part.why] for part in self.parts]
        text = (
            f"The grade is that of the worst part. The steps are {', '.join(STEPS)}. A grade is {UNKNOWN} where a part "
            f"was not measured or is not settled. The rules stand in `{docs}`."
        )
        return Section("Grade", [text], Table(["part", "grade", "why"], rows, numeric=3, words=True))

    def to_json(self) -> JsonObject:
        """Return the grade with its parts."""
        return {"step": self.step, "parts": [vars(part) for part in self.parts], "advice": self.advice}


def graded(rules: Sequence[Rule[EvidenceT]], evidence: EvidenceT) -> Grade:
    """Return the grade by the first rule of each part that holds; the last rule of a part must hold always."""
    parts: dict[str, PartGrade] = {}
    for rule in rules:
        if rule.part not in parts and rule.holds(evidence):
            parts[rule.part] = PartGrade(rule.part, rule.step, rule.why(evidence), rule.advice)
    return Grade(tuple(parts.values()))
