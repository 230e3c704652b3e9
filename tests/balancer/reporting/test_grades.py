"""A grade is never better than its worst part, and unknown where a part is, unless nothing could be worse."""

from itertools import product

import pytest

from balancer.reporting.grades import MEANINGS, STEPS, UNKNOWN, Grade, PartGrade, Rule, graded


def grade_of(*steps: str) -> Grade:
    return Grade(tuple(PartGrade(f"part{i}", step, f"Why {i}.", f"Do {i}.") for i, step in enumerate(steps)))


def test_every_combination_of_three_parts() -> None:
    for steps in product((*STEPS, UNKNOWN), repeat=3):
        step = grade_of(*steps).step
        if "unfit" in steps:
            expected = "unfit"
        elif UNKNOWN in steps:
            expected = UNKNOWN
        else:
            expected = next(s for s in ("poor", "fair", "good") if s in steps)
        assert step == expected, steps
        assert grade_of(*steps).is_unfit == ("unfit" in steps)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (("good", "fair"), "Grade: fair (part0 good, part1 fair)."),
        (("poor", UNKNOWN), "Grade: unknown, poor at best (part0 poor, part1 unknown)."),
        (("good", UNKNOWN), "Grade: unknown (part0 good, part1 unknown)."),
        ((UNKNOWN, UNKNOWN), "Grade: unknown (part0 unknown, part1 unknown)."),
        (("unfit", UNKNOWN), "Grade: unfit (part0 unfit, part1 unknown)."),
    ],
)
def test_words(steps: tuple[str, ...], words: str) -> None:
    assert grade_of(*steps).words == words


def test_the_worst_part_is_advised_first() -> None:
    assert [line.split(",")[0] for line in grade_of("fair", UNKNOWN, "unfit").advice] == ["Part2", "Part0", "Part1"]
    assert Grade((PartGrade("x", "good", "Why.", ""),)).advice == []


def test_the_first_rule_that_holds_decides() -> None:
    rules = [
        Rule[int]("size", "unfit", "over 10", lambda n: n > 10, lambda n: f"{n} is over 10."),
        Rule[int]("size", "fair", "over 5", lambda n: n > 5, lambda n: f"{n} is over 5."),
        Rule[int]("size", "good", "else", lambda n: True, lambda n: f"{n} is small."),
    ]
    parts = [graded(rules, n).parts[0] for n in (11, 6, 5)]
    assert [(p.step, p.why) for p in parts] == [
        ("unfit", "11 is over 10."),
        ("fair", "6 is over 5."),
        ("good", "5 is small."),
    ]


def test_the_section_names_every_step_and_every_part() -> None:
    section = grade_of("good", "poor").section("docs/x.md")
    assert section.table is not None
    assert section.table.rows == [["part0", "good", "Why 0."], ["part1", "poor", "Why 1."]]
    assert all(step in section.paragraphs[0] for step in (*MEANINGS, UNKNOWN, "docs/x.md"))
