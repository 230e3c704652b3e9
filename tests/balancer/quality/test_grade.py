"""The grade of synthetic images: every rule has figures that make it hold, and figures that do not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from balancer.metrics.chance import Chance
from balancer.metrics.manifold import Manifold
from balancer.metrics.memorization import Memorization
from balancer.metrics.trend import Direction, Trend
from balancer.quality.grade import COPIES, DOCS, LIKENESS, RULES, VARIETY, grade, training_advice
from balancer.quality.results import DistanceRow, QualityReport, TwoSampleRow
from balancer.reporting.grades import MEANINGS

DOCUMENTATION = Path(__file__).parents[3] / DOCS
LOW, USUAL = Chance(higher=1.0, lower=0.005), Chance(higher=0.5, lower=0.5)


def memorization(**changes: Any) -> Memorization:
    plain: dict[str, Any] = {
        "n_train": 200,
        "n_held_out": 60,
        "n_fake": 100,
        "baseline": "held-out",
        "n_baseline": 60,
        "exact_copies": 0,
        "near_copies": 0,
        "near_threshold": 0.3,
        "nearer_probability": 0.5,
        "nearer_p": 0.5,
        "median_fake": 1.0,
        "median_baseline": 1.0,
        "membership_auroc": 0.5,
        "membership_p": 0.5,
        "train_units": 200,
        "train_duplicates": 0,
        "duplicates_within": 0,
        "closest": (),
        "status": "none",
        "verdict": "No sign of copying.",
    }
    return Memorization(**plain | changes)


def distances(recall: float = 0.9, coverage: float = 0.9, chance: Chance | None = USUAL, n: int = 80) -> DistanceRow:
    overlap, real = Manifold(0.9, recall, 1.0, coverage), Manifold(0.95, 0.95, 1.0, 0.95)
    name = "chest-xray-128", "Fréchet distance", "validation"
    return DistanceRow(1.0, 0.0, 0.01, overlap, *name, n, n, 3, 25, 1.0, 0.0, 0.01, real, None, chance)


def two_sample(auroc: float, low: float, high: float, on: str = "pixels", compared: str = "synthetic") -> TwoSampleRow:
    return TwoSampleRow("small CNN", auroc, low, high, 80, 80, 5, on, compared, "validation", "...")


GOOD = QualityReport(
    100,
    "validation",
    distances=[distances()],
    memorization=memorization(),
    two_sample=[two_sample(0.5, 0.43, 0.57)],
)


def step(part: str, **changes: Any) -> str:
    """Return the step of a part where everything else is good."""
    graded = grade(replace(GOOD, **changes))
    return next(p.step for p in graded.parts if p.part == part)


def test_good_images() -> None:
    assert grade(GOOD).words == "Grade: good (copies good, likeness good, variety good)."
    assert grade(GOOD).advice == []


def test_nothing_measured_is_no_grade() -> None:
    assert grade(QualityReport(3)).words == "Grade: unknown (copies unknown, likeness unknown, variety unknown)."


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"same_images": "training fold"}, "unfit"),
        ({"held_out_copies": 1}, "unfit"),
        ({"memorization": None}, "unknown"),
        ({"memorization": memorization(exact_copies=1, status="copies")}, "unfit"),
        ({"memorization": memorization(near_copies=1, status="copies")}, "poor"),
        ({"memorization": memorization(status="closer")}, "poor"),
        ({"memorization": memorization(n_fake=3)}, "unknown"),
        ({"memorization": memorization(n_baseline=4)}, "good"),
    ],
)
def test_copies(changes: dict[str, Any], expected: str) -> None:
    assert step(COPIES, **changes) == expected


@pytest.mark.parametrize(
    ("tests", "expected"),
    [
        ([], "unknown"),
        ([two_sample(1.0, 1.0, 1.0)], "poor"),
        ([two_sample(0.75, 0.7, 0.8)], "poor"),
        ([two_sample(0.74, 0.7, 0.8)], "fair"),
        (
            [two_sample(0.74, 0.7, 0.8), two_sample(0.7, 0.6, 0.75, compared="other real images")],
            "unknown",
        ),  # real ones, too
        ([two_sample(0.3, 0.2, 0.45)], "poor"),
        ([two_sample(0.55, 0.45, 0.65)], "unknown"),
        ([two_sample(0.55, 0.45, 0.6)], "good"),
        ([two_sample(0.55, 0.45, 0.6), two_sample(0.9, 0.8, 0.95, on="chest-xray-128")], "poor"),  # the best one counts
    ],
)
def test_likeness(tests: list[TwoSampleRow], expected: str) -> None:
    assert step(LIKENESS, two_sample=tests) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (distances(recall=0.05, coverage=0.1, chance=LOW), "unfit"),
        (distances(recall=0.4, chance=LOW), "poor"),
        (distances(recall=0.4, chance=USUAL), "unknown"),  # chance does as much
        (distances(recall=0.66, chance=LOW), "fair"),
        (distances(recall=0.66, chance=USUAL), "unknown"),
        (distances(recall=0.9, chance=LOW), "good"),  # a difference, but a small one
        (distances(coverage=0.4), "fair"),
        (distances(n=49), "unknown"),  # ten times as many as the neighbours that recall counts
        (distances(n=50), "good"),
        (replace(distances(), overlap_real_baseline=None), "unknown"),
    ],
)
def test_variety(row: DistanceRow, expected: str) -> None:
    assert step(VARIETY, distances=[row]) == expected


def test_repeated_images_are_poor_variety() -> None:
    assert step(VARIETY, memorization=memorization(duplicates_within=60)) == "poor"
    assert (
        step(VARIETY, memorization=memorization(duplicates_within=60, train_duplicates=120)) == "good"
    )  # as real ones


def test_real_images_are_not_praised_for_likeness() -> None:
    graded = grade(replace(GOOD, held_out_copies=40))
    assert graded.words == "Grade: unfit (copies unfit, likeness unknown, variety unknown)."


def test_advice_has_the_figures() -> None:
    advice = grade(
        replace(GOOD, distances=[distances(recall=0.66, chance=LOW)], two_sample=[two_sample(1, 1, 1)])
    ).advice
    assert [line.split(":")[0] for line in advice] == ["Likeness, poor", "Variety, fair"]
    assert "on pixels" in advice[0]
    assert "100 %" in advice[0]
    assert "longer" not in advice[0], "whether longer training helps is for the course of KID to say"
    assert "Recall is .66 where real against real gives .95" in advice[1]
    few = grade(replace(GOOD, distances=[distances(coverage=0.4)])).advice
    assert "coverage .40 where it gives .95" in few[0]
    assert "coverage" not in advice[1]


@pytest.mark.parametrize(
    ("direction", "p", "words", "do"),
    [
        ("falling", 0.01, "KID was still falling", "--steps"),
        ("rising", 0.01, "KID rose", "will not help"),
        ("level", 0.4, "KID neither fell nor rose", "nothing here says"),
        ("too few", None, "cannot be said", "snapshot_every"),
    ],
)
def test_training_advice(direction: Direction, p: float | None, words: str, do: str) -> None:
    (advice,) = training_advice(Trend(direction, 6, 0.8, 0.4, p, 0.1))
    assert words in advice
    assert do in advice
    assert "6 snapshots" in advice
    assert ("from 0.800 to 0.400" in advice) == (p is not None)


def test_no_training_advice_without_figures_or_where_kid_is_as_low_as_between_real_sets() -> None:
    assert training_advice(None) == []
    assert training_advice(Trend("falling", 6, 0.8, 0.1, 0.01, 0.1)) == []


def test_the_documentation_has_every_rule_and_every_step() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    for rule in RULES:
        assert f"| {rule.part} | {rule.step} | {rule.when} |" in text
    for name, meaning in MEANINGS.items():
        assert f"| {name} | {meaning} |" in text


def test_every_part_ends_with_a_rule_that_always_holds() -> None:
    """So that no part is left out in silence."""
    for part in (COPIES, LIKENESS, VARIETY):
        assert [rule.step for rule in RULES if rule.part == part][-1] == "good"
    assert {p.part for p in grade(QualityReport(0)).parts} == {COPIES, LIKENESS, VARIETY}
